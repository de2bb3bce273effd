"""Real gateways on real sockets, with real PostgreSQL and Redis behind them."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest
from roomworld import World, make_world
from sqlalchemy import select
from viewers import (
    Client,
    Coupons,
    Nearby,
    announced,
    coupon,
    gateway,
    last_words,
    principal,
    slots,
    until,
    watching,
)
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app import relay
from kernel.http import Kernel
from kernel.identity import Role
from kernel.ids import new_id
from live import presence, wire
from live.bus import Kept, RedisBus, key
from live.tables import Attendance
from live.wire import Close


@pytest.fixture
async def world(kernel: Kernel) -> World:
    return await make_world(kernel)


async def http(url: str, path: str) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(url.replace("ws://", "http://") + path)


# ---- coming in -----------------------------------------------------------------------------------------------------


async def test_welcome_shows_the_room_as_it_is(world: World) -> None:
    async with gateway(world.kernel) as one, watching(one.url, world.kernel.keyring, world.room, world.viewer) as me:
        welcome = me.frames[0]
        assert welcome.you == wire.Person(world.viewer.subject, world.viewer.name)
        assert (welcome.room.title, welcome.room.state, welcome.room.guide.name) == ("新品", "live", "阿May")
        assert (welcome.recovered, welcome.missed, welcome.log.seq) == (False, 0, 0)


async def test_pages_are_answered_on_the_same_port(world: World) -> None:
    async with gateway(world.kernel) as one, watching(one.url, world.kernel.keyring, world.room):
        assert (await http(one.url, "/healthz")).status_code == 200
        assert (await http(one.url, "/readyz")).status_code == 200
        metrics = (await http(one.url, "/metrics")).text
        assert "nearcast_gateway_viewers 1.0" in metrics
        assert "nearcast_gateway_joins_total 1.0" in metrics
        assert (await http(one.url, "/nothing")).status_code == 404


@pytest.mark.parametrize(
    ("token", "room", "code"),
    [
        ("garbage", None, Close.TOKEN_INVALID),
        ("expired", None, Close.TOKEN_EXPIRED),
        ("good", new_id(), Close.ROOM_UNKNOWN),
        ("other brand", None, Close.ROOM_UNKNOWN),
    ],
)
async def test_who_may_not_come_in_is_told_why(world: World, token: str, room: UUID | None, code: Close) -> None:
    issue = world.kernel.keyring.issue
    tokens = {
        "garbage": "x.y.z",
        "expired": issue(principal(seconds=-5)),
        "good": issue(principal()),
        "other brand": issue(principal(brand="other")),
    }
    async with gateway(world.kernel) as one, connect(f"{one.url}/v1/rooms/{room or world.room}/live") as socket:
        await Client(socket).send(wire.Hello(tokens[token]))
        bye, closed = await last_words(socket)
    assert bye is not None
    assert (bye.code, closed) == (code, code)


async def test_foreign_page_may_not_open_a_socket(world: World) -> None:
    settings = world.kernel.settings.model_copy(update={"allowed_origins": ("https://shop.example",)})
    async with gateway(replace(world.kernel, settings=settings)) as one:
        url = f"{one.url}/v1/rooms/{world.room}/live"
        with pytest.raises(InvalidStatus) as refused:
            await connect(url, origin="https://evil.example")  # type: ignore[arg-type]
        assert refused.value.response.status_code == 403
        async with connect(url, origin="https://shop.example"), connect(url):  # type: ignore[arg-type]
            pass


async def test_token_that_ends_closes_the_open_socket(world: World) -> None:
    async with (
        gateway(world.kernel) as one,
        watching(one.url, world.kernel.keyring, world.room, principal(seconds=2)) as me,
    ):
        bye, code = await last_words(me.socket)
    assert bye is not None
    assert (bye.code, code) == (Close.TOKEN_EXPIRED, Close.TOKEN_EXPIRED)


async def test_fifth_socket_of_a_viewer_replaces_the_first(world: World) -> None:
    me = principal()
    async with gateway(world.kernel) as one, AsyncExitStack() as stack:
        mine = [
            await stack.enter_async_context(watching(one.url, world.kernel.keyring, world.room, me)) for _ in range(5)
        ]
        bye, code = await last_words(mine[0].socket)
        assert bye is not None
        assert code == Close.REPLACED
        assert one.hub.rooms[world.room].audience.size == 1


# ---- being told ----------------------------------------------------------------------------------------------------


async def test_comment_reaches_both_gateways_and_is_kept(world: World) -> None:
    kernel = world.kernel
    async with gateway(kernel) as one, gateway(kernel) as two:
        async with (
            watching(one.url, kernel.keyring, world.room, world.viewer) as me,
            watching(two.url, kernel.keyring, world.room) as other,
        ):
            await me.send(wire.Comment("c1", "  这件好看  吗 "))
            ack = await me.ack("c1")
            assert ack.ok
            for client in (me, other):
                said = await client.event(wire.Commented)
                assert (said.id, said.text, said.by.id) == (ack.comment, "这件好看 吗", world.viewer.subject)
            rows = await kernel.redis.xrange(key(world.room, "kept"))
            kept = msgspec.json.decode(rows[0][1][b"r"], type=Kept)
            assert (kept.id, kept.author, kept.text) == (ack.comment, world.viewer.subject, "这件好看 吗")
            await me.send(wire.Comment("c1", "  这件好看  吗 "))
            assert await me.ack("c1") == ack
            assert await kernel.redis.xlen(key(world.room, "kept")) == 1
        async with watching(two.url, kernel.keyring, world.room) as late:
            assert [comment.id for comment in late.frames[0].recent] == [ack.comment]


async def test_resend_after_a_reconnect_is_answered_not_repeated(world: World) -> None:
    kernel = world.kernel
    async with gateway(kernel) as one:
        async with watching(one.url, kernel.keyring, world.room, world.viewer) as me:
            await me.send(wire.Comment("c1", "你好"))
            ack = await me.ack("c1")
        async with watching(one.url, kernel.keyring, world.room, world.viewer, me.position) as me:
            await me.send(wire.Comment("c1", "你好"))
            assert await me.ack("c1") == ack
        assert await kernel.redis.xlen(key(world.room, "kept")) == 1


async def test_guide_commands_reach_viewers_through_outbox_and_relay(world: World) -> None:
    kernel = world.kernel
    bus = RedisBus(kernel.redis)
    async with (
        gateway(kernel) as one,
        watching(one.url, kernel.keyring, world.room, world.guide) as guide,
        watching(one.url, kernel.keyring, world.room, world.viewer) as me,
    ):
        await guide.send(wire.Pin("p", world.latte))
        assert (await guide.ack("p")).ok
        await relay.turn(kernel.sessions, bus)
        pinned = await me.event(wire.Pinned)
        assert pinned.product.id == world.latte

        await guide.send(wire.Pin("q", world.unshelved))
        refused = await guide.ack("q")
        assert refused.error is not None
        assert refused.error.code == "not_on_shelf"

        await guide.send(wire.Mute("m", world.viewer.subject, 60))
        assert (await guide.ack("m")).ok
        await relay.turn(kernel.sessions, bus)
        await me.event(wire.Muted)
        await me.send(wire.Comment("c", "还能说吗"))
        answer = await me.ack("c")
        assert answer.error is not None
        assert answer.error.code == "muted"

        await me.send(wire.Unpin("u"))
        answer = await me.ack("u")
        assert answer.error is not None
        assert answer.error.code == "forbidden"
        async with watching(one.url, kernel.keyring, world.room, world.viewer) as again:
            assert again.frames[0].pin.product.id == world.latte
            assert again.frames[0].muted_until is not None

        await guide.send(wire.End("e"))
        assert (await guide.ack("e")).ok
        await relay.turn(kernel.sessions, bus)
        assert (await me.event(wire.RoomChanged)).room.state == "ended"
        async with connect(f"{one.url}/v1/rooms/{world.room}/live") as late:
            await Client(late).send(wire.Hello(kernel.keyring.issue(principal())))
            assert (await last_words(late))[1] == Close.ROOM_ENDED


async def test_coupon_goes_to_its_owner_alone_on_whichever_gateway(world: World) -> None:
    kernel, mine = world.kernel, coupon("满30减10")
    bus = RedisBus(kernel.redis)
    async with gateway(kernel) as one, gateway(kernel) as two:
        async with (
            watching(one.url, kernel.keyring, world.room) as other,
            watching(two.url, kernel.keyring, world.room, world.viewer) as me,
        ):
            await bus.publish(world.room, "o1", private={world.viewer.subject: wire.encoder.encode(mine)})
            await bus.publish(world.room, "o2", event=announced("发完了"), slots=slots("发完了"))
            granted = await me.frame(wire.CouponGranted)
            assert (granted.coupon, granted.seq) == (mine, 1)
            await other.event(wire.Announced)
            await me.event(wire.Announced)
            assert other.seq == me.seq == 2
            assert not [frame for frame in other.frames if isinstance(frame, wire.CouponGranted)]
        async with watching(one.url, kernel.keyring, world.room, world.viewer) as again:
            assert again.frames[0].coupons == [mine]


async def test_commands_that_take_time_are_answered_and_bounded(world: World) -> None:
    kernel, nearby, coupons = world.kernel, Nearby(), Coupons()
    async with (
        gateway(kernel, locator=nearby, issuer=coupons) as one,
        watching(one.url, kernel.keyring, world.room, world.viewer) as me,
    ):
        await me.send(wire.Locate(121.4, 31.2, "gcj02", 20.0, "l"))
        assert (await me.ack("l")).stores == 3
        await me.send(wire.Locate(121.4, 31.2, "gcj02", None, "l2"))
        answer = await me.ack("l2")
        assert answer.error is not None
        assert answer.error.code == "location_uncertain"
        # Claims ask the database who is here, so it must know by now.
        async with kernel.sessions() as session:
            assert await session.scalar(select(Attendance.viewer_id)) == world.viewer.subject

        coupons.gate.clear()
        for n in range(6):
            await me.send(wire.Claim(f"k{n}", new_id()))
        busy = await me.ack("k5")
        assert busy.error is not None
        assert busy.error.code == "busy"
        coupons.gate.set()
        assert (await me.ack("k0")).coupon is not None
        shown = new_id()
        await me.send(wire.Seen(shown))
        await until(lambda: coupons.shown)
        assert coupons.shown == [(world.viewer.subject, [shown])]


async def test_counts_go_up_and_down_over_all_gateways(world: World) -> None:
    kernel = world.kernel
    async with (
        gateway(kernel) as one,
        gateway(kernel) as two,
        watching(one.url, kernel.keyring, world.room, world.viewer) as me,
    ):
        async with watching(two.url, kernel.keyring, world.room) as other:
            await other.send(wire.Like(7))
            changed = await me.event(wire.CountsChanged, lambda e: e.counts.viewers == 2 and e.counts.likes == 7)
            assert changed.counts.uniques == 2
        await me.event(wire.CountsChanged, lambda e: e.counts.viewers == 1 and e.counts.likes == 7)
        counts = await presence.counts(kernel.redis, [world.room])
        assert counts[world.room] == wire.Counts(viewers=1, likes=7, uniques=2)
        listed = await presence.gateways(kernel.redis)
        assert {stats.id for stats in listed} == {one.id, two.id}


async def test_guides_learn_how_much_was_left_out(world: World) -> None:
    kernel = world.kernel
    bus = RedisBus(kernel.redis)
    by, guide_card = wire.Person(new_id(), "小周"), wire.Person(world.guide.subject, "阿May", "guide")
    async with (
        gateway(kernel) as one,
        watching(one.url, kernel.keyring, world.room, world.guide) as guide,
        watching(one.url, kernel.keyring, world.room) as me,
    ):
        flood = [wire.encoder.encode(wire.Commented(new_id(), by, f"{n}", 1)) for n in range(300)]
        flood.insert(150, wire.encoder.encode(wire.Commented(new_id(), guide_card, "导购", 1)))
        await bus.cast(world.room, flood)
        shed = await guide.frame(wire.Shed)
        assert (shed.total, shed.shown) == (301, 31)
        await me.event(wire.Commented, lambda e: e.by.role == "guide")
        shown = [int(e.text) for e in me.events if isinstance(e, wire.Commented) and e.by.role == "viewer"]
        assert len(shown) == 30
        assert shown == sorted(shown)
        assert one.tally.shed["comment"] == 270


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
        "{", '{"t":"nonsense"}', '{"t":"like","n":"viele"}', "[1,2]", '"x"', '{"t":"hello","token":"again"}',
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


async def test_bytes_that_are_no_http_are_hung_up_on(world: World) -> None:
    async with gateway(world.kernel) as one:
        host, port = one.url.removeprefix("ws://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"\x16\x03\x01 hello\r\n\r\n")
        async with asyncio.timeout(10):
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
        assert (await presence.counts(kernel.redis, [world.room]))[world.room].viewers == 0


async def test_staff_are_not_counted_as_viewers(world: World) -> None:
    async with (
        gateway(world.kernel) as one,
        watching(one.url, world.kernel.keyring, world.room, world.guide),
        watching(one.url, world.kernel.keyring, world.room, principal(role=Role.OPS)),
        watching(one.url, world.kernel.keyring, world.room, world.viewer) as me,
    ):
        await me.event(wire.CountsChanged, lambda e: e.counts.viewers == 1)
