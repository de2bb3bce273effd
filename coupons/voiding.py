"""Ops withdraw a coupon: one that should not have been given, or whose code got around.

A compare-and-set on the coupon's row and a ledger line, as with any other step. What was withdrawn does not go back
into the stock: the budget says how many may be given, and this one was.
"""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import codes
from coupons.tables import Campaign, Coupon, LedgerLine
from kernel.errors import Refusal
from kernel.identity import Principal


class Voided(NamedTuple):
    """A coupon that nobody can use any more; ``code`` as people read it."""

    id: UUID
    code: str
    title: str


async def void(session: AsyncSession, who: Principal, typed: str, now: datetime) -> Voided:
    """Withdraw the coupon with the code ``typed``; doing it again answers the same.

    Raises Refusal: ``code_mistyped``, ``code_unknown``, ``already_redeemed``, ``coupon_expired``.
    """
    code = codes.parse(typed)
    of_brand = (Coupon.code == code, Coupon.brand_id == who.brand)
    standing = update(Coupon).where(*of_brand, Coupon.state == "issued", Coupon.valid_until > now)
    taken = await session.scalar(standing.values(state="voided").returning(Coupon.id))
    if taken is not None:
        line = {"coupon_id": taken, "transition": "void", "at": now, "actor": who.subject}
        await session.execute(insert(LedgerLine).values(line))
    found = select(Coupon.id, Coupon.state, Campaign.title).join(Campaign, Campaign.id == Coupon.campaign_id)
    row = (await session.execute(found.where(*of_brand))).one_or_none()
    if row is None:
        raise Refusal("code_unknown")
    if row.state != "voided":
        raise Refusal("already_redeemed" if row.state == "redeemed" else "coupon_expired")
    return Voided(row.id, codes.display(code), row.title)
