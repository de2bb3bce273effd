"""``geo.matching`` and ``geo.catchments``: PostGIS and memory agree on who is in reach, and both with the rules."""

import json
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import shapely
from geo_places import Keep, store
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncSession

from geo.catchments import Catchments, Near, Reach
from geo.datum import Datum, to_canonical
from geo.earth import Plane
from geo.matching import FRESH, candidates, nearest_stores, open_stores
from geo.tables import Location
from geo.trade_area import BadArea, TradeArea, parse
from kernel.clock import now
from kernel.ids import new_id
from kernel.postgres import transaction
from kernel.process import Kernel

ROOM = UUID(int=1)
HERE = (121.47, 31.23)
METRE_NORTH = 1 / 110_870
"""Degrees of latitude in a metre, at 31° north."""


async def put(session: AsyncSession, fixes: dict[UUID, tuple[float, float, float]], at: Any = None) -> None:
    """viewer → lng, lat, accuracy."""
    await session.execute(
        insert(Location),
        [
            {
                "room_id": ROOM,
                "viewer_id": viewer,
                "position": f"SRID=4326;POINT({lng!r} {lat!r})",
                "accuracy_m": accuracy,
                "fixed_at": at or now(),
            }
            for viewer, (lng, lat, accuracy) in fixes.items()
        ],
    )


def square(lng: float, lat: float, half_m: float) -> bytes:
    """A square with straight sides on the ground; WKB."""
    up = half_m * METRE_NORTH
    across = up / np.cos(np.radians(lat))
    return bytes(shapely.to_wkb(shapely.MultiPolygon([shapely.box(lng - across, lat - up, lng + across, lat + up)])))


def north(metres: float) -> tuple[float, float]:
    return HERE[0], HERE[1] + metres * METRE_NORTH


STATES: list[tuple[float, float, str | None]] = [
    (0, 10, "inside"), (980, 10, "inside"), (995, 10, "near"), (1005, 10, "near"), (1015, 10, None),
    (600, 500, "near"), (1400, 500, "near"), (1600, 500, None), (0, 990, "inside"), (0, 1001, None),
]  # fmt: skip
"""Distance from the store, accuracy, and what that makes of a catchment that ends 1,000 m away."""


@pytest.mark.parametrize("shape", ["circle", "square"])
async def test_a_fix_is_inside_near_or_outside_by_its_accuracy(kernel: Kernel, keep_stores: Keep, shape: str) -> None:
    area = square(*HERE, 1000) if shape == "square" else None
    await keep_stores([store("A", *HERE, radius_m=1000 if area is None else 60, area=area)])
    viewers = {new_id(): case for case in STATES}
    async with transaction(kernel.sessions) as session:
        await put(session, {viewer: (*north(away), accuracy) for viewer, (away, accuracy, _) in viewers.items()})
        stores, since = open_stores("tea", now()), now() - FRESH
        found = (await session.execute(nearest_stores(ROOM, stores, fresh_after=since))).all()
        assert {row.viewer_id: row.state for row in found} == {v: s for v, (_, _, s) in viewers.items() if s}
        for row in found:
            assert row.rank == 1
            assert row.distance_m == pytest.approx(viewers[row.viewer_id][0], abs=1)
        sure = (await session.execute(nearest_stores(ROOM, stores, fresh_after=since, near_counts=False))).all()
        assert {row.viewer_id for row in sure} == {v for v, (_, _, s) in viewers.items() if s == "inside"}


async def test_nearest_comes_first_and_others_follow_up_to_k(kernel: Kernel, keep_stores: Keep) -> None:
    ids = await keep_stores([store(str(i), *north(500 * i)) for i in range(1, 6)])
    async with transaction(kernel.sessions) as session:
        await put(session, {ROOM: (*HERE, 20)})
        stores = open_stores("tea", now())
        rows = (await session.execute(candidates(ROOM, stores, fresh_after=now() - FRESH, k=3))).all()
        assert [(row.store_id, row.rank) for row in rows] == [(ids["1"], 1), (ids["2"], 2), (ids["3"], 3)]
        few = stores.where(text("code <> '1'"))
        rows = (await session.execute(nearest_stores(ROOM, few, fresh_after=now() - FRESH, radius_m=1200))).all()
        assert [row.store_id for row in rows] == [ids["2"]]


