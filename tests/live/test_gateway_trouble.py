"""Trouble: clients that misbehave, a Redis that loses things, a resume, a gateway that leaves."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
from roomworld import World, do
from viewers import (
    Nearby,
    announced,
    coupon,
    gateway,
    last_words,
    slots,
    until,
    watching,
)

import live.desk
from app import relay
from kernel.ids import new_id
from live import presence, rooms, wire
from live.bus import RedisBus, key
from live.wire import Close

# ---- coming back ---------------------------------------------------------------------------------------------------


async def test_resume_on_the_other_gateway_tells_everything_missed(world: World) -> None:
    kernel = world.kernel
    bus, mine = RedisBus(kernel.redis), coupon("迟到的券")
    async with gateway(kernel) as one, gateway(kernel) as two:
        async with watching(one.url, kernel.keyring, world.room, world.viewer) as me:
            await bus.publish(world.room, "a", event=announced("一"), slots=slots("一"))
            await me.event(wire.Announced)
        await bus.publish(world.room, "b", event=announced("二"), slots=slots("二"))
        await bus.publish(world.room, "c", private={world.viewer.subject: wire.encoder.encode(mine)})
        await bus.publish(world.room, "d", private={new_id(): wire.encoder.encode(mine)})
        await bus.publish(world.room, "e", event=announced("三"), slots=slots("三"))
        async with watching(two.url, kernel.keyring, world.room, world.viewer, me.position) as back:
            assert (back.frames[0].recovered, back.frames[0].missed) == (True, 3)
            granted = await back.frame(wire.CouponGranted)
            assert granted.coupon == mine
            await back.event(wire.Announced, lambda e: e.text == "三")
            assert [e.text for e in back.certain()] == ["二", "三"]
            assert back.seq == 5
        assert two.tally.resumes == {"recovered": 1}


async def test_resume_ahead_of_a_gateway_makes_it_read_up(world: World) -> None:
    kernel = world.kernel
    bus = RedisBus(kernel.redis)
    async with gateway(kernel) as one, watching(one.url, kernel.keyring, world.room) as me:
        await bus.publish(world.room, "a", event=announced("一"))
        await me.event(wire.Announced)
        room = one.hub.rooms[world.room]
        ahead = wire.Position(room.epoch, 9)
        async with watching(one.url, kernel.keyring, world.room, resume=ahead) as liar:
            assert liar.frames[0].recovered is False
        assert room.whole.is_set()


async def test_resume_from_a_trimmed_log_is_a_fresh_start(world: World) -> None:
    settings = world.kernel.settings.model_copy(update={"room_log_length": 5})
    kernel = replace(world.kernel, settings=settings)
    bus = RedisBus(kernel.redis, log_length=5)
    async with gateway(kernel) as one, watching(one.url, kernel.keyring, world.room, world.viewer) as me:
        pass
    for n in range(8):
        await bus.publish(world.room, f"e{n}", event=announced(f"{n}"), slots=slots(f"{n}"))
    async with gateway(kernel) as two:
        async with watching(two.url, kernel.keyring, world.room, world.viewer, me.position) as back:
            assert (back.frames[0].recovered, back.frames[0].announcement) == (False, "7")
        partly = wire.Position(back.epoch, 3)
        async with watching(two.url, kernel.keyring, world.room, world.viewer, partly) as back:
            assert (back.frames[0].recovered, back.frames[0].missed) == (True, 5)


# ---- trouble -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage",
    [
        "{", '{"t":"nonsense"}', '{"t":"comment","text":"x"}', "[1,2]", '"x"', '{"t":"hello","token":"again"}',
        '{"t":"comment","id":"","text":"x"}', "x" * 5000, b"\x00\x01",
    ],
)  # fmt: skip
async def test_garbage_costs_only_the_client_that_sent_it(world: World, garbage: str | bytes) -> None:
    kernel = world.kernel
    async with (
        gateway(kernel) as one,
        watching(one.url, kernel.keyring, world.room) as good,
        watching(one.url, kernel.keyring, world.room) as bad,
    ):
        await bad.socket.send(garbage)
        bye, code = await last_words(bad.socket)
        assert bye is not None
        assert (bye.code, code) == (Close.BAD_FRAME, Close.BAD_FRAME)
        await good.send(wire.Comment("c", "我还在"))
        assert (await good.ack("c")).ok


async def test_bad_values_cost_their_command_and_neither_the_socket_nor_a_fix(world: World) -> None:
    fixes = Nearby()
    async with (
        gateway(world.kernel, locator=fixes) as one,
        watching(one.url, world.kernel.keyring, world.room, world.viewer) as me,
    ):
        for n, place in enumerate(('"lng":181,"lat":31', '"lng":121,"lat":-91', '"lng":121,"lat":31,"accuracy":-0.5')):
            await me.socket.send(f'{{"t":"locate","id":"f{n}","datum":"gcj02",{place}}}')
            ack = await me.ack(f"f{n}")
            assert ack.error is not None
            assert ack.error.code == "invalid"
        await me.send(wire.Comment("long", "长" * (wire.MAX_TEXT + 1)))
        ack = await me.ack("long")
        assert ack.error is not None
        assert (ack.error.code, ack.error.field) == ("too_long", "text")
        await me.send(wire.Locate(121.47, 31.23, "gcj02", 20, "good"))
        assert (await me.ack("good")).stores == 3
        assert len(fixes.fixes) == 1


async def test_bytes_that_are_no_http_are_hung_up_on(world: World) -> None:
    async with gateway(world.kernel) as one:
        host, port = one.url.removeprefix("ws://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"\x16\x03\x01 hello\r\n\r\n")
        async with asyncio.timeout(60):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        await until(lambda: not one.connections)


async def test_viewer_who_never_reads_is_closed_and_delays_nobody(world: World) -> None:
    kernel = world.kernel
    bus = RedisBus(kernel.redis)
    async with (
        gateway(kernel) as one,
        watching(one.url, kernel.keyring, world.room) as good,
        watching(one.url, kernel.keyring, world.room) as stuck,
    ):
        stuck.socket.transport.pause_reading()
        sent = 0
        while not one.tally.closes["slow"]:
            sent += 1
            assert sent < 2000, "the stuck viewer's bytes pile up without bound"
            await bus.publish(world.room, f"e{sent}", event=announced("满" * 10_000))
            await good.event(wire.Announced, lambda _, want=sent: good.seq == want)
        assert len(good.certain()) == sent
        assert len(one.hub.rooms[world.room].audience.connections) == 1
        stuck.socket.transport.abort()


async def test_killed_subscription_closes_its_gap(world: World) -> None:
    kernel = world.kernel
    bus = RedisBus(kernel.redis)
    async with gateway(kernel) as one, watching(one.url, kernel.keyring, world.room) as me:
        await bus.publish(world.room, "a", event=announced("一"))
        await me.event(wire.Announced)
        await kernel.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        for n in range(3):
            await bus.publish(world.room, f"b{n}", event=announced(f"缺{n}"))
        await until(lambda: one.bus.losses == 1)
        await bus.publish(world.room, "c", event=announced("末"))
        await me.event(wire.Announced, lambda e: e.text == "末")
        assert [e.text for e in me.certain()] == ["一", "缺0", "缺1", "缺2", "末"]
        await until(lambda: one.ready)


async def test_emptied_redis_is_a_new_epoch_and_a_fresh_welcome(world: World) -> None:
    kernel = world.kernel
    bus = RedisBus(kernel.redis)
    async with gateway(kernel) as one, watching(one.url, kernel.keyring, world.room, world.viewer) as me:
        drop = wire.DropCard(new_id(), "claim", "抢券", "满30减10", 10, 10, 1, 2_000_000_000_000, 3000)
        opened = wire.encoder.encode(wire.DropOpened(drop))
        await bus.publish(world.room, "a", event=opened, slots={f"drop:{drop.id}": wire.encoder.encode(drop)})
        await me.event(wire.DropOpened)
        old = me.position
        await kernel.redis.flushall()
        await kernel.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        again = await me.frame(wire.Welcome)
        assert again.log.epoch != old.epoch
        assert (again.log.seq, again.recovered, again.room.title) == (0, False, "新品")
        assert again.drops == [drop]
        await bus.publish(world.room, "b", event=announced("又好了"))
        await me.event(wire.Announced)
        assert me.seq == 1
        async with watching(one.url, kernel.keyring, world.room, world.viewer, old) as back:
            assert back.frames[0].recovered is False


async def test_nobody_is_shown_again_what_was_still_to_be_told_when_a_log_began(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when Redis comes back with nothing while the relay has much to tell."""
    monkeypatch.setattr(live.desk, "SETTLE_SECONDS", 120.0)
    kernel = world.kernel
    for text in ("一", "二"):
        await do(world, rooms.announce, world.guide, world.room, text)

    async def visit(url: str) -> tuple[wire.Welcome, list[str]]:
        async with watching(url, kernel.keyring, world.room, world.viewer) as me:
            await do(world, rooms.announce, world.guide, world.room, "三")
            await relay.turn(kernel.sessions, RedisBus(kernel.redis))
            await me.event(wire.Announced, lambda event: event.text == "三")
            return me.frames[0], [event.text for event in me.certain()]

    async with gateway(kernel) as one:
        visiting = asyncio.create_task(visit(one.url))
        await until(lambda: world.room in one.hub.rooms)
        assert not visiting.done()
        await relay.turn(kernel.sessions, RedisBus(kernel.redis))
        welcome, told = await visiting
    assert (welcome.announcement, welcome.log.seq, told) == ("二", 2, ["三"])


