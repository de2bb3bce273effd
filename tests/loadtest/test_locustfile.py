"""The Locust file against a real stack: all join, talk, win, redeem and are measured, without a single failure."""

import asyncio
import json
import re
import signal
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import httpx
import pytest

from app import demo
from app.processes import open_kernel
from app.up import Stack
from loadtest.watch import descendants

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


async def first_room(stack: Stack) -> str:
    """The demo's room whose guide is guide-01."""
    async with open_kernel(stack.settings) as kernel:
        return str((await demo.load(kernel)).rooms[0])


async def test_viewers_a_guide_clerks_and_a_swarm_play_and_are_measured(stack: Stack, tmp_path: Path) -> None:
    code, printed, told = await locust(
        *headless(stack.api, tmp_path),
        *("-u", "10", "-r", "10", "--room", await first_room(stack), "--viewers", "15", "--seconds", "140"),
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
    stack: Stack, tmp_path: Path, free_port: int
) -> None:
    room = await first_room(stack)
    host = ("--master-host", "127.0.0.1", "--master-port", str(free_port), "--room", room)
    workers = [asyncio.create_task(locust("--worker", *host)) for _ in range(2)]
    code, printed, told = await locust(
        *headless(stack.api, tmp_path, 30),
        *("--master", "--master-bind-port", str(free_port), "--expect-workers", "2", "-u", "12", "-r", "12"),
        *("--viewers", "40", "--swarms", "2", "--seconds", "8", "ViewerUser", "SwarmUser"),
        *("--room", room),
    )
    ended = [(await worker)[0] for worker in workers]
    assert (code, ended) == (0, [0, 0]), printed
    # Two swarms of 20, and ten users who join at least once each.
    assert told["WS", "join"][0] >= 50, printed
    assert told["EVENT", "lossy"][0] > 0, printed
    assert sum(failures for _, failures in told.values()) == 0, printed


@pytest.mark.deep
async def test_the_web_page_starts_a_test_and_shows_its_figures(stack: Stack, free_port: int) -> None:
    page = f"http://127.0.0.1:{free_port}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "-H", stack.api),
        *("--web-host", "127.0.0.1", "--web-port", str(free_port)),
        cwd=ROOT,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    room = await first_room(stack)
    seen: Figures = {}
    form = {"user_count": "8", "spawn_rate": "8", "host": stack.api, "viewers": "10", "seconds": "90", "room": room}
    wanted = {("WS", "join"), ("WS", "announce"), ("EVENT", "certain"), ("EVENT", "lossy")}
    try:
        async with asyncio.timeout(180), httpx.AsyncClient(base_url=page, timeout=60) as browser:
            while True:
                try:
                    started = (await browser.post("/swarm", data=form)).json()
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.2)  # not listening yet
            assert started["success"], started
            while not wanted <= {name for name, (many, _) in seen.items() if many}:
                await asyncio.sleep(0.5)
                told = (await browser.get("/stats/requests")).json()["stats"]
                seen = {(row["method"], row["name"]): (row["num_requests"], row["num_failures"]) for row in told}
    finally:
        process.terminate()
        await process.wait()
    assert sum(failures for _, failures in seen.values()) == 0, seen


# ---- make loadtest ---------------------------------------------------------------------------------------------------


async def loadtest(*arguments: str) -> tuple[int, str]:
    """Run what `make loadtest` runs; its exit code, and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest.run", *arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(300):
            printed, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    assert process.returncode is not None
    return process.returncode, printed.decode()


@pytest.mark.deep
async def test_a_drop_at_a_deployment_ends_in_a_report_and_fails_where_one_budget_is_not_held(
    stack: Stack, tmp_path: Path
) -> None:
    budgets = tmp_path / "budgets.toml"
    budgets.write_text(
        "[all]\ncertain_lost = { at_most = 0 }\nfailed = { at_most = 0 }\nclaims_answered = { at_least = 1 }\n"
        "[drop]\nviewers = { at_least = 1000 }\n"
    )
    out = tmp_path / "out"
    where = ("--url", stack.api, "--brand", "demo", "--out", str(out), "--budgets", str(budgets))
    code, printed = await loadtest("--shape", "drop", "--viewers", "20", "--seconds", "5", *where)
    assert code == 1, printed
    lines = [(name, held) for held, name in re.findall(r"^(PASS|FAIL)  (\w+) ", printed, re.MULTILINE)]
    assert lines == [("certain_lost", "PASS"), ("failed", "PASS"), ("claims_answered", "PASS"), ("viewers", "FAIL")]
    assert "未通过" in (out / "report.html").read_text()
    assert json.loads((out / "result.json").read_text())["held"] is False
    assert (out / "locust_stats.csv").exists()
    assert not (out / "plan.json").exists(), "tokens were left behind"


@pytest.mark.deep
async def test_ctrl_c_ends_everything_and_leaves_a_report_that_says_so(stack: Stack, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest.run", "--shape", "soak", "--viewers", "10", "--seconds", "600"),
        *("--url", stack.api, "--brand", "demo", "--out", str(tmp_path)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    printed = ""
    async with asyncio.timeout(300):
        while "deliveries/s" not in printed:
            line = await process.stdout.readline()
            assert line, printed
            printed += line.decode()
        children = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        printed += (await process.stdout.read()).decode()
        assert await process.wait() == 130, printed
    assert len(children) >= 2, "Locust and its swarm"
    async with asyncio.timeout(60):  # whose parent is gone is waited for by the system
        while any(Path(f"/proc/{pid}").exists() for pid in children):
            await asyncio.sleep(0.1)
    assert "Traceback" not in printed
    assert "中断" in (tmp_path / "report.html").read_text()
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["held"], result["cut_short"]) == (False, True)
    assert not (tmp_path / "plan.json").exists(), "tokens were left behind"


async def test_what_cannot_be_played_is_said_in_a_sentence(tmp_path: Path) -> None:
    code, printed = await loadtest("--url", "http://127.0.0.1:9", "--viewers", "3", "--out", str(tmp_path))
    assert code == 2
    assert "127.0.0.1:9/v1/auth/dev" in printed
    assert "Traceback" not in printed


@pytest.mark.deep
@pytest.mark.timeout(1200)
async def test_a_gateway_killed_under_a_private_stack_loses_nobody_anything(tmp_path: Path) -> None:
    budgets = tmp_path / "budgets.toml"
    # What is not about speed: that is for idle machines.
    budgets.write_text(
        "[all]\ncertain_lost = { at_most = 0 }\ncertain_disordered = { at_most = 0 }\nrecovered = { at_least = 0.99 }\n"
        "let_in = { at_least = 0.99 }\n"
    )
    before = set(Path("/tmp").glob("nearcast-load-*"))
    code, printed = await loadtest(
        "--shape", "storm", "--viewers", "400", "--seconds", "40", "--out", str(tmp_path), "--budgets", str(budgets)
    )
    assert code == 0, printed
    assert "a gateway dies" in printed
    assert set(Path("/tmp").glob("nearcast-load-*")) <= before, "the stack's folder was left behind"
