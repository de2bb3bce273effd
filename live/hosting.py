"""What every command to a room shares: the room's lock, the right to give it, and the one event that tells of it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import msgspec
from msgspec import Raw, Struct
from sqlalchemy import Row, Table, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.clock import milliseconds
from kernel.errors import Refusal
from kernel.identity import Principal, Role
from kernel.outbox import emit
from live import wire
from live.tables import Room, shops, staff

TOPIC = "live.event"
_ROOMS = cast(Table, Room.__table__)
_CLEARED = Raw(b"null")


class LiveEvent(Struct, frozen=True):
    """Payload of outbox topic ``live.event``: an encoded wire event and the pieces of the snapshot that it sets.

    ``slots`` maps a slot's name to JSON; ``null`` clears it. The relay hands ``snapshot()`` to ``Bus.publish``.
    """

    event: Raw
    slots: dict[str, Raw] = {}

    def snapshot(self) -> dict[str, bytes]:
        """The slots as the bus takes them: encoded JSON, empty bytes for cleared."""
        return {name: b"" if value == _CLEARED else bytes(value) for name, value in self.slots.items()}


async def commanded(session: AsyncSession, who: Principal, room: UUID, *states: str) -> Room:
    """The room, locked until the transaction ends, if ``who`` may command it and it is in one of ``states``.

    Raises Refusal ``not_found`` (also for another brand's room), ``forbidden``, ``room_ended``, ``room_not_live``,
    ``room_state``.
    """
    if who.role not in (Role.GUIDE, Role.OPS):
        raise Refusal("forbidden")
    found = await locked(session, room)
    if found.brand_id != who.brand:
        raise Refusal("not_found", what=str(room))
    if who.role is Role.GUIDE and found.guide_id != who.subject:
        raise Refusal("forbidden", "Only the room's own guide may do this.")
    if states and found.state not in states:
        code = {"ended": "room_ended", "scheduled": "room_not_live"}.get(found.state, "room_state")
        raise Refusal(code)
    return found


async def locked(session: AsyncSession, room: UUID) -> Room:
    """The room, locked until the transaction ends. Refusal ``not_found``."""
    # NO KEY UPDATE serialises commands, yet lets rows that only refer to the room (attendance, coupons) come in.
    query = select(Room).where(Room.id == room).with_for_update(key_share=True)
    found = await session.scalar(query, execution_options={"populate_existing": True})
    if found is None:
        raise Refusal("not_found", what=str(room))
    return found


async def put(session: AsyncSession, room: UUID, **values: object) -> None:
    """Set columns of the locked room without a word to its viewers."""
    # The table, not the class: nobody reads the object again, and the mapper's part costs more than the statement.
    await session.execute(update(_ROOMS).where(_ROOMS.c.id == room).values(values))


async def change(session: AsyncSession, room: UUID, also: dict[str, object] | None = None, /, **values: object) -> None:
    """Set columns of the locked room and tell its viewers how it is now, clearing the slots of ``also``."""
    await put(session, room, **values)
    shown = await card(session, room)
    await tell(session, room, wire.RoomChanged(room=shown), {"room": shown} | (also or {}))


async def tell(session: AsyncSession, room: UUID, event: wire.Event, slots: Mapping[str, object]) -> None:
    """Put ``event`` into the outbox with the snapshot ``slots`` it sets (wire structs or JSON values; None clears).

    The caller holds the room's lock, so that events are numbered in the order of commits.
    """
    encoded = {name: Raw(msgspec.json.encode(value)) for name, value in slots.items()}
    await emit(session, TOPIC, room, LiveEvent(Raw(wire.encoder.encode(event)), encoded))


# Every opening of a room and every change of one asks this: it is built once, because building costs more than asking.
_DESCRIBED = (
    select(Room.__table__, staff.c.name.label("guide_name"), staff.c.role, shops.c.name.label("store_name"))
    .join_from(Room, staff, staff.c.id == Room.guide_id)
    .outerjoin(shops, shops.c.id == Room.store_id)
    .where(Room.id == bindparam("room"))
)


async def described(session: AsyncSession, room: UUID) -> Row[Any]:
    """The room's row, with ``guide_name``, the guide's ``role`` and ``store_name``. Refusal ``not_found``."""
    row = (await session.execute(_DESCRIBED, {"room": room})).one_or_none()
    if row is None:
        raise Refusal("not_found", what=str(room))
    return row


async def card(session: AsyncSession, room: UUID) -> wire.RoomCard:
    """The room as its viewers see it, as this transaction sees it. Refusal ``not_found``."""
    return shown_as(await described(session, room))


def shown_as(row: Row[Any]) -> wire.RoomCard:
    """The card of a room that was ``described``."""
    return wire.RoomCard(
        id=row.id,
        title=row.title,
        state=row.state,
        guide=wire.Person(id=row.guide_id, name=row.guide_name, role=row.role),
        store=row.store_name,
        live_at=_told(row.live_at),
        slow_seconds=row.slow_seconds,
        hushed=row.hushed,
        allow=tuple(row.allow),
        scheduled_at=_told(row.scheduled_at),
        paused_at=_told(row.paused_at),
        ended_at=_told(row.ended_at),
    )


def _told(moment: datetime | None) -> int | None:
    return None if moment is None else milliseconds(moment)
