"""How many coupons one order may take: by default one that takes money off, and one gift.

The till names the order, and the name is good for a day (see ``coupons.orders``). Tills of a store that use coupons on
the same order take turns (an advisory lock, taken before the coupon's row), so two coupons at one moment cannot both
find the order empty.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from coupons.tables import TillRules
from kernel.ids import BrandId


@dataclass(frozen=True, slots=True)
class Rules:
    """What one order may take. ``order_required``: a till must name the order of every coupon."""

    discounts: int = 1
    gifts: int = 1
    order_required: bool = False


_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:order, 0))")
# Answered by ix_redemptions_order, or ix_redemptions_day where the name was used on many days.
_STANDING = text(
    """
    SELECT count(*) FILTER (WHERE c.kind = 'gift') AS gifts, count(*) FILTER (WHERE c.kind <> 'gift') AS discounts,
           coalesce(sum(r.discount_fen), 0)::bigint AS off
    FROM redemptions r JOIN coupons k ON k.id = r.coupon_id JOIN campaigns c ON c.id = k.campaign_id
    WHERE r.store_id = :store AND r.order_ref = :order AND r.reversed_at IS NULL
      AND r.at >= :begin AND r.at < :end
    """
)


async def rules_of(session: AsyncSession, brand: BrandId) -> Rules:
    """The rules of ``brand``."""
    row = (await session.execute(select(TillRules).where(TillRules.brand_id == brand))).scalar_one_or_none()
    return Rules() if row is None else Rules(row.discounts, row.gifts, row.order_required)


async def set_rules(session: AsyncSession, brand: BrandId, rules: Rules) -> None:
    """From the next redemption on; what was redeemed stays so."""
    columns: dict[str, Any] = {
        "discounts": rules.discounts, "gifts": rules.gifts, "order_required": rules.order_required,
    }  # fmt: skip
    made = insert(TillRules).values({"brand_id": brand} | columns)
    await session.execute(made.on_conflict_do_update(index_elements=["brand_id"], set_=columns))


async def hold(session: AsyncSession, store: UUID, order: str) -> None:
    """Wait until no other transaction uses a coupon on this order of ``store``, and keep others waiting."""
    await session.execute(_LOCK, {"order": f"order {store} {order}"})


async def fits(
    session: AsyncSession,
    rules: Rules,
    store: UUID,
    order: str,
    day: tuple[datetime, datetime],
    kind: str,
    off: int,
    order_fen: int,
) -> int | None:
    """Fen that a coupon of ``kind``, worth ``off`` by itself, takes off the order beside those on it already.

    ``day``: the bounds of the day in which ``order`` means this one. None if the order has its share of such coupons.
    The caller holds the order.
    """
    of_order = {"store": store, "order": order, "begin": day[0], "end": day[1]}
    on_it = (await session.execute(_STANDING, of_order)).one()
    full = on_it.gifts >= rules.gifts if kind == "gift" else on_it.discounts >= rules.discounts
    return None if full else min(off, max(0, order_fen - on_it.off))
