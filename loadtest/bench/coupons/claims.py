"""``claims``: durable coupons a second, by group commit, beside one commit for each claim and beside Redis alone."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import median
from typing import Any
from uuid import UUID

import asyncpg
from redis.asyncio import BlockingConnectionPool, Redis
from sqlalchemy import text

from app.processes import sessions_for_claims
from coupons import codes, ledger
from coupons.issuing import BATCH, Issuer
from geo.catchments import Catchments
from kernel.clock import now
from kernel.errors import Refusal
from kernel.identity import Principal, Role
from kernel.ids import BrandId, new_id
from kernel.postgres import Sessions
from kernel.settings import Settings
from loadtest.bench.coupons.brand import (
    BRAND,
    BrandAtWork,
    Spent,
    brand_at_work,
    forget_coupons,
    servers_of_its_own,
    write_again,
)

CONNECTIONS = 8
"""Of the peer that commits each claim, and 50 of the one that asks Redis: more made neither faster here."""
REDIS_CONNECTIONS = 50

# What a careful application does for one claim: stock by a conditional update, the viewer's limit by the unique key,
# a line in the ledger, all in one statement and so in one transaction.
_ONE_CLAIM = """
    WITH {near} d AS (
        UPDATE drops SET issued = issued + 1 {among} WHERE drops.id = $1 AND issued < stock
        RETURNING campaign_id, room_id, {store} AS store_id
    ), c AS (
        UPDATE campaigns SET issued = issued + 1 FROM d WHERE id = d.campaign_id AND issued < stock
    ), made AS (
        INSERT INTO coupons (id, brand_id, campaign_id, viewer_id, n, drop_id, room_id, store_id, code, claim_key,
                             valid_from, valid_until, issued_at)
        SELECT $2, $3, d.campaign_id, $4, 1, $1, d.room_id, d.store_id, $6, 'k', now(), now() + interval '7 days', now()
        FROM d
        RETURNING id
    )
    INSERT INTO ledger (coupon_id, transition, at) SELECT id, 'issue', now() FROM made RETURNING coupon_id
"""
_TOLD_THE_STORE = _ONE_CLAIM.format(near="", among="", store="CAST($5 AS uuid)")
# The same, told the room instead of the store: a member with a fresh fix, and the nearest store of theirs.
_FINDS_THE_STORE = _ONE_CLAIM.format(
    near="""
    here AS (
        SELECT l.position FROM members m JOIN locations l ON l.viewer_id = m.id AND l.room_id = $5
        WHERE m.id = $4 AND m.brand_id = $3 AND l.fixed_at > now() - interval '10 minutes' AND l.accuracy_m <= 1000
    ), near AS (
        SELECT s.id FROM here JOIN stores s ON s.brand_id = $3 AND ST_DWithin(s.position, here.position, 3000)
        WHERE s.closed_until IS NULL OR s.closed_until <= now() ORDER BY s.position <-> here.position LIMIT 1
    ),
    """,
    among="FROM near",
    store="near.id",
)
# Stock, who has one already, and a stream for whoever writes the database later.
_LUA = """
if redis.call('SADD', KEYS[2], ARGV[1]) == 0 then return -1 end
if redis.call('DECR', KEYS[1]) < 0 then
  redis.call('INCR', KEYS[1])
  redis.call('SREM', KEYS[2], ARGV[1])
  return 0
end
redis.call('XADD', KEYS[3], '*', 'viewer', ARGV[1], 'coupon', ARGV[2])
return 1
"""
FIELDS = ("bench", "per_s", "vs_single", "vs_redis_lua_aof", "oversold", "p99_ms")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. ``callers`` claim at the same time, each its next one when it has its answer."""

    viewers: int = 40_000
    peers: int = 8_000
    callers: int = 1_000
    rounds: int = 3

    @classmethod
    def quick(cls) -> "Plan":
        """Within 45 s."""
        return cls(viewers=12_000, peers=3_000, rounds=1)


@dataclass(slots=True)
class Round:
    """What one contender did in one round."""

    per_s: float
    p50_ms: float
    p99_ms: float
    outcomes: Counter[str] = field(default_factory=Counter)
    cpu_us: tuple[float, float] | None = None
    """Of Python (callers included) and of PostgreSQL for each claim, where that was asked."""


