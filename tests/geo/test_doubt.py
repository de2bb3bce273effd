"""``geo.doubt``: who is doubted, in which rooms, and what that does to a coupon."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from world import BRAND, World, make_world

from coupons.cards import CouponCard
from coupons.issuing import Issuer
from geo import consents, locations
from geo.catchments import Catchments
from geo.doubt import FROZEN_AFTER, LASTS, SHARED_BY
from geo.locations import BATCH, Locations
from kernel.clock import now
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.ids import new_id
from kernel.postgres import transaction
from kernel.process import Kernel

STORE = (121.4701, 31.2301)
"""In reach of the world's store, and not rounded."""
BEIJING = (116.404, 39.915)
ELSEWHERE = UUID(int=2)
"""Another room of the brand."""


@pytest.fixture
async def world(kernel: Kernel) -> World:
    return await make_world(kernel)


@pytest.fixture
async def desk(kernel: Kernel, world: World) -> AsyncIterator[Locations]:
    async with Catchments(kernel.sessions) as catchments, Locations(kernel.sessions, catchments) as desk:
        yield desk


async def watching(world: World, n: int = 1) -> list[Principal]:
    """Viewers in the world's room who have agreed to the use of their location."""
    viewers = await world.viewers(n, north_m=None)
    async with transaction(world.kernel.sessions) as session:
        for viewer in viewers:
            await consents.give(session, BRAND, viewer.subject, "2026-11", now())
    return viewers


async def fix(desk: Locations, viewer: Principal, room: UUID, place: tuple[float, float], at: datetime) -> None:
    await desk.locate(BRAND, viewer.subject, room, *place, "gcj02", 20.0, at)


async def claim(world: World, viewer: Principal) -> str:
    """What a claim in the world's room is answered, of a campaign that refuses who is doubted: a code, or "granted"."""
    drop = await world.drop(await world.campaign(doubt="refuse"))
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        try:
            card = await issuer.claim(viewer, world.room, drop, "a-claim")
        except Refusal as refusal:
            return refusal.code
    assert isinstance(card, CouponCard)
    return "granted"


async def doubts(world: World) -> dict[tuple[UUID, UUID], str | None]:
    """Room and viewer → why the fix that is kept is implausible."""
    return {(row.room_id, row.viewer_id): row.doubt for row in await world.execute("SELECT * FROM locations")}


async def test_who_was_far_away_in_another_room_a_moment_ago_gets_no_coupon(world: World, desk: Locations) -> None:
    jumper, honest = await watching(world, 2)
    at = now() - timedelta(seconds=5)
    await fix(desk, jumper, ELSEWHERE, BEIJING, at)
    await fix(desk, honest, ELSEWHERE, STORE, at)
    for viewer in (jumper, honest):
        await fix(desk, viewer, world.room, STORE, at + timedelta(seconds=2))
    assert await claim(world, jumper) == "suspect"
    assert await claim(world, honest) == "granted"


async def test_a_jump_seen_in_one_room_counts_at_once_in_the_others(world: World, desk: Locations) -> None:
    (viewer,) = await watching(world)
    at = now() - timedelta(seconds=5)
    await fix(desk, viewer, world.room, STORE, at)
    await fix(desk, viewer, ELSEWHERE, BEIJING, at + timedelta(seconds=2))
    assert await claim(world, viewer) == "suspect", "the fix in this room is from before the jump"


async def test_who_travels_between_two_rooms_is_not_doubted(world: World, desk: Locations) -> None:
    (viewer,) = await watching(world)
    at = now()
    await fix(desk, viewer, ELSEWHERE, BEIJING, at - timedelta(hours=3))
    await fix(desk, viewer, world.room, STORE, at)
    assert await claim(world, viewer) == "granted"


async def test_the_newest_fix_of_any_room_is_compared_not_this_rooms(world: World, desk: Locations) -> None:
    (viewer,) = await watching(world)
    at = now() - timedelta(hours=4)
    await fix(desk, viewer, world.room, STORE, at)
    await fix(desk, viewer, ELSEWHERE, BEIJING, at + timedelta(hours=3))
    assert set((await doubts(world)).values()) == {None}
    await fix(desk, viewer, world.room, STORE, at + timedelta(hours=3, seconds=2))
    assert set((await doubts(world)).values()) == {"jumped"}


async def test_two_places_in_one_group_of_fixes_are_compared_too(world: World, desk: Locations) -> None:
    (viewer,) = await watching(world)
    at = now() - timedelta(seconds=5)
    await asyncio.gather(
        fix(desk, viewer, world.room, STORE, at), fix(desk, viewer, ELSEWHERE, BEIJING, at + timedelta(seconds=2))
    )
    assert await doubts(world) == {(room, viewer.subject): "jumped" for room in (world.room, ELSEWHERE)}


