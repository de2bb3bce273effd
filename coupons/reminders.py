"""Before a coupon expires: viewers who asked are told of each coupon that they asked about, and the brand's CRM, if it
wants to know, of every one (``announce_due``). Each once, and nobody in the brand's quiet hours.

As with reminders of rooms (``live.reminders``), whoever asked has agreed to one message: nobody is told who did not. A
reminder is taken in one transaction, sent, and settled in another; a worker that dies in between leaves it taken, and
another one sends it again, ``MAX_ATTEMPTS`` times at most.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import structlog
from sqlalchemy import delete, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from coupons.tables import Coupon, CouponReminder
from guides.notices import Outcome
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.postgres import Sessions, transaction

LEAD = timedelta(hours=24)
"""So long before it expires; whoever asks later is told half-way through what is left."""
MAX_ATTEMPTS = 3
BATCH = 200
CHUNK = 1000
LEASE_SECONDS = 60
LATER_SECONDS = 60
"""When the messenger could not be reached, it is tried again after this time."""
_UNUSABLE = {"redeemed": "already_redeemed", "expired": "coupon_expired", "voided": "coupon_voided"}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Expiring:
    """What one viewer is to be told; ``zone`` is the brand's."""

    coupon: UUID
    viewer: UUID
    title: str
    until: datetime
    store: str
    zone: str


class Messenger(Protocol):
    """Reaches viewers who are not here."""

    def remind(self, expiring: Sequence[Expiring]) -> AsyncIterator[tuple[Expiring, Outcome]]:
        """As ``guides.notices.Notices.send``: one about which nobody can say whether it went out is not yielded."""


async def subscribe(session: AsyncSession, who: Principal, coupon: UUID, now: datetime) -> None:
    """Remind the viewer of their coupon; once is as good as twice. Refusal ``not_found``, ``already_redeemed``,
    ``coupon_expired``, ``coupon_voided``."""
    query = select(Coupon.state, Coupon.valid_until).where(
        Coupon.id == coupon, Coupon.viewer_id == who.subject, Coupon.brand_id == who.brand
    )
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise Refusal("not_found", what=str(coupon))
    if row.state != "issued" or row.valid_until <= now:
        raise Refusal(_UNUSABLE.get(row.state, "coupon_expired"))
    due = max(row.valid_until - LEAD, now + (row.valid_until - now) / 2)
    await session.execute(insert(CouponReminder).values(coupon_id=coupon, due_at=due).on_conflict_do_nothing())


async def unsubscribe(session: AsyncSession, who: Principal, coupon: UUID) -> None:
    """Do not; too late if that was done or is on its way. Refusal ``not_found``."""
    mine = select(Coupon.id).where(Coupon.id == coupon, Coupon.viewer_id == who.subject, Coupon.brand_id == who.brand)
    if await session.scalar(mine) is None:
        raise Refusal("not_found", what=str(coupon))
    not_begun = (CouponReminder.attempts == 0) & CouponReminder.outcome.is_(None)
    await session.execute(delete(CouponReminder).where(CouponReminder.coupon_id == coupon, not_begun))


# ---- sending, by the worker ----------------------------------------------------------------------------------------

_QUIET = """
    coalesce(CASE WHEN b.quiet_from < b.quiet_until THEN {clock} >= b.quiet_from AND {clock} < b.quiet_until
                  ELSE {clock} >= b.quiet_from OR {clock} < b.quiet_until END, false)"""
"""Whether it is quiet at brand ``b`` when its clocks show ``clock``, as ``rules.Quiet`` has it."""
_CLOCK = "CAST(clock_timestamp() AT TIME ZONE b.timezone AS time)"

# By day only, in the brand's time zone: most coupons end at midnight, so a day before that is midnight too. One that
# was used meanwhile is not spoken of. `attempts` is raised first: a worker that dies must not send for ever.
_TAKE = text(f"""
    WITH due AS (
        SELECT r.coupon_id FROM coupon_reminders r
        JOIN coupons c ON c.id = r.coupon_id AND c.state = 'issued' AND c.valid_until > clock_timestamp()
        JOIN brands b ON b.id = c.brand_id
        WHERE r.outcome IS NULL AND r.attempts < :attempts
          AND r.due_at BETWEEN clock_timestamp() - CAST(:lead AS interval) AND clock_timestamp()
          AND (r.taken_until IS NULL OR r.taken_until < clock_timestamp())
          AND {_CLOCK} BETWEEN '09:00' AND '21:00' AND NOT {_QUIET.format(clock=_CLOCK)}
        ORDER BY r.due_at LIMIT :batch FOR UPDATE OF r SKIP LOCKED
    )
    UPDATE coupon_reminders r SET attempts = r.attempts + 1, taken_until = clock_timestamp() + CAST(:lease AS interval)
    FROM due JOIN coupons c ON c.id = due.coupon_id JOIN campaigns m ON m.id = c.campaign_id
             JOIN stores s ON s.id = c.store_id JOIN brands b ON b.id = c.brand_id
    WHERE r.coupon_id = due.coupon_id
    RETURNING c.id, c.viewer_id, m.title, c.valid_until, s.name, b.timezone
""")
# `later` was surely not sent: it gives the attempt back.
_SETTLE = text("""
    UPDATE coupon_reminders r
    SET outcome = nullif(said.outcome, 'later'),
        settled_at = CASE WHEN said.outcome <> 'later' THEN clock_timestamp() END,
        attempts = r.attempts - CASE WHEN said.outcome = 'later' THEN 1 ELSE 0 END,
        taken_until = CASE WHEN said.outcome = 'later' THEN clock_timestamp() + CAST(:later AS interval) END
    FROM unnest(CAST(:coupons AS uuid[]), CAST(:outcomes AS text[])) AS said (coupon, outcome)
    WHERE r.coupon_id = said.coupon AND r.outcome IS NULL
""")


