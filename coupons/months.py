"""The ledger's months: a partition for each, there before its first line is written.

A line that finds no month of its own goes to the default partition, where nothing is lost; the audit says so, and the
next turn here gives those lines their month. Months are UTC's, whatever a brand's calendar says.
"""

from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

AHEAD = 3
"""Months kept ready beyond the current one."""

# Readers of the whole ledger may run for long; whoever wants to write a line must not queue behind us behind them.
_PATIENCE = text("SELECT set_config('lock_timeout', '1s', true)")
_ALONE = text("SELECT pg_try_advisory_xact_lock(hashtext('nearcast ledger months'))")
_THERE = text("SELECT CAST(inhrelid::regclass AS text) FROM pg_inherits WHERE inhparent = 'ledger'::regclass")
_UNFILED = text("SELECT DISTINCT CAST(date_trunc('month', at AT TIME ZONE 'UTC') AS date) FROM ledger_default")
_HOLD_DEFAULT = text("LOCK TABLE ledger_default IN ACCESS EXCLUSIVE MODE")


async def keep_ready(session: AsyncSession, now: datetime, ahead: int = AHEAD) -> list[str]:
    """See that this month, the next ``ahead`` and those of lines in the default partition are there.

    Returns the names of the new partitions. Two workers at once: one of them does it.
    """
    await session.execute(_PATIENCE)
    if not await session.scalar(_ALONE):
        return []
    there = set(await session.scalars(_THERE))
    unfiled = set(await session.scalars(_UNFILED))
    wanted = {_later(now.astimezone(UTC).date().replace(day=1), n) for n in range(ahead + 1)}
    missing = [month for month in sorted(wanted | unfiled) if _name(month) not in there]
    if missing and unfiled:
        await session.execute(_HOLD_DEFAULT)  # else a line could come into it between moving and attaching
    for month in missing:
        await _add(session, month)
    return [_name(month) for month in missing]


async def _add(session: AsyncSession, month: date) -> None:
    # Made apart and attached, since `PARTITION OF` would stop everybody who writes a line until we commit.
    name, begin, end = _name(month), f"'{month} 00:00+00'", f"'{_later(month, 1)} 00:00+00'"
    for statement in (
        f"CREATE TABLE {name} (LIKE ledger INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS)",
        f"WITH found AS (DELETE FROM ledger_default WHERE at >= {begin} AND at < {end} RETURNING *)"
        f" INSERT INTO {name} SELECT * FROM found",
        f"ALTER TABLE ledger ATTACH PARTITION {name} FOR VALUES FROM ({begin}) TO ({end})",
    ):
        await session.execute(_literal(statement))


def _literal(statement: str) -> Any:
    return text(statement.replace(":", "\\:"))  # a colon in it is a time of day, not a parameter


def _name(month: date) -> str:
    return f"ledger_{month:%Y_%m}"


def _later(month: date, by: int) -> date:
    months = month.year * 12 + month.month - 1 + by
    return date(months // 12, months % 12 + 1, 1)
