"""The demo world: one tea brand with its stores, people, products, campaigns and rooms, loaded into the database.

All of it is made up for Nearcast. The places are real streets, so that distances and datums behave as they do in life;
the brand and its people exist nowhere else. Loading again changes nothing, except that a room which has ended and a
campaign which has been given away are replaced by fresh ones.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import delete, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from app.audience import people
from coupons.tables import Campaign
from geo import store_file, stores
from geo.tables import Store
from guides.tables import Binding, GuideStore, Member, Staff
from kernel.clock import now
from kernel.identity import Principal, Role
from kernel.ids import BrandId, new_id
from kernel.postgres import transaction
from kernel.process import Kernel
from kernel.tables import Brand
from live import rooms, shelf
from live.tables import Room

DATA = Path(__file__).with_name("demo_data")
STORES_FILE = DATA / "stores.csv"
BRAND = BrandId("demo")
BRAND_NAME = "岚汀茶物"
MEMBERS = 400
"""Viewers who are members before the first evening; everybody else becomes one by signing in."""
CLERKS = 200
"""At most so many stores have a clerk from the start."""
REPLACED_BELOW = 0.2
"""A campaign with less of its stock left than this is ended and begun anew."""


@dataclass(frozen=True, slots=True)
class World:
    """What was loaded. ``guide``, ``clerk`` and ``ops`` are accounts for ``POST /v1/auth/dev``."""

    brand: str
    room: UUID
    guide: str
    clerk: str
    ops: str
    stores: int
    """Stores of the file that are in the database now."""
    refused_lines: int
    """Lines of the file that could not be imported."""
    rooms: list[UUID]
    products: int
    campaigns: int


class _RoomPlan(msgspec.Struct, frozen=True):
    guide: int
    title: str
    shelf: list[int]
    live: bool = False


async def load(kernel: Kernel, stores_file: Path | None = None) -> World:
    """Load or refresh the demo world, with the stores of ``stores_file`` (the import's CSV) in place of the demo's.

    Raises ValueError when the file has not one usable store, OSError when it cannot be read.
    """
    path = stores_file or STORES_FILE
    async with transaction(kernel.sessions) as session:
        await session.execute(upsert(Brand).values(id=BRAND, name=BRAND_NAME).on_conflict_do_nothing())
        report = await stores.import_csv(session, BRAND, path)
    async with transaction(kernel.sessions) as session:
        places = await _served(session, path)
        if not places:
            raise ValueError(f"{path} has no usable store")
        guides = await _guides(session, places)
        await _staff(session, places)
        await _members(session, guides)
        products = await _products(session)
        campaigns = await _campaigns(session)
        opened = [await _room(session, plan, guides, places, products) for plan in _plans()]
    return World(
        brand=BRAND,
        room=opened[0],
        guide="guide-01",
        clerk="clerk-01",
        ops="ops-01",
        stores=len(places),
        refused_lines=len(report.errors),
        rooms=opened,
        products=len(products),
        campaigns=campaigns,
    )


def _read(name: str, shape: Any) -> Any:
    return msgspec.json.decode((DATA / name).read_bytes(), type=shape)


def _plans() -> list[_RoomPlan]:
    plans: list[_RoomPlan] = _read("rooms.json", list[_RoomPlan])
    return plans


def _alternating(cities: Iterable[Sequence[Store]]) -> list[Store]:
    """One store of each city in turn, so that the first few already lie all over the country."""
    return [store for store in chain.from_iterable(zip_longest(*cities)) if store is not None]


async def _served(session: AsyncSession, path: Path) -> list[Store]:
    """The stores of the file, the city of its first line first, in an order that is the same on every run."""
    codes = [line.code for line in store_file.read(path, store_file.examine(path)) if line.code]
    found: dict[str, Store] = {}
    for start in range(0, len(codes), 1000):
        some = codes[start : start + 1000]
        query = select(Store).where(Store.brand_id == BRAND, Store.code.in_(some))
        found |= {store.code: store for store in await session.scalars(query)}
    cities: dict[str, list[Store]] = defaultdict(list)
    for code in dict.fromkeys(codes):
        if code in found:
            cities[found[code].city].append(found[code])
    return _alternating(cities.values())


async def _guides(session: AsyncSession, places: Sequence[Store]) -> list[UUID]:
    """The guides' ids in order of their numbers; each is bound to a store of the file, or to one shared with others."""
    names: list[str] = _read("guides.json", list[str])
    rows = [
        {"id": new_id(), "brand_id": BRAND, "account": f"guide-{n:02d}", "name": name, "role": "guide"}
        for n, name in enumerate(names, 1)
    ]
    guides = await _upsert_staff(session, rows)
    await session.execute(delete(GuideStore).where(GuideStore.guide_id.in_(guides)))
    bound = [{"guide_id": guide, "store_id": places[n % len(places)].id} for n, guide in enumerate(guides)]
    await session.execute(insert(GuideStore), bound)
    return guides


async def _staff(session: AsyncSession, places: Sequence[Store]) -> None:
    clerks = [
        {
            "id": new_id(), "brand_id": BRAND, "account": f"clerk-{n:02d}", "name": f"店员{n:02d}", "role": "clerk",
            "store_id": store.id,
        }
        for n, store in enumerate(places[:CLERKS], 1)
    ]  # fmt: skip
    ops = {"id": new_id(), "brand_id": BRAND, "account": "ops-01", "name": "运营小组", "role": "ops"}
    await _upsert_staff(session, clerks)
    await _upsert_staff(session, [ops])


async def _upsert_staff(session: AsyncSession, rows: list[dict[str, Any]]) -> list[UUID]:
    statement = upsert(Staff).values(rows)
    changed = {"name": statement.excluded.name, "store_id": statement.excluded.store_id}
    if "store_id" not in rows[0]:
        del changed["store_id"]
    found = await session.execute(
        statement.on_conflict_do_update(index_elements=["brand_id", "account"], set_=changed).returning(
            Staff.account, Staff.id
        )
    )
    ids = {account: staff for account, staff in found}
    return [ids[row["account"]] for row in rows]


async def _members(session: AsyncSession, guides: Sequence[UUID]) -> None:
    """Members in tiers, known by the accounts that the audience signs in with, each bound to a guide."""
    rows = [
        {
            "id": new_id(), "brand_id": BRAND, "openid": f"dev:{people.account(n)}", "name": people.name(n),
            "tier": people.tier(n), "orders": people.orders(n),
        }
        for n in range(1, MEMBERS + 1)
    ]  # fmt: skip
    made = await session.scalars(upsert(Member).values(rows).on_conflict_do_nothing().returning(Member.id))
    bindings = [{"member_id": member, "guide_id": guides[n % len(guides)]} for n, member in enumerate(made)]
    if bindings:
        await session.execute(upsert(Binding).values(bindings).on_conflict_do_nothing())


async def _products(session: AsyncSession) -> dict[int, UUID]:
    """The products' ids by the number at the end of their SKU."""
    found = {}
    for row in _read("products.json", list[dict[str, Any]]):
        product = await shelf.save_product(session, BRAND, **row)
        found[int(product.sku.rpartition("-")[2])] = product.id
    return found


async def _campaigns(session: AsyncSession) -> int:
    """See that each of the demo's campaigns is running with enough left to give; returns how many there are."""
    plans: list[dict[str, Any]] = _read("campaigns.json", list[dict[str, Any]])
    for plan in plans:
        mine = select(Campaign).where(
            Campaign.brand_id == BRAND, Campaign.title == plan["title"], Campaign.state != "ended"
        )
        current = list(await session.scalars(mine))
        enough = [c for c in current if c.state == "running" and c.stock - c.issued >= REPLACED_BELOW * c.stock]
        if enough:
            continue
        spent = [campaign.id for campaign in current]
        await session.execute(update(Campaign).where(Campaign.id.in_(spent)).values(state="ended"))
        await session.execute(insert(Campaign).values(id=new_id(), brand_id=BRAND, state="running", **plan))
    return len(plans)


async def _room(
    session: AsyncSession,
    plan: _RoomPlan,
    guides: Sequence[UUID],
    places: Sequence[Store],
    products: dict[int, UUID],
) -> UUID:
    """The guide's open room, or a new one as planned."""
    guide = guides[plan.guide - 1]
    who = Principal(BRAND, guide, Role.GUIDE, "", now() + timedelta(minutes=1))
    room = await session.scalar(
        select(Room.id).where(Room.guide_id == guide, Room.state != "ended").order_by(Room.created_at.desc()).limit(1)
    )
    if room is None:
        room = await rooms.create(
            session,
            who,
            plan.title,
            store_code=places[(plan.guide - 1) % len(places)].code,
            scheduled_at=now(),
            products=[products[number] for number in plan.shelf],
        )
    if plan.live:
        await rooms.start(session, who, room)
    return room
