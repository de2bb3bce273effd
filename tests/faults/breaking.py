"""What is done to processes, disks and connections, and undone."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from house import PATIENCE, House, ended, until

LONG = 10.0
"""Seconds of a pause that nobody can take for a moment's load."""
DISK = "64m"


@contextmanager
def standing_still(*pids: int) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def family(pid: int) -> list[int]:
    """The process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


async def gone(pid: int) -> None:
    async def is_gone() -> bool:
        return ended(pid)

    await until(is_gone, "the process being gone")


@contextmanager
def small_disk(owner: int) -> Iterator[Path]:
    """A file system of ``DISK`` bytes. Skips where this user may not mount one."""
    folder = Path("/tmp") / f"nearcast-disk-{uuid4().hex[:8]}"
    folder.mkdir()
    options = f"size={DISK},uid={owner},mode=700"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        folder.rmdir()
        pytest.skip(f"a small disk needs the right to mount: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        folder.rmdir()


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not a page is left while the block runs."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(1 << 12))
    try:
        yield
    finally:
        filler.unlink()


async def take_all_connections(house: House, held: list[asyncpg.Connection]) -> None:
    """Take the place of every connection of ours, until neither we nor they get another."""
    url = house.stack.settings.database_url
    held.append(await asyncpg.connect(url))
    others = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND NOT pid = ANY($1::int[])"
    )
    async with asyncio.timeout(PATIENCE):
        while True:
            taken = await asyncio.gather(*(asyncpg.connect(url) for _ in range(20)), return_exceptions=True)
            held += [each for each in taken if isinstance(each, asyncpg.Connection)]
            ended = await held[0].fetch(others, [each.get_server_pid() for each in held])
            if not ended and any(isinstance(each, asyncpg.TooManyConnectionsError) for each in taken):
                return
