"""The summary of a room, and that its figures outlive Redis."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from roomworld import World
from sqlalchemy import text, update
from test_room_routes import Caller, serve

from kernel.clock import now
from kernel.ids import new_id
from kernel.postgres import transaction
from live import attendance, pins, presence, summary
from live.attendance import Attended
from live.tables import Comment, Room


@pytest.fixture
async def api(world: World) -> AsyncIterator[Caller]:
    async with serve(world.kernel) as client:
        yield Caller(world, client)


async def beat(world: World, gateway: str, viewers: int, likes: int = 0) -> None:
    await presence.beat(world.kernel.redis, world.room, gateway, viewers, likes, [])


async def keep(world: World) -> None:
    """A turn of the worker."""
    async with transaction(world.kernel.sessions) as session:
        await summary.keep_figures(session, world.kernel.redis)


async def figures(world: World) -> tuple[int, int]:
    async with world.kernel.sessions() as session:
        room = await session.get_one(Room, world.room)
        return room.likes, room.viewers_peak


async def test_a_room_that_ended_has_a_summary_at_once(world: World, api: Caller) -> None:
    room = f"/rooms/{world.room}"
    viewers = [new_id() for _ in range(3)]
    async with transaction(world.kernel.sessions) as session:
        began = now() - timedelta(seconds=600)
        await session.execute(update(Room).where(Room.id == world.room).values(live_at=began, paused_ms=90_000))
        await attendance.attend(session, [Attended(world.room, viewer, began, now()) for viewer in viewers])
        session.add(
            Comment(id=new_id(), room_id=world.room, author_id=viewers[0], author_name="小周", author_role="viewer",
                    text="好", at=now())
        )  # fmt: skip
    await beat(world, "one", 7, 40)
    await beat(world, "two", 5, 2)
    await beat(world, "one", 1)
    for product in (world.latte, world.mocha):
        assert (await api("guide", "POST", f"{room}/pin", {"product": str(product)})).status_code == 204
    async with transaction(world.kernel.sessions) as session:
        await pins.taps(session, world.room, {world.latte: 4})
    refused = await api("guide", "GET", f"{room}/summary")
    assert (refused.status_code, refused.json()["code"]) == (409, "room_state")
    assert (await api("guide", "POST", f"{room}/end")).status_code == 204
    found = (await api("guide", "GET", f"{room}/summary")).json()
    assert 510 <= found.pop("seconds") <= 510 + 120
    chapters = found.pop("pins")
    assert found == {"viewers_peak": 12, "uniques": 3, "comments": 1, "likes": 42, "reminders": 0}
    assert [(one["product"]["title"], one["taps"]) for one in chapters] == [("latte", 4), ("mocha", 0)]
    assert all(one["unpinned_at"] for one in chapters)
    assert (await api("ops", "GET", f"{room}/summary")).status_code == 200
    assert (await api("other_guide", "GET", f"{room}/summary")).json()["code"] == "forbidden"
    assert (await api("viewer", "GET", f"{room}/summary")).json()["code"] == "forbidden"
    assert (await api("stranger", "GET", f"{room}/summary")).json()["code"] == "not_found"


async def test_the_summary_survives_an_emptied_redis(world: World, api: Caller) -> None:
    await beat(world, "one", 9, 100)
    await keep(world)
    await world.kernel.redis.flushall()
    await beat(world, "one", 4, 30)  # the room goes on; likes count from zero there
    await keep(world)
    assert await figures(world) == (130, 9)
    await beat(world, "one", 4, 5)
    assert (await api("guide", "POST", f"/rooms/{world.room}/end")).status_code == 204
    shown = (await api("guide", "GET", f"/rooms/{world.room}/summary")).json()
    assert (shown["likes"], shown["viewers_peak"]) == (135, 9)
    await keep(world)  # what came late is still read
    await world.kernel.redis.flushall()
    assert (await api("guide", "GET", f"/rooms/{world.room}/summary")).json() == shown
    await keep(world)
    assert await figures(world) == (135, 9)


async def test_workers_at_once_count_each_like_once(world: World) -> None:
    for turn in range(1, 6):
        await beat(world, "one", turn, 10)
        await asyncio.gather(*(keep(world) for _ in range(4)))
    await keep(world)
    assert await figures(world) == (50, 5)


async def test_a_room_that_was_called_off_lasted_no_time(world: World, api: Caller) -> None:
    room = f"/rooms/{world.planned}"
    assert (await api("viewer", "PUT", f"{room}/reminder")).status_code == 204
    assert (await api("guide", "POST", f"{room}/end")).status_code == 204
    found = (await api("guide", "GET", f"{room}/summary")).json()
    assert found == {
        "seconds": 0, "viewers_peak": 0, "uniques": 0, "comments": 0, "likes": 0, "pins": [], "reminders": 1,
    }  # fmt: skip


# ---- the other routes of a room's life -----------------------------------------------------------------------------


async def test_a_plan_is_changed_and_refused_over_rest(world: World, api: Caller) -> None:
    room = f"/rooms/{world.planned}"
    when = "2030-06-18T20:00:00+08:00"
    changed = (await api("guide", "PATCH", room, {"scheduled_at": when})).json()
    assert (changed["title"], changed["scheduled_at"]) == ("明天", "2030-06-18T12:00:00Z")
    changed = (await api("ops", "PATCH", room, {"title": "大后天"})).json()
    assert (changed["title"], changed["scheduled_at"]) == ("大后天", "2030-06-18T12:00:00Z")
    assert (await api("guide", "PATCH", room, {"scheduled_at": None})).json()["scheduled_at"] is None
    for body in ({"title": ""}, {"title": None}, {"scheduled_at": "0001-01-01T00:00:00Z"}, {"scheduled_at": 5e300}):
        assert (await api("guide", "PATCH", room, body)).json()["code"] == "invalid", body
    assert (await api("guide", "PATCH", f"/rooms/{world.room}", {"title": "x"})).json()["code"] == "room_state"
    assert (await api("viewer", "PATCH", room, {"title": "x"})).status_code == 403


async def test_a_pause_is_seen_in_lists_and_on_the_page(world: World, api: Caller) -> None:
    room = f"/rooms/{world.room}"
    for _ in range(2):
        assert (await api("guide", "POST", f"{room}/pause")).status_code == 204
    page = (await api("viewer", "GET", room)).json()
    assert page["state"] == "live"
    assert datetime.fromisoformat(page["paused_at"]) > now() - timedelta(minutes=5)
    [listed] = (await api("viewer", "GET", "/rooms?state=live")).json()["items"]
    assert listed["paused_at"] == page["paused_at"]
    assert (await api("guide", "POST", f"{room}/start")).status_code == 204
    assert (await api("viewer", "GET", room)).json()["paused_at"] is None


async def test_viewers_ask_to_be_reminded_and_everybody_sees_how_many(world: World, api: Caller) -> None:
    room = f"/rooms/{world.planned}"

    async def shown(who: str = "viewer") -> tuple[Any, Any]:
        page = (await api(who, "GET", room)).json()
        return page["reminders"], page["reminded"]

    assert await shown() == (0, False)
    for _ in range(2):
        assert (await api("viewer", "PUT", f"{room}/reminder")).status_code == 204
    assert await shown() == (1, True)
    assert await shown("guide") == (1, False)
    assert (await api("guide", "PUT", f"{room}/reminder")).json()["code"] == "forbidden"
    assert (await api("viewer", "PUT", f"/rooms/{world.room}/reminder")).json()["code"] == "room_state"
    for _ in range(2):
        assert (await api("viewer", "DELETE", f"{room}/reminder")).status_code == 204
    assert await shown() == (0, False)


async def test_figures_of_rooms_that_are_locked_have_their_turn_later(world: World) -> None:
    await beat(world, "one", 3, 8)
    async with transaction(world.kernel.sessions) as session:
        await session.execute(text("SELECT 1 FROM rooms WHERE id = :room FOR UPDATE"), {"room": world.room})
        await keep(world)
        assert await figures(world) == (0, 0)
    await keep(world)
    assert await figures(world) == (8, 3)
