"""The roster: staff accounts, who serves which store, and whose till a clerk stands at."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from guides.tables import GuideStore, Staff, shops
from kernel.errors import Refusal
from kernel.identity import Role
from kernel.ids import new_id
from kernel.tables import Brand


async def brand(session: AsyncSession, brand_id: str) -> Brand:
    """The brand; Refusal ``not_found``."""
    found = await session.get(Brand, brand_id)
    if found is None:
        raise Refusal("not_found", "No such brand.", what=brand_id)
    return found


async def store_id(session: AsyncSession, brand_id: str, code: str) -> UUID:
    """The store of ``brand_id`` with this ``code``; Refusal ``not_found``."""
    found: UUID | None = await session.scalar(
        select(shops.c.id).where(shops.c.brand_id == brand_id, shops.c.code == code)
    )
    if found is None:
        raise Refusal("not_found", "No such store.", what=code)
    return found


async def enrol(
    session: AsyncSession,
    brand_id: str,
    account: str,
    role: Role,
    *,
    name: str | None = None,
    store: UUID | None = None,
) -> Staff:
    """The staff account ``account``, made where there is none; ``name``, and a clerk's ``store``, are taken over.

    For a guide, ``store`` is added to the stores they serve. Raises Refusal ``forbidden`` (the account has another
    role), ``invalid`` (a new clerk without a store).
    """
    told: dict[str, Any] = {} if name is None else {"name": name}
    if role is Role.CLERK:
        told |= {} if store is None else {"store_id": store}
    present = await account_of(session, brand_id, account)
    if present is None and role is Role.CLERK and store is None:
        raise Refusal("invalid", "A new clerk needs a store.", field="store_code")
    if present is not None and present.role != role.value:
        raise Refusal("forbidden", "This account has another role.")
    if present is None or told:
        present = (
            await session.scalars(
                insert(Staff)
                .values(
                    {"id": new_id(), "brand_id": brand_id, "account": account, "name": account, "role": role.value}
                    | told
                )
                .on_conflict_do_update(index_elements=["brand_id", "account"], set_=told or {"account": account})
                .returning(Staff)
                .execution_options(populate_existing=True)
            )
        ).one()
        if present.role != role.value:  # somebody else made it between our look and our insert
            raise Refusal("forbidden", "This account has another role.")
    if role is Role.GUIDE and store is not None:
        await serve(session, present.id, [store], keep=True)
    return present


async def account_of(session: AsyncSession, brand_id: str, account: str) -> Staff | None:
    """The staff account by its name."""
    found = await session.scalars(select(Staff).where(Staff.brand_id == brand_id, Staff.account == account))
    return found.one_or_none()


async def staff(session: AsyncSession, brand_id: str, staff_id: UUID) -> Staff | None:
    """A member of the staff of ``brand_id`` by id."""
    found = await session.scalars(select(Staff).where(Staff.id == staff_id, Staff.brand_id == brand_id))
    return found.one_or_none()


async def serve(session: AsyncSession, guide: UUID, stores: Sequence[UUID], *, keep: bool = False) -> None:
    """``guide`` serves ``stores``, and (unless ``keep``) no other."""
    if not keep:
        await session.execute(
            delete(GuideStore).where(GuideStore.guide_id == guide, GuideStore.store_id.not_in(stores))
        )
    if stores:
        await session.execute(
            insert(GuideStore)
            .values([{"guide_id": guide, "store_id": store} for store in sorted(set(stores))])
            .on_conflict_do_nothing()
        )


async def stores_of(session: AsyncSession, guide: UUID) -> list[tuple[UUID, str, str]]:
    """The stores that ``guide`` serves: id, code, name, by code."""
    rows = await session.execute(
        select(shops.c.id, shops.c.code, shops.c.name)
        .join(GuideStore, GuideStore.store_id == shops.c.id)
        .where(GuideStore.guide_id == guide)
        .order_by(shops.c.code)
    )
    return [(row.id, row.code, row.name) for row in rows]


async def store(session: AsyncSession, store_id: UUID) -> tuple[UUID, str, str] | None:
    """A store's id, code and name."""
    columns = (shops.c.id, shops.c.code, shops.c.name)
    row = (await session.execute(select(*columns).where(shops.c.id == store_id))).one_or_none()
    return None if row is None else (row.id, row.code, row.name)
