import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from roomworld import World, do, refused, snapshot
from sqlalchemy import func, select

from kernel.clock import milliseconds, now
from kernel.ids import new_id
from kernel.postgres import transaction
from live import rooms, shelf, wire
from live.tables import Attendance, PinMark, Room, ShelfItem


async def marks(world: World) -> list[PinMark]:
    async with world.kernel.sessions() as session:
        found = await session.scalars(select(PinMark).where(PinMark.room_id == world.room).order_by(PinMark.id))
        return list(found)


# ---- life ----------------------------------------------------------------------------------------------------------


async def test_a_room_goes_live_once_however_often_it_is_started(world: World) -> None:
    await do(world, rooms.start, world.guide, world.planned)
    await do(world, rooms.start, world.guide, world.planned)
    [(event, slots)] = await world.events(world.planned)
    assert isinstance(event, wire.RoomChanged)
    assert event.room.state == "live"
    assert event.room.live_at is not None
    assert event.room.guide == wire.Person(world.guide.subject, "阿May", "guide")
    assert msgspec.json.decode(slots["room"], type=wire.RoomCard) == event.room


async def test_two_starts_at_once_emit_one_event(world: World) -> None:
    await asyncio.gather(*(do(world, rooms.start, world.guide, world.planned) for _ in range(4)))
    assert len(await world.events(world.planned)) == 1


async def test_end_unpins_and_is_final(world: World) -> None:
    await do(world, rooms.pin, world.guide, world.room, world.latte)
    await do(world, rooms.end, world.guide, world.room)
    await do(world, rooms.end, world.guide, world.room)
    event, slots = (await world.events())[-1]
    assert event.room.state == "ended"
    assert slots["pin"] == b""
    assert len(await world.events()) == 2
    assert [mark.unpinned_at is None for mark in await marks(world)] == [False]
    assert await refused(world, rooms.start, world.guide, world.room) == "room_ended"
    assert await refused(world, rooms.pin, world.guide, world.room, world.latte) == "room_ended"
    assert await refused(world, rooms.announce, world.guide, world.room, "x") == "room_ended"
    assert await refused(world, rooms.slow, world.guide, world.room, 5) == "room_ended"


async def test_a_scheduled_room_can_be_called_off(world: World) -> None:
    await do(world, rooms.end, world.guide, world.planned)
    assert (await do(world, rooms.opening, world.planned))[0].state == "ended"


COMMANDS: list[Callable[..., Awaitable[Any]]] = [
    lambda session, who, room: rooms.start(session, who, room),
    lambda session, who, room: rooms.end(session, who, room),
    lambda session, who, room: rooms.pin(session, who, room, new_id()),
    lambda session, who, room: rooms.unpin(session, who, room),
    lambda session, who, room: rooms.announce(session, who, room, "hi"),
    lambda session, who, room: rooms.slow(session, who, room, 5),
    lambda session, who, room: rooms.display(session, who, room, 5),
    lambda session, who, room: rooms.hush(session, who, room, True),
    lambda session, who, room: rooms.mute(session, who, room, new_id(), 5),
    lambda session, who, room: rooms.delete_comment(session, who, room, new_id()),
    lambda session, who, room: rooms.set_shelf(session, who, room, []),
]


@pytest.mark.parametrize("command", COMMANDS)
async def test_only_the_rooms_own_guide_and_ops_of_its_brand_command_it(
    world: World, command: Callable[..., Awaitable[Any]]
) -> None:
    assert await refused(world, command, world.viewer, world.room) == "forbidden"
    assert await refused(world, command, world.other_guide, world.room) == "forbidden"
    assert await refused(world, command, world.stranger, world.room) == "not_found"
    assert await refused(world, command, world.guide, new_id()) == "not_found"
    assert await world.events() == []


async def test_ops_commands_any_room_of_the_brand(world: World) -> None:
    await do(world, rooms.pin, world.ops, world.room, world.latte)
    assert len(await world.events()) == 1


async def test_a_refused_command_tells_nobody_anything(world: World) -> None:
    assert await refused(world, rooms.slow, world.guide, world.room, 121) == "invalid"
    for rate in (0, 1001):
        assert await refused(world, rooms.display, world.guide, world.room, rate) == "invalid"
        assert await refused(world, rooms.create, world.guide, "新品", display_rate=rate) == "invalid"
    assert await refused(world, rooms.mute, world.guide, world.room, new_id(), -1) == "invalid"
    assert await refused(world, rooms.hush, world.guide, world.room, True, [new_id()] * 51) == "invalid"
    assert await refused(world, rooms.pin, world.guide, world.room, world.latte, 0) == "invalid"
    assert await refused(world, rooms.announce, world.guide, world.room, "长" * 201) == "too_long"
    assert await world.events() == []


