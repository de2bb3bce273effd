"""Where somebody was, and that they agreed to it: taken out, or erased."""

from uuid import UUID

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from geo.tables import Doubt, FormerConsent, Location, LocationConsent

EXPORTED = {
    "consents": """
        SELECT 'location' AS subject, version, given_at, withdrawn_at
        FROM (SELECT viewer_id, version, given_at, withdrawn_at FROM location_consents UNION ALL
              SELECT viewer_id, version, given_at, withdrawn_at FROM former_location_consents) AS given
        WHERE viewer_id = :member ORDER BY given_at
    """,
    "locations": """
        SELECT room_id AS room, ST_X(position::geometry) AS lng, ST_Y(position::geometry) AS lat, 'gcj02' AS datum,
               accuracy_m, fixed_at AS at, repeats, doubt, doubted_at
        FROM locations WHERE viewer_id = :member ORDER BY fixed_at
    """,
    "doubts": "SELECT room_id AS room, sign, first_at, last_at FROM doubts WHERE viewer_id = :member ORDER BY first_at",
}
"""Subject → what is kept of a member about it, one row an entry."""


async def erase(session: AsyncSession, member: UUID) -> None:
    """Consent first: that waits for fixes which are being written, and no fix is written after it."""
    await session.execute(delete(LocationConsent).where(LocationConsent.viewer_id == member))
    await session.execute(delete(FormerConsent).where(FormerConsent.viewer_id == member))
    await session.execute(delete(Location).where(Location.viewer_id == member))
    await session.execute(delete(Doubt).where(Doubt.viewer_id == member))
