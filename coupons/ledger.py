"""The proof that nothing was promised twice: every invariant of campaigns, drops and coupons, by SQL over all rows."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import rules
from geo.doubt import STRONG
from kernel.postgres import Sessions, transaction

EXAMPLES = 10
"""Identifiers named with a finding."""
OUTBOX_WAITING = "outbox_waiting"

# Each question yields the identifiers of what is wrong. One statement sees one moment of the database, so the audit
# may run while coupons are issued and redeemed.
_CHECKS: dict[str, str] = {
    "campaign_issued": """
        SELECT c.id FROM campaigns c
        LEFT JOIN (SELECT campaign_id, count(*) AS n FROM coupons GROUP BY campaign_id) k ON k.campaign_id = c.id
        WHERE c.issued <> coalesce(k.n, 0)
    """,
    "campaign_stock": "SELECT id FROM campaigns WHERE issued > stock OR issued < 0",
    "drop_issued": """
        SELECT d.id FROM drops d
        LEFT JOIN (SELECT drop_id, count(*) AS n FROM coupons GROUP BY drop_id) k ON k.drop_id = d.id
        WHERE d.issued <> coalesce(k.n, 0)
    """,
    "drop_stock": "SELECT id FROM drops WHERE issued > stock OR issued < 0",
    "store_issued": """
        SELECT coalesce(s.store_id, k.store_id) FROM campaign_stores s
        FULL JOIN (SELECT campaign_id, store_id, count(*) AS n FROM coupons GROUP BY campaign_id, store_id) k
            ON k.campaign_id = s.campaign_id AND k.store_id = s.store_id
        WHERE coalesce(s.issued, 0) <> coalesce(k.n, 0)
    """,
    "store_quota": "SELECT store_id FROM campaign_stores WHERE issued > quota",
    "campaign_returned": """
        SELECT c.id FROM campaigns c
        LEFT JOIN (
            SELECT campaign_id, count(*) AS n FROM coupons WHERE state = 'expired' GROUP BY campaign_id
        ) k ON k.campaign_id = c.id AND c.return_expired
        WHERE c.returned <> coalesce(k.n, 0)
    """,
    "store_returned": """
        SELECT s.store_id FROM campaign_stores s JOIN campaigns c ON c.id = s.campaign_id
        LEFT JOIN (
            SELECT campaign_id, store_id, count(*) AS n FROM coupons WHERE state = 'expired'
            GROUP BY campaign_id, store_id
        ) k ON k.campaign_id = s.campaign_id AND k.store_id = s.store_id AND c.return_expired
        WHERE s.returned <> coalesce(k.n, 0)
    """,
    "viewer_limit": """
        SELECT k.viewer_id FROM coupons k JOIN campaigns c ON c.id = k.campaign_id
        GROUP BY c.id, c.per_viewer, k.viewer_id
        HAVING count(*) > c.per_viewer OR max(k.n) > c.per_viewer OR count(DISTINCT k.n) < count(*)
    """,
    # Days as the brand's calendar has them, while the brand stays in its time zone.
    "campaign_day": """
        SELECT c.id FROM campaigns c JOIN brands b ON b.id = c.brand_id JOIN coupons k ON k.campaign_id = c.id
        WHERE c.per_day IS NOT NULL
        GROUP BY c.id, b.timezone, CAST(k.issued_at AT TIME ZONE b.timezone AS date)
        HAVING count(*) > c.per_day
            OR (c.day = CAST(min(k.issued_at) AT TIME ZONE b.timezone AS date) AND count(*) <> c.day_issued)
    """,
    "drop_minute": """
        SELECT d.id FROM drops d JOIN campaigns c ON c.id = d.campaign_id JOIN coupons k ON k.drop_id = d.id
        WHERE d.mode = 'push' AND c.per_minute IS NOT NULL
        GROUP BY d.id, c.per_minute, floor(extract(epoch FROM k.issued_at - d.opens_at) / 60)
        HAVING count(*) > c.per_minute
    """,
    "coupon_amount": """
        SELECT k.id FROM coupons k JOIN campaigns c ON c.id = k.campaign_id
        WHERE k.amount_fen IS NOT NULL AND NOT coalesce(
            c.distance_tiers @> jsonb_build_array(jsonb_build_object('amount_fen', k.amount_fen)), false)
    """,
    "coupon_parents": """
        SELECT k.id FROM coupons k
        LEFT JOIN drops d ON d.id = k.drop_id
        LEFT JOIN campaigns c ON c.id = k.campaign_id
        WHERE d.campaign_id IS DISTINCT FROM k.campaign_id OR d.room_id IS DISTINCT FROM k.room_id
           OR c.brand_id IS DISTINCT FROM k.brand_id
    """,
    "coupon_code": """
        SELECT min(id::text) FROM coupons GROUP BY code HAVING count(*) > 1
        UNION ALL SELECT id::text FROM coupons WHERE code !~ '^[0-9A-HJKMNP-TV-Z]{16}$'
    """,
    "claim_twice": """
        SELECT min(id::text) FROM coupons WHERE claim_key IS NOT NULL
        GROUP BY drop_id, viewer_id, claim_key HAVING count(*) > 1
    """,
    # Lines in the order they were written: issue first, then only steps that the state before allows.
    "ledger_order": """
        SELECT coupon_id FROM (
            SELECT coupon_id, transition, told_at,
                   lag(transition) OVER (PARTITION BY coupon_id ORDER BY id) AS former
            FROM ledger
        ) AS l
        WHERE NOT CASE transition
            WHEN 'issue' THEN former IS NULL
            WHEN 'reverse' THEN coalesce(former = 'redeem', false)
            -- A till without a network may have used it before it expired, and told so afterwards.
            WHEN 'redeem' THEN
                coalesce(former IN ('issue', 'reverse') OR (former = 'expire' AND told_at IS NOT NULL), false)
            ELSE coalesce(former IN ('issue', 'reverse'), false)
        END
    """,
    "ledger_state": """
        SELECT coalesce(k.id, l.coupon_id) FROM coupons k
        FULL JOIN (SELECT DISTINCT ON (coupon_id) coupon_id, transition FROM ledger ORDER BY coupon_id, id DESC) l
            ON l.coupon_id = k.id
        WHERE k.state IS DISTINCT FROM CASE l.transition
            WHEN 'issue' THEN 'issued' WHEN 'reverse' THEN 'issued' WHEN 'redeem' THEN 'redeemed'
            WHEN 'expire' THEN 'expired' WHEN 'void' THEN 'voided'
        END
    """,
    "ledger_redemptions": """
        SELECT coalesce(r.id, l.redemption_id) FROM (
            SELECT id, coupon_id, 'redeem' AS transition FROM redemptions
            UNION ALL SELECT id, coupon_id, 'reverse' FROM redemptions WHERE reversed_at IS NOT NULL
        ) AS r
        FULL JOIN (
            SELECT redemption_id, coupon_id, transition, count(*) AS n FROM ledger
            WHERE transition IN ('redeem', 'reverse') GROUP BY redemption_id, coupon_id, transition
        ) AS l ON l.redemption_id = r.id AND l.coupon_id = r.coupon_id AND l.transition = r.transition
        WHERE r.id IS NULL OR l.n IS DISTINCT FROM 1
    """,
    "redeemed_once": """
        SELECT coalesce(k.id, r.coupon_id) FROM (SELECT id FROM coupons WHERE state = 'redeemed') k
        FULL JOIN (
            SELECT coupon_id, count(*) AS n FROM redemptions WHERE reversed_at IS NULL GROUP BY coupon_id
        ) r ON r.coupon_id = k.id
        WHERE k.id IS NULL OR r.n IS DISTINCT FROM 1
    """,
    "redeemed_store": """
        SELECT r.id FROM redemptions r JOIN coupons k ON k.id = r.coupon_id WHERE r.store_id <> k.store_id
    """,
    # Granted by whom the ledger says, to whom it was asked for. A review is forgotten long before its coupon.
    "review_granted": """
        SELECT r.id FROM reviews r
        LEFT JOIN coupons k ON k.id = r.coupon_id AND k.drop_id = r.drop_id AND k.viewer_id = r.viewer_id
        LEFT JOIN ledger l ON l.coupon_id = k.id AND l.transition = 'issue' AND l.actor = r.decided_by
        WHERE r.state = 'granted' AND l.id IS NULL
    """,
    "review_passed_by": """
        SELECT r.id FROM reviews r JOIN coupons k ON k.drop_id = r.drop_id AND k.viewer_id = r.viewer_id
        WHERE r.state <> 'granted' AND k.issued_at >= r.asked_at
    """,
    # One weak sign alone withholds nothing from anybody; see geo.doubt.
    "review_signs": f"""
        SELECT id FROM reviews WHERE cardinality(signs) < 2 AND NOT signs && ARRAY['{"', '".join(STRONG)}']
    """,
    "drop_viewers": """
        SELECT coalesce(v.viewer_id, k.viewer_id)
        FROM (SELECT drop_id, viewer_id FROM drop_viewers WHERE outcome = 'issued') v
        FULL JOIN (SELECT DISTINCT drop_id, viewer_id FROM coupons) k
            ON k.drop_id = v.drop_id AND k.viewer_id = v.viewer_id
        WHERE v.viewer_id IS NULL OR k.viewer_id IS NULL
    """,
}

_TOTALS = """
    SELECT count(*) AS issued, count(*) FILTER (WHERE state = 'issued') AS standing,
           count(*) FILTER (WHERE state = 'redeemed') AS redeemed, count(*) FILTER (WHERE state = 'expired') AS expired,
           count(*) FILTER (WHERE state = 'voided') AS voided
    FROM coupons
