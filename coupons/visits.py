"""Members who came to a store and showed their code, whether or not they had a coupon to use."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import codes
from coupons.receipts import store_of
from coupons.tables import Visit
from guides.tables import Member
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.ids import new_id


@dataclass(frozen=True, slots=True)
class Visited:
    """A visit that was just recorded."""

    id: UUID
    at: datetime
    name: str


async def record(session: AsyncSession, who: Principal, qr: str, signer: codes.Signer, now: datetime) -> Visited:
    """Record that the member whose QR code was scanned came to the clerk's store.

    Raises Refusal: ``code_mistyped``, ``qr_expired``, ``not_found`` (no member of this brand), ``forbidden``.
    """
    store = store_of(who)
    shown = signer.read_member(qr)
    shown.require_fresh(now.timestamp())
    query = select(Member.name).where(Member.id == shown.member, Member.brand_id == who.brand)
    name = await session.scalar(query)
    if name is None:
        raise Refusal("not_found", "No member of this brand has this code.")
    made = new_id()
    values = {"brand_id": who.brand, "store_id": store, "viewer_id": shown.member, "clerk_id": who.subject}
    await session.execute(insert(Visit).values(values | {"id": made, "at": now}))
    return Visited(made, now, name)