async def test_a_room_opens_without_a_worker(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live.desk, "SETTLE_SECONDS", 0.0)
    await do(world, rooms.announce, world.guide, world.room, "一")
    kernel = world.kernel
    async with gateway(kernel) as one, watching(one.url, kernel.keyring, world.room, world.viewer) as me:
        assert me.frames[0].announcement == "一"


async def test_log_that_lost_its_last_moments_gets_a_new_epoch(world: World) -> None:
    kernel = world.kernel
    bus = RedisBus(kernel.redis)
    async with gateway(kernel) as one, watching(one.url, kernel.keyring, world.room) as me:
        for n in range(3):
            await bus.publish(world.room, f"a{n}", event=announced(f"{n}"))
        await me.event(wire.Announced, lambda e: e.text == "2")
        epoch = me.epoch
        await kernel.redis.hset(key(world.room, "meta"), "seq", "1")  # as after a crash with an older file
        await kernel.redis.xtrim(key(world.room, "log"), maxlen=0)
        await kernel.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        again = await me.frame(wire.Welcome)
        assert again.log.epoch != epoch
        assert again.log.seq == 1


async def test_log_whose_last_event_was_replaced_by_another_gets_a_new_epoch(world: World) -> None:
    kernel = world.kernel
    bus = RedisBus(kernel.redis)
    async with gateway(kernel) as one, watching(one.url, kernel.keyring, world.room) as me:
        for n in range(3):
            await bus.publish(world.room, f"a{n}", event=announced(f"{n}"))
        await me.event(wire.Announced, lambda e: e.text == "2")
        epoch, log = me.epoch, key(world.room, "log")
        # As after a replica took over that had not heard of the third event, and a fourth was published.
        await kernel.redis.hset(key(world.room, "meta"), "seq", "2")
        await kernel.redis.xdel(log, "3-0")
        await kernel.redis.execute_command("XSETID", log, "2-0")
        assert await bus.publish(world.room, "b", event=announced("别的"), slots=slots("别的")) == 3
        await kernel.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        again = await me.frame(wire.Welcome)
        assert again.log.epoch != epoch
        assert (again.log.seq, again.announcement) == (3, "别的")


async def test_drain_sends_everybody_elsewhere(world: World) -> None:
    kernel = world.kernel
    async with gateway(kernel) as one, AsyncExitStack() as stack:
        me: list[Any] = [
            await stack.enter_async_context(watching(one.url, kernel.keyring, world.room)) for _ in range(5)
        ]
        draining = asyncio.ensure_future(one.drain(5))
        for client in me:
            bye, code = await last_words(client.socket)
            assert bye is not None
            assert code == Close.DRAINING
            assert bye.retry_after is not None
            assert bye.retry_after > 0
        await draining
        assert await presence.gateways(kernel.redis) == []
        assert (await presence.figures_of(kernel.redis, [world.room]))[world.room].counts.viewers == 0
