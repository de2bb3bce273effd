"""Mutes of a room and of a whole brand, from the rows to the gateways."""

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from roomworld import World, do, held, refused, snapshot
from viewers import gateway, until, watching

from app import relay
from kernel.clock import milliseconds, now
from kernel.ids import new_id
from kernel.postgres import transaction
from live import muting, rooms, sanctions, shelf, wire
from live.bus import RedisBus


async def holding(world: World) -> dict[Any, Any]:
    return await held(world, muting.MUTE, world.room)


@pytest.mark.parametrize("seconds", [86_400, 7 * 86_400, 15 * 86_400, muting.MAX_MUTE, 90])
async def test_a_brands_mute_is_told_to_every_room_that_has_not_ended(world: World, seconds: int) -> None:
    viewer, over = world.viewer.subject, await do(world, rooms.create, world.guide, "昨天")
    await do(world, rooms.end, world.guide, over)
    before = milliseconds(now())
    await do(world, rooms.mute, world.guide, world.room, viewer, seconds, "brand")
    for room in (world.room, world.planned):
        [(event, slots)] = await world.events(room)
        assert event.viewer == viewer
        assert before + seconds * 1000 <= event.until <= milliseconds(now()) + seconds * 1000
        assert slots == {f"mute:{viewer}": str(event.until).encode()}
    assert not any(isinstance(event, wire.Muted) for event, _ in await world.events(over))


async def test_a_room_made_later_knows_the_brands_mutes(world: World) -> None:
    viewer = world.viewer.subject
    await do(world, muting.mute_brand, world.ops, viewer, 86_400)
    later = await do(world, rooms.create, world.other_guide, "周末")
    slots = await snapshot(world, later)
    assert int(slots[f"mute:{viewer}"]) > milliseconds(now())
    await do(world, muting.mute_brand, world.ops, viewer, 0)
    assert f"mute:{viewer}" not in await snapshot(world, later)


async def test_a_room_that_is_being_made_meanwhile_is_told_too(world: World) -> None:
    viewer = world.viewer.subject
    async with transaction(world.kernel.sessions) as session:
        made = await rooms.create(session, world.guide, "临时")
        muting_it = asyncio.create_task(do(world, muting.mute_brand, world.ops, viewer, 60))
        await world.somebody_waits()
    await muting_it
    assert [event.viewer for event, _ in await world.events(made)] == [viewer]


async def test_the_later_of_two_mutes_holds_and_each_is_lifted_alone(world: World) -> None:
    viewer = world.viewer.subject
    await do(world, rooms.mute, world.guide, world.room, viewer, 60)
    await do(world, rooms.mute, world.guide, world.room, viewer, 3600, "brand")
    long = (await holding(world))[viewer]
    await do(world, rooms.mute, world.guide, world.room, viewer, 0)
    assert (await holding(world))[viewer] == long
    await do(world, rooms.mute, world.guide, world.room, viewer, 7200)
    await do(world, muting.mute_brand, world.ops, viewer, 0)
    mine = (await holding(world))[viewer]
    assert mine > long
    await do(world, rooms.mute, world.guide, world.room, viewer, 0)
    assert await holding(world) == {}
    told = [event.until for event, _ in await world.events()]
    assert told[1:] == [milliseconds(long), milliseconds(long), milliseconds(mine), milliseconds(mine), None]
    assert [event.until for event, _ in await world.events(world.planned)] == [milliseconds(long), None]


async def test_lifting_what_does_not_hold_tells_nobody(world: World) -> None:
    await do(world, muting.mute_brand, world.ops, world.viewer.subject, 0)
    assert await world.events() == []


async def test_only_staff_of_the_brand_mutes_and_nobody_mutes_staff(world: World) -> None:
    viewer = world.viewer.subject
    assert await refused(world, rooms.mute, world.viewer, world.room, viewer, 60, "brand") == "forbidden"
    assert await refused(world, rooms.mute, world.other_guide, world.room, viewer, 60, "brand") == "forbidden"
    assert await refused(world, rooms.mute, world.stranger, world.room, viewer, 60, "brand") == "not_found"
    assert await refused(world, muting.mute_brand, world.guide, viewer, 60) == "forbidden"
    assert await refused(world, muting.mute_brand, world.ops, viewer, muting.MAX_MUTE + 1) == "invalid"
    for staff in (world.guide, world.other_guide, world.ops):
        assert await refused(world, muting.mute_brand, world.ops, staff.subject, 60) == "invalid"
        for scope in ("room", "brand"):
            assert await refused(world, rooms.mute, world.ops, world.room, staff.subject, 60, scope) == "invalid"
    assert await world.events() == []


async def test_another_brands_rooms_are_not_concerned(world: World) -> None:
    await do(world, muting.mute_brand, world.stranger, world.viewer.subject, 60)
    assert await holding(world) == {}
    assert await world.events() == []


