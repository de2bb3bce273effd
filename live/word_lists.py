"""The brands' own word lists: kept by ops, known to every gateway a moment later.

A brand without a list has the shipped one (``words.txt``); an empty list is a list, and forbids nothing.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import structlog
from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.clock import now
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.ids import new_id
from kernel.postgres import Sessions, transaction
from live.metrics import Tally
from live.moderation import WordList, named, normalise, review
from live.tables import BrandWords

POLL_SECONDS = 1.0
"""How long a change takes to reach a gateway at most, while PostgreSQL answers."""
MAX_WORDS = 2_000
MAX_WORD = 50
"""Characters."""

log = structlog.get_logger()


class Words(NamedTuple):
    """A brand's own words."""

    words: Sequence[str]
    changed_at: datetime


async def words_of(session: AsyncSession, brand: str) -> Words | None:
    """The brand's own list; None if the shipped one holds."""
    row = (
        await session.execute(select(BrandWords.words, BrandWords.at).where(BrandWords.brand_id == brand))
    ).one_or_none()
    return None if row is None else Words(row.words, row.at)


async def set_words(session: AsyncSession, who: Principal, words: Sequence[str]) -> Words:
    """Put ``words`` in place of the list of the brand of ``who``. Refusal ``invalid`` for one without letters."""
    wanted = list(dict.fromkeys(map(normalise, words)))
    if len(wanted) > MAX_WORDS or any(len(word) > MAX_WORD for word in wanted):
        raise Refusal("invalid", field="words")
    try:
        WordList(wanted)
    except ValueError as error:
        raise Refusal("invalid", "A word needs at least one letter or digit.", field="words") from error
    at = now()
    row = {"words": wanted, "revision": new_id(), "by": who.subject, "at": at}
    await session.execute(
        insert(BrandWords)
        .values(brand_id=who.brand, **row)
        .on_conflict_do_update(index_elements=["brand_id"], set_=row)
    )
    return Words(wanted, at)


async def forget_words(session: AsyncSession, brand: str) -> None:
    """The shipped list holds again for ``brand``."""
    await session.execute(delete(BrandWords).where(BrandWords.brand_id == brand))


async def _lists(session: AsyncSession, brands: Sequence[str]) -> dict[str, tuple[UUID, WordList]]:
    columns = (BrandWords.brand_id, BrandWords.revision, BrandWords.words)
    rows = await session.execute(select(*columns).where(BrandWords.brand_id.in_(brands)))
    return {brand: (revision, WordList(words)) for brand, revision, words in rows}


class WordLists:
    """What one gateway knows of them."""

    def __init__(self, sessions: Sessions, tally: Tally) -> None:
        self._sessions = sessions
        self._tally = tally
        self._shipped = WordList.load()
        self._own: dict[str, tuple[UUID, WordList]] = {}
        self._read = False

    def review(self, brand: str, text: str) -> str:
        """``live.moderation.review`` with the words of ``brand``."""
        _, words = self._own.get(brand, (None, self._shipped))
        return review(text, words)

    def named(self, brand: str, name: str) -> str:
        """``live.moderation.named`` with the words of ``brand``."""
        _, words = self._own.get(brand, (None, self._shipped))
        return named(name, words)

    async def loaded(self) -> None:
        """Return once the lists were read; before that no room should open. Raises what PostgreSQL raises."""
        if not self._read:
            await self.refresh()

    async def refresh(self) -> None:
        """Read the lists that changed. Raises what PostgreSQL raises; then those known stay in force."""
        async with transaction(self._sessions) as session:
            rows = await session.execute(select(BrandWords.brand_id, BrandWords.revision))
            revisions = {brand: revision for brand, revision in rows}
            stale = [brand for brand, revision in revisions.items() if self._revision(brand) != revision]
            changed = await _lists(session, stale) if stale else {}
        for brand in [brand for brand in self._own if brand not in revisions]:
            del self._own[brand]
        self._own.update(changed)
        self._read = True
        if changed:
            log.info("words_read", brands=sorted(changed))

    def _revision(self, brand: str) -> UUID | None:
        return self._own[brand][0] if brand in self._own else None

    async def run(self) -> None:
        """Follow the lists until cancelled."""
        while True:
            try:
                await self.refresh()
            except (SQLAlchemyError, OSError, TimeoutError) as error:
                self._tally.failures["words"] += 1
                log.warning("words_not_read", error=type(error).__name__)
            await asyncio.sleep(POLL_SECONDS)
