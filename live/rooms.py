"""A room and what its guide does in it.

A use case takes the room's lock, changes rows, and emits one event; whoever runs it commits. The room's life, pins,
shelf, comments and attendance have modules of their own; what other parts call is named here too, so that
``live.rooms`` is the one face.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.clock import milliseconds, now
from kernel.errors import Refusal
from kernel.identity import Principal, Role
from kernel.ids import new_id
from live import sanctions, wire
from live.attendance import Attended, attend
from live.bans import BAN
from live.comments import delete_comment
from live.hosting import LiveEvent, change, commanded, described, put, shown_as, tell
from live.life import end, pause, reschedule, start, stream_found, stream_lost
from live.moderation import MAX_CHARACTERS, cleaned, normalise, titled
from live.muting import MUTE, mute
from live.pins import current, pin, taps, unpin, unpin_due
from live.shelf import put_on_shelf, set_shelf
from live.tables import Room, shops, staff

__all__ = [
    "Attended", "LiveEvent", "RoomFacts", "announce", "attend", "create", "delete_comment", "display", "end",
    "hush", "mute", "opening", "pause", "pin", "reschedule", "set_shelf", "slow", "start", "stream_found",
    "stream_lost", "taps", "unpin", "unpin_due",
]  # fmt: skip

MAX_SLOW = 120
"""Seconds."""
DISPLAY_RATE = 30
MAX_DISPLAY_RATE = 1000
"""Comments a second that each viewer is shown at most, those of staff and one's own aside."""


@dataclass(frozen=True, slots=True)
class RoomFacts:
    """What a gateway must know to let somebody in."""

    brand: str
    state: str
    display_rate: int
    guide_id: UUID


async def opening(session: AsyncSession, room: UUID) -> tuple[RoomFacts, dict[str, bytes]]:
    """The facts of ``room`` and its snapshot from its rows, drops excepted, as the bus keeps it; Refusal ``not_found``.

    Empty bytes mean "known to be nothing", as opposed to a slot that nobody has looked up.
    """
    row = await described(session, room)
    pinned = await current(session, room)
    found = {
        "room": msgspec.json.encode(shown_as(row)),
        "pin": b"" if pinned is None else msgspec.json.encode(pinned),
        "announcement": msgspec.json.encode(row.announcement),
    }
    found |= await sanctions.slots(session, (MUTE, BAN), room)
    return RoomFacts(row.brand_id, row.state, row.display_rate, row.guide_id), found


async def create(
    session: AsyncSession,
    who: Principal,
    title: str,
    *,
    store_code: str | None = None,
    scheduled_at: datetime | None = None,
    products: Sequence[UUID] = (),
    guide: UUID | None = None,
    display_rate: int = DISPLAY_RATE,
) -> UUID:
    """A new scheduled room of ``who``, or, when ops makes it, of ``guide``; with ``products`` on its shelf in order.

    Raises Refusal ``forbidden``, ``not_found`` (guide, store or product), ``invalid`` (title, shelf, display rate).
    """
    _check_rate(display_rate)
    title = titled(title)
    if who.role not in (Role.GUIDE, Role.OPS) or (who.role is Role.GUIDE and guide not in (None, who.subject)):
        raise Refusal("forbidden")
    host = guide or who.subject
    known = await session.scalar(
        select(staff.c.id).where(staff.c.id == host, staff.c.brand_id == who.brand, staff.c.role.in_(("guide", "ops")))
    )
    if known is None:
        raise Refusal("not_found", "No such guide.", what=str(host))
    store_id: UUID | None = None
    if store_code is not None:
        store_id = await session.scalar(
            select(shops.c.id).where(shops.c.brand_id == who.brand, shops.c.code == store_code)
        )
        if store_id is None:
            raise Refusal("not_found", "No such store.", what=store_code)
    room = new_id()
    await sanctions.taking_part(session, who.brand)
    await session.execute(
        insert(Room).values(
            id=room,
            brand_id=who.brand,
            guide_id=host,
            store_id=store_id,
            title=title,
            scheduled_at=scheduled_at,
            display_rate=display_rate,
        )
    )
    await put_on_shelf(session, who.brand, room, products)
    return room


async def announce(session: AsyncSession, who: Principal, room: UUID, text: str) -> None:
    """Show ``text`` to everybody in the room, now and to those who come later; empty takes it down.

    Raises Refusal ``too_long``, ``room_ended`` and those of ``commanded``.
    """
    said = cleaned(text)
    if max(len(said), len(normalise(said))) > MAX_CHARACTERS:
        raise Refusal("too_long", field="text", limit=MAX_CHARACTERS)
    found = await commanded(session, who, room, "scheduled", "live")
    if found.announcement == said:
        return
    await put(session, room, announcement=said)
    event = wire.Announced(text=said, at=milliseconds(now()))
    await tell(session, room, event, {"announcement": said})


async def slow(session: AsyncSession, who: Principal, room: UUID, seconds: int) -> None:
    """Each viewer may comment once in ``seconds`` (0–120); 0 ends slow mode. Refusal ``invalid``, ``room_ended``."""
    if not 0 <= seconds <= MAX_SLOW:
        raise Refusal("invalid", field="seconds")
    found = await commanded(session, who, room, "scheduled", "live")
    if found.slow_seconds != seconds:
        await change(session, room, slow_seconds=seconds)


async def display(session: AsyncSession, who: Principal, room: UUID, rate: int) -> None:
    """Show each viewer at most ``rate`` comments a second (1–1000) from now on. Refusal ``invalid``, ``room_ended``."""
    _check_rate(rate)
    found = await commanded(session, who, room, "scheduled", "live")
    if found.display_rate != rate:
        await change(session, room, {"display": rate}, display_rate=rate)


def _check_rate(rate: int) -> None:
    if not 1 <= rate <= MAX_DISPLAY_RATE:
        raise Refusal("invalid", field="rate")


async def hush(session: AsyncSession, who: Principal, room: UUID, on: bool, allow: Sequence[UUID] = ()) -> None:
    """From now on only staff and the viewers in ``allow`` (at most 50) may comment; off: everybody may again.

    Raises Refusal ``invalid`` (too many), ``room_ended`` and those of ``commanded``.
    """
    if len(allow) > wire.MAX_ALLOWED:
        raise Refusal("invalid", field="allow")
    found = await commanded(session, who, room, "scheduled", "live")
    allowed = list(dict.fromkeys(allow)) if on else []
    if (found.hushed, found.allow) != (on, allowed):
        await change(session, room, hushed=on, allow=allowed)
