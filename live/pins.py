"""Pins: which product the guide is explaining, and the marks that this leaves on the session's time line."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.clock import milliseconds, now
from kernel.errors import Refusal
from kernel.identity import Principal
from live import wire
from live.hosting import commanded, tell
from live.tables import PinMark, Product, Room, ShelfItem

MAX_TTL = 86_400
"""Seconds."""


def product_card(product: Product) -> wire.ProductCard:
    """``product`` as shown while it is explained."""
    return wire.ProductCard(
        id=product.id,
        title=product.title,
        image=product.image,
        price_fen=product.price_fen,
        list_price_fen=product.list_price_fen,
        sold_out=product.sold_out,
    )


async def pin(session: AsyncSession, who: Principal, room: UUID, product: UUID, ttl: int | None = None) -> None:
    """``product`` is being explained from now on, for ``ttl`` seconds or until the next pin or unpin.

    Raises Refusal ``not_on_shelf``, ``sold_out_product``, ``invalid`` and those of ``commanded``.
    """
    if ttl is not None and not 1 <= ttl <= MAX_TTL:
        raise Refusal("invalid", field="ttl")
    await commanded(session, who, room, "live")
    found = await session.scalar(
        select(Product)
        .join(ShelfItem, ShelfItem.product_id == Product.id)
        .where(ShelfItem.room_id == room, Product.id == product)
        # Against a sell-out that commits meanwhile: it would see no pin to take down, and we no sell-out.
        .with_for_update(of=Product, read=True)
    )
    if found is None:
        raise Refusal("not_on_shelf", product=str(product))
    if found.sold_out:
        raise Refusal("sold_out_product", product=str(product))
    at = now()
    until = None if ttl is None else at + timedelta(seconds=ttl)
    await close_mark(session, room, at)
    await session.execute(insert(PinMark).values(room_id=room, product_id=product, pinned_at=at, until=until))
    shown = wire.PinState(
        product=product_card(found), at=milliseconds(at), until=None if until is None else milliseconds(until)
    )
    await tell(session, room, wire.Pinned(product=shown.product, at=shown.at, until=shown.until), {"pin": shown})


async def unpin(session: AsyncSession, who: Principal, room: UUID) -> None:
    """Nothing is being explained now; does nothing if that was so already. Refusals of ``commanded``."""
    await commanded(session, who, room)
    await take_down(session, room, now())


async def take_down(session: AsyncSession, room: UUID, at: datetime, *which: ColumnElement[bool]) -> bool:
    """Unpin ``room``, whose lock the caller holds, if its open mark meets ``which``; true if there was one."""
    if not await close_mark(session, room, at, *which):
        return False
    await tell(session, room, wire.Unpinned(at=milliseconds(at)), {"pin": None})
    return True


async def close_mark(session: AsyncSession, room: UUID, at: datetime, *which: ColumnElement[bool]) -> bool:
    """End the open mark of ``room`` without a word to its viewers; true if there was one."""
    closed = await session.scalars(
        update(PinMark)
        .where(PinMark.room_id == room, PinMark.unpinned_at.is_(None), *which)
        .values(unpinned_at=at)
        .returning(PinMark.id)
        .execution_options(synchronize_session=False)
    )
    return closed.first() is not None


async def unpin_due(session: AsyncSession, moment: datetime) -> int:
    """Take down the pins whose time is over at ``moment`` (the worker, every second or so); returns how many."""
    due = PinMark.until <= moment
    rooms = await session.scalars(
        select(Room.id)
        .join(PinMark, PinMark.room_id == Room.id)
        .where(PinMark.unpinned_at.is_(None), due)
        .order_by(Room.id)
        .with_for_update(of=Room, key_share=True)
    )
    # The mark may have changed while we waited for the lock: only the update, which sees the newest row, decides.
    return sum([await take_down(session, room, moment, due) for room in rooms.all()])


async def taps(session: AsyncSession, room: UUID, counts: Mapping[UUID, int]) -> None:
    """Add the ``counts`` of opened product cards (by product) to each product's newest mark in ``room``."""
    for product, count in sorted(counts.items()):
        newest = (
            select(func.max(PinMark.id)).where(PinMark.room_id == room, PinMark.product_id == product).scalar_subquery()
        )
        await session.execute(
            update(PinMark)
            .where(PinMark.id == newest)
            .values(taps=PinMark.taps + count)
            .execution_options(synchronize_session=False)
        )


async def current(session: AsyncSession, room: UUID) -> wire.PinState | None:
    """What is being explained in ``room`` now."""
    row = (
        await session.execute(
            select(PinMark, Product)
            .join(Product, Product.id == PinMark.product_id)
            .where(PinMark.room_id == room, PinMark.unpinned_at.is_(None))
            .where(or_(PinMark.until.is_(None), PinMark.until > now()))
        )
    ).one_or_none()
    if row is None:
        return None
    mark, product = row
    return wire.PinState(
        product=product_card(product),
        at=milliseconds(mark.pinned_at),
        until=None if mark.until is None else milliseconds(mark.until),
    )
