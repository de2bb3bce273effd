"""``drop``: a push drop to everybody in a room, from the match to the rooms' bus, beside one query for each viewer."""

import asyncio
import time
from dataclasses import dataclass
from statistics import median
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import text

from app import relay
from coupons import codes, ledger
from coupons.drops import run_push
from coupons.push import CHUNK
from kernel.ids import new_id
from kernel.tasks import end
from live.bus import RedisBus
from loadtest.bench.coupons.brand import (
    BRAND,
    BrandAtWork,
    Spent,
    brand_at_work,
    forget_coupons,
    servers_of_its_own,
    write_again,
)

# Nearest store within 3 km of this viewer's fix, and a coupon of it, committed: what a loop over viewers does.
_PER_VIEWER = """
    WITH near AS (
        SELECT s.id FROM locations l JOIN stores s ON s.brand_id = $3 AND ST_DWithin(s.position, l.position, 3000)
        WHERE l.room_id = $4 AND l.viewer_id = $2 ORDER BY s.position <-> l.position LIMIT 1
    ), made AS (
        INSERT INTO coupons (id, brand_id, campaign_id, viewer_id, n, drop_id, room_id, store_id, code, valid_from,
                             valid_until, issued_at)
        SELECT $1, $3, $5, $2, 1, $6, $4, near.id, $7, now(), now() + interval '7 days', now() FROM near
        RETURNING id
    )
    INSERT INTO ledger (coupon_id, transition, at) SELECT id, 'issue', now() FROM made
"""
_UNTOLD = text("SELECT EXISTS (SELECT FROM outbox WHERE published_at IS NULL)")
FIELDS = ("bench", "viewers", "seconds", "vs_per_viewer")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured; ``sizes`` are (viewers, stores), of which the first is the one that is reported."""

    sizes: tuple[tuple[int, int], ...] = (
        (100_000, 500),
        (10_000, 500),
        (400_000, 500),
        (100_000, 5_000),
        (100_000, 25_000),
    )
    peers: int = 3_000
    rounds: int = 3

    @classmethod
    def quick(cls) -> "Plan":
        """Within 45 s."""
        return cls(sizes=((100_000, 500),), peers=1_000, rounds=1)


async def _push(brand: BrandAtWork, viewers: int) -> dict[str, float]:
    """Seconds until everybody in reach has a coupon, and until the bus has all of them; the relay runs beside it, as
    in the worker. CPU time, the relay's included, for each coupon."""
    campaign = await brand.campaign("push", viewers)
    kernel = brand.kernel
    bus = RedisBus(kernel.redis, log_length=kernel.settings.room_log_length)
    relaying = asyncio.create_task(relay.run(kernel.settings, kernel.sessions, bus))
    try:
        before = await Spent.so_far(kernel)
        began = time.perf_counter()
        granted = await run_push(kernel.sessions, campaign.drop)
        committed = time.perf_counter()
        async with kernel.sessions() as session:
            while await session.scalar(_UNTOLD):
                await session.rollback()
                await asyncio.sleep(0.005)
        told = time.perf_counter()
        python, postgres = (await Spent.so_far(kernel)).per(granted, before)
    finally:
        await end(relaying)
    async with brand.kernel.sessions() as session:
        report = await ledger.audit(session)
    assert report.ok, report.findings
    assert granted > viewers // 2, "nine in ten stand near a store"
    seconds = {"commit_s": committed - began, "seconds": told - began}
    return seconds | {"granted": granted, "python_us": python, "postgres_us": postgres}


async def _per_viewer(brand: BrandAtWork, viewers: list[UUID]) -> float:
    """Seconds for ``viewers``, one query and one commit each, on one connection, as a loop does it."""
    campaign = await brand.campaign("push", len(viewers))
    connection = await asyncpg.connect(brand.kernel.settings.database_url)
    try:
        began = time.perf_counter()
        for viewer in viewers:
            values = (new_id(), viewer, BRAND, brand.room, campaign.id, campaign.drop, codes.new_code())
            await connection.execute(_PER_VIEWER, *values)
        return time.perf_counter() - began
    finally:
        await connection.close()


async def measure(plan: Plan) -> dict[str, Any]:
    """Every size, ``plan.rounds`` times beside its peer, which is measured with fewer viewers: its cost is linear."""
    rows = []
    for viewers, stores in plan.sizes:
        async with servers_of_its_own() as settings, brand_at_work(settings, stores=stores, viewers=viewers) as brand:
            sample = (await brand.viewers())[: plan.peers]
            ours, floors, theirs = [], [], []
            for _ in range(plan.rounds):
                ours.append(await _push(brand, viewers))
                floors.append(await write_again(brand.kernel, CHUNK))
                await forget_coupons(brand.kernel)
                await brand.kernel.redis.flushdb()
                theirs.append(await _per_viewer(brand, sample) * viewers / len(sample))
                await forget_coupons(brand.kernel)
            async with brand.kernel.sessions() as session:
                version = await session.scalar(text("SELECT postgis_lib_version()"))
        rows.append(
            {
                "viewers": viewers,
                "stores": stores,
                "granted": ours[-1]["granted"],
                "commit_s": round(median(done["commit_s"] for done in ours), 2),
                "seconds": round(median(done["seconds"] for done in ours), 2),
                "python_us": round(median(done["python_us"] for done in ours), 1),
                "postgres_us": round(median(done["postgres_us"] for done in ours), 1),
                "per_viewer_s": round(median(theirs), 1),
                "vs_per_viewer": round(median(b / a["seconds"] for a, b in zip(ours, theirs, strict=True)), 1),
                "floor_s": round(median(floors), 2),
                "floor_vs_per_viewer": round(median(b / a for a, b in zip(floors, theirs, strict=True)), 1),
                "postgis": version,
            }
        )
    return {"bench": "drop", **{name: rows[0][name] for name in FIELDS[1:]}, "sizes": rows}