async def test_a_room_is_muted_but_for_some_and_opened_again(world: World) -> None:
    viewer = world.viewer.subject
    await do(world, rooms.hush, world.guide, world.room, True, [viewer, viewer])
    await do(world, rooms.hush, world.guide, world.room, True, [viewer])
    await do(world, rooms.hush, world.ops, world.room, False, [viewer])
    told = await world.events()
    assert [(event.room.hushed, event.room.allow) for event, _ in told] == [(True, (viewer,)), (False, ())]
    for event, slots in told:
        assert msgspec.json.decode(slots["room"], type=wire.RoomCard) == event.room


# ---- making --------------------------------------------------------------------------------------------------------


async def test_a_guide_makes_a_room_with_a_store_and_a_shelf_in_order(world: World) -> None:
    when = now() + timedelta(days=1)
    room = await do(
        world,
        rooms.create,
        world.guide,
        "周末",
        store_code="S1",
        scheduled_at=when,
        products=[world.mocha, world.latte],
    )
    async with world.kernel.sessions() as session:
        row = (await session.scalars(select(Room).where(Room.id == room))).one()
        assert (row.state, row.store_id, row.scheduled_at, row.guide_id) == (
            "scheduled", world.store, when, world.guide.subject,
        )  # fmt: skip
        assert [product.id for product in await shelf.shelf(session, room)] == [world.mocha, world.latte]


async def test_ops_makes_a_room_for_a_guide_but_a_guide_only_for_themselves(world: World) -> None:
    room = await do(world, rooms.create, world.ops, "代开", guide=world.other_guide.subject)
    assert (await do(world, rooms.opening, room))[0].guide_id == world.other_guide.subject
    mine = {"guide": world.other_guide.subject}
    assert await refused(world, rooms.create, world.guide, "x", **mine) == "forbidden"
    assert await refused(world, rooms.create, world.viewer, "x") == "forbidden"
    assert await refused(world, rooms.create, world.ops, "x", guide=world.stranger.subject) == "not_found"
    assert await refused(world, rooms.create, world.guide, "x", store_code="S404") == "not_found"
    assert await refused(world, rooms.create, world.guide, "x", products=[new_id()]) == "not_found"
    assert await refused(world, rooms.create, world.guide, "x", products=[world.latte] * 2) == "invalid"


# ---- pins ----------------------------------------------------------------------------------------------------------


async def test_a_pin_shows_the_card_and_sets_the_snapshot(world: World) -> None:
    before = milliseconds(now())
    await do(world, rooms.pin, world.guide, world.room, world.latte, 60)
    [(event, slots)] = await world.events()
    assert isinstance(event, wire.Pinned)
    assert event.product == wire.ProductCard(world.latte, "latte", "/art/latte.svg", 2900)
    assert event.until == event.at + 60_000
    assert before <= event.at <= milliseconds(now())
    assert msgspec.json.decode(slots["pin"], type=wire.PinState) == wire.PinState(event.product, event.at, event.until)
    assert (await snapshot(world, world.room))["pin"] == slots["pin"]


async def test_a_new_pin_ends_the_former(world: World) -> None:
    await do(world, rooms.pin, world.guide, world.room, world.latte)
    await do(world, rooms.pin, world.guide, world.room, world.mocha)
    first, second = await marks(world)
    assert first.unpinned_at == second.pinned_at
    assert (second.product_id, second.unpinned_at) == (world.mocha, None)
    assert len(await world.events()) == 2


@pytest.mark.parametrize("turn", range(3))
async def test_pins_at_once_leave_one_open_mark_and_the_last_event_is_about_it(world: World, turn: int) -> None:
    wanted = [world.latte, world.mocha] * 4
    await asyncio.gather(*(do(world, rooms.pin, world.guide, world.room, product) for product in wanted))
    found = await marks(world)
    assert len(found) == 8
    [open_mark] = [mark for mark in found if mark.unpinned_at is None]
    last, slots = (await world.events())[-1]
    assert last.product.id == open_mark.product_id
    assert slots["pin"] == (await snapshot(world, world.room))["pin"]


