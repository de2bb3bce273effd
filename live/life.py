"""The life of a room: scheduled → live ⇄ paused → ended.

A room is paused by its guide, or because the guide was lost: the stream that was running, or, in a room without one,
the guide's last socket, has been away for ``GRACE_SECONDS``. What was paused by a loss goes on when the lost one is
back; what the guide paused, only when the guide says so. A room that never saw a stream or a socket of its guide is
driven over REST, and nobody can tell whether its guide is there: it is never paused by a loss.

Times of loss and return are PostgreSQL's, because gateways and workers on several machines compare them.
"""

from datetime import datetime, timedelta
from time import monotonic
from typing import Literal, TypedDict
from uuid import UUID

import structlog
from sqlalchemy import ColumnElement, Select, and_, case, extract, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.clock import now
from kernel.identity import Principal
from kernel.postgres import Sessions, transaction
from live.hosting import change, commanded, locked, put
from live.moderation import titled
from live.pins import close_mark
from live.tables import Room

GRACE_SECONDS = 15.0
"""How long a guide may be away before viewers are told."""
ROOMS_AT_ONCE = 100
"""Rooms that one transaction pauses or lets go on: a network that breaks takes many guides at once."""
BLIND_SECONDS = 5.0
"""A watch that could not look for so long waits one grace before it calls anybody lost."""

_CLOCK = func.clock_timestamp()
_GRACE = timedelta(seconds=GRACE_SECONDS)

log = structlog.get_logger()


class Plan(TypedDict, total=False):
    """What may change of a room before it starts; what is left out stays."""

    title: str
    scheduled_at: datetime | None


async def reschedule(session: AsyncSession, who: Principal, room: UUID, plan: Plan) -> None:
    """Another title or time for a scheduled room. Refusal ``invalid`` (title), ``room_state``, ``room_ended`` and those
    of ``commanded``."""
    found = await commanded(session, who, room, "scheduled")
    if "title" in plan:
        plan = plan | {"title": titled(plan["title"])}
    if any(getattr(found, name) != value for name, value in plan.items()):
        await change(session, room, **plan)


async def start(session: AsyncSession, who: Principal, room: UUID) -> None:
    """The room goes live, or on if it is paused; does nothing otherwise. Refusal ``room_ended``, as ``commanded``."""
    found = await commanded(session, who, room, "scheduled", "live")
    if found.state == "live" and found.paused_at is None:
        return
    # Whoever starts a room without the socket or stream that was lost long ago does without it: the room must not be
    # paused a second later for the same loss. The next sight of either counts again.
    values: dict[str, object] = {
        "guide_seen_at": case((Room.guide_seen_at > _CLOCK - _GRACE, Room.guide_seen_at)),
        "stream_state": case((_stream_lost(), None), else_=Room.stream_state),
        "stream_lost_at": case((_stream_lost(), None), else_=Room.stream_lost_at),
    }
    if found.state == "scheduled":
        await change(session, room, **values, state="live", live_at=now())
    else:
        await change(session, room, **values, **_going_on())


async def pause(session: AsyncSession, who: Principal, room: UUID) -> None:
    """Back soon: the room stays live, and goes on with ``start`` only. Does nothing if the guide had paused it.

    Raises Refusal ``room_not_live``, ``room_ended`` and those of ``commanded``.
    """
    found = await commanded(session, who, room, "live")
    if found.paused_at is None:
        await _pause(session, room, "guide")
    else:
        await put(session, room, pause_cause="guide")  # viewers see no difference


async def end(session: AsyncSession, who: Principal, room: UUID) -> None:
    """The room is over, and with it what was pinned; does nothing if it was. A scheduled room is called off."""
    found = await commanded(session, who, room)
    if found.state != "ended":
        at = now()
        await close_mark(session, room, at)
        # No event of its own for the pin: a room that has ended shows none, and the snapshot says so too.
        await change(
            session, room, {"pin": None}, state="ended", ended_at=at, **_going_on(),
        )  # fmt: skip


# ---- streams -------------------------------------------------------------------------------------------------------


async def stream_found(session: AsyncSession, room: UUID) -> None:
    """The guide's stream runs: a room that was paused by a loss goes on. Refusal ``not_found``."""
    found = await locked(session, room)
    await put(session, room, stream_state="on", stream_lost_at=None)
    if found.pause_cause == "loss":
        await _go_on(session, room)


async def stream_lost(session: AsyncSession, room: UUID) -> None:
    """The stream ended; unless it is back within the grace, the room is paused. Refusal ``not_found``."""
    found = await locked(session, room)
    if found.stream_state == "on":
        await put(session, room, stream_state="off", stream_lost_at=_CLOCK)


# ---- losses, seen by the worker ------------------------------------------------------------------------------------


class Watch:
    """One worker's look at the guides of live rooms."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._looked = 0.0
        self._since = 0.0

    async def turn(self) -> None:
        """Pause rooms whose guide is lost, and let those go on whose guide is back."""
        at = monotonic()
        if not self._looked or at - self._looked > BLIND_SECONDS:
            # While PostgreSQL was away no gateway could write that its guides are there. They write within seconds.
            self._since = at
        async with transaction(self._sessions) as session:
            back = await go_on_found(session)
        lost = 0
        if at - self._since >= GRACE_SECONDS:
            async with transaction(self._sessions) as session:
                lost = await pause_lost(session)
        self._looked = monotonic()
        if back or lost:
            log.info("guides_lost_or_back", lost=lost, back=back)


async def pause_lost(session: AsyncSession) -> int:
    """Pause live rooms whose guide is lost; returns how many (at most ``ROOMS_AT_ONCE``)."""
    socket_lost = and_(Room.stream_state.is_(None), Room.guide_seen_at < _CLOCK - _GRACE)
    rooms = await session.scalars(_some(Room.paused_at.is_(None), or_(_stream_lost(), socket_lost)))
    return sum([await _pause(session, room, "loss") for room in rooms.all()])


async def go_on_found(session: AsyncSession) -> int:
    """Let rooms go on whose guide's socket was lost and is back; returns how many (at most ``ROOMS_AT_ONCE``)."""
    found = _some(Room.pause_cause == "loss", Room.stream_state.is_(None), Room.guide_seen_at > Room.paused_at)
    rooms = await session.scalars(found)
    return sum([await _go_on(session, room) for room in rooms.all()])


def _some(*which: ColumnElement[bool]) -> Select[UUID]:
    """Live rooms, through ix_rooms_live; one whose lock somebody holds is looked at in the next turn."""
    return (
        select(Room.id)
        .where(Room.state == "live", *which)
        .order_by(Room.id)
        .limit(ROOMS_AT_ONCE)
        .with_for_update(key_share=True, skip_locked=True)
    )


def _stream_lost() -> ColumnElement[bool]:
    return and_(Room.stream_state == "off", Room.stream_lost_at < _CLOCK - _GRACE)


async def _pause(session: AsyncSession, room: UUID, cause: Literal["guide", "loss"]) -> bool:
    await change(session, room, paused_at=_CLOCK, pause_cause=cause)
    return True


async def _go_on(session: AsyncSession, room: UUID) -> bool:
    await change(session, room, **_going_on())
    return True


def _going_on() -> dict[str, object]:
    return {"paused_at": None, "pause_cause": None, "paused_ms": _paused_ms()}


def _paused_ms() -> ColumnElement[int]:
    """The sum of all pauses, with the one that ends now."""
    this = func.coalesce(extract("epoch", _CLOCK - Room.paused_at) * 1000, 0)
    return Room.paused_ms + this
