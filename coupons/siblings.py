"""Open drops of one campaign share its rest: when one gives, the rooms of the others hear what that leaves them.

Not in the batch that gives, which would have to look for them every few milliseconds: the worker looks twice a second,
as often as viewers are shown a new number. Several workers only repeat each other.
"""

from uuid import UUID

from sqlalchemy import text

from coupons.cards import DropStock
from kernel.outbox import emit_everywhere
from kernel.postgres import Sessions, transaction

# Answered by `ix_drops_open`. A drop that has less of its own left tells of it with each of its coupons.
_SHORT = text(
    """
    SELECT d.id, d.room_id, c.stock - c.issued AS left
    FROM drops d JOIN campaigns c ON c.id = d.campaign_id
    WHERE d.state = 'open' AND c.issued < c.stock AND c.stock - c.issued < d.stock - d.issued
      AND EXISTS (SELECT FROM drops o WHERE o.state = 'open' AND o.campaign_id = d.campaign_id AND o.id <> d.id)
    ORDER BY d.id
    """
)


class Siblings:
    """What this process has told of drops whose campaign has less left than they."""

    def __init__(self) -> None:
        self._told: dict[UUID, int] = {}

    async def tell(self, sessions: Sessions) -> int:
        """Tell their rooms what has changed since the last time; returns how many drops that were."""
        async with transaction(sessions) as session:
            short = (await session.execute(_SHORT)).all()
            news = [drop for drop in short if self._told.get(drop.id) != drop.left]
            await emit_everywhere(
                session, [(drop.room_id, "coupons.drop_stock", DropStock(drop.id, drop.left)) for drop in news]
            )
        self._told = {drop.id: drop.left for drop in short}
        return len(news)
