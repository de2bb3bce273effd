"""Who was erased: their tokens are refused by every process, although they have not ended.

The table is the truth; each process that reads tokens follows it, about once a second.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.clock import now
from kernel.identity import Keyring
from kernel.postgres import Sessions, transaction
from kernel.tables import Erasure

KEEP = timedelta(days=31)
"""No token lives longer: ``nearcast token`` makes them for 30 days at most."""
POLL_SECONDS = 1.0
"""How long the news takes to reach another process at most, while PostgreSQL answers."""
_OVERLAP = timedelta(minutes=10)
"""Transactions do not commit in the order of their times."""

log = structlog.get_logger()


async def record(session: AsyncSession, brand: str, subject: UUID, at: datetime) -> None:
    """``subject`` is erased in this transaction."""
    row = {"subject": subject, "brand_id": brand, "at": at, "due_at": at}
    await session.execute(insert(Erasure).values(row).on_conflict_do_nothing())


async def recorded(session: AsyncSession, brand: str, subject: UUID) -> bool:
    """Whether ``subject`` was erased, a while ago at most (``KEEP``)."""
    found = select(Erasure.subject).where(Erasure.subject == subject, Erasure.brand_id == brand)
    return await session.scalar(found) is not None


class Erasures:
    """What one process knows of them. ``gone`` is told each subject once, after ``keyring`` has begun to refuse it."""

    def __init__(self, sessions: Sessions, keyring: Keyring, gone: Callable[[UUID], object] = lambda _: None) -> None:
        self._sessions = sessions
        self._keyring = keyring
        self._gone = gone
        self._told: set[UUID] = set()
        self._since: datetime | None = None

    async def refresh(self) -> None:
        """Read what is new. Raises what PostgreSQL raises."""
        since = now() - KEEP if self._since is None else self._since - _OVERLAP
        async with transaction(self._sessions) as session:
            rows = (await session.execute(select(Erasure.subject, Erasure.at).where(Erasure.at > since))).all()
        for subject, at in rows:
            self._since = at if self._since is None else max(self._since, at)
            if subject not in self._told:
                self._told.add(subject)
                self._keyring.refuse(subject)
                self._gone(subject)

    async def run(self) -> None:
        """Follow the table until cancelled."""
        while True:
            try:
                await self.refresh()
            except (SQLAlchemyError, OSError, TimeoutError) as error:
                log.warning("erasures_not_read", error=type(error).__name__)
            await asyncio.sleep(POLL_SECONDS)
