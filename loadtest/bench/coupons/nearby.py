"""``nearby``: fixes matched to catchments in memory, and the nearest stores asked of PostGIS."""

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from sqlalchemy import text

from geo import stores
from geo.catchments import Catchments
from loadtest.bench.coupons.brand import BRAND, brand_at_work, servers_of_its_own

FIELDS = ("bench", "memory_per_s", "postgis_p50_ms")
BATCH = 1_000
"""Fixes matched at a time, as a gateway writes them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    sizes: tuple[int, ...] = (25_000, 500, 2_500)
    fixes: int = 100_000
    questions: int = 1_000
    rounds: int = 3

    @classmethod
    def quick(cls) -> "Plan":
        """Within 45 s."""
        return cls(sizes=(25_000,), questions=500, rounds=2)


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
        rows.append(
            {
                "stores": size,
                "memory_per_s": round(median(speeds)),
                "pairs_a_fix": round(pairs / len(lng), 1),
                "postgis_p50_ms": round(median(waits), 2),
                "postgis_p99_ms": round(sorted(waits)[int(len(waits) * 0.99)], 2),
            }
        )
    return {"bench": "nearby", **{name: rows[0][name] for name in FIELDS[1:]}, "sizes": rows}
