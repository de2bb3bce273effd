"""What a newcomer does: `make run` on a clean copy of the project, Ctrl-C, kill -9, and `make run` again."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.processes import free_port

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def checkout() -> Iterator[Path]:
    """A copy of what git tracks or would track, and nothing else: no environment, no data."""
    path = Path("/tmp") / f"nearcast-newcomer-{uuid4().hex[:8]}"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, path / name)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def environment() -> dict[str, str]:
    """Ours, without what would point the copy at other servers or at the environment of the tests."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("NEARCAST_", "VIRTUAL_ENV", "MAKE", "MFLAGS"))
    } | {"NEARCAST_API_PORT": str(free_port())}  # others that start at this moment would find the usual one free, too


async def make_run(checkout: Path, **options: int) -> asyncio.subprocess.Process:
    arguments = [f"{name}={value}" for name, value in options.items()]
    return await asyncio.create_subprocess_exec(
        "make", "--no-print-directory", "run", *arguments,
        cwd=checkout, env=environment(), start_new_session=True,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip


async def until_up(process: asyncio.subprocess.Process) -> tuple[str, list[str]]:
    """The API's address once the screen of addresses is there, and all lines so far."""
    assert process.stdout is not None
    lines: list[str] = []
    while True:
        line = (await process.stdout.readline()).decode()
        assert line, "it ended before it was up:\n" + "".join(lines)
        lines.append(line)
        if found := re.search(r"(http://127\.0\.0\.1:\d+)/watch", line):
            return found[1], lines


async def summary(process: asyncio.subprocess.Process, checkout: Path) -> dict[str, Any]:
    """The closing JSON line of a run that ended well."""
    assert process.stdout is not None
    rest = (await process.stdout.read()).decode()
    assert await process.wait() == 0, f"{rest}\n{logs(checkout)}"
    closing: dict[str, Any] = json.loads(rest.strip().splitlines()[-1])
    return closing


def logs(checkout: Path) -> str:
    """How each process's log ends."""
    ends = (
        [f"---- {log.name}", *log.read_text(errors="replace").splitlines()[-15:]]
        for log in sorted((checkout / ".nearcast" / "log").glob("*.log"))
    )
    return "\n".join(line for lines in ends for line in lines)


def left_running(checkout: Path) -> list[str]:
    """Processes that work in the copy or carry its path in their command."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(checkout) in command:
            found.append(command)
    return found


async def until_nothing_runs(checkout: Path) -> None:
    async with asyncio.timeout(60):
        while left_running(checkout):
            await asyncio.sleep(0.1)


async def until_status(process: asyncio.subprocess.Process, figure: str) -> list[str]:
    """Everything that is said until ``figure`` in the status line is more than nothing."""
    assert process.stdout is not None
    lines: list[str] = []
    while not (lines and re.search(rf"{figure} [1-9]", lines[-1])):
        line = (await process.stdout.readline()).decode()
        assert line, "it ended before that:\n" + "".join(lines)
        lines.append(line)
    return lines


async def test_make_run_on_a_clean_copy_shows_everything_and_after_kill_9_the_next_one_recovers(checkout: Path) -> None:
    process = await make_run(checkout, VIEWERS=40)
    api, lines = await until_up(process)
    async with httpx.AsyncClient(base_url=api, timeout=60) as client:
        for page in ("/", "/watch", "/guide", "/clerk", "/ops", "/healthz", "/readyz", "/metrics", "/openapi.json"):
            assert (await client.get(page)).status_code == 200, page
    lines += await until_status(process, "coupons_issued")
    os.killpg(process.pid, signal.SIGKILL)  # in the middle of the drops
    await process.wait()
    await until_nothing_runs(checkout)
    shown = [line.strip() for line in lines]
    began = shown.index("Nearcast is up.")
    ended = next(place for place, line in enumerate(shown) if line.startswith("Ctrl-C"))
    assert ended - began < 24, "what is to be clicked fits one screen"

    process = await make_run(checkout, VIEWERS=40)
    await until_up(process)
    await until_status(process, "redeemed")
    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C in a terminal does
    assert process.stdout is not None
    rest = (await process.stdout.read()).decode()
    await process.wait()
    closing = json.loads(next(line for line in reversed(rest.splitlines()) if line.startswith("{")))
    assert closing["audit"] == "ok", closing
    assert closing["viewers"] >= 40
    assert closing["delivered"] > closing["comments"] > 0
    assert closing["coupons_issued"] > 0
    assert closing["redeemed"] > 0
    assert "problems" not in closing, rest
    assert left_running(checkout) == []


async def test_make_run_ends_by_itself_when_it_is_told_for_how_long(checkout: Path) -> None:
    # Over before the audience can have begun: it must be told so in a way that it understands already.
    process = await make_run(checkout, RUN_SECONDS=1, VIEWERS=5)
    await until_up(process)
    closing = await summary(process, checkout)
    assert (closing["audit"], closing.get("problems")) == ("ok", None)
    assert left_running(checkout) == []
