"""What keeps a viewer from something until a moment, in one room or in all rooms of the brand: mutes and bans.

A room knows one moment for each viewer and kind: the later one of its own sanction and the brand's. Each change tells
every room that it concerns its new moment, in the transaction of the change, so that gateways never add two up
themselves.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Literal, NamedTuple
from uuid import UUID

import msgspec
from msgspec import Raw
from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    DateTime,
    Select,
    Text,
    Uuid,
    bindparam,
    delete,
    func,
    literal,
    literal_column,
    select,
    text,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.clock import milliseconds, now
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.outbox import emit_everywhere
from live import wire
from live.hosting import TOPIC, LiveEvent, tell
from live.tables import Ban, BrandBan, BrandMute, Mute, Room, members, staff

MAX_SECONDS = 3_650 * 86_400
"""Ten years is for good."""
EVERYWHERE = UUID(int=0)
"""Stands for the room of a sanction that holds in all rooms of the brand."""
Scope = Literal["room", "brand"]


@dataclass(frozen=True, slots=True)
class Sanction:
    """A kind of sanction: the rows that keep it, and what tells rooms of it.

    The snapshot's slot of a viewer is ``{slot}:{viewer}`` and holds the moment in ms since 1970.
    """

    here: type[Mute] | type[Ban]
    everywhere: type[BrandMute] | type[BrandBan]
    slot: str
    event: Callable[[UUID, int | None], wire.Event]


class Standing(NamedTuple):
    """A sanction that holds. ``room`` is ``EVERYWHERE`` for the whole brand; ``name`` is None for somebody unknown."""

    viewer: UUID
    name: str | None
    room: UUID
    until: datetime
    by: UUID
    at: datetime


def check_seconds(seconds: int) -> None:
    """Raises Refusal ``invalid`` for what no sanction may last."""
    if not 0 <= seconds <= MAX_SECONDS:
        raise Refusal("invalid", field="seconds")


async def is_staff(session: AsyncSession, brand: str, viewer: UUID) -> bool:
    """Whether ``viewer`` is of the brand's staff."""
    mine = select(staff.c.id).where(staff.c.id == viewer, staff.c.brand_id == brand)
    return await session.scalar(mine) is not None


# ---- imposing and lifting ------------------------------------------------------------------------------------------


async def impose_here(
    session: AsyncSession, kind: Sanction, who: Principal, room: UUID, viewer: UUID, seconds: int
) -> None:
    """For ``seconds`` from now (in place of the former one) in ``room``, which the caller has locked; 0 lifts it."""
    at, here, everywhere = now(), kind.here, kind.everywhere
    mine: datetime | None = None
    if seconds == 0:
        gone = delete(here).where(here.room_id == room, here.viewer_id == viewer).returning(here.viewer_id)
        if (await session.scalars(gone)).first() is None:
            return
    else:
        mine = at + timedelta(seconds=seconds)
        row = {"until": mine, "by": who.subject, "at": at}
        await session.execute(
            insert(here)
            .values(room_id=room, viewer_id=viewer, **row)
            .on_conflict_do_update(index_elements=["room_id", "viewer_id"], set_=row)
        )
    brands = await session.scalar(
        select(everywhere.until).where(
            everywhere.brand_id == who.brand, everywhere.viewer_id == viewer, everywhere.until > at
        )
    )
    event, slots = _told(kind, viewer, max(filter(None, (mine, brands)), default=None))
    await tell(session, room, event, slots)


async def running(session: AsyncSession, brand: str) -> Sequence[UUID]:
    """The rooms of ``brand`` that have not ended, locked. Those that have not begun are told too: people wait and talk
    in them."""
    # A room that is just being made (``taking_part``) is either seen here, or will read what is committed here.
    await session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:lock, 0))"), {"lock": _lock(brand)})
    query = select(Room.id).where(Room.brand_id == brand, Room.state.in_(("scheduled", "live")))
    return (await session.scalars(query.order_by(Room.id).with_for_update(key_share=True))).all()


async def taking_part(session: AsyncSession, brand: str) -> None:
    """To be called before a room of ``brand`` is made: no sanction of the brand passes it by."""
    shared = text("SELECT pg_advisory_xact_lock_shared(hashtextextended(:lock, 0))")
    await session.execute(shared, {"lock": _lock(brand)})


def _lock(brand: str) -> str:
    return f"nearcast:mutes:{brand}"  # for bans too; processes of the version before this one know it by this name