async def test_two_gateways_that_write_at_once_see_each_others_fix(world: World, desk: Locations) -> None:
    (viewer,) = await watching(world)
    sessions = world.kernel.sessions
    async with Catchments(sessions) as catchments, Locations(sessions, catchments) as other:
        await fix(desk, viewer, world.room, STORE, now() - timedelta(hours=3))
        async with transaction(sessions) as session:
            await session.execute(text("SELECT FROM locations FOR UPDATE"))
            one = asyncio.ensure_future(fix(desk, viewer, world.room, STORE, now()))
            await world.somebody_waits(1)  # it has judged, and cannot write what it found
            two = asyncio.ensure_future(fix(other, viewer, ELSEWHERE, BEIJING, now()))
            await world.somebody_waits(2)
        await asyncio.gather(one, two)
    assert await doubts(world) == {(room, viewer.subject): "jumped" for room in (world.room, ELSEWHERE)}


async def test_doubt_outlives_the_room_it_was_seen_in_and_ends(world: World, desk: Locations) -> None:
    (viewer,) = await watching(world)
    at = now() - timedelta(minutes=5)
    await fix(desk, viewer, ELSEWHERE, BEIJING, at)
    await fix(desk, viewer, ELSEWHERE, STORE, at + timedelta(seconds=2))
    await desk.forget(ELSEWHERE, [viewer.subject], at + timedelta(minutes=1))
    await fix(desk, viewer, world.room, STORE, now())
    assert await claim(world, viewer) == "suspect"
    await fix(desk, viewer, world.room, STORE, at + LASTS + timedelta(seconds=3))
    assert set((await doubts(world)).values()) == {None}


async def test_weak_signs_of_two_rooms_count_together(world: World, desk: Locations) -> None:
    crowd = await watching(world, SHARED_BY)
    at = now()
    for second in range(FROZEN_AFTER + 1):
        await fix(desk, crowd[0], ELSEWHERE, STORE, at + timedelta(seconds=second))
    assert set((await doubts(world)).values()) == {None}
    await asyncio.gather(*(fix(desk, viewer, world.room, STORE, at + timedelta(minutes=1)) for viewer in crowd))
    found = await doubts(world)
    assert {viewer for (_, viewer), doubt in found.items() if doubt} == {crowd[0].subject}
    assert found[world.room, crowd[0].subject] == found[ELSEWHERE, crowd[0].subject] == "frozen+shared"


async def test_repetitions_are_counted_room_by_room(world: World, desk: Locations) -> None:
    (viewer,) = await watching(world)
    at = now()
    for second in range(FROZEN_AFTER + 1):
        room = (world.room, ELSEWHERE)[second % 2]
        await fix(desk, viewer, room, STORE, at + timedelta(seconds=second))
    assert await world.scalar("SELECT count(*) FROM doubts") == 0, "a phone in two rooms says everything twice"


async def test_who_has_left_is_forgotten_and_compared_with_nothing(world: World, desk: Locations) -> None:
    """What the promise to forget costs (decision 41)."""
    (viewer,) = await watching(world)
    at = now() - timedelta(minutes=1)
    await fix(desk, viewer, ELSEWHERE, BEIJING, at)
    await desk.forget(ELSEWHERE, [viewer.subject], at + timedelta(seconds=20))
    await fix(desk, viewer, world.room, STORE, now())
    assert await claim(world, viewer) == "granted"


@pytest.mark.parametrize("rows", [0, 100_000])
async def test_a_group_of_fixes_costs_no_more_than_its_size_whatever_is_known_of_tables(
    world: World, rows: int
) -> None:
    """No table is read from end to end, and no fix of the group is compared with each of the others."""
    async with transaction(world.kernel.sessions) as session:
        await session.execute(
            text(
                "INSERT INTO locations (room_id, viewer_id, position, accuracy_m, fixed_at)"
                " SELECT :room, gen_random_uuid(), ST_MakePoint(random(), 31)::geography, 20, now()"
                " FROM generate_series(1, :rows)"
            ),
            {"room": ELSEWHERE, "rows": rows},
        )
        for table in ("locations", "doubts"):
            await session.execute(text(f"ANALYZE {table}"))
        await session.execute(locations._BEGIN, {"viewers": []})
        columns: dict[str, Any] = {
            "room": [world.room] * BATCH, "viewer": [new_id() for _ in range(BATCH)], "brand": [BRAND] * BATCH,
            "x": [STORE[0]] * BATCH, "y": [STORE[1]] * BATCH, "accuracy": [20.0] * BATCH, "digits": [1] * BATCH,
            "at": [now()] * BATCH,
        }  # fmt: skip
        explained = text("EXPLAIN " + locations._WRITE.text)
        lines = (await session.scalars(explained, columns | locations._LIMITS)).all()
    assert any("Scan using ix_locations_viewer_id" in line for line in lines) or not rows, lines
    assert any(" doubts" in line for line in lines)
    assert not [line for line in lines if "Seq Scan on locations" in line or "Seq Scan on doubts" in line], lines
    assert not [line for line in lines if "Join Filter" in line], "\n".join(lines)
