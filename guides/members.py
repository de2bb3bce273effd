"""Members: the viewers of a brand, each known by the ``openid`` that WeChat gives the brand's mini-program."""

from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from guides.tables import Member
from kernel.ids import new_id

NAMELESS = "微信用户"
"""What WeChat itself calls somebody who has not given a name."""


async def welcome(
    session: AsyncSession,
    brand: str,
    openid: str,
    *,
    name: str | None = None,
    tier: int | None = None,
    called: str = NAMELESS,
) -> Member:
    """The member with this ``openid``, made on the first visit; ``name`` and ``tier`` are taken over where given;
    ``called`` is the name of somebody new who gives none. at once find the same member. The brand must exist.
    """
    told: dict[str, Any] = {}
    if name is not None:
        told["name"] = name
    if tier is not None:
        told["tier"] = tier
    statement = (
        insert(Member)
        .values({"id": new_id(), "brand_id": brand, "openid": openid, "name": called} | told)
        # Writing the openid again changes nothing, but only an update gives the row back.
        .on_conflict_do_update(index_elements=["brand_id", "openid"], set_=told or {"openid": openid})
        .returning(Member)
        .execution_options(populate_existing=True)
    )
    return (await session.scalars(statement)).one()


async def member(session: AsyncSession, brand: str, member_id: UUID) -> Member | None:
    """A member of ``brand`` by id."""
    found = await session.scalars(select(Member).where(Member.id == member_id, Member.brand_id == brand))
    return found.one_or_none()
