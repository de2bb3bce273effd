"""Who may not speak, in one room or in all rooms of the brand, and until when.

A room knows one moment for each viewer: the later one of its own mute and the brand's. Each change tells every room
that it concerns its new moment, in the transaction of the change, so that gateways never add two mutes up themselves.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple
from uuid import UUID

import msgspec
from msgspec import Raw
from sqlalchemy import CompoundSelect, Uuid, delete, func, literal, select, text, tuple_, union_all
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.clock import milliseconds, now
from kernel.errors import Refusal
from kernel.identity import Principal, Role
from kernel.outbox import emit_everywhere
from live import wire
from live.hosting import TOPIC, LiveEvent, commanded, tell
from live.tables import BrandMute, Mute, Room, members, staff

MAX_MUTE = 3_650 * 86_400
"""Seconds: ten years is for good."""
EVERYWHERE = UUID(int=0)
"""Stands for the room of a mute that holds in all rooms of the brand."""
Scope = Literal["room", "brand"]


class Muting(NamedTuple):
    """A mute that holds. ``room`` is ``EVERYWHERE`` for the whole brand; ``name`` is None for somebody unknown."""

    viewer: UUID
    name: str | None
    room: UUID
    until: datetime
    by: UUID
    at: datetime


async def mute(
    session: AsyncSession, who: Principal, room: UUID, viewer: UUID, seconds: int, scope: Scope = "room"
) -> None:
    """Refuse the comments of ``viewer`` for ``seconds`` from now (a new mute replaces the former); 0 lifts the mute.

    With scope ``brand`` in every room of the brand, those to come included; a mute of one room stays as it is beneath.
    Raises Refusal ``invalid`` (out of range, or somebody of the staff), ``room_ended`` and those of ``commanded``.
    """
    _check(seconds)
    # All rooms in their order before this one, else two transactions could wait for each other for ever.
    rooms = await _running(session, who.brand) if scope == "brand" else []
    found = await commanded(session, who, room, "scheduled", "live")
    if viewer == found.guide_id:
        raise Refusal("invalid", "The room's guide cannot be muted.", field="viewer")
    if scope == "brand":
        await _mute_everywhere(session, who, rooms, viewer, seconds)
    else:
        await _mute_here(session, who, room, viewer, seconds)


async def mute_brand(session: AsyncSession, who: Principal, viewer: UUID, seconds: int) -> None:
    """``mute`` with scope ``brand`` for ops, who need no room for it. Refusal ``forbidden``, ``invalid``."""
    if who.role is not Role.OPS:
        raise Refusal("forbidden")
    _check(seconds)
    await _mute_everywhere(session, who, await _running(session, who.brand), viewer, seconds)


def _check(seconds: int) -> None:
    if not 0 <= seconds <= MAX_MUTE:
        raise Refusal("invalid", field="seconds")


async def _mute_here(session: AsyncSession, who: Principal, room: UUID, viewer: UUID, seconds: int) -> None:
    at = now()
    mine: datetime | None = None
    if seconds == 0:
        gone = delete(Mute).where(Mute.room_id == room, Mute.viewer_id == viewer).returning(Mute.viewer_id)
        if (await session.scalars(gone)).first() is None:
            return
    else:
        mine = at + timedelta(seconds=seconds)
        row = {"until": mine, "by": who.subject, "at": at}
        await session.execute(
            insert(Mute)
            .values(room_id=room, viewer_id=viewer, **row)
            .on_conflict_do_update(index_elements=["room_id", "viewer_id"], set_=row)
        )
    brands = await session.scalar(
        select(BrandMute.until).where(
            BrandMute.brand_id == who.brand, BrandMute.viewer_id == viewer, BrandMute.until > at
        )
    )
    event, slots = _told(viewer, max(filter(None, (mine, brands)), default=None))
    await tell(session, room, event, slots)


async def _running(session: AsyncSession, brand: str) -> Sequence[UUID]:
    """The rooms of ``brand`` that have not ended, locked. Those that have not begun are told too: people wait and talk
    in them."""
    # A room that is just being made (``taking_part``) is either seen here, or will read what is committed here.
    await session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:lock, 0))"), {"lock": _lock(brand)})
    query = select(Room.id).where(Room.brand_id == brand, Room.state.in_(("scheduled", "live")))
    return (await session.scalars(query.order_by(Room.id).with_for_update(key_share=True))).all()


async def taking_part(session: AsyncSession, brand: str) -> None:
    """To be called before a room of ``brand`` is made: no mute of the brand passes it by."""
    shared = text("SELECT pg_advisory_xact_lock_shared(hashtextextended(:lock, 0))")
    await session.execute(shared, {"lock": _lock(brand)})


def _lock(brand: str) -> str:
    return f"nearcast:mutes:{brand}"


async def _mute_everywhere(
    session: AsyncSession, who: Principal, rooms: Sequence[UUID], viewer: UUID, seconds: int
) -> None:
    mine = select(staff.c.id).where(staff.c.id == viewer, staff.c.brand_id == who.brand)
    if await session.scalar(mine) is not None:
        raise Refusal("invalid", "Staff cannot be muted.", field="viewer")
    at = now()
    # Nobody asks for what is over; those who mute sweep.
    await session.execute(delete(BrandMute).where(BrandMute.brand_id == who.brand, BrandMute.until <= at))
    until: datetime | None = None
    if seconds == 0:
        gone = delete(BrandMute).where(BrandMute.brand_id == who.brand, BrandMute.viewer_id == viewer)
        if (await session.scalars(gone.returning(BrandMute.viewer_id))).first() is None:
            return
    else:
        until = at + timedelta(seconds=seconds)
        row = {"until": until, "by": who.subject, "at": at}
        await session.execute(
            insert(BrandMute)
            .values(brand_id=who.brand, viewer_id=viewer, **row)
            .on_conflict_do_update(index_elements=["brand_id", "viewer_id"], set_=row)
        )
    own = select(Mute.room_id, Mute.until).where(Mute.viewer_id == viewer, Mute.until > at, Mute.room_id.in_(rooms))
    theirs: dict[UUID, datetime] = {room: moment for room, moment in await session.execute(own)}
    await emit_everywhere(session, [_telling(room, viewer, until, theirs) for room in rooms])


def _telling(
    room: UUID, viewer: UUID, until: datetime | None, theirs: Mapping[UUID, datetime]
) -> tuple[UUID, str, LiveEvent]:
    event, slots = _told(viewer, max(filter(None, (until, theirs.get(room))), default=None))
    encoded = {name: Raw(msgspec.json.encode(value)) for name, value in slots.items()}
    return room, TOPIC, LiveEvent(Raw(wire.encoder.encode(event)), encoded)


def _told(viewer: UUID, until: datetime | None) -> tuple[wire.Muted, dict[str, int | None]]:
    ends = None if until is None else milliseconds(until)
    return wire.Muted(viewer=viewer, until=ends), {f"mute:{viewer}": ends}


async def mutes(session: AsyncSession, room: UUID, moment: datetime) -> list[tuple[UUID, datetime]]:
    """Who may not speak in ``room`` at ``moment``, and until when."""
    here = select(Mute.viewer_id, Mute.until).where(Mute.room_id == room, Mute.until > moment)
    brand = select(Room.brand_id).where(Room.id == room).scalar_subquery()
    everywhere = select(BrandMute.viewer_id, BrandMute.until).where(
        BrandMute.brand_id == brand, BrandMute.until > moment
    )
    both = union_all(here, everywhere).subquery()
    rows = await session.execute(select(both.c.viewer_id, func.max(both.c.until)).group_by(both.c.viewer_id))
    return [(viewer, until) for viewer, until in rows]


async def standing(
    session: AsyncSession, brand: str, moment: datetime, before: tuple[datetime, UUID, UUID] | None, limit: int
) -> Sequence[Muting]:
    """Up to ``limit`` mutes of ``brand`` that hold at ``moment``, newest first, older than (at, viewer, room)."""
    all_of_them = _standing(brand, moment).subquery()
    order = (all_of_them.c.at, all_of_them.c.viewer_id, all_of_them.c.room_id)
    query = (
        select(
            all_of_them.c.viewer_id, members.c.name, all_of_them.c.room_id, all_of_them.c.until,
            all_of_them.c.by, all_of_them.c.at,
        )
        .select_from(all_of_them)
        .outerjoin(members, members.c.id == all_of_them.c.viewer_id)
    )  # fmt: skip
    if before is not None:
        position = (literal(part, column.type) for part, column in zip(before, order, strict=True))
        query = query.where(tuple_(*order) < tuple_(*position))
    rows = await session.execute(query.order_by(*(column.desc() for column in order)).limit(limit))
    return [Muting(*row) for row in rows]


def _standing(brand: str, moment: datetime) -> CompoundSelect[Any]:
    here = (
        select(Mute.viewer_id, Mute.room_id, Mute.until, Mute.by, Mute.at)
        .join(Room, Room.id == Mute.room_id)
        .where(Room.brand_id == brand, Room.state != "ended", Mute.until > moment)
    )
    room = literal(EVERYWHERE, Uuid).label("room_id")
    everywhere = select(BrandMute.viewer_id, room, BrandMute.until, BrandMute.by, BrandMute.at).where(
        BrandMute.brand_id == brand, BrandMute.until > moment
    )
    return union_all(here, everywhere)
