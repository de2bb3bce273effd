"""Each bench once, tiny: what it counts adds up. How fast it was is not asked here."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.settings import Settings
from loadtest.bench import beside, fanout, joins, memory, peak, tables
from loadtest.bench.house import House

# A whole stack has to start, and four benches run in it, on a machine that may be very busy.
pytestmark = [pytest.mark.deep, pytest.mark.timeout(900)]


@pytest.fixture
def house(settings: Settings, tmp_path: Path) -> Iterator[House]:
    # In /tmp itself: pytest's folders are closed to the user PostgreSQL runs as.
    stores = {
        name: value for name, value in settings.environment().items() if name.endswith(("DATABASE_URL", "REDIS_URL"))
    }
    with House(stores, tmp_path) as started:
        yield started


def test_the_four_benches_count_what_they_did(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "node_modules", lambda: None)  # npm needs a network

    race = fanout.measure(house, fanout.Plan(viewers=20, rounds=2, frames=3))
    assert all(race[field] is not None for field in fanout.FIELDS if field != "vs_socketio")
    assert race["vs_socketio"] is None
    assert abs(race["frame_bytes"] - fanout.FRAME) <= 3
    assert race["missing"] == sum(server["lost"] for server in race["servers"].values()) == 0
    assert tables.figures(race).rows

    # The second step is more than one process may hold.
    room = peak.measure(house, peak.Plan((10, 20), seconds=1.5, fixed=2, alone=3, sanctions=1, most=45, first=0.5))
    assert [step["gateways"] for step in room["steps"]] == [1, 2]
    assert set(peak.FIELDS) <= room.keys()
    assert (room["alone_ms"]["events"], room["revoked_ms"]["sanctions"]) == (3, 3)
    assert 0 < room["alone_ms"]["p50"] <= room["alone_ms"]["p99"]
    assert 0 < room["revoked_ms"]["p50"] <= room["revoked_ms"]["max"]
    assert room["certain_lost"] == 0
    for step in room["steps"]:
        assert step["comments"] > 0
        assert step["refused"] == {}
        assert step["certain_told"] == step["certain"] > 0
        assert step["lossy_shown"] == step["lossy_owed"] == step["comments"] * (step["viewers"] + 1)
        assert step["shed"] == step["viewers_lost"] == 0
        assert 0 < step["certain_p50_ms"] <= step["certain_p99_ms"] <= step["certain_max_ms"]
    assert tables.figures(room).rows

    storms = joins.measure(house, joins.Plan(viewers=30, storms=1, missed=3))
    assert storms["recovered"] == 1.0
    assert storms["joins_per_s"] > 0 < storms["resumes_per_s"]
    assert tables.figures(storms).rows

    idle = memory.measure(house, memory.Plan(viewers=30, settle=0.5, warm=5))
    assert idle["still_there"] == 30
    assert tables.figures(idle).rows
