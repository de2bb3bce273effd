"""What a push drop gives in quiet hours: it is its owner's at once, and they are told of it when those hours are over.

Stock, store, amount and place in the line are settled when it is given, so nothing of it can be lost until the morning:
neither by the end of the room, nor to somebody who claims meanwhile. Until then it is in no wallet, and it holds from
then on. See ``docs/decisions/0040``.
"""

from collections import defaultdict
from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from coupons import reviews, wallet
from coupons.cards import Grant
from coupons.granting import told_to
from kernel.outbox import emit_everywhere
from kernel.postgres import Sessions, transaction

CHUNK = 500

# Meanwhile it may have been voided, or its owner erased; not redeemed, for it does not hold yet.
_TAKE = text(
    """
    WITH due AS (
        SELECT id FROM coupons WHERE held_until <= :now ORDER BY held_until, id LIMIT :chunk FOR UPDATE SKIP LOCKED
    )
    UPDATE coupons k SET held_until = NULL FROM due WHERE k.id = due.id
    RETURNING k.id, k.viewer_id, k.drop_id, k.room_id, k.state = 'issued' AND NOT k.ownerless AS standing
    """
)


async def tell_due(sessions: Sessions, now: datetime) -> int:
    """Tell the owners of up to ``CHUNK`` coupons that are held no longer, in a transaction of its own; returns how many
    were taken. Call it until it returns 0; two workers at once take different ones."""
    async with transaction(sessions) as session:
        taken = (await session.execute(_TAKE, {"now": now, "chunk": CHUNK})).all()
        standing = {row.id: row for row in taken if row.standing}
        cards = await wallet.cards_of(session, list(standing), now)
        grants: dict[tuple[UUID, UUID], list[Grant]] = defaultdict(list)
        for coupon, row in standing.items():
            grants[row.room_id, row.drop_id].append(Grant(row.viewer_id, cards[coupon]))
        events = [(room, event) for (room, drop), given in grants.items() for event in told_to(drop, given)]
        await emit_everywhere(session, [(room, "coupons.issued", event) for room, event in events])
        await reviews.tell_granted(session, list(standing))
        return len(taken)