async def _take(sessions: Sessions) -> list[Expiring]:
    values = {"attempts": MAX_ATTEMPTS, "lead": LEAD, "batch": BATCH, "lease": timedelta(seconds=LEASE_SECONDS)}
    async with transaction(sessions) as session:
        return [Expiring(*row) for row in await session.execute(_TAKE, values)]


async def _settle(sessions: Sessions, outcomes: Sequence[tuple[Expiring, Outcome]]) -> None:
    values = {
        "coupons": [told.coupon for told, _ in outcomes],
        "outcomes": [outcome for _, outcome in outcomes],
        "later": timedelta(seconds=LATER_SECONDS),
    }
    async with transaction(sessions) as session:
        await session.execute(_SETTLE, values)


async def send_due(sessions: Sessions, messenger: Messenger) -> int:
    """Send what is due, batch by batch, without holding a transaction meanwhile; returns how many were settled."""
    settled = 0
    while taken := await _take(sessions):
        outcomes: list[tuple[Expiring, Outcome]] = []
        try:
            async with asyncio.timeout(LEASE_SECONDS / 2):
                async for told, outcome in messenger.remind(taken):
                    outcomes.append((told, outcome))
        except TimeoutError:
            log.warning("coupon_reminders_slow", taken=len(taken), told=len(outcomes))
        finally:
            # Those without an outcome may have been sent: they stay taken, and their attempt is spent.
            if outcomes:
                await _settle(sessions, outcomes)
        done = sum(outcome != "later" for _, outcome in outcomes)
        settled += done
        log.info("coupons_reminded", taken=len(taken), settled=done)
        if not done:
            break  # the messenger cannot be reached: the rest need not be taken to learn that
    return settled


# ---- telling the CRM -----------------------------------------------------------------------------------------------

# Taken before the statement that looks: it then sees every line of whoever had it before.
_ALONE = text("SELECT pg_advisory_xact_lock(hashtext('nearcast expiring coupons'))")
_LISTENING = text("SELECT DISTINCT brand_id FROM webhooks WHERE state = 'active' AND 'expiring' = ANY(events)")
# Half-way through what is short-lived. The line's own time keeps the search to the newest months of the ledger.
_ANNOUNCE = text(f"""
    WITH due AS (
        SELECT k.id FROM coupons k JOIN brands b ON b.id = k.brand_id
        WHERE k.brand_id = ANY(:brands) AND k.state = 'issued' AND NOT k.ownerless AND k.held_until IS NULL
          AND k.valid_until > :now AND k.valid_until <= :now + CAST(:lead AS interval)
          AND k.valid_until - least(CAST(:lead AS interval), (k.valid_until - k.valid_from) / 2) <= :now
          AND NOT {_QUIET.format(clock="CAST(CAST(:now AS timestamptz) AT TIME ZONE b.timezone AS time)")}
          AND NOT EXISTS (
              SELECT FROM ledger l WHERE l.coupon_id = k.id AND l.transition = 'remind'
                  AND l.at >= :now - CAST(:lead AS interval)
          )
        ORDER BY k.valid_until, k.id LIMIT :chunk FOR UPDATE OF k SKIP LOCKED
    )
    INSERT INTO ledger (coupon_id, transition, at) SELECT id, 'remind', :now FROM due
""")


async def announce_due(sessions: Sessions, now: datetime) -> int:
    """Write into the ledger which coupons are about to expire, up to ``CHUNK`` in a transaction of their own, for the
    brands whose webhooks want to hear it; returns how many. Call it until it returns 0.

    Any number of workers may: they take turns.
    """
    async with transaction(sessions) as session:
        brands = (await session.scalars(_LISTENING)).all()
        if not brands:
            return 0
        await session.execute(_ALONE)
        values = {"brands": brands, "now": now, "lead": LEAD, "chunk": CHUNK}
        written: Any = await session.execute(_ANNOUNCE, values)
        announced: int = written.rowcount
        return announced
