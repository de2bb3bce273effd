"""What viewers had of a brand before: asked once for a whole batch, and only where a limit depends on it."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import rules

Histories = dict[UUID, rules.History]
"""Of some viewers; whoever is missing is a newcomer, or nobody needed to know."""

# One probe of the index led by the viewer for each. Purchases that the brand told us of and those at our tills overlap,
# so they are not added up.
_HISTORY = text(
    """
    SELECT w.viewer_id, count(c.id) FILTER (WHERE c.issued_at > :since AND c.state <> 'voided') AS recent,
           greatest(max(m.orders), count(c.id) FILTER (WHERE c.state = 'redeemed')) AS bought
    FROM unnest(CAST(:viewers AS uuid[])) AS w (viewer_id)
    LEFT JOIN members m ON m.id = w.viewer_id AND m.brand_id = :brand
    LEFT JOIN coupons c ON c.viewer_id = w.viewer_id AND c.brand_id = :brand
    GROUP BY w.viewer_id
    """
)


async def of(
    session: AsyncSession,
    brand: str,
    viewers: Iterable[UUID],
    limits: rules.Limits,
    cap_days: int | None,
    at: datetime,
) -> Histories:
    """What ``viewers`` had of ``brand`` until ``at``, if ``limits`` depend on it."""
    if limits.cap is None and not limits.segments:
        return {}
    since = at - timedelta(days=cap_days or 0)
    asked = {"viewers": list(set(viewers)), "brand": brand, "since": since}
    rows = await session.execute(_HISTORY, asked)
    return {row.viewer_id: rules.History(row.recent, row.bought) for row in rows}
