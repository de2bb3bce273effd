"""A gateway that leaves: it says so, takes nobody in, and its viewers move on at a pace, missing nothing."""

import asyncio
import signal
from bisect import bisect_left
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from time import monotonic
from uuid import UUID

import httpx
import pytest
from gateway_process import process
from roomworld import World
from swarm import Swarm, allow_sockets
from viewers import PATIENCE, UNHURRIED, Client, announced, gateway, last_words, principal, slots, until, watching
from websockets.asyncio.client import connect

from kernel.process import Kernel
from kernel.tasks import end
from live import presence, wire
from live.bus import RedisBus
from live.desk import DRAIN_SECONDS, LAST_SECONDS
from live.leaving import RETURNS_PER_SECOND, SOONEST_SECONDS
from live.wire import Close

AT_ONCE = 200


async def readiness(url: str) -> int:
    """The status of ``/readyz``; 0 when nobody listens any more."""
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        try:
            return (await client.get(url.replace("ws://", "http://") + "/readyz")).status_code
        except httpx.TransportError:
            return 0


async def test_a_draining_gateway_says_so_and_serves_on_before_it_hangs_up(world: World) -> None:
    kernel = world.kernel
    async with gateway(kernel) as one, watching(one.url, kernel.keyring, world.room) as me:
        assert await readiness(one.url) == 200
        await until(lambda: one.hub.rooms)
        draining = asyncio.ensure_future(one.drain(10 * PATIENCE))
        await asyncio.sleep(0)
        assert await readiness(one.url) == 503
        async with asyncio.timeout(PATIENCE):
            while [stats.ready for stats in await presence.gateways(kernel.redis)] != [False]:
                await asyncio.sleep(0.01)
        async with connect(f"{one.url}/v1/rooms/{world.room}/live", **UNHURRIED) as late:
            await Client(late).send(wire.Hello(kernel.keyring.issue(principal())))
            bye, code = await last_words(late)
        assert bye is not None
        assert code == Close.DRAINING
        assert bye.retry_after is not None
        assert bye.retry_after >= SOONEST_SECONDS
        await RedisBus(kernel.redis).publish(world.room, "a", event=announced("还在"))
        await me.event(wire.Announced)
        await end(draining)


class Announcer:
    """Tells a room a new certain event many times a second."""

    def __init__(self, bus: RedisBus, room: UUID) -> None:
        self._bus = bus
        self._room = room
        self.texts: list[str] = []

    async def tell(self) -> None:
        text = str(len(self.texts) + 1)
        await self._bus.publish(self._room, f"event-{text}", event=announced(text), slots=slots(text))
        self.texts.append(text)

    async def _go_on(self) -> None:
        for _ in count():
            await self.tell()
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def talking(self) -> AsyncIterator[None]:
        going = asyncio.ensure_future(self._go_on())
        try:
            await until(lambda: len(self.texts) >= 5)
            yield
        finally:
            await end(going)


async def crowd(swarm: Swarm, kernel: Kernel, viewers: int) -> None:
    """That many viewers come to the first gateway, a few at a time."""
    while (came := len(swarm.viewers)) < viewers:
        few = [swarm.join(kernel.keyring.issue(principal(f"v{n}"))) for n in range(came, min(came + AT_ONCE, viewers))]
        await until(lambda few=few: all(viewer.welcomes for viewer in few))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("viewers", [300, pytest.param(5000, marks=pytest.mark.deep)])
async def test_viewers_of_a_terminated_gateway_move_at_a_pace_and_miss_nothing(world: World, viewers: int) -> None:
    kernel = world.kernel
    allow_sockets(viewers)
    announcer = Announcer(RedisBus(kernel.redis), world.room)
    async with process(kernel) as (one, first), process(kernel) as (_, second):
        swarm = Swarm([first, second], world.room)
        try:
            await crowd(swarm, kernel, viewers)
            async with announcer.talking():
                swarm.lag = 0.0
                one.send_signal(signal.SIGTERM)
                signalled = monotonic()
                async with asyncio.timeout(PATIENCE):
                    while await readiness(first) == 200:
                        await asyncio.sleep(0.01)
                    assert await one.wait() == 0
                took = monotonic() - signalled
                await until(lambda: all(len(viewer.welcomes) == 2 for viewer in swarm.viewers))
            await announcer.tell()
            await until(lambda: all(viewer.told[-1:] == announcer.texts[-1:] for viewer in swarm.viewers))

            assert swarm.gone_wrong() == []
            for viewer in swarm.viewers:
                assert viewer.told == announcer.texts  # each once, in order
                assert [(place, recovered) for _, place, recovered in viewer.welcomes] == [(0, False), (1, True)]
                assert viewer.lost == 0
                ((told_at, retry_after),) = viewer.sent_away
                assert viewer.attempts[1] - told_at > retry_after - 0.02
            back = sorted(viewer.attempts[1] for viewer in swarm.viewers)
            peak = max(bisect_left(back, at + 1) - place for place, at in enumerate(back))
            print(
                f"{viewers} viewers came back within {back[-1] - back[0]:.1f} s, {peak} in the fullest second; the "
                f"gateway took {took:.1f} s; our own loop was late by {swarm.lag:.2f} s at most"
            )
            assert peak <= RETURNS_PER_SECOND * (1 + swarm.lag)
            assert took < DRAIN_SECONDS + LAST_SECONDS + 10

            async with asyncio.timeout(PATIENCE):
                while (await presence.figures_of(kernel.redis, [world.room]))[world.room].counts.viewers != viewers:
                    await asyncio.sleep(0.1)
            assert [stats.url for stats in await presence.gateways(kernel.redis)] == [second]
        finally:
            swarm.close()
