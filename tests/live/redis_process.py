"""A Redis of a test's own, which can be killed."""

import asyncio
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL

from redis.asyncio import Redis
from redis.exceptions import RedisError


@asynccontextmanager
async def redis_server(port: int, folder: Path, *, keeps: bool = False) -> AsyncIterator[Process]:
    """Killed on leaving. With ``keeps`` everything that it was told is in ``folder``, for the next one there."""
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    if keeps:
        options += ["--appendonly", "yes", "--appendfsync", "always"]
    running = await asyncio.create_subprocess_exec("redis-server", *options, stdout=DEVNULL)
    try:
        async with asyncio.timeout(60), Redis(port=port) as probe:
            while True:
                try:
                    await probe.ping()
                    break
                except RedisError:  # not there yet, or still reading its file
                    await asyncio.sleep(0.05)
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()