async def test_pins_are_guarded(world: World) -> None:
    assert await refused(world, rooms.pin, world.guide, world.planned, world.latte) == "room_not_live"
    assert await refused(world, rooms.pin, world.guide, world.room, world.unshelved) == "not_on_shelf"
    assert await refused(world, rooms.pin, world.guide, world.room, new_id()) == "not_on_shelf"
    assert await refused(world, rooms.pin, world.guide, world.room, world.sold_out) == "sold_out_product"


async def test_unpinning_nothing_does_nothing(world: World) -> None:
    await do(world, rooms.unpin, world.guide, world.room)
    assert await world.events() == []
    await do(world, rooms.pin, world.guide, world.room, world.latte)
    await do(world, rooms.unpin, world.guide, world.room)
    await do(world, rooms.unpin, world.guide, world.room)
    events = await world.events()
    assert [type(event) for event, _ in events] == [wire.Pinned, wire.Unpinned]
    assert events[-1][1] == {"pin": b""}


async def test_a_pin_whose_time_is_over_is_taken_down_once(world: World) -> None:
    await do(world, rooms.pin, world.guide, world.room, world.latte, 60)
    assert await do(world, rooms.unpin_due, now() + timedelta(seconds=30)) == 0
    later = now() + timedelta(seconds=61)
    taken = await asyncio.gather(*(do(world, rooms.unpin_due, later) for _ in range(3)))
    assert sorted(taken) == [0, 0, 1]
    assert [type(event) for event, _ in await world.events()] == [wire.Pinned, wire.Unpinned]


async def test_a_pin_that_was_renewed_meanwhile_is_not_taken_down(world: World) -> None:
    await do(world, rooms.pin, world.guide, world.room, world.latte, 60)
    later = now() + timedelta(seconds=61)
    async with transaction(world.kernel.sessions) as guides_own:
        await rooms.pin(guides_own, world.guide, world.room, world.mocha)  # holds the room's lock
        sweep = asyncio.create_task(do(world, rooms.unpin_due, later))
        await world.somebody_waits()
    assert await sweep == 0
    assert [mark.unpinned_at is None for mark in await marks(world)] == [False, True]


async def test_selling_out_takes_the_pin_down(world: World) -> None:
    await do(world, rooms.pin, world.guide, world.room, world.latte)
    await do(world, shelf.set_sold_out, "acme", world.mocha, True)
    assert len(await world.events()) == 1
    await do(world, shelf.set_sold_out, "acme", world.latte, True)
    assert isinstance((await world.events())[-1][0], wire.Unpinned)
    assert await refused(world, rooms.pin, world.guide, world.room, world.latte) == "sold_out_product"
    await do(world, shelf.set_sold_out, "acme", world.latte, False)
    await do(world, rooms.pin, world.guide, world.room, world.latte)
    assert await refused(world, shelf.set_sold_out, "other", world.latte, True) == "not_found"


async def test_pinning_and_selling_out_at_once_never_leaves_a_sold_out_product_pinned(world: World) -> None:
    for _ in range(5):
        await do(world, shelf.set_sold_out, "acme", world.latte, False)
        tries = await asyncio.gather(
            do(world, rooms.pin, world.guide, world.room, world.latte),
            do(world, shelf.set_sold_out, "acme", world.latte, True),
            return_exceptions=True,
        )
        assert all(one is None or getattr(one, "code", "sold_out_product") == "sold_out_product" for one in tries)
        assert not [mark for mark in await marks(world) if mark.unpinned_at is None]


async def test_taking_the_pinned_product_off_the_shelf_unpins_it(world: World) -> None:
    await do(world, rooms.pin, world.guide, world.room, world.latte)
    await do(world, rooms.set_shelf, world.guide, world.room, [world.latte, world.unshelved])
    assert len(await world.events()) == 1
    await do(world, rooms.set_shelf, world.guide, world.room, [world.unshelved])
    assert isinstance((await world.events())[-1][0], wire.Unpinned)
    async with world.kernel.sessions() as session:
        assert [product.id for product in await shelf.shelf(session, world.room)] == [world.unshelved]


async def test_a_refused_shelf_leaves_the_former(world: World) -> None:
    assert await refused(world, rooms.set_shelf, world.guide, world.room, [world.mocha, new_id()]) == "not_found"
    assert await refused(world, rooms.set_shelf, world.guide, world.room, [world.mocha] * 2) == "invalid"
    async with world.kernel.sessions() as session:
        assert await session.scalar(select(func.count()).where(ShelfItem.room_id == world.room)) == 3


