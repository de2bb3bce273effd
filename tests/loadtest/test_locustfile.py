"""The Locust file against a real stack: all join, talk, win, redeem and are measured, without a single failure."""

import asyncio
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from app import demo, up
from kernel.process import Kernel
from kernel.settings import Settings

ROOT = Path(demo.__file__).parent.parent
BUSY = """
[users]
clerk = 30
[viewer]
wait = [0.3, 1.0]
reconnect = 3
claim = 1.0
claim_within = 1.0
located = 1.0
[guide]
wait = [0.3, 0.6]
drop = 6
[clerk]
wait = [0.1, 0.3]
[swarm]
comment_every = 5.0
like_every = 2.0
lose_every = 10.0
announce_every = 1.0
drop_every = 2.0
"""
Figures = dict[tuple[str, str], tuple[int, int]]
"""Requests and failures by (type, name)."""
ROW = re.compile(r"(\w+) +(\S.*?) +(\d+) +(\d+)\(")


async def locust(*arguments: str, until: Collection[tuple[str, str]] = ()) -> tuple[int, str, Figures]:
    """Run Locust, until it ends or its figures have all of ``until``; its exit code, what it printed, its figures."""
    # In a process of its own: gevent patches the standard library of whoever imports it.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", *arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    printed, seen = [], {}
    try:
        async with asyncio.timeout(180):
            async for line in process.stdout:
                printed.append(line.decode())
                if row := ROW.match(printed[-1]):
                    seen[row[1], row[2]] = (int(row[3]), int(row[4]))
                if until and all(seen.get(name, (0, 0))[0] for name in until):
                    process.terminate()
                    until = ()
            return await process.wait(), "".join(printed), seen
    except TimeoutError:
        process.kill()
        pytest.fail("".join(printed))


def headless(api: str, folder: Path, seconds: int = 150) -> Sequence[str]:
    (folder / "busy.toml").write_text(BUSY)
    return (
        *("--headless", "-H", api, "-t", f"{seconds}s", "--stop-timeout", "10"),
        *("--evening", str(folder / "busy.toml"), "--exit-code-on-error", "1"),
    )


async def test_viewers_a_guide_clerks_and_a_swarm_play_and_are_measured(
    settings: Settings, kernel: Kernel, tmp_path: Path
) -> None:
    async with up.stack(settings) as running:
        world = await demo.load(kernel)
        code, printed, told = await locust(
            *headless(running.api, tmp_path),
            *("-u", "10", "-r", "10", "--room", str(world.rooms[0]), "--viewers", "15", "--seconds", "140"),
            until=(
                ("WS", "join"), ("WS", "resume"), ("WS", "comment"), ("WS", "locate"), ("WS", "claim"),
                ("WS", "announce"), ("EVENT", "certain"), ("EVENT", "latest"), ("EVENT", "lossy"),
                ("POST", "/v1/auth/dev"), ("POST", "redeem"),
            ),
        )  # fmt: skip
    assert code == 0, printed
    assert sum(failures for _, failures in told.values()) == 0, printed


async def test_a_wrong_configuration_ends_locust_with_its_reason(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[viewer]\ncoment = 1\n")
    code, printed, _ = await locust("--headless", "-H", "http://127.0.0.1:9", "--evening", str(wrong))
    assert code == 2
    assert f"{wrong}, line 2: [viewer] coment is not known" in printed


@pytest.mark.deep
async def test_two_workers_share_the_viewers_and_the_master_has_all_figures(
    settings: Settings, kernel: Kernel, tmp_path: Path, free_port: int
) -> None:
    async with up.stack(settings) as running:
        world = await demo.load(kernel)
        host = ("--master-host", "127.0.0.1", "--master-port", str(free_port), "--room", str(world.rooms[0]))
        workers = [asyncio.create_task(locust("--worker", *host)) for _ in range(2)]
        code, printed, told = await locust(
            *headless(running.api, tmp_path, 30),
            *("--master", "--master-bind-port", str(free_port), "--expect-workers", "2", "-u", "12", "-r", "12"),
            *("--viewers", "40", "--swarms", "2", "--seconds", "8", "ViewerUser", "SwarmUser"),
            *("--room", str(world.rooms[0])),
        )
        ended = [(await worker)[0] for worker in workers]
    assert (code, ended) == (0, [0, 0]), printed
    # Two swarms of 20, and ten users who join at least once each.
    assert told["WS", "join"][0] >= 50, printed
    assert told["EVENT", "lossy"][0] > 0, printed
    assert sum(failures for _, failures in told.values()) == 0, printed
