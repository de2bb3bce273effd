"""What is forgotten by itself, and when: one rule for each datum, carried out by the workers bit by bit.

``docs/privacy.md`` says the same to people. Coupons, their ledger and redemptions are the brand's books and stay; an
erasure takes the person off them (``app.privacy``). No foreign key ties coupons and what drops decided to their drops
(see ``coupons.tables``): nothing here deletes a room, a drop or a campaign, so nothing is orphaned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from prometheus_client import REGISTRY, Counter
from sqlalchemy import text

from kernel import erasures
from kernel.postgres import Sessions, transaction
from kernel.settings import Settings

CHUNK = 2_000
"""Rows a transaction deletes: a few milliseconds of locks."""
REMOVED = Counter(
    "nearcast_retention_removed", "Rows that were forgotten because their time was over", ["datum"], registry=REGISTRY
)


@dataclass(frozen=True, slots=True)
class Rule:
    """Rows of ``table`` that meet ``condition`` go once they are older than ``keep``; ``:before`` is that moment."""

    datum: str
    table: str
    keep: timedelta
    condition: str


def rules(settings: Settings) -> Sequence[Rule]:
    """All of them, with this installation's times."""
    comments, attendance = timedelta(days=settings.keep_comments_days), timedelta(days=settings.keep_attendance_days)
    reminders, sanctions = timedelta(days=settings.keep_reminders_days), timedelta(days=settings.keep_sanctions_days)
    told = timedelta(hours=settings.keep_told_hours)
    # By rooms and drops, whose rows are few: the tables themselves have no order of time.
    of_room = "room_id IN (SELECT id FROM rooms WHERE ended_at < :before)"
    of_drop = "outcome <> 'issued' AND drop_id IN (SELECT id FROM drops WHERE ends_at < :before)"
    of_coupon = "coupon_id IN (SELECT id FROM coupons WHERE valid_until < :before)"
    return [
        *quick(settings),
        Rule("comments", "comments", comments, of_room),
        Rule("attendance", "attendance", attendance, of_room),
        # Rows of who got a coupon are from before version 0018; nothing reads them, and they go with a later version.
        Rule("decisions", "drop_viewers", timedelta(days=settings.keep_decisions_days), of_drop),
        Rule(
            "reviews", "reviews", timedelta(days=settings.keep_reviews_days), "state <> 'open' AND decided_at < :before"
        ),
        Rule("visits", "visits", timedelta(days=settings.keep_visits_days), "at < :before"),
        Rule("room_reminders", "reminders", reminders, f"settled_at < :before OR {of_room}"),
        Rule("coupon_reminders", "coupon_reminders", reminders, f"settled_at < :before OR {of_coupon}"),
        *(Rule(table, table, sanctions, "until < :before") for table in ("mutes", "bans", "brand_mutes", "brand_bans")),
        Rule("outbox", "outbox", told, "published_at < :before"),
        Rule("answers", "idempotency_keys", timedelta(hours=settings.keep_answers_hours), "created_at < :before"),
        Rule("erasures", "erasures", erasures.KEEP, "at < :before AND due_at IS NULL"),
    ]


def quick(settings: Settings) -> Sequence[Rule]:
    """Those whose time is minutes, to be looked after often."""
    return [
        Rule("fixes", "locations", timedelta(minutes=settings.keep_fixes_minutes), "fixed_at < :before"),
        Rule("doubts", "doubts", timedelta(days=settings.keep_doubts_days), "last_at < :before"),
    ]


async def forget(sessions: Sessions, wanted: Sequence[Rule], now: datetime, chunk: int = CHUNK) -> dict[str, int]:
    """Carry out ``wanted``, a transaction for each ``chunk`` rows; returns how many rows went, by datum.

    Any number of workers may do so at once: rows that another one has locked are left to it. One who dies has deleted
    whole chunks. Raises what PostgreSQL raises.
    """
    gone: dict[str, int] = {}
    for rule in wanted:
        while removed := await _chunk(sessions, rule, now - rule.keep, chunk):
            gone[rule.datum] = gone.get(rule.datum, 0) + removed
            REMOVED.labels(rule.datum).inc(removed)
            if removed < chunk:
                break
    return gone


async def _chunk(sessions: Sessions, rule: Rule, before: datetime, chunk: int) -> int:
    # A locked row stays where it is, so its place in the table is its name for the length of this statement.
    statement = text(
        f"""
        DELETE FROM {rule.table} WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM {rule.table} WHERE {rule.condition} LIMIT :chunk FOR UPDATE SKIP LOCKED
        ))
        """
    )
    async with transaction(sessions) as session:
        done: Any = await session.execute(statement, {"before": before, "chunk": chunk})
        removed: int = done.rowcount
        return removed
