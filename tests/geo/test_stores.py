"""``geo.stores`` on PostGIS: imports that update, dry runs that do not, and nearest stores by index."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from geo_places import Keep, store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, text

from geo import stores
from geo.datum import convert
from geo.earth import distance_m, in_space
from geo.stores import NEARBY, NEARBY_WITHIN_M, START, Place, import_csv, nearby, walk_minutes
from geo.tables import Store
from kernel.postgres import transaction
from kernel.process import Kernel

HEADER = "code,name,brand,city,address,lng,lat,datum,radius_m,opens,closes,trade_area\n"
AREA = '"{""type"":""Polygon"",""coordinates"":[[[121.4,31.2],[121.5,31.2],[121.5,31.3],[121.4,31.2]]]}"'


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write(body: str) -> Path:
        path = tmp_path / "stores.csv"
        path.write_text(HEADER + body)
        return path

    return write


FIRST = (
    "A,One,Tea,上海市,1 Road,121.47,31.23,wgs84,,,,\n"
    f"B,Two,Tea,上海市,2 Road,121.45,31.25,bd09,800,09:00,21:00,{AREA}\n"
)


async def test_an_import_loads_good_lines_names_bad_ones_and_updates_by_code(
    kernel: Kernel, brand: str, write: Callable[[str], Path]
) -> None:
    async with transaction(kernel.sessions) as session:
        report = await import_csv(session, brand, write(FIRST + "C,Three,Tea,上海市,3 Road,31,121,gcj02,,,,\n"))
        assert (report.lines, report.new, report.updated, report.unchanged) == (3, 2, 0, 0)
        assert [str(bad) for bad in report.errors] == [
            "line 4 (C): lng and lat are swapped: lng 31, lat 121 is a place in China the other way round"
        ]
    async with transaction(kernel.sessions) as session:
        ids = dict((await session.execute(select(Store.code, Store.id))).all())
        changed = FIRST.replace("One", "Uno")
        report = await import_csv(session, brand, write(changed))
        assert (report.new, report.updated, report.unchanged) == (0, 1, 1)
    async with transaction(kernel.sessions) as session:
        assert dict((await session.execute(select(Store.code, Store.id))).all()) == ids
        one, two = (await session.scalars(select(Store).order_by(Store.code))).all()
        assert (one.name, one.source_lng, one.source_datum, one.trade_area) == ("Uno", 121.47, "wgs84", None)
        assert (two.radius_m, str(two.opens), str(two.closes)) == (800, "09:00:00", "21:00:00")
        x, y = await stores_position(session, "A")
        assert (x, y) == pytest.approx(convert(121.47, 31.23, "wgs84", "gcj02"), abs=1e-12)


async def stores_position(session: object, code: str) -> tuple[float, float]:
    row = await stores.by_code(session, "tea", code)
    assert row is not None
    return row["x"], row["y"]


async def test_every_kind_of_change_is_noticed_and_no_change_is_not_written(
    kernel: Kernel, brand: str, write: Callable[[str], Path]
) -> None:
    line = f"B,Two,Tea,上海市,2 Road,121.45,31.25,gcj02,800,09:00,21:00,{AREA}\n"
    versions = [line]
    for old, new in [("121.45,", "121.46,"), ("800", ""), ("21:00", "22:00"), (AREA, ""), ("gcj02", "wgs84")]:
        versions.append(versions[-1].replace(old, new))
    async with transaction(kernel.sessions) as session:
        for number, version in enumerate(versions):
            report = await import_csv(session, brand, write(version))
            assert (report.new, report.updated) == ((1, 0) if number == 0 else (0, 1)), version
            before = await session.scalar(select(Store.updated_at))
            report = await import_csv(session, brand, write(version))
            assert report.unchanged == 1
            assert await session.scalar(select(Store.updated_at)) == before


async def test_a_dry_run_says_the_same_and_leaves_nothing(
    kernel: Kernel, brand: str, write: Callable[[str], Path]
) -> None:
    async with transaction(kernel.sessions) as session:
        await import_csv(session, brand, write(FIRST))
    more = FIRST.replace("One", "Uno") + "D,Four,Tea,上海市,4 Road,121.4,31.2,gcj02,,,,\n"
    async with transaction(kernel.sessions) as session:
        dry = await import_csv(session, brand, write(more), dry_run=True)
    async with transaction(kernel.sessions) as session:
        assert (await session.scalars(select(Store.name).order_by(Store.name))).all() == ["One", "Two"]
        wet = await import_csv(session, brand, write(more))
    assert (dry.new, dry.updated, dry.unchanged) == (wet.new, wet.updated, wet.unchanged) == (1, 1, 1)
    assert dry.dry_run
    assert not wet.dry_run


async def test_progress_reaches_the_last_line(kernel: Kernel, brand: str, write: Callable[[str], Path]) -> None:
    told: list[tuple[int, int]] = []
    body = "".join(f"S{i},n,b,c,a,121.{i:04},31,gcj02,,,,\n" for i in range(2500))
    async with transaction(kernel.sessions) as session:
        report = await import_csv(session, brand, write(body), progress=lambda *at: told.append(at))
        assert report.new == await session.scalar(select(func.count()).select_from(Store)) == 2500
    assert told == [(1001, 2501), (2001, 2501), (2501, 2501)]


async def test_brands_do_not_share_codes(kernel: Kernel, brand: str, write: Callable[[str], Path]) -> None:
    async with transaction(kernel.sessions) as session:
        await session.execute(text("INSERT INTO brands (id, name) VALUES ('other', 'Other')"))
        for name in (brand, "other"):
            assert (await import_csv(session, name, write(FIRST))).new == 2
        assert {row["code"] for row in await stores.listed(session, "other")} == {"A", "B"}
        assert [row["code"] for row in await nearby(session, "other", 121.47, 31.23, "gcj02")] == ["A", "B"]


async def test_nearby_is_in_order_of_distance_and_knows_the_datum(kernel: Kernel, keep_stores: Keep) -> None:
    await keep_stores([store(str(i), 121.47 + i / 100, 31.23) for i in range(8)] + [store("far", 122.2, 31.23)])
    wgs = convert(121.47, 31.23, "gcj02", "wgs84")
    async with kernel.sessions() as session:
        rows = await nearby(session, "tea", *wgs, "wgs84", limit=5)
        assert [row["code"] for row in rows] == ["0", "1", "2", "3", "4"]
        assert rows[0]["distance_m"] == pytest.approx(0, abs=0.01)
        assert rows[1]["distance_m"] == pytest.approx(953, abs=1)
        wrong = await nearby(session, "tea", *wgs, "gcj02", limit=1)
        assert wrong[0]["distance_m"] > 300, "without its datum the point is streets away"
        assert len(await nearby(session, "tea", *wgs, "wgs84", limit=50)) == 8, "what is 70 km away is not near"


async def test_nearby_walks_the_spatial_index_and_touches_little_of_25000_stores(kernel: Kernel, brand: str) -> None:
    fill = """
        INSERT INTO stores (id, brand_id, code, name, banner, city, address,
                            source_lng, source_lat, source_datum, position)
        SELECT gen_random_uuid(), :brand, 'S' || i, 'n', 'b', 'c', 'a', x, y, 'gcj02', ST_MakePoint(x, y)::geography
        FROM (SELECT i, 100 + 22 * (i * 0.618034 % 1) AS x, 24 + 16 * (i * 0.414214 % 1) AS y
              FROM generate_series(1, 25000) AS i) AS spots
    """
    async with transaction(kernel.sessions) as session:
        await session.execute(text(fill), {"brand": brand})
        await session.execute(text("ANALYZE stores"))
        for after in (START, Place(20_000.0, "S1")):
            wanted = {"brand": "tea", "lng": 113.0, "lat": 30.0, "limit": 10}
            explain = text(f"EXPLAIN (ANALYZE, BUFFERS) {NEARBY.text.replace('::', chr(92) + ':' + chr(92) + ':')}")
            told = await session.scalars(explain, wanted | {"after_m": after.distance_m, "after_code": after.code})
            plan = "\n".join(told.all())
            assert plan.count("Index Scan using ix_stores_position") == 2, plan
            assert "Seq Scan on stores" not in plan, plan
            # Eight kilobytes each: a walk over all stores would read some 900.
            pages = re.search(r"Buffers: shared hit=(\d+)", plan)
            assert pages, plan
            assert int(pages[1]) < 200, plan


around = st.tuples(st.floats(-0.4, 0.4), st.floats(-0.4, 0.4))
middles = st.sampled_from([(121.47, 31.23), (179.999, -16.8), (0.0, 0.0), (25.0, 89.7), (114.1, 22.53), (-179.9, 66.0)])


@given(middles, st.lists(around, max_size=12), st.integers(1, 5))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_pages_put_together_are_the_list_that_a_geodesic_would_give(
    kernel: Kernel,
    keep_stores: Keep,
    middle: tuple[float, float],
    spots: list[tuple[float, float]],
    limit: int,
) -> None:
    async with transaction(kernel.sessions) as session:
        await session.execute(text("TRUNCATE stores CASCADE"))
    lines = [
        store(f"S{i}", (middle[0] + dx + 180) % 360 - 180, min(90, middle[1] + dy)) for i, (dx, dy) in enumerate(spots)
    ]
    await keep_stores(lines)
    here = in_space(*middle)
    expected = {
        line.code: metres
        for line in lines
        if (metres := float(distance_m(in_space(*line.canonical), here))) <= NEARBY_WITHIN_M
    }
    found, after = [], START
    async with kernel.sessions() as session:
        while page := await nearby(session, "tea", *middle, "gcj02", limit, after):
            found += [(row["distance_m"], row["code"]) for row in page]
            after = Place(*found[-1])
    assert found == sorted(found)
    assert len(found) == len({code for _, code in found})
    edge = {code for code, metres in expected.items() if metres > NEARBY_WITHIN_M - 1}
    assert expected.keys() - edge <= {code for _, code in found} <= expected.keys() | edge
    for metres, code in found:
        assert metres == pytest.approx(expected[code], rel=0.005, abs=0.05)


@pytest.mark.parametrize(("metres", "minutes"), [(0, 1), (57, 1), (60, 2), (1000, 18), (3000, 52)])
def test_walking_time_is_a_sober_guess(metres: float, minutes: int) -> None:
    assert walk_minutes(metres) == minutes
