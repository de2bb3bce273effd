"""A wire between gateways and Redis that a test can cut, stop or make drop what it carries.

Where network namespaces are permitted this machine's kernel still has no ``netem``; a wire of our own behaves the same
everywhere.
"""

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Wire:
    """Carries TCP to ``target``. ``dead``: nothing passes and nobody is told, as on a cable that was pulled."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self.port = 0
        self.alive = asyncio.Event()
        self.alive.set()
        self.loss = 0.0
        """Share of the pieces that need sending again: TCP hides the loss and shows a wait."""
        self.held = self.resent = 0
        """Pieces that waited for the wire to live, and that were sent again."""
        self._writers: set[asyncio.StreamWriter] = set()

    def hang_up(self) -> None:
        """Reset every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        both = {writer, far_writer}
        self._writers |= both
        try:
            ways = [asyncio.ensure_future(self._one_way(*way)) for way in ((reader, far_writer), (far_reader, writer))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        finally:
            self._writers -= both
            for each in both:
                each.transport.abort()

    async def _one_way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1400):
                self.held += not self.alive.is_set()
                await self.alive.wait()
                if random.random() < self.loss:
                    self.resent += 1
                    await asyncio.sleep(0.2)  # Linux waits so long, at least, before it sends again
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def wire(host: str, port: int, *, at: tuple[str, int] = ("127.0.0.1", 0)) -> AsyncIterator[Wire]:
    carrying = Wire(host, port)
    server = await asyncio.start_server(carrying.carry, *at)
    carrying.port = server.sockets[0].getsockname()[1]
    try:
        yield carrying
    finally:
        server.close()
        carrying.alive.set()
        carrying.hang_up()


async def _carry(at: tuple[str, int], host: str, port: int) -> None:
    async with wire(host, port, at=at) as carrying:
        print(carrying.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_carry((sys.argv[1], int(sys.argv[2])), sys.argv[3], int(sys.argv[4])))
