"""Events written with their transaction, told afterwards by the relay: at least once, in order within a room."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from kernel import tracing
from kernel.postgres import Sessions

LANES = 8
CHANNEL = "nearcast_outbox"
LOOK_SECONDS = 0.05


def lane_of(room_id: UUID) -> int:
    """The lane of a room: all of a room's events travel in one lane, so that they stay in order."""
    return room_id.int % LANES


async def emit(session: AsyncSession, topic: str, room_id: UUID, payload: Any) -> None:
    """Write one event in the caller's transaction and wake the relay when that commits.

    ``payload`` is anything msgspec can encode. Where the order of events within a room matters, the caller must hold
    the lock of the room's or the drop's row, so that numbers are given in the order of commits.
    """
    await emit_all(session, room_id, [(topic, payload)])


TELL = """
    INSERT INTO outbox (lane, topic, room_id, payload)
    SELECT e.lane, e.topic, e.room, e.payload
    FROM unnest(CAST(:lanes AS smallint[]), CAST(:topics AS text[]), CAST(:rooms AS uuid[]),
                CAST(:payloads AS bytea[])) WITH ORDINALITY AS e (lane, topic, room, payload, place)
    {where}
    ORDER BY e.place
"""
"""Events as part of a statement that does more, if ``where`` holds; it ends with ``SELECT pg_notify(:channel, '')``,
which wakes the relay. Its parameters come from ``told_by``."""
_EMIT = text(f"WITH told AS ({TELL.format(where='')}) SELECT pg_notify(:channel, '')")


def told_by(events: Sequence[tuple[UUID, str, Any]]) -> dict[str, Any]:
    """Several (room, topic, payload) as parameters of ``TELL``."""
    return {
        "lanes": [lane_of(room) for room, _, _ in events],
        "rooms": [room for room, _, _ in events],
        "topics": [topic for _, topic, _ in events],
        "payloads": [tracing.carried(msgspec.json.encode(payload)) for _, _, payload in events],
        "channel": CHANNEL,
    }


async def emit_all(session: AsyncSession, room_id: UUID, events: Sequence[tuple[str, Any]]) -> None:
    """``emit`` for several (topic, payload) of one room, in this order, in one round trip."""
    await emit_everywhere(session, [(room_id, topic, payload) for topic, payload in events])


async def emit_everywhere(session: AsyncSession, events: Sequence[tuple[UUID, str, Any]]) -> None:
    """``emit`` for several (room, topic, payload), in this order, in one round trip."""
    if events:
        await session.execute(_EMIT, told_by(events))


_WAITING = text("SELECT min(id), max(id) FROM outbox WHERE lane = :lane AND published_at IS NULL AND room_id = :room")


async def told(sessions: Sessions, room: UUID, *, within: float) -> bool:
    """Wait until ``room`` was told everything that is committed now; False if that took longer than ``within`` seconds.

    Raises what PostgreSQL raises.
    """
    newest: int | None = None
    ends = asyncio.get_running_loop().time() + within
    while True:
        async with sessions() as session:
            oldest, last = (await session.execute(_WAITING, {"lane": lane_of(room), "room": room})).one()
        newest = last if newest is None else newest
        if newest is None or oldest is None or oldest > newest:
            return True
        if asyncio.get_running_loop().time() >= ends:
            return False
        await asyncio.sleep(LOOK_SECONDS)