async def test_brand_mutes_and_other_locks_of_many_rooms_do_not_wait_for_each_other_for_ever(world: World) -> None:
    more = [await do(world, rooms.create, world.guide, f"{n}", products=[world.latte]) for n in range(6)]
    for room in more:
        await do(world, rooms.start, world.guide, room)
    await asyncio.gather(
        *(do(world, rooms.mute, world.guide, room, new_id(), 60, "brand") for room in reversed(more)),
        *(do(world, shelf.set_sold_out, "acme", world.latte, bool(n % 2)) for n in range(4)),
        *(do(world, rooms.slow, world.guide, room, 5) for room in more),
    )
    assert len(await holding(world)) == len(more)


async def test_mutes_that_hold_are_listed_newest_first_in_pages(world: World) -> None:
    viewer, other, over = world.viewer.subject, new_id(), new_id()
    await do(world, rooms.mute, world.guide, world.room, viewer, 60)
    await do(world, rooms.mute, world.guide, world.room, other, 60, "brand")
    await do(world, muting.mute_brand, world.ops, viewer, 3600)
    await do(world, muting.mute_brand, world.stranger, viewer, 60)
    await do(world, rooms.mute, world.guide, world.room, over, 60)
    await do(world, rooms.mute, world.guide, world.room, over, 0)
    async with world.kernel.sessions() as session:
        first = await muting.standing(session, "acme", now(), None, 2)
        last = first[-1]
        rest = await muting.standing(session, "acme", now(), (last.at, last.viewer, last.room), 2)
        later = await muting.standing(session, "acme", now() + timedelta(seconds=61), None, 10)
    assert [(one.viewer, one.name, one.room, one.by) for one in (*first, *rest)] == [
        (viewer, "小林", sanctions.EVERYWHERE, world.ops.subject),
        (other, None, sanctions.EVERYWHERE, world.guide.subject),
        (viewer, "小林", world.room, world.guide.subject),
    ]
    assert [one.viewer for one in later] == [viewer]


async def test_a_brands_mute_silences_open_sockets_in_other_rooms_on_other_gateways(world: World) -> None:
    kernel, bus = world.kernel, RedisBus(world.kernel.redis)
    async with (
        gateway(kernel) as one,
        gateway(kernel) as two,
        watching(one.url, kernel.keyring, world.room, world.guide) as guide,
        watching(two.url, kernel.keyring, world.planned, world.viewer) as me,
    ):
        await guide.send(wire.Mute("m", world.viewer.subject, 86_400, "brand"))
        assert (await guide.ack("m")).ok
        await relay.turn(kernel.sessions, bus)
        await me.event(wire.Muted)
        await me.send(wire.Comment("c1", "在吗"))
        answer = await me.ack("c1")
        assert answer.error is not None
        assert answer.error.code == "muted"
        # A room that nobody had opened until now.
        later = await do(world, rooms.create, world.guide, "周末")
        async with watching(one.url, kernel.keyring, later, world.viewer) as again:
            assert again.frames[0].muted_until is not None
        await guide.send(wire.Mute("l", world.viewer.subject, 0, "brand"))
        assert (await guide.ack("l")).ok
        await relay.turn(kernel.sessions, bus)
        await until(lambda: not one.hub.rooms[later].mutes)
        await me.event(wire.Muted, lambda event: event.until is None)
        await me.send(wire.Comment("c2", "在吗"))
        assert (await me.ack("c2")).ok


async def test_a_muted_room_refuses_viewers_on_every_gateway_and_lets_the_allowed_speak(world: World) -> None:
    kernel, bus = world.kernel, RedisBus(world.kernel.redis)
    async with (
        gateway(kernel) as one,
        gateway(kernel) as two,
        watching(one.url, kernel.keyring, world.room, world.guide) as guide,
        watching(two.url, kernel.keyring, world.room, world.viewer) as allowed,
        watching(two.url, kernel.keyring, world.room) as other,
    ):
        await guide.send(wire.Hush("h", True, (world.viewer.subject,)))
        assert (await guide.ack("h")).ok
        await relay.turn(kernel.sessions, bus)
        for client in (guide, allowed, other):
            changed = await client.event(wire.RoomChanged)
            assert changed.room.hushed
            await client.send(wire.Comment("c", "在吗"))
        assert (await guide.ack("c")).ok
        assert (await allowed.ack("c")).ok
        answer = await other.ack("c")
        assert answer.error is not None
        assert answer.error.code == "room_muted"
        async with watching(one.url, kernel.keyring, world.room) as late:
            assert late.frames[0].room.hushed
        await guide.send(wire.Hush("i", False))
        assert (await guide.ack("i")).ok
        await relay.turn(kernel.sessions, bus)
        await other.event(wire.RoomChanged, lambda event: not event.room.hushed)
        await other.send(wire.Comment("d", "在吗"))
        assert (await other.ack("d")).ok


def test_a_command_without_scope_means_the_room() -> None:
    told = msgspec.json.encode({"t": "mute", "id": "1", "viewer": new_id(), "seconds": 5})
    command = wire.client_frames.decode(told)
    assert isinstance(command, wire.Mute)
    assert command.scope == "room"
