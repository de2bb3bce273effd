"""Each bench of coupons once, tiny: what it counts adds up. How fast it was is not asked here."""

import pytest

from loadtest.bench import tables
from loadtest.bench.coupons import claims, drop, nearby

# Each starts a PostgreSQL of its own.
pytestmark = [pytest.mark.deep, pytest.mark.timeout(600)]


async def test_claims_are_counted_beside_their_peers_and_the_rows_alone() -> None:
    result = await claims.measure(claims.Plan(viewers=600, peers=100, callers=20, rounds=1))
    assert set(claims.FIELDS) <= result.keys()
    assert result["oversold"] == 0
    outcomes = {name: found["outcomes"] for name, found in result["contenders"].items()}
    assert outcomes["nearcast"]["issued"] == 480
    assert sum(outcomes["nearcast"].values()) == 600
    assert outcomes["single"] == outcomes["redis"] == {"issued": 100}
    assert sum(outcomes["single_finds"].values()) == 100
    assert 80 < outcomes["single_finds"]["issued"] < 100, "one in ten is out of range"
    assert result["floor_per_s"] > 0
    assert len(tables.figures(result).rows) == 5


async def test_a_drop_is_counted_beside_one_query_a_viewer_and_the_rows_alone() -> None:
    result = await drop.measure(drop.Plan(sizes=((400, 20), (400, 40)), peers=30, rounds=1))
    assert set(drop.FIELDS) <= result.keys()
    assert [(size["viewers"], size["stores"]) for size in result["sizes"]] == [(400, 20), (400, 40)]
    assert all(200 < size["granted"] < 400 for size in result["sizes"])
    assert all(0 < size["commit_s"] <= size["seconds"] for size in result["sizes"])
    assert all(size["floor_s"] >= 0 < size["floor_vs_per_viewer"] for size in result["sizes"])
    assert len(tables.figures(result).rows) == 2


async def test_fixes_are_matched_in_memory_and_by_postgis() -> None:
    result = await nearby.measure(nearby.Plan(sizes=(50, 20), fixes=200, questions=10, rounds=1))
    assert set(nearby.FIELDS) <= result.keys()
    assert [size["stores"] for size in result["sizes"]] == [50, 20]
    assert all(size["memory_per_s"] > 0 < size["postgis_p50_ms"] <= size["postgis_p99_ms"] for size in result["sizes"])
    assert len(tables.figures(result).rows) == 2
