"""A member's account, as the law gives it back to them: taken out, or erased."""

from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from guides.tables import Binding, Member

EXPORTED = {
    "account": """
        SELECT id, brand_id AS brand, openid, name, tier, orders, created_at FROM members WHERE id = :member
    """,
    "guides": "SELECT guide_id AS guide, bound_at AS since FROM bindings WHERE member_id = :member",
}
"""Subject → what is kept of a member about it, one row an entry."""


async def lock(session: AsyncSession, brand: str, member: UUID) -> bool:
    """Lock the account until the transaction ends; False if there is none in ``brand``."""
    query = select(Member.id).where(Member.id == member, Member.brand_id == brand).with_for_update()
    return await session.scalar(query) is not None


async def find(session: AsyncSession, brand: str, openid: str) -> UUID | None:
    """Who is known to ``brand`` by this ``openid``."""
    found: UUID | None = await session.scalar(
        select(Member.id).where(Member.openid == openid, Member.brand_id == brand)
    )
    return found


async def brand_of(session: AsyncSession, member: UUID) -> str | None:
    """Whose member this is."""
    found: str | None = await session.scalar(select(Member.brand_id).where(Member.id == member))
    return found


async def erase(session: AsyncSession, member: UUID) -> None:
    """The account and whose customer it was. With it goes the openid: the only way back to a person."""
    await session.execute(delete(Binding).where(Binding.member_id == member))
    await session.execute(delete(Member).where(Member.id == member))
