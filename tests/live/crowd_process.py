"""A crowd in a process of its own, so that whoever measures beside it is not held up by reading for it.

Run as a script: arguments are a gateway's URL and a room; each line of the input is the token of one viewer. It prints
``in`` once all are in, then reads for all of them until it is ended.
"""

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

from swarm import Swarm, allow_sockets

from app.processes import bound

AT_ONCE = 100


@asynccontextmanager
async def crowd(url: str, room: UUID, tokens: Sequence[str]) -> AsyncIterator[None]:
    """All of them are in ``room``."""
    command = bound([sys.executable, __file__, url, str(room)], "KILL")
    folders = [Path(__file__).parents[2], Path(__file__).parent]
    running = await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, env={"PYTHONPATH": ":".join(map(str, folders))}
    )
    try:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write("\n".join(tokens).encode())
        running.stdin.close()
        assert await running.stdout.readline() == b"in\n"
        yield
        assert running.returncode is None, "the crowd left"
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


async def main() -> None:
    url, room = sys.argv[1:]
    tokens = sys.stdin.read().split()
    allow_sockets(len(tokens))
    swarm = Swarm([url], UUID(room))
    for n, token in enumerate(tokens):
        swarm.join(token)
        while n % AT_ONCE == AT_ONCE - 1 and not all(viewer.welcomes for viewer in swarm.viewers[-AT_ONCE:]):
            await asyncio.sleep(0.01)
    while not all(viewer.welcomes for viewer in swarm.viewers):
        await asyncio.sleep(0.01)
    print("in", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
