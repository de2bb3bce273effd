"""A whole room is matched in memory, a few viewers by PostGIS: the answers are the same."""

from datetime import timedelta

import pytest
from geoalchemy2 import WKTElement
from msgspec.structs import replace
from world import World

from coupons import drops
from coupons.locking import Area
from coupons.reach import Match, match
from kernel.clock import now
from kernel.ids import new_id

HERE = (121.47, 31.23)


def _square(north_m: float, half_m: float) -> WKTElement:
    lng, lat, half = HERE[0], HERE[1] + north_m / 111_000, half_m / 111_000
    corners = [(-half, -half), (half, -half), (half, half), (-half, half), (-half, -half)]
    ring = ", ".join(f"{lng + x} {lat + y}" for x, y in corners)
    return WKTElement(f"MULTIPOLYGON((({ring})))", srid=4326)


async def _both_ways(world: World, area: Area, drop: object = None) -> list[Match]:
    located = [row[0] for row in await world.execute("SELECT viewer_id FROM locations")]
    async with world.kernel.sessions() as session:
        whole = await match(session, area, drop=drop)  # type: ignore[arg-type]
        few = await match(session, area, drop=drop, viewers=located)  # type: ignore[arg-type]
    assert [replace(found, distance_m=0) for found in whole] == [replace(found, distance_m=0) for found in few]
    assert [found.distance_m for found in whole] == pytest.approx([found.distance_m for found in few], abs=0.05)
    return whole


async def test_a_room_is_matched_in_memory_as_its_viewers_are_by_postgis(world: World) -> None:
    await world.store("S2", 2_500)
    await world.store("small", 5_000, radius_m=300)
    await world.store("shape", 9_000, trade_area=_square(9_000, 800))
    await world.store("closed", 300, closed_until=now() + timedelta(hours=1))
    await world.store("full", 200)
    campaign = await world.campaign(store_quota=5)
    await world.execute(
        "INSERT INTO campaign_stores (campaign_id, store_id, quota, issued) VALUES (:c, :s, 5, 5)",
        c=campaign,
        s=world.stores["full"],
    )
    for north_m in (0, 250, 1_200, 1_260, 2_490, 3_995, 5_100, 5_310, 6_000, 8_300, 9_700, 9_795, 12_000):
        await world.viewers(1, north_m=north_m, accuracy_m=20, tier=2)
    await world.viewers(1, north_m=10, doubt="speed")
    await world.viewers(1, north_m=20, at=now() - timedelta(minutes=11))
    await world.viewers(1, north_m=20, accuracy_m=1_500)
    for near_counts, radius_m in ((True, 3_000), (False, 3_000), (True, 500)):
        area = Area(world.room, "acme", campaign, True, radius_m, near_counts, now())
        found = await _both_ways(world, area)
        assert {one.doubt for one in found} == {None, "speed"}
        got = {one.store for one in found}
        assert world.stores["closed"] not in got and world.stores["full"] not in got
        assert {world.stores["S1"], world.stores["small"], world.stores["shape"]} <= got
        assert [one.distance_m for one in found] == sorted(one.distance_m for one in found)
    narrow = Area(world.room, "acme", campaign, False, 3_000, True, now())
    assert await _both_ways(world, narrow) == [], "the only store that takes part is full"


async def test_whoever_the_drop_has_decided_about_is_left_out(world: World) -> None:
    campaign = await world.campaign()
    drop = await world.drop(campaign, "push")
    await world.viewers(2)
    assert await drops.run_push(world.kernel.sessions, drop) == 2
    (late,) = await world.viewers(1, north_m=40)
    area = Area(world.room, "acme", campaign, True, 3_000, True, now())
    assert [found.viewer for found in await _both_ways(world, area, drop)] == [late.subject]
    assert len(await _both_ways(world, area, new_id())) == 3


async def test_an_empty_room_and_a_brand_without_stores_match_nothing(world: World) -> None:
    area = Area(world.room, "acme", new_id(), True, 3_000, True, now())
    assert await _both_ways(world, area) == []
    await world.viewers(1)
    assert await _both_ways(world, Area(world.room, "other", new_id(), True, 3_000, True, now())) == []
