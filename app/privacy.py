"""What a person may ask for by law: everything that is kept about them (PIPL Art. 45), and that it be erased (Art. 47).

Each domain says in its ``privacy`` what it keeps and how it lets go of it; here it is put together.
"""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import structlog
from sqlalchemy import delete, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

import coupons.privacy
import geo.privacy
import guides.privacy
import live.privacy
from kernel import erasures
from kernel.errors import Refusal
from kernel.postgres import Sessions, transaction
from kernel.redis import Client
from kernel.tables import Erasure, IdempotencyKey

FORMAT = "nearcast.export/1"
_REQUESTS = {
    "requests": "SELECT key, created_at AS at FROM idempotency_keys WHERE brand_id = :brand AND subject = :member"
}
SUBJECTS: Mapping[str, str] = {
    **guides.privacy.EXPORTED,
    **geo.privacy.EXPORTED,
    **coupons.privacy.EXPORTED,
    **live.privacy.EXPORTED,
    **_REQUESTS,
}
"""Subject → the question for it. A subject's columns are the fields of its entries; ``docs/privacy.md`` lists them."""
ROWS = 500
"""Entries of an export that are in memory at a time."""
SWEEPS = tuple(timedelta(seconds=after) for after in (5, 30, 120, 600))
"""How long after an erasure it is looked again for what was under way then: notes of gateways, comments on their way to
the database, a coupon whose transaction had begun."""

# Told events stay a few hours and may name somebody. They wait for nobody, so whole rows may go.
_TOLD = text(
    """
    DELETE FROM outbox WHERE published_at IS NOT NULL
    AND position(convert_to(CAST(CAST(:member AS uuid) AS text), 'UTF8') IN payload) > 0
    """
)

log = structlog.get_logger()


# ---- taking out ----------------------------------------------------------------------------------------------------


async def export(sessions: Sessions, brand: str, member: UUID, at: datetime) -> AsyncIterator[bytes]:
    """Everything kept about ``member`` as one JSON object, piece by piece, true at one moment.

    Refusal ``not_found`` before the first piece.
    """
    values = {"brand": brand, "member": member}
    async with sessions() as session:
        await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        # PostgreSQL writes the JSON; times in UTC whatever the server's own zone.
        await session.execute(text("SET LOCAL TimeZone TO 'UTC'"))
        if await guides.privacy.brand_of(session, member) != brand:
            raise Refusal("not_found", "No such member.", what=str(member))
        yield f'{{"format": "{FORMAT}", "made_at": "{at.isoformat()}"'.encode()
        for subject, question in SUBJECTS.items():
            yield f',\n"{subject}": ['.encode()
            rows = await session.stream_scalars(text(f"SELECT row_to_json(q)::text FROM ({question}) AS q"), values)
            between = "\n"
            async for part in rows.partitions(ROWS):
                yield (between + ",\n".join(part)).encode()
                between = ",\n"
            yield b"]"
        yield b"}\n"


# ---- erasing -------------------------------------------------------------------------------------------------------


async def erase(session: AsyncSession, brand: str, member: UUID, at: datetime) -> bool:
    """Erase ``member``; what the books need stays without a person. False if that was done before.

    Tokens of ``member`` are refused by whoever follows ``kernel.erasures``. Refusal ``not_found``.
    """
    if await guides.privacy.brand_of(session, member) == brand:
        # Before the account's lock, as writers of fixes do it: they hold the consent and then ask for the account.
        await geo.privacy.erase(session, member)
    if not await guides.privacy.lock(session, brand, member):
        if await erasures.recorded(session, brand, member):
            return False
        raise Refusal("not_found", "No such member.", what=str(member))
    await erasures.record(session, brand, member, at)
    await _let_go(session, brand, member, at)
    await guides.privacy.erase(session, member)
    return True


async def _let_go(session: AsyncSession, brand: str, member: UUID, at: datetime) -> None:
    pseudonym = uuid4()  # drawn for this once: nothing leads from one to the other
    await geo.privacy.erase(session, member)
    await coupons.privacy.erase(session, member, pseudonym, at)
    await live.privacy.erase(session, brand, member, pseudonym, at)
    await session.execute(
        delete(IdempotencyKey).where(IdempotencyKey.brand_id == brand, IdempotencyKey.subject == member)
    )
    await session.execute(_TOLD, {"member": member})


async def sweep(sessions: Sessions, redis: Client, at: datetime) -> int:
    """Look again for what came in late about those who were erased a while ago; returns for how many.

    Two workers take different ones. Raises what PostgreSQL and Redis raise; then it is tried again.
    """
    swept = 0
    while await _sweep_one(sessions, redis, at):
        swept += 1
    return swept


async def _sweep_one(sessions: Sessions, redis: Client, at: datetime) -> bool:
    due = select(Erasure).where(Erasure.due_at <= at).order_by(Erasure.due_at).limit(1)
    async with transaction(sessions) as session:
        found = await session.scalar(due.with_for_update(skip_locked=True))
        if found is None:
            return False
        await _let_go(session, found.brand_id, found.subject, at)
        await live.privacy.strike(session, redis, found.brand_id, found.subject, at)
        later = [found.at + after for after in SWEEPS if found.at + after > at]
        await session.execute(
            update(Erasure)
            .where(Erasure.subject == found.subject)
            .values(due_at=later[0] if later else None, sweeps=Erasure.sweeps + 1)
            .execution_options(synchronize_session=False)
        )
    log.info("erasure_swept", sweeps=found.sweeps + 1)
    return True
