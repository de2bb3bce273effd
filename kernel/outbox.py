"""Events written with their transaction, told afterwards by the relay: at least once, in order within a room."""

from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.tables import OutboxEvent

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
    await session.execute(
        insert(OutboxEvent).values(
            lane=lane_of(room_id), topic=topic, room_id=room_id, payload=msgspec.json.encode(payload)
        )
    )
    await session.execute(text(f"NOTIFY {CHANNEL}"))
