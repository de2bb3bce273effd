"""The life of a room: paused by its guide or by a loss, on again, planned anew."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from roomworld import World, do, refused, snapshot
from sqlalchemy import text, update
from viewers import gateway, until, watching

from kernel.clock import milliseconds, now
from kernel.identity import Role
from kernel.ids import new_id
from kernel.postgres import transaction
from live import life, rooms, wire
from live.tables import Room

LOST = timedelta(seconds=life.GRACE_SECONDS + 1)
SOON = timedelta(seconds=life.GRACE_SECONDS - 10)


async def seen(world: World, ago: timedelta, room: UUID | None = None, column: str = "guide_seen_at") -> None:
    """The guide (or, by ``column``, the stream) was there so long ago."""
    async with transaction(world.kernel.sessions) as session:
        at = text("clock_timestamp() - CAST(:ago AS interval)").bindparams(ago=ago)
        await session.execute(update(Room).where(Room.id == (room or world.room)).values({column: at}))


async def watch(world: World) -> tuple[int, int]:
    """A turn of the worker: how many it paused, how many it let go on."""
    back = await do(world, life.go_on_found)
    return await do(world, life.pause_lost), back


async def row(world: World, room: UUID | None = None) -> Any:
    async with world.kernel.sessions() as session:
        return await session.get_one(Room, room or world.room)


async def told(world: World, room: UUID | None = None) -> list[bool]:
    """Of each ``room`` event: is the room paused?"""
    events = await world.events(room)
    for event, slots in events:
        assert event.room.state == "live"
        assert msgspec.json.decode(slots["room"], type=wire.RoomCard) == event.room
    return [event.room.paused_at is not None for event, _ in events]


# ---- by the guide --------------------------------------------------------------------------------------------------


async def test_a_guide_pauses_and_goes_on_and_each_counts_once(world: World) -> None:
    for _ in range(2):
        await do(world, rooms.pause, world.guide, world.room)
    paused = (await snapshot(world, world.room))["room"]
    assert abs(msgspec.json.decode(paused, type=wire.RoomCard).paused_at - milliseconds(now())) < 60_000
    for _ in range(2):
        await do(world, rooms.start, world.guide, world.room)
    assert await told(world) == [True, False]
    assert (await row(world)).paused_ms >= 0


async def test_only_a_live_room_is_paused_and_only_by_those_who_command_it(world: World) -> None:
    assert await refused(world, rooms.pause, world.guide, world.planned) == "room_not_live"
    assert await refused(world, rooms.pause, world.other_guide, world.room) == "forbidden"
    assert await refused(world, rooms.pause, world.viewer, world.room) == "forbidden"
    assert await refused(world, rooms.pause, world.stranger, world.room) == "not_found"
    await do(world, rooms.end, world.guide, world.room)
    assert await refused(world, rooms.pause, world.guide, world.room) == "room_ended"


async def test_pauses_at_once_emit_one_event(world: World) -> None:
    await asyncio.gather(*(do(world, rooms.pause, world.guide, world.room) for _ in range(4)))
    assert await told(world) == [True]


async def test_pauses_add_up_and_the_last_one_ends_with_the_room(world: World) -> None:
    for use_case in (rooms.start, rooms.end):
        await do(world, rooms.pause, world.guide, world.room)
        await seen(world, timedelta(seconds=30), column="paused_at")
        await do(world, use_case, world.guide, world.room)
    found = await row(world)
    assert found.paused_ms >= 60_000
    assert (found.paused_at, found.pause_cause) == (None, None)
    event, _ = (await world.events())[-1]
    assert (event.room.state, event.room.paused_at) == ("ended", None)
    assert event.room.ended_at == milliseconds(found.ended_at)


async def test_the_guides_work_goes_on_while_the_room_is_paused(world: World) -> None:
    await do(world, rooms.pause, world.guide, world.room)
    await do(world, rooms.pin, world.guide, world.room, world.latte)
    await do(world, rooms.announce, world.guide, world.room, "马上回来")
    await do(world, rooms.unpin, world.guide, world.room)
    kinds = [type(event) for event, _ in await world.events()]
    assert kinds == [wire.RoomChanged, wire.Pinned, wire.Announced, wire.Unpinned]


# ---- by the loss of a socket ---------------------------------------------------------------------------------------


async def test_a_room_whose_guide_was_never_seen_is_never_paused(world: World) -> None:
    assert await watch(world) == (0, 0)


async def test_a_lost_guide_pauses_the_room_and_a_guide_who_is_back_lets_it_go_on(world: World) -> None:
    await seen(world, SOON)
    assert await watch(world) == (0, 0)
    await seen(world, LOST)
    assert await watch(world) == (1, 0)
    assert await watch(world) == (0, 0)
    await seen(world, timedelta())
    assert await watch(world) == (0, 1)
    assert await told(world) == [True, False]


async def test_a_late_note_of_the_loss_itself_is_no_return(world: World) -> None:
    await seen(world, LOST)
    await watch(world)
    await seen(world, SOON)  # a gateway that could not write it earlier
    assert await watch(world) == (0, 0)


async def test_what_the_guide_paused_goes_on_by_the_guide_only(world: World) -> None:
    await do(world, rooms.pause, world.guide, world.room)
    await seen(world, timedelta(seconds=-1))
    assert await watch(world) == (0, 0)
    # A guide who is lost and says "pause" over REST meant it.
    await do(world, rooms.start, world.guide, world.room)
    await seen(world, LOST)
    assert await watch(world) == (1, 0)
    await do(world, rooms.pause, world.guide, world.room)
    await seen(world, timedelta(seconds=-1))
    assert await watch(world) == (0, 0)
    assert await told(world) == [True, False, True]


async def test_a_guide_who_goes_on_without_a_socket_is_not_lost_again(world: World) -> None:
    await seen(world, LOST)
    await watch(world)
    await do(world, rooms.start, world.guide, world.room)
    assert await watch(world) == (0, 0)
    await seen(world, LOST, world.planned)  # looked in yesterday
    await do(world, rooms.start, world.guide, world.planned)
    assert await watch(world) == (0, 0)
    await seen(world, LOST)  # but seen again, and lost again
    assert await watch(world) == (1, 0)


async def test_rooms_that_are_not_live_are_not_paused(world: World) -> None:
    await seen(world, LOST, world.planned)
    await do(world, rooms.end, world.guide, world.room)
    await seen(world, LOST)
    assert await watch(world) == (0, 0)


async def test_two_workers_pause_and_resume_a_room_once(world: World) -> None:
    await seen(world, LOST)
    assert sum(await asyncio.gather(*(do(world, life.pause_lost) for _ in range(4)))) == 1
    await seen(world, timedelta())
    assert sum(await asyncio.gather(*(do(world, life.go_on_found) for _ in range(4)))) == 1
    assert await told(world) == [True, False]


async def test_a_room_that_is_being_commanded_does_not_hold_up_the_others(world: World) -> None:
    await do(world, rooms.start, world.guide, world.planned)
    for room in (world.room, world.planned):
        await seen(world, LOST, room)
    async with transaction(world.kernel.sessions) as session:
        await rooms.announce(session, world.guide, world.room, "说到一半")
        assert await do(world, life.pause_lost) == 1
    assert (await row(world, world.planned)).paused_at is not None
    assert await do(world, life.pause_lost) == 1


async def test_a_worker_that_could_not_look_calls_nobody_lost_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(life, "monotonic", lambda: clock[0])
    watch = life.Watch(world.kernel.sessions)
    await seen(world, LOST)

    async def turns(seconds: int) -> bool:
        for _ in range(seconds):
            clock[0] += 1
            await watch.turn()
        return (await row(world)).paused_at is not None

    assert not await turns(10)
    assert await turns(7)
    await seen(world, timedelta(seconds=-1))
    assert not await turns(1)
    clock[0] += 60  # PostgreSQL was away: nobody could write, nobody could look
    await seen(world, LOST)
    assert not await turns(10)
    assert await turns(7)


# ---- with a stream -------------------------------------------------------------------------------------------------


async def test_a_stream_that_is_lost_pauses_after_the_grace_and_goes_on_at_once(world: World) -> None:
    await do(world, rooms.stream_found, world.room)
    assert await watch(world) == (0, 0)
    await do(world, rooms.stream_lost, world.room)
    assert await watch(world) == (0, 0)
    await seen(world, LOST, column="stream_lost_at")
    await do(world, rooms.stream_lost, world.room)  # told twice: the first time counts
    assert await watch(world) == (1, 0)
    await seen(world, timedelta(seconds=-1))  # the guide's socket is there; the picture is not
    assert await watch(world) == (0, 0)
    await do(world, rooms.stream_found, world.room)
    await do(world, rooms.stream_found, world.room)
    assert await told(world) == [True, False]


async def test_a_stream_that_is_back_within_the_grace_changes_nothing(world: World) -> None:
    for use_case in (rooms.stream_found, rooms.stream_lost, rooms.stream_found):
        await do(world, use_case, world.room)
    assert (await row(world)).stream_lost_at is None
    assert await watch(world) == (0, 0)
    assert await told(world) == []


async def test_while_a_stream_runs_the_guides_socket_is_not_missed(world: World) -> None:
    await do(world, rooms.stream_found, world.room)
    await seen(world, LOST)
    assert await watch(world) == (0, 0)


async def test_a_guide_who_goes_on_without_the_stream_does_without_it(world: World) -> None:
    await do(world, rooms.stream_found, world.room)
    await do(world, rooms.stream_lost, world.room)
    await seen(world, LOST, column="stream_lost_at")
    assert await watch(world) == (1, 0)
    await do(world, rooms.start, world.guide, world.room)
    assert await watch(world) == (0, 0)
    assert (await row(world)).stream_state is None


async def test_a_stream_does_not_end_the_guides_own_pause_and_does_not_start_or_wake_a_room(world: World) -> None:
    await do(world, rooms.pause, world.guide, world.room)
    for room in (world.room, world.planned):
        await do(world, rooms.stream_found, room)
    assert await told(world) == [True]
    assert (await row(world, world.planned)).state == "scheduled"
    await do(world, rooms.end, world.guide, world.room)
    for use_case in (rooms.stream_lost, rooms.stream_found):
        await do(world, use_case, world.room)
        assert await refused(world, use_case, new_id()) == "not_found"
    assert (await row(world)).state == "ended"


# ---- the plan ------------------------------------------------------------------------------------------------------


async def test_a_plan_changes_until_the_room_starts_and_viewers_are_told(world: World) -> None:
    when = now() + timedelta(hours=2)
    for _ in range(2):
        await do(world, rooms.reschedule, world.guide, world.planned, {"scheduled_at": when})
    await do(world, rooms.reschedule, world.guide, world.planned, {"title": "后天"})
    first, second = [event.room for event, _ in await world.events(world.planned)]
    assert (first.title, first.scheduled_at) == ("明天", milliseconds(when))
    assert (second.title, second.scheduled_at) == ("后天", milliseconds(when))
    await do(world, rooms.reschedule, world.guide, world.planned, {"scheduled_at": None})
    assert (await snapshot(world, world.planned))["room"].find(b"scheduled_at") == -1
    assert await refused(world, rooms.reschedule, world.other_guide, world.planned, {"title": "x"}) == "forbidden"
    assert await refused(world, rooms.reschedule, world.guide, world.room, {"title": "x"}) == "room_state"
    await do(world, rooms.end, world.guide, world.planned)
    assert await refused(world, rooms.reschedule, world.guide, world.planned, {"title": "x"}) == "room_ended"


# ---- seen by gateways ----------------------------------------------------------------------------------------------


async def test_gateway_notes_the_rooms_own_guide_and_nobody_else(world: World) -> None:
    kernel = world.kernel

    async def noted() -> Any:
        return (await row(world)).guide_seen_at

    async with gateway(kernel) as one:
        async with (
            watching(one.url, kernel.keyring, world.room),
            watching(one.url, kernel.keyring, world.room, world.ops),
            watching(one.url, kernel.keyring, world.room, world.other_guide),
        ):
            await one._hosts.flush(one._hosts._here())
            assert await noted() is None
            async with watching(one.url, kernel.keyring, world.room, world.guide):
                async with asyncio.timeout(60):
                    while (came := await noted()) is None:
                        await asyncio.sleep(0.02)
            async with asyncio.timeout(60):
                while (went := await noted()) == came:
                    await asyncio.sleep(0.02)
        assert went > came
        await one._hosts.flush(one._hosts._here())
        assert await noted() == went


async def test_what_could_not_be_noted_is_noted_later_with_the_time_at_which_it_was_true(world: World) -> None:
    kernel = world.kernel
    async with gateway(kernel) as one, AsyncExitStack() as sockets:
        await sockets.enter_async_context(watching(one.url, kernel.keyring, world.room, world.guide))
        async with transaction(kernel.sessions) as session:
            await rooms.announce(session, world.guide, world.room, "说到一半")  # holds the room's lock
            await sockets.aclose()
            await until(lambda: one._hosts._news.get(world.room))
            await one._hosts.flush()
            assert one._hosts._news[world.room]
            later = await session.scalar(text("SELECT clock_timestamp()"))
        async with asyncio.timeout(60):
            while world.room in one._hosts._news:
                await one._hosts.flush()
                await asyncio.sleep(0.01)
    assert (await row(world)).guide_seen_at < later


async def test_viewers_see_a_pause_and_its_end_and_talk_meanwhile(world: World) -> None:
    from app import relay  # the room's outbox is told as in production
    from live.bus import RedisBus

    kernel = world.kernel
    bus = RedisBus(kernel.redis)
    async with (
        gateway(kernel) as one,
        watching(one.url, kernel.keyring, world.room, world.viewer) as me,
        watching(one.url, kernel.keyring, world.room, world.guide) as guide,
    ):
        await guide.send(wire.Pause("p"))
        assert (await guide.ack("p")).ok
        await relay.turn(kernel.sessions, bus)
        paused = await me.event(wire.RoomChanged)
        assert (paused.room.state, paused.room.paused_at is None) == ("live", False)
        await me.send(wire.Comment("c", "回来了吗"))
        assert (await me.ack("c")).ok
        async with watching(one.url, kernel.keyring, world.room) as late:
            assert late.frames[0].room == paused.room
        await me.send(wire.Pause("q"))
        assert (await me.ack("q")).error.code == "forbidden"
        await guide.send(wire.Start("s"))
        assert (await guide.ack("s")).ok
        await relay.turn(kernel.sessions, bus)
        await me.event(wire.RoomChanged, lambda e: e.room.paused_at is None)


async def test_viewers_wait_in_a_scheduled_room_and_see_its_time(world: World) -> None:
    kernel = world.kernel
    when = now() + timedelta(hours=1)
    await do(world, rooms.reschedule, world.guide, world.planned, {"scheduled_at": when})
    async with gateway(kernel) as one, watching(one.url, kernel.keyring, world.planned, world.viewer) as me:
        room = me.frames[0].room
        assert (room.state, room.scheduled_at) == ("scheduled", milliseconds(when))
        assert world.viewer.role is Role.VIEWER
        await me.send(wire.Comment("c", "等开播"))
        assert (await me.ack("c")).ok
