"""Requests that may come twice: the first answer is kept, in the transaction that did the work, for whoever asks again.

A crash forgets both the work and the key; a refusal rolls both back, so what was refused may be tried under its key.
"""

from collections.abc import Awaitable, Callable

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.tables import IdempotencyKey


async def once(
    session: AsyncSession, who: Principal, key: str, fingerprint: bytes, work: Callable[[], Awaitable[bytes]]
) -> bytes:
    """``await work()``, or what it answered when ``who`` first asked under ``key``. Of those who ask at the same moment
    one does the work, wherever they ask, and the others wait for it.

    Raises Refusal ``idempotency_mismatch`` if ``fingerprint`` (SHA-256 of all that was asked for) differs.
    """
    mine = {"brand_id": who.brand, "subject": who.subject, "key": key}
    inserted = await session.execute(
        insert(IdempotencyKey)
        .values(mine | {"fingerprint": fingerprint})
        .on_conflict_do_nothing()
        .returning(IdempotencyKey.key)
    )
    if inserted.first() is None:
        former = (await session.execute(select(IdempotencyKey).filter_by(**mine))).scalar_one()
        if former.fingerprint != fingerprint:
            raise Refusal("idempotency_mismatch")
        return former.answer or b""
    answer = await work()
    await session.execute(update(IdempotencyKey).filter_by(**mine).values(answer=answer))
    return answer
