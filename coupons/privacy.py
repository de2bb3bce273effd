"""A member's coupons and what came of them: taken out, or kept without a name.

The books must go on to add up, so their rows stay. Who they were of is replaced by a pseudonym that is drawn for this
erasure and written down nowhere else.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

EXPORTED = {
    "coupons": """
        SELECT k.id, k.campaign_id AS campaign, c.title, k.n, k.drop_id AS drop, k.room_id AS room, s.code AS store,
               s.name AS store_name, k.code, k.state, coalesce(k.amount_fen, c.amount_fen) AS amount_fen,
               k.distance_band_m, k.claim_key, k.valid_from, k.valid_until, k.issued_at, k.seen_at, k.redeemed_at,
               (SELECT json_agg(json_build_object('event', l.transition, 'at', l.at, 'order', r.order_ref,
                                                  'order_fen', r.order_fen, 'discount_fen', r.discount_fen)
                                ORDER BY l.id)
                FROM ledger l LEFT JOIN redemptions r ON r.id = l.redemption_id WHERE l.coupon_id = k.id) AS history
        FROM coupons k LEFT JOIN campaigns c ON c.id = k.campaign_id LEFT JOIN stores s ON s.id = k.store_id
        WHERE k.viewer_id = :member ORDER BY k.issued_at, k.id
    """,
    "drops": """
        SELECT v.drop_id AS drop, d.room_id AS room, v.outcome, v.reason, s.code AS store, v.distance_band_m, v.at
        FROM decisions v LEFT JOIN drops d ON d.id = v.drop_id LEFT JOIN stores s ON s.id = v.store_id
        WHERE v.viewer_id = :member ORDER BY v.at, v.drop_id
    """,
    "reviews": """
        SELECT r.drop_id AS drop, r.room_id AS room, s.code AS store, r.within_m, r.signs, r.state, r.asked_at,
               r.decided_at, r.coupon_id AS coupon
        FROM reviews r JOIN stores s ON s.id = r.store_id WHERE r.viewer_id = :member ORDER BY r.asked_at, r.id
    """,
    "coupon_reminders": """
        SELECT r.coupon_id AS coupon, r.due_at, r.attempts, r.outcome, r.settled_at
        FROM coupon_reminders r JOIN coupons k ON k.id = r.coupon_id
        WHERE k.viewer_id = :member ORDER BY r.due_at
    """,
    "visits": """
        SELECT s.code AS store, s.name AS store_name, v.at FROM visits v JOIN stores s ON s.id = v.store_id
        WHERE v.viewer_id = :member ORDER BY v.at
    """,
}
"""Subject → what is kept of a member about it, one row an entry."""

# What was not used ends now. The sweep that expires coupons then does the rest, as with any other: its ledger line, and
# what goes back into the stock, once no till without a network can tell any more that it was used before. What was used
# ends as well, so that a till which takes that back does not revive it.
_COUPONS = text(
    """
    UPDATE coupons SET viewer_id = :pseudonym, claim_key = NULL, ownerless = true,
        valid_until = least(valid_until, :at)
    WHERE viewer_id = :member
    """
)


async def erase(session: AsyncSession, member: UUID, pseudonym: UUID, at: datetime) -> None:
    """Take the name off what is kept; coupons end at ``at``. ``nearcast audit`` still holds."""
    values = {"member": member}
    await session.execute(text("DELETE FROM reviews WHERE viewer_id = :member"), values)
    await session.execute(
        text(
            "DELETE FROM coupon_reminders WHERE coupon_id IN (SELECT id FROM coupons WHERE viewer_id = :member)"
        ), values
    )  # fmt: skip
    # As grants: the coupons' rows before those of what was decided.
    await session.execute(_COUPONS, values | {"pseudonym": pseudonym, "at": at})
    for table in ("drop_viewers", "visits"):
        renamed = text(f"UPDATE {table} SET viewer_id = :pseudonym WHERE viewer_id = :member")
        await session.execute(renamed, values | {"pseudonym": pseudonym})
