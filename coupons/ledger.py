"""The proof that nothing was promised twice: every invariant of campaigns, drops and coupons, by SQL over all rows."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import rules
from coupons.invariants import INVARIANTS
from kernel.postgres import Sessions, transaction

EXAMPLES = 10
"""Identifiers named with a finding."""
OUTBOX_WAITING = "outbox_waiting"
OUTBOX_TOLD = "outbox_told"
OVERDUE_SECONDS = 60
"""An event that waited longer than this for the relay is a finding: a running worker tells it within a second."""
UNFILED = "{} ledger lines have no month's partition: a running worker makes it within the hour."

_COUNTED = """
    SELECT {tables},
           (SELECT count(*) FILTER (WHERE state = 'issued') FROM coupons) AS standing,
           (SELECT count(*) FILTER (WHERE state = 'redeemed') FROM coupons) AS redeemed,
           (SELECT count(*) FILTER (WHERE state = 'expired') FROM coupons) AS expired,
           (SELECT count(*) FILTER (WHERE state = 'voided') FROM coupons) AS voided,
           (SELECT count(*) FROM ledger_default) AS unfiled,
           (SELECT count(*) FROM outbox WHERE published_at IS NULL) AS waiting,
           (SELECT (array_agg(id::text ORDER BY id))[1:{examples}] FROM outbox WHERE published_at IS NULL) AS first,
           (SELECT extract(epoch FROM clock_timestamp() - min(created_at)) FROM outbox WHERE published_at IS NULL)
               AS oldest
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
        WHERE s.campaign_id = l.id AND s.store_id = b.store_id AND s.quota IS NOT NULL
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


class Checked(msgspec.Struct, frozen=True):
    """An invariant and what came of it: ``checked`` rows of its table were looked at, ``found`` break it."""

    name: str
    says: str
    checked: int
    found: int
    examples: list[str]
    ok: bool


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What the audit found. ``totals`` counts coupons by state. ``outbox_waiting`` is no defect by itself while a
    relay runs, so it is kept apart and does not make the report bad. ``unfiled`` ledger lines came before the partition
    of their month: nothing is wrong with them, but with the worker that should have made it.
    """

    checked: list[Checked]
    totals: dict[str, int]
    outbox_waiting: Finding | None
    unfiled: int

    @property
    def findings(self) -> list[Finding]:
        """The invariants of coupons that do not hold."""
        return [Finding(one.name, one.found, one.examples) for one in self.checked if not one.ok]

    @property
    def ok(self) -> bool:
        """Whether every invariant of coupons holds."""
        return all(one.ok for one in self.checked)

    @property
    def overdue(self) -> bool:
        """Whether an event has waited for the relay for too long."""
        waiting = self.outbox_waiting
        return waiting is not None and (waiting.oldest_seconds or 0.0) > OVERDUE_SECONDS

    @property
    def warnings(self) -> list[str]:
        """What somebody should look after although nothing is wrong yet."""
        return [UNFILED.format(self.unfiled)] if self.unfiled else []

    def document(self) -> dict[str, Any]:
        """The report for machines; see ``docs/operations.md``. Fields may be added, none changes its meaning."""
        waiting = self.outbox_waiting
        told = Checked(
            OUTBOX_TOLD,
            f"No event has waited longer than {OVERDUE_SECONDS} s to be told.",
            waiting.count if waiting else 0,
            waiting.count if waiting and self.overdue else 0,
            waiting.examples if waiting and self.overdue else [],
            not self.overdue,
        )
        return {
            "ok": self.ok and not self.overdue,
            "invariants": [msgspec.to_builtins(one) for one in (*self.checked, told)],
            "coupons": self.totals,
            "warnings": self.warnings,
            "outbox": {
                "waiting": waiting.count if waiting else 0,
                "oldest_seconds": waiting.oldest_seconds if waiting else None,
            },
        }


def _question() -> str:
    tables = sorted({invariant.of for invariant in INVARIANTS})
    counts = ", ".join(f"(SELECT count(*) FROM {table}) AS {table}" for table in tables)
    broken = " UNION ALL ".join(
        f"SELECT {place} AS place, count(*) AS n, coalesce((array_agg(q.id::text))[1:{EXAMPLES}], '{{}}') AS examples "
        f"FROM ({invariant.broken}) AS q (id)"
        for place, invariant in enumerate(INVARIANTS)
    )
    return (
        f"WITH counted AS ({_COUNTED.format(tables=counts, examples=EXAMPLES)}), broken AS ({broken}) "
        "SELECT CAST((SELECT to_json(counted) FROM counted) AS text) AS counted, "
        "CAST((SELECT json_agg(broken ORDER BY place) FROM broken) AS text) AS broken"
    )


_AUDIT = text(_question().replace(":", "\\:"))


async def audit(session: AsyncSession) -> AuditReport:
    """Check every invariant over the whole database. Reads only; may run beside anything.

    All of it is one statement, so it sees one moment: coupons issued between two checks would look like a fault.
    """
    row = (await session.execute(_AUDIT)).one()
    counted, broken = msgspec.json.decode(row.counted), msgspec.json.decode(row.broken)
    checked = [
        Checked(invariant.name, invariant.says, counted[invariant.of], found["n"], found["examples"], found["n"] == 0)
        for invariant, found in zip(INVARIANTS, broken, strict=True)
    ]
    totals = {"issued": counted["coupons"]}
    totals |= {state: counted[state] for state in ("standing", "redeemed", "expired", "voided")}
    waiting = None
    if counted["waiting"]:
        waiting = Finding(OUTBOX_WAITING, counted["waiting"], counted["first"], float(counted["oldest"]))
    return AuditReport(checked, totals, waiting, counted["unfiled"])


async def expire_due(sessions: Sessions, now: datetime, chunk: int = 1000) -> int:
    """Expire up to ``chunk`` coupons whose time is over, in a transaction of its own; returns how many.

    Call it until it returns 0. Two sweeps at once take different coupons. Where the campaign says so, its stock and the
    store's quota get them back, and they expire ``rules.TELLABLE`` later.
    """
    async with transaction(sessions) as session:
        done: Any = await session.execute(_EXPIRE, {"now": now, "settled": now - rules.TELLABLE, "chunk": chunk})
        expired: int = done.rowcount
        return expired
