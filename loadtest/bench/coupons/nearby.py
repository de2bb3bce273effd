"""``nearby``: fixes matched to catchments in memory, and taken in; and the nearest stores asked of PostGIS."""

import asyncio
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from sqlalchemy import text

from geo import stores
from geo.catchments import Catchments
from geo.locations import Locations
from kernel.clock import now
from kernel.postgres import transaction
from loadtest.bench.coupons.brand import BRAND, BrandAtWork, brand_at_work, servers_of_its_own

FIELDS = ("bench", "memory_per_s", "postgis_p50_ms")
BATCH = 1_000
"""Fixes matched at a time, as a gateway writes them."""
SENT_AT_ONCE = 5_000
"""Viewers who send a fix at the same moment, as when a guide asks a room to share its location."""
TREMBLE = 1e-4
"""Degrees by which their fixes differ from what is kept of them: ten metres."""
_CONSENTED = text("INSERT INTO location_consents (viewer_id, version, given_at) SELECT id, '1', now() FROM members")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    sizes: tuple[int, ...] = (25_000, 500, 2_500)
    fixes: int = 100_000
    questions: int = 1_000
    taken: int = 50_000
    rounds: int = 3

    @classmethod
    def quick(cls) -> "Plan":
        """Within 45 s."""
        return cls(sizes=(25_000,), questions=500, taken=20_000, rounds=2)


async def _taken(brand: BrandAtWork, catchments: Catchments, fixes: int) -> float:
    """How many fixes a second a gateway takes in: written and judged in PostgreSQL, committed, counted in memory."""
    async with transaction(brand.kernel.sessions) as session:
        await session.execute(_CONSENTED)
    async with brand.kernel.sessions() as session:
        kept = await session.execute(
            text("SELECT viewer_id, ST_X(position::geometry), ST_Y(position::geometry) FROM locations LIMIT :n"),
            {"n": fixes},
        )
        sent = [(viewer, x + TREMBLE, y) for viewer, x, y in kept]
    async with Locations(brand.kernel.sessions, catchments) as desk:
        began = time.perf_counter()
        for start in range(0, len(sent), SENT_AT_ONCE):
            crowd = sent[start : start + SENT_AT_ONCE]
            await asyncio.gather(*(desk.locate(BRAND, v, brand.room, x, y, "wgs84", 20.0, now()) for v, x, y in crowd))
        return len(sent) / (time.perf_counter() - began)


async def measure(plan: Plan) -> dict[str, Any]:
    """Every number of stores; the first is the one that is reported."""
    rows = []
    for size in plan.sizes:
        async with servers_of_its_own() as settings, brand_at_work(settings, stores=size, viewers=plan.fixes) as brand:
            async with brand.kernel.sessions() as session:
                found = await session.execute(
                    text("SELECT ST_X(position::geometry), ST_Y(position::geometry), accuracy_m FROM locations")
                )
                lng, lat, accuracy = np.array(found.all(), np.float64).T
            catchments = Catchments(brand.kernel.sessions)
            reach = await catchments.of(BRAND)
            speeds, waits = [], []
            for _ in range(plan.rounds):
                pairs = 0
                began = time.perf_counter()
                for start in range(0, len(lng), BATCH):
                    part = slice(start, start + BATCH)
                    pairs += len(reach.match(lng[part], lat[part], accuracy[part]).fix)
                speeds.append(len(lng) / (time.perf_counter() - began))
                async with brand.kernel.sessions() as session:
                    for x, y in zip(lng[: plan.questions].tolist(), lat[: plan.questions].tolist(), strict=True):
                        began = time.perf_counter()
                        await stores.nearby(session, BRAND, x, y, "wgs84", limit=1)
                        waits.append((time.perf_counter() - began) * 1000)
            taken = await _taken(brand, catchments, plan.taken)
        rows.append(
            {
                "stores": size,
                "memory_per_s": round(median(speeds)),
                "pairs_a_fix": round(pairs / len(lng), 1),
                "taken_per_s": round(taken),
                "postgis_p50_ms": round(median(waits), 2),
                "postgis_p99_ms": round(sorted(waits)[int(len(waits) * 0.99)], 2),
            }
        )
    return {"bench": "nearby", **{name: rows[0][name] for name in FIELDS[1:]}, "sizes": rows}
