"""What a till is shown of a redemption, also long after it was made: its receipt."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast
from uuid import UUID

from sqlalchemy import Row, Select, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import codes, rules
from coupons.tables import Campaign, Coupon, Redemption
from coupons.terms import PROMISED, terms_of
from geo.tables import Store
from guides.tables import Member
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.tables import Brand

CouponNow = Literal["redeemed", "usable", "expired", "ownerless", "voided"]


@dataclass(frozen=True, slots=True)
class Used:
    """A redemption as the till shows it. ``coupon_now``: what its coupon is by now, see ``_coupon_now``."""

    id: UUID
    title: str
    terms: str
    code: str
    viewer_name: str | None
    store_code: str
    store_name: str
    order: str | None
    order_fen: int | None
    discount_fen: int
    at: datetime
    told_at: datetime | None
    reversible_until: datetime
    replayed: bool
    reversed_at: datetime | None
    coupon_now: CouponNow


COUPON: Select[*tuple[Any, ...]] = (
    select(
        Coupon.id,
        Coupon.code,
        Coupon.state,
        Coupon.ownerless,
        Coupon.store_id,
        Coupon.valid_from,
        Coupon.valid_until,
        *PROMISED,
        Brand.timezone,
        Store.code.label("store_code"),
        Store.name.label("store_name"),
        Member.name.label("viewer_name"),
    )
    .join(Campaign, Campaign.id == Coupon.campaign_id)
    .join(Store, Store.id == Coupon.store_id)
    .join(Brand, Brand.id == Coupon.brand_id)
    .outerjoin(Member, Member.id == Coupon.viewer_id)
)
USED = (
    COUPON.add_columns(
        Redemption.id.label("redemption_id"),
        Redemption.order_ref,
        Redemption.order_fen,
        Redemption.discount_fen,
        Redemption.at,
        Redemption.told_at,
        Redemption.reversed_at,
        Redemption.key,
    )
    .join(Redemption, Redemption.coupon_id == Coupon.id)
    .execution_options(populate_existing=True)
)


def store_of(who: Principal) -> UUID:
    """The store at whose till ``who`` stands. Refusal ``forbidden``."""
    if who.store is None:
        raise Refusal("forbidden", "Only a clerk at a store's till may do this.")
    return who.store


def used(row: Row[Any], *, replayed: bool) -> Used:
    """The redemption in a ``row`` of ``USED``."""
    return Used(
        id=row.redemption_id,
        title=row.title,
        terms=rules.describe(terms_of(row)),
        code=codes.display(row.code),
        viewer_name=row.viewer_name,
        store_code=row.store_code,
        store_name=row.store_name,
        order=row.order_ref,
        order_fen=row.order_fen,
        discount_fen=row.discount_fen,
        at=row.at,
        told_at=row.told_at,
        reversible_until=row.at + rules.REVERSIBLE,
        replayed=replayed,
        reversed_at=row.reversed_at,
        coupon_now=_coupon_now(row),
    )


def _coupon_now(row: Row[Any]) -> CouponNow:
    """What became of a coupon after a redemption: only a reversed one that is ``usable`` may be used again."""
    if row.state in ("redeemed", "voided"):
        return cast(CouponNow, row.state)
    if row.ownerless:
        return "ownerless"
    return "expired" if row.state == "expired" or row.valid_until <= row.reversed_at else "usable"


async def newest(
    session: AsyncSession,
    who: Principal,
    since: datetime,
    limit: int,
    before: tuple[datetime, UUID] | None = None,
) -> list[Used]:
    """Redemptions at the clerk's store since ``since``, newest first, older than ``before`` (time and id)."""
    query = USED.where(Redemption.store_id == store_of(who), Redemption.at >= since)
    if before is not None:
        query = query.where(tuple_(Redemption.at, Redemption.id) < before)
    rows = await session.execute(query.order_by(Redemption.at.desc(), Redemption.id.desc()).limit(limit))
    return [used(row, replayed=False) for row in rows]