async def _storm(viewers: Sequence[UUID], callers: int, claim: Callable[[UUID], Awaitable[str]]) -> Round:
    """Everybody claims once, ``callers`` at a time."""
    waits: list[float] = []
    outcomes: Counter[str] = Counter()

    async def caller(mine: Sequence[UUID]) -> None:
        for viewer in mine:
            began = time.perf_counter()
            outcome = await claim(viewer)
            waits.append(time.perf_counter() - began)
            outcomes[outcome] += 1

    began = time.perf_counter()
    await asyncio.gather(*(caller(viewers[place::callers]) for place in range(callers)))
    seconds = time.perf_counter() - began
    waits.sort()
    return Round(len(viewers) / seconds, waits[len(waits) // 2] * 1000, waits[int(len(waits) * 0.99)] * 1000, outcomes)


async def _nearcast(brand: BrandAtWork, sessions: Sessions, viewers: Sequence[UUID], callers: int) -> tuple[Round, int]:
    """Every claim finds the viewer's nearest store; one in ten claims comes too late. Returns the oversold, too."""
    stock = len(viewers) * 8 // 10
    campaign = await brand.campaign("claim", stock)
    ends = now() + timedelta(hours=1)
    who = {viewer: Principal(BrandId(BRAND), viewer, Role.VIEWER, "viewer", ends) for viewer in viewers}
    async with (
        Catchments(brand.kernel.sessions) as catchments,
        Issuer(sessions, catchments) as issuer,
    ):
        await catchments.of(BRAND)

        async def claim(viewer: UUID) -> str:
            try:
                await issuer.claim(who[viewer], brand.room, campaign.drop, "k")
            except Refusal as refusal:
                return refusal.code
            return "issued"

        before = await Spent.so_far(brand.kernel)
        done = await _storm(viewers, callers, claim)
        done.cpu_us = (await Spent.so_far(brand.kernel)).per(len(viewers), before)
    async with brand.kernel.sessions() as session:
        made = await session.scalar(text("SELECT count(*) FROM coupons WHERE drop_id = :d"), {"d": campaign.drop})
        report = await ledger.audit(session)
    assert made == done.outcomes["issued"], "an answer without a row, or a row without an answer"
    assert report.ok, report.findings
    return done, max(0, made - stock)


async def _single(brand: BrandAtWork, viewers: Sequence[UUID], callers: int, *, finds: bool) -> Round:
    """One commit a claim, told the store or one that ``finds`` it."""
    campaign = await brand.campaign("claim", len(viewers))
    url = brand.kernel.settings.database_url
    async with brand.kernel.sessions() as session:
        store = await session.scalar(text("SELECT id FROM stores LIMIT 1"))
    statement, where = (_FINDS_THE_STORE, brand.room) if finds else (_TOLD_THE_STORE, store)
    async with asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:

        async def claim(viewer: UUID) -> str:
            values = (campaign.drop, new_id(), BRAND, viewer, where, codes.new_code())
            return "issued" if await pool.fetchval(statement, *values) is not None else "refused"

        return await _storm(viewers, callers, claim)


async def _redis(settings: Settings, viewers: Sequence[UUID], callers: int) -> Round:
    assert settings.redis_url is not None
    pool = BlockingConnectionPool.from_url(settings.redis_url, max_connections=REDIS_CONNECTIONS, timeout=60)
    async with Redis.from_pool(pool) as client:
        await client.config_set("appendfsync", "always")
        await client.flushall()
        await client.set("{drop}:stock", len(viewers))
        script = client.register_script(_LUA)
        keys = ["{drop}:stock", "{drop}:viewers", "{drop}:stream"]

        async def claim(viewer: UUID) -> str:
            return "issued" if await script(keys=keys, args=[viewer.bytes, new_id().bytes]) == 1 else "sold_out"

        return await _storm(viewers, callers, claim)


async def measure(plan: Plan) -> dict[str, Any]:
    """The contenders in turn, ``plan.rounds`` times; medians, and ratios within each round."""
    rounds: dict[str, list[Round]] = {"nearcast": [], "single": [], "single_finds": [], "redis": []}
    floors: list[float] = []
    oversold = 0
    async with (
        servers_of_its_own() as settings,
        brand_at_work(settings, stores=500, viewers=plan.viewers) as brand,
        sessions_for_claims(settings) as sessions,
    ):
        viewers = await brand.viewers()
        durability = await _durability(settings)
        for _ in range(plan.rounds):
            done, over = await _nearcast(brand, sessions, viewers, plan.callers)
            oversold += over
            rounds["nearcast"].append(done)
            floors.append(done.outcomes["issued"] / await write_again(brand.kernel, BATCH))
            await forget_coupons(brand.kernel)
            for name, finds in (("single", False), ("single_finds", True)):
                rounds[name].append(await _single(brand, viewers[: plan.peers], plan.callers, finds=finds))
                await forget_coupons(brand.kernel)
            rounds["redis"].append(await _redis(settings, viewers[: plan.peers], plan.callers))
    ours = rounds["nearcast"]
    floor = {name: median(a / b.per_s for a, b in zip(floors, by, strict=True)) for name, by in rounds.items()}
    return {
        "bench": "claims",
        "per_s": round(median(done.per_s for done in ours)),
        "vs_single": _ratio(ours, rounds["single"]),
        "vs_single_finds": _ratio(ours, rounds["single_finds"]),
        "vs_redis_lua_aof": _ratio(ours, rounds["redis"]),
        "oversold": oversold,
        "p99_ms": round(median(done.p99_ms for done in ours)),
        "callers": plan.callers,
        "viewers": plan.viewers,
        "python_us": round(median(done.cpu_us[0] for done in ours if done.cpu_us), 1),
        "postgres_us": round(median(done.cpu_us[1] for done in ours if done.cpu_us), 1),
        "durability": durability,
        "at_once": BATCH,
        "floor_per_s": round(median(floors)),
        "contenders": {
            name: {
                "per_s": round(median(done.per_s for done in done_by)),
                "p50_ms": round(median(done.p50_ms for done in done_by)),
                "p99_ms": round(median(done.p99_ms for done in done_by)),
                "outcomes": dict(done_by[-1].outcomes),
                "floor_is": round(floor[name], 1),
            }
            for name, done_by in rounds.items()
        },
    }


def _ratio(ours: Sequence[Round], theirs: Sequence[Round]) -> float:
    return round(median(one.per_s / other.per_s for one, other in zip(ours, theirs, strict=True)), 1)


async def _durability(settings: Settings) -> str:
    connection = await asyncpg.connect(settings.database_url)
    try:
        found = [f"{name} {await connection.fetchval(f'SHOW {name}')}" for name in ("fsync", "synchronous_commit")]
    finally:
        await connection.close()
    return f"PostgreSQL: {', '.join(found)}; Redis: appendonly yes, appendfsync always"
