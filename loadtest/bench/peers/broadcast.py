"""``websockets.broadcast()`` on uvloop, as its documentation recommends for many receivers."""

import asyncio
import sys

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve


async def main() -> None:
    """Hold whoever comes; broadcast on every line of stdin."""
    text = "x" * int(sys.argv[1])
    viewers: set[ServerConnection] = set()

    async def hold(viewer: ServerConnection) -> None:
        viewers.add(viewer)
        await viewer.wait_closed()
        viewers.discard(viewer)

    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    async with serve(hold, "127.0.0.1", 0, backlog=4096) as server:
        sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
        sys.stdout.flush()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while await lines.readline():
            broadcast(viewers, text)
    # Leaving closes the server and its viewers.


if __name__ == "__main__":
    uvloop.run(main())
