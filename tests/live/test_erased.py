"""Who was erased leaves the rooms: sockets, screens, and what Redis shows to whoever comes in."""

import msgspec
import pytest
from viewers import announced, gateway, last_words, watching
from websockets.asyncio.client import connect
from world import BRAND, World, make_world

from app import privacy, relay
from kernel.clock import now
from kernel.postgres import transaction
from kernel.process import Kernel
from live import comments, wire
from live.bus import RedisBus
from live.wire import Close

WORDS = "我今天想喝桂花乌龙"


@pytest.fixture
async def world(kernel: Kernel) -> World:
    return await make_world(kernel)


async def test_sockets_close_everywhere_and_hello_is_refused(world: World) -> None:
    me, other = await world.viewers(2)
    ring = world.kernel.keyring
    async with gateway(world.kernel) as first, gateway(world.kernel) as second:
        async with (
            watching(first.url, ring, world.room, me) as here,
            watching(second.url, ring, world.room, me) as there,
            watching(second.url, ring, world.room, other) as stays,
        ):
            async with transaction(world.kernel.sessions) as session:
                await privacy.erase(session, BRAND, me.subject, now())
            for socket in (here.socket, there.socket):
                bye, code = await last_words(socket)
                assert bye is not None
                assert (bye.code, code) == (Close.ERASED, Close.ERASED)
            await RedisBus(world.kernel.redis).publish(world.room, "e1", event=announced("大家好"))
            await stays.event(wire.Announced)
        async with connect(f"{first.url}/v1/rooms/{world.room}/live", compression=None) as socket:
            await socket.send(wire.encoder.encode(wire.Hello(ring.issue(me))).decode())
            assert (await last_words(socket))[1] == Close.ERASED


async def test_their_words_leave_the_screens_and_redis(world: World) -> None:
    me, other = await world.viewers(2)
    bus = RedisBus(world.kernel.redis)
    async with gateway(world.kernel) as running:
        async with watching(running.url, world.kernel.keyring, world.room, other) as guest:
            async with watching(running.url, world.kernel.keyring, world.room, me) as mine:
                await mine.send(wire.Comment("c1", WORDS))
                await guest.send(wire.Comment("c2", "别人的话"))
                said = (await guest.event(wire.Commented, lambda event: event.by.id == me.subject)).id
                await guest.event(wire.Commented, lambda event: event.by.id == other.subject)
            await comments.store_kept(world.kernel.sessions, world.kernel.redis, [world.room])
            async with transaction(world.kernel.sessions) as session:
                await privacy.erase(session, BRAND, me.subject, now())
            await relay.turn(world.kernel.sessions, bus)
            assert (await guest.event(wire.Deleted)).comment == said
        assert any(WORDS.encode() in event for event in (await bus.snapshot(world.room)).recent)
        assert await privacy.sweep(world.kernel.sessions, world.kernel.redis, now()) == 1
    kept = [key async for key in world.kernel.redis.scan_iter("nearcast:*")]
    assert kept
    recent = (await bus.snapshot(world.room)).recent
    assert [msgspec.json.decode(event)["text"] for event in recent] == ["别人的话"]