async def test_only_asked_viewers_fresh_fixes_this_room_and_open_stores_count(
    kernel: Kernel, keep_stores: Keep
) -> None:
    await keep_stores([store("A", *HERE)])
    one, two, late = new_id(), new_id(), new_id()

    async def seen(**options: Any) -> set[UUID]:
        room = options.pop("room", ROOM)
        query = nearest_stores(room, open_stores("tea", now()), fresh_after=now() - FRESH, **options)
        return {row.viewer_id for row in await session.execute(query)}

    async with transaction(kernel.sessions) as session:
        await put(session, {one: (*HERE, 5), two: (*HERE, 5)})
        await put(session, {late: (*HERE, 5)}, at=now() - timedelta(minutes=11))
        assert await seen() == {one, two}
        assert await seen(viewers=[two, late]) == {two}
        assert await seen(viewers=[]) == set()
        assert await seen(room=UUID(int=2)) == set()
        await session.execute(text("UPDATE stores SET closed_until = now() + interval '1 hour'"))
        assert await seen() == set()
        await session.execute(text("UPDATE stores SET closed_until = now() - interval '1 hour'"))
        assert await seen() == {one, two}


async def test_the_match_reads_the_spatial_index_once_a_viewer(kernel: Kernel, keep_stores: Keep) -> None:
    random = np.random.default_rng(3)
    await keep_stores([store(str(i), *random.uniform((113, 29), (117, 33)).tolist()) for i in range(4000)])
    async with transaction(kernel.sessions) as session:
        await put(session, {new_id(): (*random.uniform((113, 29), (117, 33)).tolist(), 30.0) for _ in range(500)})
        await session.execute(text("ANALYZE stores"))
        await session.execute(text("ANALYZE locations"))
        query = nearest_stores(ROOM, open_stores("tea", now()), fresh_after=now() - FRESH)
        connection = await session.connection()
        statement = query.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
        plan = "\n".join(
            (await session.scalars(text(f"EXPLAIN (ANALYZE) {str(statement).replace(':', chr(92) + ':')}"))).all()
        )
    assert "Index Scan using ix_stores_position" in plan or "Bitmap Index Scan on ix_stores_position" in plan, plan
    assert "hashed SubPlan" in plan, plan
    assert "BitmapAnd" not in plan, plan
    # Nothing looks at a row of `stores` for each viewer except through an index.
    assert not [line for line in plan.splitlines() if "Seq Scan on stores" in line and "loops=500" in line], plan


coordinates = st.tuples(st.floats(-0.06, 0.06), st.floats(-0.06, 0.06))
radii = st.one_of(st.none(), st.integers(50, 6000))
middles = st.sampled_from([(121.47, 31.23), (87.6, 43.8), (114.17, 22.32), (0.0, 0.0), (-179.99, -16.8), (25.0, 70.0)])


@st.composite
def shapes(draw: st.DrawFn) -> bytes | None:
    """A star around (0, 0), in metres, or None for a circle."""
    if draw(st.booleans()):
        return None
    corners = draw(st.integers(3, 9))
    lengths = draw(st.lists(st.floats(200, 6000), min_size=corners, max_size=corners))
    turns = 2 * np.pi * np.arange(corners) / corners
    points = np.stack([lengths * np.cos(turns), lengths * np.sin(turns)], axis=1)
    return bytes(shapely.to_wkb(shapely.Polygon(points)))


def placed(wkb: bytes, lng: float, lat: float) -> bytes:
    up = METRE_NORTH
    across = up / np.cos(np.radians(lat))
    there = shapely.transform(shapely.from_wkb(wkb), lambda xy: xy * [across, up] + [lng, lat])
    return bytes(shapely.to_wkb(shapely.MultiPolygon([there])))


