"""Bindings: which guide a member belongs to, and so whom their purchases are credited to. The newest one wins."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from guides.tables import Binding, Member, Staff
from kernel.errors import Refusal


async def bind(session: AsyncSession, brand: str, member: UUID, guide: UUID, moment: datetime) -> Staff:
    """``member`` belongs to ``guide`` from ``moment`` on; returns the guide. Refusal ``not_found`` for either."""
    found = await session.scalars(
        select(Staff).where(Staff.id == guide, Staff.brand_id == brand, Staff.role == "guide")
    )
    person = found.one_or_none()
    if person is None:
        raise Refusal("not_found", "No such guide.", what=str(guide))
    if await session.scalar(select(Member.id).where(Member.id == member, Member.brand_id == brand)) is None:
        raise Refusal("not_found", "No such member.", what=str(member))
    new = {"guide_id": guide, "bound_at": moment}
    await session.execute(
        insert(Binding)
        .values(member_id=member, **new)
        # Two bindings may commit in another order than they were made in; the newer one stays.
        .on_conflict_do_update(index_elements=["member_id"], set_=new, where=Binding.bound_at <= moment)
    )
    return person


async def guide_of(session: AsyncSession, member: UUID) -> Staff | None:
    """The guide that ``member`` belongs to now."""
    found = await session.scalars(
        select(Staff).join(Binding, Binding.guide_id == Staff.id).where(Binding.member_id == member)
    )
    return found.one_or_none()