async def impose_everywhere(
    session: AsyncSession, kind: Sanction, who: Principal, rooms: Sequence[UUID], viewer: UUID, seconds: int
) -> None:
    """As ``impose_here`` in all rooms of the brand, those to come included; ``rooms`` are those of ``running``."""
    at, here, everywhere = now(), kind.here, kind.everywhere
    # Nobody asks for what is over; those who impose sweep.
    await session.execute(delete(everywhere).where(everywhere.brand_id == who.brand, everywhere.until <= at))
    until: datetime | None = None
    if seconds == 0:
        gone = delete(everywhere).where(everywhere.brand_id == who.brand, everywhere.viewer_id == viewer)
        if (await session.scalars(gone.returning(everywhere.viewer_id))).first() is None:
            return
    else:
        until = at + timedelta(seconds=seconds)
        row = {"until": until, "by": who.subject, "at": at}
        await session.execute(
            insert(everywhere)
            .values(brand_id=who.brand, viewer_id=viewer, **row)
            .on_conflict_do_update(index_elements=["brand_id", "viewer_id"], set_=row)
        )
    own = select(here.room_id, here.until).where(here.viewer_id == viewer, here.until > at, here.room_id.in_(rooms))
    theirs: dict[UUID, datetime] = {room: moment for room, moment in await session.execute(own)}
    await emit_everywhere(session, [_telling(kind, room, viewer, until, theirs) for room in rooms])


def _telling(
    kind: Sanction, room: UUID, viewer: UUID, until: datetime | None, theirs: Mapping[UUID, datetime]
) -> tuple[UUID, str, LiveEvent]:
    event, slots = _told(kind, viewer, max(filter(None, (until, theirs.get(room))), default=None))
    encoded = {name: Raw(msgspec.json.encode(value)) for name, value in slots.items()}
    return room, TOPIC, LiveEvent(Raw(wire.encoder.encode(event)), encoded)


def _told(kind: Sanction, viewer: UUID, until: datetime | None) -> tuple[wire.Event, dict[str, int | None]]:
    ends = None if until is None else milliseconds(until)
    return kind.event(viewer, ends), {f"{kind.slot}:{viewer}": ends}


# ---- what holds ----------------------------------------------------------------------------------------------------


async def holding(
    session: AsyncSession, kinds: tuple[Sanction, ...], room: UUID, moment: datetime
) -> Sequence[tuple[str, UUID, datetime]]:
    """(Slot, viewer, until) of all whom sanctions of these ``kinds`` concern in ``room`` at ``moment``."""
    rows = await session.execute(_holding(kinds), {"room": room, "moment": moment})
    return [(slot, viewer, until) for slot, viewer, until in rows]


@cache
def _holding(kinds: tuple[Sanction, ...]) -> Select[str, UUID, datetime]:
    """One statement for all kinds, built once: every opening of a room asks, and building costs more than asking."""
    room, moment = bindparam("room", type_=Uuid), bindparam("moment", type_=DateTime(timezone=True))
    brand = select(Room.brand_id).where(Room.id == room).scalar_subquery()
    parts = []
    for kind in kinds:
        slot = literal_column(f"'{kind.slot}'", Text).label("slot")
        in_force: tuple[tuple[Any, ColumnElement[bool]], ...] = (
            (kind.here, kind.here.room_id == room),
            (kind.everywhere, kind.everywhere.brand_id == brand),
        )
        for table, scope in in_force:
            until = table.until.label("until")
            parts.append(select(slot, table.viewer_id.label("viewer"), until).where(scope, table.until > moment))
    held = union_all(*parts).subquery()
    longest = func.max(held.c.until)
    return select(held.c.slot, held.c.viewer, longest).group_by(held.c.slot, held.c.viewer)


async def slots(session: AsyncSession, kinds: tuple[Sanction, ...], room: UUID) -> dict[str, bytes]:
    """The snapshot's slots for what holds in ``room`` now."""
    held = await holding(session, kinds, room, now())
    return {f"{slot}:{viewer}": msgspec.json.encode(milliseconds(until)) for slot, viewer, until in held}


async def standing(
    session: AsyncSession,
    kind: Sanction,
    brand: str,
    moment: datetime,
    before: tuple[datetime, UUID, UUID] | None,
    limit: int,
) -> Sequence[Standing]:
    """Up to ``limit`` of ``brand`` that hold at ``moment``, newest first, older than (at, viewer, room)."""
    all_of_them = _standing(kind, brand, moment).subquery()
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
    return [Standing(*row) for row in rows]


def _standing(kind: Sanction, brand: str, moment: datetime) -> CompoundSelect[Any]:
    table, all_rooms = kind.here, kind.everywhere
    here = (
        select(table.viewer_id, table.room_id, table.until, table.by, table.at)
        .join(Room, Room.id == table.room_id)
        .where(Room.brand_id == brand, Room.state != "ended", table.until > moment)
    )
    room = literal(EVERYWHERE, Uuid).label("room_id")
    everywhere = select(all_rooms.viewer_id, room, all_rooms.until, all_rooms.by, all_rooms.at).where(
        all_rooms.brand_id == brand, all_rooms.until > moment
    )
    return union_all(here, everywhere)
