"""Hundreds who never read, thousands who say nothing: they cost nobody else anything, and are shown out."""

import asyncio
import socket
from contextlib import ExitStack

import pytest
from house import PATIENCE, House, masked, until
from websockets.asyncio.client import connect

from kernel.ids import new_id
from live import wire
from live.bus import RedisBus
from live.connection import HARD_LIMIT

pytestmark = [pytest.mark.deep, pytest.mark.timeout(1200)]
DEAF = 500
SILENT = 3000
GUESTS = 20
FAT = wire.encoder.encode(wire.Pinned(wire.ProductCard(new_id(), "满" * 10_000, "", 1), at=0))
"""Nobody may be spared a certain event, however long it is."""


async def test_hundreds_never_read(measured: House) -> None:
    bus = RedisBus(measured.world.kernel.redis)
    async with measured.evening():
        viewers = await measured.world.viewers(DEAF, north_m=None)
        before = measured.resources()
        with ExitStack() as sockets:
            for place, who in enumerate(viewers):
                deaf = sockets.enter_context(measured.raw(place % 2, window=4096))
                hello = wire.Hello(measured.world.kernel.keyring.issue(who))
                deaf.sendall(masked(wire.encoder.encode(hello)))
                if place % 20 == 0:
                    await asyncio.sleep(0)

            async def all_in() -> bool:
                return await measured.metric("viewers") == DEAF + len(measured.listeners)

            await until(all_in, "the deaf being let in")
            sent = 0
            while await measured.metric("viewers") > len(measured.listeners):
                assert sent < 1000, "nobody is shown out"
                await bus.publish(measured.world.room, f"fat{sent}", event=FAT)
                sent += 1
                await measured.heard_more(1)
                for name in ("gateway-1", "gateway-2"):
                    grown = measured.resources()[name][1] - before[name][1]
                    assert grown < DEAF // 2 * 2 * HARD_LIMIT, f"{name} keeps {grown} bytes for who does not read"
            assert await measured.metric('closes_total{code="slow"}') >= DEAF // 2, "they were closed for other reasons"
            await measured.recovers()
    assert all(listener.welcomes == [False] for listener in measured.listeners), "somebody else was cut off"


async def test_thousands_connect_and_say_nothing(measured: House) -> None:
    async with measured.evening():
        guests = await measured.world.viewers(GUESTS, north_m=None)
        before = measured.resources()
        with ExitStack() as sockets:
            crowd: list[socket.socket] = []
            for place in range(SILENT):
                # A third not even a request, a third a request and no hello, a third a request byte by byte.
                crowd.append(sockets.enter_context(measured.raw(place % 2, greeting=place % 3 == 1)))
                crowd[-1].setblocking(False)
                if place % 50 == 0:
                    await asyncio.sleep(0)
            slowly = asyncio.ensure_future(_drip(crowd[2::3], measured.greeting()))
            try:

                async def flooded() -> bool:
                    return sum(now - before[name][0] for name, (now, _) in measured.resources().items()) > SILENT // 2

                await until(flooded, "gateways holding sockets that say nothing")
                for place, who in enumerate(guests):
                    await _is_welcomed(measured, place, measured.world.kernel.keyring.issue(who))
                left = crowd

                async def all_closed() -> bool:
                    nonlocal left
                    left = [silent for silent in left if not _closed(silent)]
                    return not left

                await until(all_closed, "those who say nothing being hung up on")
            finally:
                slowly.cancel()
                await asyncio.gather(slowly, return_exceptions=True)
            await measured.recovers()
    assert all(listener.welcomes == [False] for listener in measured.listeners), "somebody else was cut off"


async def _drip(slow: list[socket.socket], request: bytes) -> None:
    """One byte a second: whole after minutes."""
    for byte in request:
        for each in slow:
            try:
                each.send(bytes([byte]))
            except OSError:
                continue  # shown out
        await asyncio.sleep(1)


async def _is_welcomed(house: House, place: int, token: str) -> None:
    url = f"{house.sockets[place % 2]}/v1/rooms/{house.world.room}/live"
    async with connect(url, open_timeout=PATIENCE, compression=None) as gateway, asyncio.timeout(PATIENCE):
        await gateway.send(wire.encoder.encode(wire.Hello(token)).decode())
        assert isinstance(wire.server_frames.decode(await gateway.recv()), wire.Welcome)


def _closed(silent: socket.socket) -> bool:
    try:
        while silent.recv(65536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
