"""The Locust file against a real stack: it joins, talks and measures, without a single failure."""

import asyncio
import csv
import sys
from pathlib import Path

from app import demo, up
from kernel.process import Kernel
from kernel.settings import Settings

ROOT = Path(demo.__file__).parent.parent


async def locust(api: str, folder: Path, room: str) -> tuple[int, str, dict[tuple[str, str], dict[str, str]]]:
    """Run Locust for some seconds; its exit code, what it printed, and its figures by (type, name)."""
    # In a process of its own: gevent patches the standard library of whoever imports it.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary"),
        *("-H", api, "-u", "8", "-r", "8", "-t", "12s", "--stop-timeout", "10", "--room", room),
        *("--csv", str(folder / "figures"), "--exit-code-on-error", "1"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(180):
            printed = (await process.stdout.read()).decode()
            code = await process.wait()
    except TimeoutError:
        process.kill()
        raise
    with (folder / "figures_stats.csv").open() as lines:
        figures = {(row["Type"], row["Name"]): row for row in csv.DictReader(lines)}
    return code, printed, figures


async def test_viewers_and_a_guide_join_talk_and_are_measured(
    settings: Settings, kernel: Kernel, tmp_path: Path
) -> None:
    async with up.stack(settings) as running:
        world = await demo.load(kernel)
        room = str(world.rooms[0])
        code, printed, figures = await locust(running.api, tmp_path, room)
    assert code == 0, printed
    for kind, name in (("WS", "join"), ("WS", "comment"), ("EVENT", "comment"), ("POST", "/v1/auth/dev")):
        assert int(figures[kind, name]["Request Count"]) > 0, printed
    assert int(figures["", "Aggregated"]["Failure Count"]) == 0, printed
