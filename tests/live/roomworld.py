"""A brand with guides, ops, a store, products and rooms, for the tests of rooms."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from geoalchemy2 import WKTElement
from sqlalchemy import insert, select, text

import geo.tables
import guides.tables
from kernel.clock import now
from kernel.errors import Refusal
from kernel.identity import Principal, Role
from kernel.ids import BrandId, new_id
from kernel.postgres import transaction
from kernel.process import Kernel
from kernel.tables import Brand, OutboxEvent
from live import rooms, sanctions, wire
from live.hosting import LiveEvent
from live.tables import Product, Room, ShelfItem


@dataclass(frozen=True)
class World:
    kernel: Kernel
    guide: Principal
    other_guide: Principal
    ops: Principal
    viewer: Principal
    stranger: Principal  # ops of another brand
    store: UUID
    latte: UUID
    mocha: UUID
    sold_out: UUID
    unshelved: UUID
    room: UUID  # live, with latte, mocha and sold_out on its shelf
    planned: UUID  # scheduled

    async def events(self, room: UUID | None = None) -> list[tuple[Any, dict[str, bytes]]]:
        """What the outbox tells of ``room``: decoded events and the slots they set."""
        async with self.kernel.sessions() as session:
            rows = await session.scalars(
                select(OutboxEvent.payload)
                .where(OutboxEvent.topic == "live.event", OutboxEvent.room_id == (room or self.room))
                .order_by(OutboxEvent.id)
            )
            told = [msgspec.json.decode(row, type=LiveEvent) for row in rows]
        return [(wire.room_events.decode(one.event), one.snapshot()) for one in told]

    async def somebody_waits(self) -> None:
        """Return when a transaction waits for another one's lock."""
        waiting = text(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        async with asyncio.timeout(60), self.kernel.engine.connect() as connection:
            while not await connection.scalar(waiting):
                await connection.rollback()  # the view is frozen within a transaction
                await asyncio.sleep(0.01)


def _principal(brand: str, role: Role, name: str) -> Principal:
    return Principal(BrandId(brand), new_id(), role, name, now() + timedelta(hours=1))


async def make_world(kernel: Kernel) -> World:
    guide = _principal("acme", Role.GUIDE, "阿May")
    other_guide = _principal("acme", Role.GUIDE, "阿Jun")
    ops = _principal("acme", Role.OPS, "运营")
    stranger = _principal("other", Role.OPS, "别家")
    viewer = _principal("acme", Role.VIEWER, "小林")
    store = new_id()
    products = {name: new_id() for name in ("latte", "mocha", "sold_out", "unshelved")}
    room, planned = new_id(), new_id()
    async with transaction(kernel.sessions) as session:
        await session.execute(insert(Brand), [{"id": "acme", "name": "Acme"}, {"id": "other", "name": "Other"}])
        await session.execute(
            insert(geo.tables.Store).values(
                id=store, brand_id="acme", code="S1", name="静安寺店", banner="Acme", city="上海", address="南京西路",
                source_lng=121.445, source_lat=31.223, source_datum="gcj02",
                position=WKTElement("POINT(121.445 31.223)", srid=4326),
            )
        )  # fmt: skip
        await session.execute(
            insert(guides.tables.Staff),
            [
                {
                    "id": who.subject,
                    "brand_id": who.brand,
                    "account": who.name,
                    "name": who.name,
                    "role": who.role.value,
                }
                for who in (guide, other_guide, ops, stranger)
            ],
        )
        await session.execute(
            insert(guides.tables.Member).values(id=viewer.subject, brand_id="acme", openid="o1", name=viewer.name)
        )
        await session.execute(
            insert(Product),
            [
                {
                    "id": key, "brand_id": "acme", "sku": name, "title": name, "image": f"/art/{name}.svg",
                    "price_fen": 2900, "sold_out": name == "sold_out",
                }
                for name, key in products.items()
            ],
        )  # fmt: skip
        await session.execute(
            insert(Room),
            [
                {"id": room, "brand_id": "acme", "guide_id": guide.subject, "store_id": store, "title": "新品",
                 "state": "live", "live_at": now()},
                {"id": planned, "brand_id": "acme", "guide_id": guide.subject, "store_id": None, "title": "明天",
                 "state": "scheduled", "live_at": None},
            ],
        )  # fmt: skip
        await session.execute(
            insert(ShelfItem),
            [
                {"room_id": room, "product_id": products[name], "place": place}
                for place, name in enumerate(("latte", "mocha", "sold_out"))
            ],
        )
    return World(kernel, guide, other_guide, ops, viewer, stranger, store, **products, room=room, planned=planned)


# ---- use cases, each in a transaction of its own as an edge runs it ------------------------------------------------


async def do(world: World, use_case: Callable[..., Awaitable[Any]], *arguments: Any, **named: Any) -> Any:
    """What the use case returns."""
    async with transaction(world.kernel.sessions) as session:
        return await use_case(session, *arguments, **named)


async def refusal(world: World, use_case: Callable[..., Awaitable[Any]], *arguments: Any, **named: Any) -> Refusal:
    """How the use case refuses."""
    with pytest.raises(Refusal) as refused:
        await do(world, use_case, *arguments, **named)
    return refused.value


async def refused(world: World, use_case: Callable[..., Awaitable[Any]], *arguments: Any, **named: Any) -> str:
    """The code with which the use case refuses."""
    return (await refusal(world, use_case, *arguments, **named)).code


async def snapshot(world: World, room: UUID) -> dict[str, bytes]:
    """The room's snapshot, as its rows give it."""
    _, slots = await do(world, rooms.opening, room)
    found: dict[str, bytes] = slots
    return found


async def held(
    world: World, kind: sanctions.Sanction, room: UUID, moment: datetime | None = None
) -> dict[UUID, datetime]:
    """Whom sanctions of this kind concern in ``room``, now or at ``moment``, and until when."""
    rows = await do(world, sanctions.holding, (kind,), room, moment or now())
    return {viewer: until for _, viewer, until in rows}
