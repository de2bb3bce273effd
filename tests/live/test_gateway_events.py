"""Being told: what viewers on real sockets hear of what others do, over one gateway and two."""

from dataclasses import replace

import msgspec
from roomworld import World, do
from sqlalchemy import select
from viewers import (
    UNHURRIED,
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

from app import relay
from kernel.identity import Role
from kernel.ids import new_id
from live import presence, rooms, wire
from live.bus import Kept, RedisBus, key
from live.gateway import Gateway
from live.moderation import NAMELESS
from live.tables import Attendance
from live.wire import Close


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
        async with connect(f"{one.url}/v1/rooms/{world.room}/live", **UNHURRIED) as late:
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
        figures = await presence.figures_of(kernel.redis, [world.room])
        assert figures[world.room].counts == wire.Counts(viewers=1, likes=7, uniques=2)
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


async def test_as_many_comments_are_shown_as_the_guide_says_while_it_runs(
    world: World, two: tuple[Gateway, Gateway]
) -> None:
    kernel, by = world.kernel, wire.Person(new_id(), "小周")
    bus = RedisBus(kernel.redis)

    async def shown(url: str) -> int:
        """How many of 300 comments at once a viewer who comes in now is shown."""
        async with watching(url, kernel.keyring, world.room) as me:
            flood = [wire.encoder.encode(wire.Commented(new_id(), by, f"{n}", 1)) for n in range(300)]
            await bus.cast(world.room, flood)
            await me.event(wire.Commented)
            await bus.publish(world.room, str(new_id()), event=announced("完"))
            await me.event(wire.Announced)
            return sum(isinstance(event, wire.Commented) for event in me.events)

    async with watching(two[0].url, kernel.keyring, world.room) as first:
        await do(world, rooms.display, world.guide, world.room, 5)
        await first.event(wire.RoomChanged)
        assert await shown(two[0].url) == 5, "of a room that was open"
    assert await shown(two[1].url) == 5, "of one that is opened now"


async def test_likes_after_the_end_change_nothing_of_what_remains(world: World, two: tuple[Gateway, Gateway]) -> None:
    kernel = world.kernel
    async with watching(two[0].url, kernel.keyring, world.room) as me:
        async with watching(two[0].url, kernel.keyring, world.room):
            await me.send(wire.Like(7))
            await me.event(wire.CountsChanged, lambda e: e.counts.likes == 7)
            await do(world, rooms.end, world.guide, world.room)
            await me.event(wire.RoomChanged, lambda e: e.room.state == "ended")
            await me.send(wire.Like(5))
        counted = await me.event(wire.CountsChanged, lambda e: e.counts.viewers == 1)  # that one left, so all is told
    assert counted.counts.likes == 7


async def test_names_are_shown_without_what_is_hidden_or_unwanted_and_texts_as_they_were_typed(
    world: World, two: tuple[Gateway, Gateway]
) -> None:
    kernel = world.kernel
    sly, plain = replace(principal(), name="加ＶＸ聊"), replace(principal(), name="小\u202e林①")
    async with watching(two[1].url, kernel.keyring, world.room, world.guide) as guide:
        for who, name in ((sly, NAMELESS), (plain, "小林①")):
            async with watching(two[0].url, kernel.keyring, world.room, who) as me:
                assert me.frames[0].you.name == name
                await me.send(wire.Renew("r", kernel.keyring.issue(who)))
                assert (await me.ack("r")).ok
                await me.send(wire.Comment("c", "要 ②号\u200b链接"))
                assert (await me.ack("c")).ok
                said = await guide.event(wire.Commented, lambda e, who=who: e.by.id == who.subject)
                assert (said.by.name, said.text) == (name, "要 ②号链接")
                await me.send(wire.Comment("d", "要 2号链接"))
                again = await me.ack("d")
                assert again.error is not None
                assert again.error.code == "duplicate", "what looks alike is the same"


async def test_staff_are_not_counted_as_viewers(world: World) -> None:
    async with (
        gateway(world.kernel) as one,
        watching(one.url, world.kernel.keyring, world.room, world.guide),
        watching(one.url, world.kernel.keyring, world.room, principal(role=Role.OPS)),
        watching(one.url, world.kernel.keyring, world.room, world.viewer) as me,
    ):
        await me.event(wire.CountsChanged, lambda e: e.counts.viewers == 1)
