"""Products, and the shelf of a room: which of them it shows, in which order."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import delete, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.clock import now
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.ids import new_id
from live.hosting import commanded
from live.pins import take_down
from live.tables import PinMark, Product, Room, ShelfItem

MAX_SHELF = 200
"""Products on one shelf."""


async def set_shelf(session: AsyncSession, who: Principal, room: UUID, products: Sequence[UUID]) -> None:
    """Put exactly ``products`` on the shelf, in this order; what is explained and no longer there is unpinned.

    Raises Refusal ``not_found`` (unknown product), ``invalid`` (twice the same, or too many), ``room_ended``.
    """
    found = await commanded(session, who, room, "scheduled", "live")
    await session.execute(delete(ShelfItem).where(ShelfItem.room_id == room))
    await put_on_shelf(session, found.brand_id, room, products)
    await take_down(session, room, now(), PinMark.product_id.not_in(products))


async def put_on_shelf(session: AsyncSession, brand: str, room: UUID, products: Sequence[UUID]) -> None:
    """Fill the empty shelf of ``room``; refusals as ``set_shelf``."""
    if len(products) > MAX_SHELF:
        raise Refusal("invalid", f"A shelf holds at most {MAX_SHELF} products.", field="products")
    if len(set(products)) != len(products):
        raise Refusal("invalid", "A product is on the shelf once.", field="products")
    if not products:
        return
    known = await session.scalars(select(Product.id).where(Product.brand_id == brand, Product.id.in_(products)))
    if missing := set(products) - set(known):
        raise Refusal("not_found", "No such product.", what=str(min(missing)))
    await session.execute(
        insert(ShelfItem),
        [{"room_id": room, "product_id": product, "place": place} for place, product in enumerate(products)],
    )


async def shelf(session: AsyncSession, room: UUID) -> list[Product]:
    """The products on the shelf of ``room``, in order."""
    found = await session.scalars(
        select(Product)
        .join(ShelfItem, ShelfItem.product_id == Product.id)
        .where(ShelfItem.room_id == room)
        .order_by(ShelfItem.place)
    )
    return list(found)


async def products(session: AsyncSession, brand: str, after: str, limit: int) -> list[Product]:
    """Up to ``limit`` products of ``brand`` by sku, beginning behind the sku ``after``."""
    found = await session.scalars(
        select(Product).where(Product.brand_id == brand, Product.sku > after).order_by(Product.sku).limit(limit)
    )
    return list(found)


async def save_product(
    session: AsyncSession,
    brand: str,
    sku: str,
    *,
    title: str,
    image: str,
    price_fen: int,
    list_price_fen: int | None = None,
) -> Product:
    """The product ``sku`` of ``brand`` with these properties, new or changed."""
    told = {"title": title, "image": image, "price_fen": price_fen, "list_price_fen": list_price_fen}
    statement = (
        upsert(Product)
        .values(id=new_id(), brand_id=brand, sku=sku, **told)
        .on_conflict_do_update(index_elements=["brand_id", "sku"], set_=told)
        .returning(Product)
        .execution_options(populate_existing=True)
    )
    return (await session.scalars(statement)).one()


async def set_sold_out(session: AsyncSession, brand: str, product: UUID, sold_out: bool) -> Product:
    """Mark ``product`` as (not) sold out; where it is being explained at that moment, it is unpinned.

    Raises Refusal ``not_found``.
    """
    # Rooms before the product, as a pin does, else the two could wait for each other for ever.
    shown = await session.scalars(
        select(Room.id)
        .join(ShelfItem, ShelfItem.room_id == Room.id)
        .where(ShelfItem.product_id == product, Room.state == "live", Room.brand_id == brand)
        .order_by(Room.id)
        .with_for_update(of=Room, key_share=True)
    )
    rooms = shown.all()
    changed = await session.scalars(
        update(Product)
        .where(Product.id == product, Product.brand_id == brand)
        .values(sold_out=sold_out)
        .returning(Product)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    found = changed.one_or_none()
    if found is None:
        raise Refusal("not_found", what=str(product))
    if sold_out:
        for room in rooms:
            await take_down(session, room, now(), PinMark.product_id == product)
    return found