async def test_taps_are_added_to_the_newest_mark_of_the_product(world: World) -> None:
    for product in (world.latte, world.mocha, world.latte):
        await do(world, rooms.pin, world.guide, world.room, product)
    await do(world, rooms.taps, world.room, {world.latte: 3, world.unshelved: 7})
    await do(world, rooms.taps, world.room, {world.latte: 2, world.mocha: 1})
    assert [mark.taps for mark in await marks(world)] == [0, 1, 5]


# ---- announcement, slow mode, snapshot -----------------------------------------------------------------------------


async def test_a_title_shows_nothing_hidden_and_something(world: World) -> None:
    room = await do(world, rooms.create, world.guide, " 新品\u202e①\u200b ")
    assert (await snapshot(world, room))["room"].count("新品①".encode()) == 1
    await do(world, rooms.reschedule, world.guide, room, {"title": "\u200b周五 见\u2060"})
    assert (await world.events(room))[0][0].room.title == "周五 见"
    assert await refused(world, rooms.create, world.guide, "\u200b\u3164") == "invalid"
    assert await refused(world, rooms.reschedule, world.guide, room, {"title": "\u200b"}) == "invalid"


async def test_an_announcement_is_cleaned_told_once_and_taken_down_by_an_empty_one(world: World) -> None:
    for said in (" 八点半\n①抢券 ", "八点半 \u200b①抢券", "\u200b"):
        await do(world, rooms.announce, world.guide, world.room, said)
    told = await world.events()
    assert [event.text for event, _ in told] == ["八点半 ①抢券", ""]
    assert [slots["announcement"] for _, slots in told] == ['"八点半 ①抢券"'.encode(), b'""']


async def test_slow_mode_is_part_of_the_rooms_card(world: World) -> None:
    await do(world, rooms.slow, world.guide, world.room, 10)
    await do(world, rooms.slow, world.guide, world.room, 10)
    [(event, slots)] = await world.events()
    assert event.room.slow_seconds == 10
    assert (await snapshot(world, world.room))["room"] == slots["room"]


async def test_slots_say_all_there_is_to_say(world: World) -> None:
    await do(world, rooms.mute, world.guide, world.room, world.viewer.subject, 60)
    found = await snapshot(world, world.room)
    assert set(found) == {"room", "pin", "announcement", f"mute:{world.viewer.subject}"}
    assert found["pin"] == b""
    assert found["announcement"] == b'""'
    card = msgspec.json.decode(found["room"], type=wire.RoomCard)
    assert (card.id, card.state, card.store, card.guide.name) == (world.room, "live", "静安寺店", "阿May")
    assert await refused(world, rooms.opening, new_id()) == "not_found"


async def test_opening_says_what_a_gateway_must_know(world: World) -> None:
    facts, _ = await do(world, rooms.opening, world.room)
    assert facts == rooms.RoomFacts("acme", "live", 30, world.guide.subject)


# ---- attendance ----------------------------------------------------------------------------------------------------


async def test_attendance_keeps_the_earliest_and_latest_moment_and_counts_joins(world: World) -> None:
    at, second = now(), timedelta(seconds=1)
    viewer = world.viewer.subject

    def stay(first: int, last: int, room: UUID = world.room) -> rooms.Attended:
        return rooms.Attended(room, viewer, at + first * second, at + last * second)

    await do(world, rooms.attend, [stay(5, 9), stay(7, 20), stay(0, 0, new_id())])
    await do(world, rooms.attend, [stay(2, 3)])
    await do(world, rooms.attend, [])
    async with world.kernel.sessions() as session:
        [row] = await session.scalars(select(Attendance))
    assert (row.first_at, row.last_at, row.joins) == (at + 2 * second, at + 20 * second, 3)


async def test_gateways_that_write_the_same_viewers_at_once_do_not_deadlock(world: World) -> None:
    at = now()
    seen = [rooms.Attended(world.room, new_id(), at, at) for _ in range(300)]
    orders = [seen, seen[::-1], seen[150:] + seen[:150]] * 2
    await asyncio.gather(*(do(world, rooms.attend, rows) for rows in orders))
    async with world.kernel.sessions() as session:
        assert await session.scalar(select(func.sum(Attendance.joins))) == 300 * 6


async def test_attendance_is_written_while_a_guide_holds_the_room(world: World) -> None:
    async with transaction(world.kernel.sessions) as guides_own:
        await rooms.pin(guides_own, world.guide, world.room, world.latte)
        async with asyncio.timeout(60):
            await do(world, rooms.attend, [rooms.Attended(world.room, new_id(), now(), now())])