"""

# What is returned raises what may ever be given: granting need not know of it, and ``issued <= stock`` stays the one
# rule. A till without a network may still tell that it used a coupon on its last day: what it used must not be given
# again, so those that go back wait until nobody can tell. Campaigns are locked before their stores and in one order,
# as grants do it: no two wait in a circle.
_EXPIRE = text(
    """
    WITH due AS (
        SELECT k.id FROM coupons k JOIN campaigns c ON c.id = k.campaign_id
        WHERE k.state = 'issued' AND k.valid_until <= :now AND (k.valid_until <= :settled OR NOT c.return_expired)
        ORDER BY k.valid_until LIMIT :chunk FOR UPDATE OF k SKIP LOCKED
    ), expired AS (
        UPDATE coupons SET state = 'expired' FROM due WHERE coupons.id = due.id
        RETURNING coupons.id, coupons.campaign_id, coupons.store_id
    ), back AS (
        SELECT e.campaign_id, e.store_id, count(*) AS n
        FROM expired e JOIN campaigns c ON c.id = e.campaign_id AND c.return_expired
        GROUP BY e.campaign_id, e.store_id
    ), locked AS MATERIALIZED (
        SELECT id FROM campaigns WHERE id IN (SELECT campaign_id FROM back) ORDER BY id FOR NO KEY UPDATE
    ), stock AS (
        UPDATE campaigns c SET stock = c.stock + b.n, returned = c.returned + b.n
        FROM (SELECT campaign_id, sum(n) AS n FROM back GROUP BY campaign_id) b JOIN locked l ON l.id = b.campaign_id
        WHERE c.id = l.id
    ), shares AS (
        UPDATE campaign_stores s SET quota = s.quota + b.n, returned = s.returned + b.n
        FROM back b JOIN locked l ON l.id = b.campaign_id
        WHERE s.campaign_id = l.id AND s.store_id = b.store_id
    )
    INSERT INTO ledger (coupon_id, transition, at) SELECT id, 'expire', :now FROM expired
    """
)


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """An invariant that does not hold: how many rows break it, and some of their identifiers."""

    code: str
    count: int
    examples: list[str]
    oldest_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What the audit found. ``totals`` counts coupons by state. ``outbox_waiting`` is no defect by itself while a
    relay runs, so it is kept apart and does not make the report bad."""

    findings: list[Finding] = field(default_factory=list)
    outbox_waiting: Finding | None = None
    totals: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every invariant of coupons holds."""
        return not self.findings


async def audit(session: AsyncSession) -> AuditReport:
    """Check every invariant over the whole database. Reads only; may run beside anything.

    All checks are one statement, so they see one moment: coupons issued between two of them would look like a fault.
    """
    checks = [
        f"SELECT '{code}' AS code, count(*) AS n, (array_agg(q.id::text))[1:{EXAMPLES}] AS examples "
        f"FROM ({question}) AS q (id)"
        for code, question in _CHECKS.items()
    ]
    found = (await session.execute(text(" UNION ALL ".join(checks)))).all()
    findings = [Finding(row.code, row.n, row.examples) for row in found if row.n]
    totals = (await session.execute(text(_TOTALS))).mappings().one()
    return AuditReport(findings, await _waiting(session), {name: int(n) for name, n in totals.items()})


async def _waiting(session: AsyncSession) -> Finding | None:
    question = text(
        f"""
        SELECT count(*) AS n, (array_agg(id::text ORDER BY id))[1:{EXAMPLES}] AS examples,
               CAST(extract(epoch FROM clock_timestamp() - min(created_at)) AS float8) AS oldest
        FROM outbox WHERE published_at IS NULL
        """
    )
    row: Any = (await session.execute(question)).one()
    return Finding(OUTBOX_WAITING, row.n, row.examples, row.oldest) if row.n else None


async def expire_due(sessions: Sessions, now: datetime, chunk: int = 1000) -> int:
    """Expire up to ``chunk`` coupons whose time is over, in a transaction of its own; returns how many.

    Call it until it returns 0. Two sweeps at once take different coupons. Where the campaign says so, its stock and the
    store's quota get them back, and they expire ``rules.TELLABLE`` later.
    """
    async with transaction(sessions) as session:
        done: Any = await session.execute(_EXPIRE, {"now": now, "settled": now - rules.TELLABLE, "chunk": chunk})
        expired: int = done.rowcount
        return expired
