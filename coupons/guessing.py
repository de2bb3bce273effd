"""Wrong codes are counted, by clerk, store and brand, and too many of them stop the typing of codes for a while.

A code holds 80 random bits, so nobody finds one by trying: with a hundred million coupons out, the tries that a brand
may make in a year hit one with a probability below 10⁻⁷. The counts keep it so, keep scripts off the database, and show
in ``/metrics`` that somebody tries. QR codes are signed: a genuine one is never turned away here, so a till that was
stopped goes on by scanning.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import structlog
from prometheus_client import Counter
from redis.exceptions import RedisError

from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.redis import Client, Script

WINDOW_MS = 600_000
"""How long a wrong code counts."""
OF_CLERK, OF_STORE, OF_BRAND = 10, 40, 5000
"""How many may be wrong in that time."""
REDIS_SECONDS = 1.0
"""A till does not wait longer than this for its counts."""
WRONG = frozenset({"code_unknown", "code_mistyped"})

CODES = Counter(
    "nearcast_till_codes",
    "Codes typed at tills and forged QR codes: right, wrong, too_fast, or uncounted because Redis was away",
    ["outcome"],
)
for _outcome in ("right", "wrong", "too_fast", "uncounted"):
    CODES.labels(_outcome)  # there from the start, so that a rate sees the first of them

_TRY = Script(Path(__file__).parent / "wrong_codes.lua")

log = structlog.get_logger()


def _keys(who: Principal) -> list[str]:
    # One slot for a brand, so that one script may count all three.
    tag = f"till:{{{who.brand}}}:wrong"
    return [f"{tag}:clerk:{who.subject}", f"{tag}:store:{who.store}", f"{tag}:brand"]


async def _count(redis: Client, who: Principal) -> str | None:
    """Count a try as wrong; returns its name, or None where Redis is away. Refusal ``too_fast`` if it may not be made.

    Counted before anybody knows, so that a hundred tries at once are not all let through.
    """
    name = uuid4().hex
    try:
        async with asyncio.timeout(REDIS_SECONDS):
            wait = await _TRY(redis, _keys(who), [WINDOW_MS, name, OF_CLERK, OF_STORE, OF_BRAND])
    except (RedisError, OSError, TimeoutError):
        # The till must not stand still for it: 80 bits are what makes guessing hopeless.
        CODES.labels("uncounted").inc()
        return None
    if wait:
        CODES.labels("too_fast").inc()
        log.warning("till_codes_stopped", brand=who.brand, store=str(who.store), clerk=str(who.subject))
        raise Refusal("too_fast", "Too many wrong codes; scan the QR code, or wait.", retry_after=round(wait / 1000, 1))
    return name


async def _take_back(redis: Client, who: Principal, name: str) -> None:
    try:
        async with asyncio.timeout(REDIS_SECONDS):
            for key in _keys(who):
                await redis.zrem(key, name)
    except (RedisError, OSError, TimeoutError):
        log.warning("till_count_kept", clerk=str(who.subject))  # it counts as wrong until it is forgotten


@asynccontextmanager
async def watched(redis: Client, who: Principal, *, typed: bool) -> AsyncIterator[None]:
    """Around whatever reads a code that ``who`` typed or scanned. Raises Refusal ``too_fast`` with ``retry_after``.

    ``code_unknown`` and ``code_mistyped`` from within count as wrong; anything else does not.
    """
    name = await _count(redis, who) if typed else None
    wrong = False
    try:
        yield
    except Refusal as refusal:
        wrong = refusal.code in WRONG
        if wrong and not typed:
            await _count(redis, who)
        if wrong:
            CODES.labels("wrong").inc()
        raise
    finally:
        if name is not None and not wrong:
            await _take_back(redis, who, name)
    if typed:
        CODES.labels("right").inc()
