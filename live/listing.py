"""Rooms as lists and pages show them: read only, no lock taken."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.errors import Refusal
from kernel.identity import Principal, Role
from live.tables import Comment, PinMark, Product, Reminder, Room, shops, staff


class Listed(NamedTuple):
    """A room with its guide and store."""

    id: UUID
    title: str
    state: str
    slow_seconds: int
    display_rate: int
    announcement: str
    scheduled_at: datetime | None
    live_at: datetime | None
    ended_at: datetime | None
    stream_nonce: UUID
    guide_id: UUID
    guide_name: str
    store_id: UUID | None
    store_code: str | None
    store_name: str | None
    paused_at: datetime | None
    reminders: int


def _rooms(brand: str) -> Select[*tuple[Any, ...]]:
    reminders = select(func.count()).where(Reminder.room_id == Room.id).correlate(Room).scalar_subquery()
    return (
        select(
            Room.id,
            Room.title,
            Room.state,
            Room.slow_seconds,
            Room.display_rate,
            Room.announcement,
            Room.scheduled_at,
            Room.live_at,
            Room.ended_at,
            Room.stream_nonce,
            Room.guide_id,
            staff.c.name,
            Room.store_id,
            shops.c.code,
            shops.c.name,
            Room.paused_at,
            reminders,
        )
        .join_from(Room, staff, staff.c.id == Room.guide_id)
        .outerjoin(shops, shops.c.id == Room.store_id)
        .where(Room.brand_id == brand)
    )


async def listed(session: AsyncSession, brand: str, state: str | None, before: UUID | None, limit: int) -> list[Listed]:
    """Up to ``limit`` rooms of ``brand``, the newest made first, older than ``before``; all states if None."""
    query = _rooms(brand)
    if state is not None:
        query = query.where(Room.state == state)
    if before is not None:
        query = query.where(Room.id < before)  # identifiers are in order of time
    rows = await session.execute(query.order_by(Room.id.desc()).limit(limit))
    return [Listed(*row) for row in rows]


async def one(session: AsyncSession, brand: str, room: UUID) -> Listed:
    """A room of ``brand``; Refusal ``not_found``."""
    row = (await session.execute(_rooms(brand).where(Room.id == room))).one_or_none()
    if row is None:
        raise Refusal("not_found", what=str(room))
    return Listed(*row)


async def own(session: AsyncSession, who: Principal, room: UUID) -> Listed:
    """A room that ``who`` may look behind: ops, or the room's own guide. Refusal ``not_found``, ``forbidden``."""
    found = await one(session, who.brand, room)
    if who.role is not Role.OPS and not (who.role is Role.GUIDE and found.guide_id == who.subject):
        raise Refusal("forbidden", "Only the room's own guide may do this.")
    return found


async def comment_counts(session: AsyncSession, rooms: Sequence[UUID]) -> dict[UUID, int]:
    """How many comments are kept of each of ``rooms``; counted in ix_comments_room_at."""
    rows = await session.execute(
        select(Comment.room_id, func.count()).where(Comment.room_id.in_(rooms)).group_by(Comment.room_id)
    )
    return {room: count for room, count in rows}


async def chapters(
    session: AsyncSession, room: UUID, after: int = 0, limit: int | None = None
) -> list[tuple[PinMark, Product]]:
    """Up to ``limit`` pin marks of ``room`` with their products, oldest first, behind the mark ``after``."""
    rows = await session.execute(
        select(PinMark, Product)
        .join(Product, Product.id == PinMark.product_id)
        .where(PinMark.room_id == room, PinMark.id > after)
        .order_by(PinMark.id)
        .limit(limit)
    )
    return [(mark, product) for mark, product in rows]
