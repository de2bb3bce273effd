"""A brand with stores and members to put on the map."""

from collections.abc import Awaitable, Callable, Iterable
from uuid import UUID

import pytest
from geo_places import BRAND, Keep
from sqlalchemy import insert, select

from geo.consents import give
from geo.store_file import StoreLine
from geo.stores import upsert
from geo.tables import Store
from guides.tables import Member
from kernel.clock import now
from kernel.ids import new_id
from kernel.postgres import transaction
from kernel.process import Kernel
from kernel.tables import Brand


@pytest.fixture
async def brand(kernel: Kernel) -> str:
    async with transaction(kernel.sessions) as session:
        await session.execute(insert(Brand).values(id=BRAND, name="Tea"))
    return BRAND


@pytest.fixture
def keep_stores(kernel: Kernel, brand: str) -> Keep:
    """Writes stores; returns their ids by code."""

    async def keep(lines: Iterable[StoreLine]) -> dict[str, UUID]:
        async with transaction(kernel.sessions) as session:
            await upsert(session, brand, list(lines))
            rows = await session.execute(select(Store.code, Store.id).where(Store.brand_id == brand))
            return {row.code: row.id for row in rows}

    return keep


@pytest.fixture
def make_members(kernel: Kernel, brand: str) -> Callable[..., Awaitable[list[UUID]]]:
    """Makes members, by default with a standing consent."""

    async def make(count: int, *, consent: bool = True) -> list[UUID]:
        ids = [new_id() for _ in range(count)]
        async with transaction(kernel.sessions) as session:
            await session.execute(
                insert(Member), [{"id": i, "brand_id": brand, "openid": str(i), "name": "viewer"} for i in ids]
            )
            for member in ids if consent else []:
                await give(session, brand, member, "2026-11", now())
        return ids

    return make
