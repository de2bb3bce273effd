"""Who was in which room, written in batches by the gateways; what claims and funnels are measured against."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from msgspec import Struct
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession


class Attended(Struct, frozen=True):
    """One viewer's stay in one room, or a part of it: ``joins`` is how often they came in between the two times."""

    room: UUID
    viewer: UUID
    first_at: datetime
    last_at: datetime
    joins: int = 1


# Sorted, so that two gateways that write the same viewers wait for each other instead of dying in a deadlock; grouped,
# because one statement may touch a row only once; joined, so that a room that is gone does not spoil the batch.
_UPSERT = text("""
    INSERT INTO attendance AS known (room_id, viewer_id, first_at, last_at, joins)
    SELECT seen.room, seen.viewer, min(seen.first_at), max(seen.last_at), sum(seen.joins)
    FROM unnest(CAST(:rooms AS uuid[]), CAST(:viewers AS uuid[]), CAST(:firsts AS timestamptz[]),
                CAST(:lasts AS timestamptz[]), CAST(:joins AS integer[]))
         AS seen (room, viewer, first_at, last_at, joins)
    JOIN rooms ON rooms.id = seen.room
    GROUP BY seen.room, seen.viewer
    ORDER BY seen.room, seen.viewer
    ON CONFLICT (room_id, viewer_id) DO UPDATE
    SET first_at = least(known.first_at, excluded.first_at),
        last_at = greatest(known.last_at, excluded.last_at),
        joins = known.joins + excluded.joins
""")


async def attend(session: AsyncSession, rows: Sequence[Attended]) -> None:
    """Add ``rows`` to what is known of each viewer's stay in each room."""
    if rows:
        await session.execute(
            _UPSERT,
            {
                "rooms": [row.room for row in rows],
                "viewers": [row.viewer for row in rows],
                "firsts": [row.first_at for row in rows],
                "lasts": [row.last_at for row in rows],
                "joins": [row.joins for row in rows],
            },
        )
