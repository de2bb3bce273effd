"""Events written with their transaction, told afterwards by the relay: at least once, in order within a room."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

LANES = 8
CHANNEL = "nearcast_outbox"


def lane_of(room_id: UUID) -> int:
    """The lane of a room: all of a room's events travel in one lane, so that they stay in order."""
    return room_id.int % LANES


async def emit(session: AsyncSession, topic: str, room_id: UUID, payload: Any) -> None:
    """Write one event in the caller's transaction and wake the relay when that commits.

    ``payload`` is anything msgspec can encode. Where the order of events within a room matters, the caller must hold
    the lock of the room's or the drop's row, so that numbers are given in the order of commits.
    """
    await emit_all(session, room_id, [(topic, payload)])


_EMIT_ALL = text(
    """
    WITH told AS (
        INSERT INTO outbox (lane, topic, room_id, payload)
        SELECT :lane, e.topic, :room, e.payload
        FROM unnest(CAST(:topics AS text[]), CAST(:payloads AS bytea[])) WITH ORDINALITY AS e (topic, payload, place)
        ORDER BY e.place
    )
    SELECT pg_notify(:channel, '')
    """
)


async def emit_all(session: AsyncSession, room_id: UUID, events: Sequence[tuple[str, Any]]) -> None:
    """``emit`` for several (topic, payload) of one room, in this order, in one round trip."""
    if events:
        values = {
            "lane": lane_of(room_id),
            "room": room_id,
            "topics": [topic for topic, _ in events],
            "payloads": [msgspec.json.encode(payload) for _, payload in events],
            "channel": CHANNEL,
        }
        await session.execute(_EMIT_ALL, values)