@given(
    middles,
    st.lists(st.tuples(coordinates, radii, shapes()), min_size=1, max_size=6),
    st.lists(st.tuples(coordinates, st.floats(0, 1000)), min_size=1, max_size=8),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_postgis_and_memory_agree_on_who_is_in_reach(
    kernel: Kernel,
    brand: str,
    keep_stores: Keep,
    middle: tuple[float, float],
    shops: list[tuple[tuple[float, float], int | None, bytes | None]],
    people: list[tuple[tuple[float, float], float]],
) -> None:
    def at(offset: tuple[float, float]) -> tuple[float, float]:
        return (middle[0] + offset[0] + 180) % 360 - 180, middle[1] + offset[1]

    async with transaction(kernel.sessions) as session:
        await session.execute(text("TRUNCATE stores, locations CASCADE"))
    lines = []
    for number, (offset, radius, shape) in enumerate(shops):
        lng, lat = at(offset)
        # Polygons across the date line, and around a pole, come below: as they are read from a file.
        area = placed(shape, lng, lat) if shape is not None and abs(lng) < 179.9 else None
        lines.append(store(str(number), lng, lat, radius_m=radius, area=area))
    await keep_stores(lines)
    fixes = {UUID(int=i + 1): (*at(offset), float(np.float32(accuracy))) for i, (offset, accuracy) in enumerate(people)}
    async with transaction(kernel.sessions) as session:
        await put(session, fixes)
        query = candidates(ROOM, open_stores("tea", now()), fresh_after=now() - FRESH, k=100)
        rows = (await session.execute(query)).all()
        reach = await Catchments(kernel.sessions).load(session, "tea")
    by_postgis = {(row.viewer_id, row.store_id): (row.state, row.distance_m) for row in rows}

    def in_memory(stretch: float) -> dict[tuple[UUID, UUID], tuple[str, float]]:
        """Who is in reach if each fix were vaguer by ``stretch`` metres (negative: sharper)."""
        found = {}
        for viewer, (lng, lat, accuracy) in fixes.items():
            for near in reach.near(lng, lat, accuracy + stretch):
                found[viewer, near.store] = (near.state, near.distance_m)
        return found

    tolerance = 0.005 * 50  # 0.5 % of the smallest radius, for all of them
    assert in_memory(-tolerance).keys() <= by_postgis.keys() <= in_memory(tolerance).keys()
    exact = in_memory(0)
    for pair in by_postgis.keys() & exact.keys():
        assert by_postgis[pair][1] == pytest.approx(exact[pair][1], abs=0.05)
    certain = {pair for pair, (state, _) in by_postgis.items() if state == "inside"}
    assert {p for p, (s, _) in in_memory(tolerance).items() if s == "inside"} <= certain
    assert certain <= {p for p, (s, _) in in_memory(-tolerance).items() if s == "inside"} | {
        p for p in certain if fixes[p[0]][2] < tolerance
    }


def geodesic_m(lng: float, lat: float, other_lng: float, other_lat: float) -> float:
    """Metres along the WGS-84 ellipsoid by Vincenty's inverse formula (Survey Review 176, 1975): neither PostGIS's way
    nor ours."""
    a, f = 6_378_137.0, 1 / 298.257223563
    b, span = a * (1 - f), math.radians(other_lng - lng)
    u1, u2 = (math.atan((1 - f) * math.tan(math.radians(phi))) for phi in (lat, other_lat))
    lam = span
    for _ in range(100):
        east = math.cos(u2) * math.sin(lam)
        north = math.cos(u1) * math.sin(u2) - math.sin(u1) * math.cos(u2) * math.cos(lam)
        sin_s = math.hypot(east, north)
        if sin_s < 1e-15:
            return 0.0
        cos_s = math.sin(u1) * math.sin(u2) + math.cos(u1) * math.cos(u2) * math.cos(lam)
        sigma = math.atan2(sin_s, cos_s)
        sin_a = math.cos(u1) * math.cos(u2) * math.sin(lam) / sin_s
        cos2_a = 1 - sin_a**2
        middle = cos_s - 2 * math.sin(u1) * math.sin(u2) / cos2_a if cos2_a > 1e-12 else 0.0
        c = f / 16 * cos2_a * (4 + f * (4 - 3 * cos2_a))
        turned = span + (1 - c) * f * sin_a * (sigma + c * sin_s * (middle + c * cos_s * (2 * middle**2 - 1)))
        if abs(turned - lam) < 1e-13:
            break
        lam = turned
    u = cos2_a * (a * a - b * b) / (b * b)
    big_a = 1 + u / 16384 * (4096 + u * (-768 + u * (320 - 175 * u)))
    big_b = u / 1024 * (256 + u * (-128 + u * (74 - 47 * u)))
    cubic = big_b / 6 * middle * (4 * sin_s**2 - 3) * (4 * middle**2 - 3)
    bent = big_b * sin_s * (middle + big_b / 4 * (cos_s * (2 * middle**2 - 1) - cubic))
    return b * big_a * (sigma - bent)


async def in_reach(
    kernel: Kernel, fixes: dict[UUID, tuple[float, float, float]]
) -> tuple[dict[tuple[UUID, UUID], Any], dict[tuple[UUID, UUID], Near]]:
    """Viewer and store → what PostGIS finds, and what is found in memory."""
    async with transaction(kernel.sessions) as session:
        await put(session, fixes)
        query = candidates(ROOM, open_stores("tea", now()), fresh_after=now() - FRESH, k=100)
        by_postgis = {(row.viewer_id, row.store_id): row for row in await session.execute(query)}
        reach = await Catchments(kernel.sessions).load(session, "tea")
    return by_postgis, {(viewer, near.store): near for viewer, fix in fixes.items() for near in reach.near(*fix)}


# The date line, both poles, the equator, and the region's border at Dandong, Ruili and Heihe, where one side is moved
# by GCJ-02 and the other is not.
edges = st.sampled_from(
    [(179.999, -16.8), (-180.0, 66.0), (40.0, 89.98), (-120.0, -89.98), (0.0, 0.0), (124.38, 40.11), (97.86, 24.0),
     (127.5, 50.26)]
)  # fmt: skip
metres = st.floats(-5000, 5000)
frames = st.sampled_from(["wgs84", "gcj02", "bd09"])


@given(
    edges,
    st.lists(st.tuples(metres, metres, radii, frames), min_size=1, max_size=6),
    st.lists(st.tuples(metres, metres, st.floats(0, 1000), frames), min_size=1, max_size=8),
)
# A catchment that ends before the date line, and a fix that it is in reach of only by its accuracy, beyond the line.
@example((-180.0, 66.0), [(-51.0, 0.0, 50, "wgs84")], [(0.0, 0.0, 2.0, "wgs84")])
@example((-180.0, -16.8), [(-900.0, 0.0, 50, "wgs84"), (900.0, 0.0, 50, "wgs84")], [(0.0, 0.0, 1000.0, "wgs84")])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_postgis_memory_and_a_geodesic_agree_at_the_edges_of_the_world_and_of_the_region(
    kernel: Kernel,
    brand: str,
    keep_stores: Keep,
    middle: tuple[float, float],
    shops: list[tuple[float, float, int | None, Datum]],
    people: list[tuple[float, float, float, Datum]],
) -> None:
    def at(east: float, north: float) -> tuple[float, float]:
        lat = middle[1] + north / 111_500
        lng = middle[0] + east / (111_500 * math.cos(math.radians(lat)))
        if abs(lat) > 90:  # across the pole
            lng, lat = lng + 180, math.copysign(180 - abs(lat), lat)
        return (lng + 180) % 360 - 180, lat

    async with transaction(kernel.sessions) as session:
        await session.execute(text("TRUNCATE stores, locations CASCADE"))
    lines = [
        store(str(number), *at(east, north), radius_m=radius, datum=datum)
        for number, (east, north, radius, datum) in enumerate(shops)
    ]
    ids = await keep_stores(lines)
    fixes = {
        UUID(int=number): (*to_canonical(*at(east, north), datum), float(np.float32(accuracy)))
        for number, (east, north, accuracy, datum) in enumerate(people, 1)
    }
    by_postgis, in_memory = await in_reach(kernel, fixes)
    for viewer, (lng, lat, accuracy) in fixes.items():
        for line in lines:
            pair = (viewer, ids[line.code])
            true = geodesic_m(lng, lat, *line.canonical)
            depth, tolerance = true - (line.radius_m or 3000), 0.005 * true + 0.01
            for found in (by_postgis.get(pair), in_memory.get(pair)):
                if found is not None:
                    assert found.distance_m == pytest.approx(true, abs=tolerance)
                    assert depth - accuracy <= tolerance
                    if abs(depth + accuracy) > tolerance:
                        assert found.state == ("inside" if depth + accuracy <= 0 else "near")
                else:
                    assert depth - accuracy > -tolerance


Point = tuple[float, float]
"""Longitude and latitude."""


def toward(start: Point, turn: float, metres: float) -> Point:
    """Some ``metres`` from ``start`` in the direction ``turn`` (radians from north), on a sphere; also past a pole."""
    lam, phi, far = math.radians(start[0]), math.radians(start[1]), metres / 6_371_000
    lat = math.asin(math.sin(phi) * math.cos(far) + math.cos(phi) * math.sin(far) * math.cos(turn))
    east = math.sin(turn) * math.sin(far) * math.cos(phi)
    lng = math.degrees(lam + math.atan2(east, math.cos(far) - math.sin(phi) * math.sin(lat)))
    return (lng + 180) % 360 - 180, math.degrees(lat)


def direction(point: Point) -> Any:
    lam, phi = map(math.radians, point)
    return np.array([math.cos(phi) * math.cos(lam), math.cos(phi) * math.sin(lam), math.sin(phi)])


def to_edge_m(point: Point, one: Point, other: Point) -> float:
    """Metres from ``point`` to the nearest place on the arc of the great circle between two corners, by trying."""
    a, b = direction(one), direction(other)

    def away(share: float) -> float:
        x, y, z = a + share * (b - a)
        return geodesic_m(*point, math.degrees(math.atan2(y, x)), math.degrees(math.atan2(z, math.hypot(x, y))))

    low, high = 0.0, 1.0
    for _ in range(40):
        third = (high - low) / 3
        if away(low + third) < away(high - third):
            high -= third
        else:
            low += third
    return away((low + high) / 2)


def depth_m(point: Point, area: bytes) -> float:
    """Metres from ``point`` to the edge of ``area`` (WKB), negative inside: the angles that its edges subtend there add
    up to whole turns for every ring around it."""
    up = direction(point)
    turns, nearest = 0.0, math.inf
    for polygon in shapely.from_wkb(area).geoms:
        for ring in (polygon.exterior, *polygon.interiors):
            corners = [(float(x), float(y)) for x, y in ring.coords]
            for one, other in pairwise(corners):
                nearest = min(nearest, to_edge_m(point, one, other))
                a, b = (corner - (corner @ up) * up for corner in (direction(one), direction(other)))
                turns += math.atan2(np.cross(a, b) @ up, a @ b)
    return -nearest if abs(turns) > math.pi else nearest


stars = st.lists(st.floats(200, 6000), min_size=3, max_size=9)


@given(
    edges,
    st.lists(st.tuples(metres, metres, stars, frames), min_size=1, max_size=3),
    st.lists(st.tuples(metres, metres, st.floats(0, 1000), frames), min_size=1, max_size=6),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_postgis_memory_and_a_geodesic_agree_at_the_edges_of_trade_areas(
    kernel: Kernel,
    brand: str,
    keep_stores: Keep,
    middle: Point,
    shops: list[tuple[float, float, list[float], Datum]],
    people: list[tuple[float, float, float, Datum]],
) -> None:
    """At the edges of the world and of the region, too; the areas as they come out of a file."""

    def at(east: float, north: float) -> Point:
        return toward(middle, math.atan2(east, north), math.hypot(east, north))

    async with transaction(kernel.sessions) as session:
        await session.execute(text("TRUNCATE stores, locations CASCADE"))
    lines = []
    for number, (east, north, star, datum) in enumerate(shops):
        door = at(east, north)
        ring = [toward(door, 2 * math.pi * place / len(star), far) for place, far in enumerate(star)]
        text_of = json.dumps({"type": "Polygon", "coordinates": [[*ring, ring[0]]]})
        line = store(str(number), *door, datum=datum)
        try:
            area = parse(text_of, datum, *line.canonical).wkb
        except BadArea:  # the region's border moves some corners and others not
            assert datum != "wgs84"
            continue
        lines.append(replace(line, area=TradeArea(area)))
    ids = await keep_stores(lines)
    fixes = {
        UUID(int=number): (*to_canonical(*at(east, north), datum), float(np.float32(accuracy)))
        for number, (east, north, accuracy, datum) in enumerate(people, 1)
    }
    by_postgis, in_memory = await in_reach(kernel, fixes)
    for viewer, (lng, lat, accuracy) in fixes.items():
        for line in lines:
            assert line.area is not None
            depth = depth_m((lng, lat), line.area.wkb)
            tolerance = 0.005 * abs(depth) + 0.05
            for found in (by_postgis.get((viewer, ids[line.code])), in_memory.get((viewer, ids[line.code]))):
                if found is None:
                    assert depth - accuracy > -tolerance
                    continue
                assert depth - accuracy <= tolerance
                if abs(depth + accuracy) > tolerance:
                    assert found.state == ("inside" if depth + accuracy <= 0 else "near")


def test_an_empty_brand_has_no_store_near_anybody() -> None:
    assert Reach([]).near(121.47, 31.23, 30) == []


@pytest.mark.parametrize("lat", [89.9999, -89.9999])
def test_at_the_poles_every_longitude_is_near(lat: float) -> None:
    reach = Reach([{"id": new_id(), "x": 0.0, "y": lat, "radius_m": 3000, "area": None}])
    assert [near.state for near in reach.near(180.0, lat, 10)] == ["inside"]


def test_a_plane_shows_its_surroundings_in_true_metres() -> None:
    flat = Plane(*HERE).flatten(np.array([121.47, 121.57, -58.53]), np.array([31.33, 31.23, -31.23]))
    assert flat[0] == pytest.approx([0, 11087.8], abs=2)
    assert flat[1] == pytest.approx([9527, 4.3], abs=2)
    assert np.isinf(flat[2]).all(), "the other side of the world is nowhere on it"


async def test_stores_that_change_are_noticed_and_swapped_in(
    kernel: Kernel, keep_stores: Keep, make_members: Callable[..., Awaitable[list[UUID]]]
) -> None:
    ids = await keep_stores([store("A", *HERE)])
    catchments = Catchments(kernel.sessions)
    assert [near.store for near in await catchments.near("tea", *HERE, 10)] == [ids["A"]]
    before = await catchments.of("tea")
    assert await catchments.refresh() == []
    assert await catchments.of("tea") is before
    ids = await keep_stores([store("B", *north(100))])
    assert await catchments.refresh() == ["tea"]
    assert [near.store for near in await catchments.near("tea", *HERE, 10)] == [ids["A"], ids["B"]]
    await keep_stores([store("A", 100.0, 30.0)])
    assert await catchments.refresh() == ["tea"]
    assert [near.store for near in await catchments.near("tea", *HERE, 10)] == [ids["B"]]
    async with transaction(kernel.sessions) as session:
        await session.execute(text("UPDATE stores SET closed_until = now() + interval '1 hour' WHERE code = 'B'"))
    assert await catchments.refresh() == ["tea"]
    assert await catchments.near("tea", *HERE, 10) == []
    assert [near.store for near in before.near(*HERE, 10)] == [ids["A"]], "who holds the old ones keeps them"
