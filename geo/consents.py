"""A viewer's consent to the use of their location: given with a version, read, withdrawn at once."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from geo.tables import Location, LocationConsent
from kernel.errors import Refusal

# Through `members`, so that nobody can consent for a brand they do not belong to. Agreeing again to the same text
# keeps the first date; another text, or consent after a withdrawal, is a new consent.
_GIVE = text(
    """
    INSERT INTO location_consents AS kept (viewer_id, version, given_at)
    SELECT id, :version, :now FROM members WHERE id = :viewer AND brand_id = :brand
    ON CONFLICT (viewer_id) DO UPDATE SET version = excluded.version, withdrawn_at = NULL, given_at = CASE
        WHEN kept.version = excluded.version AND kept.withdrawn_at IS NULL THEN kept.given_at
        ELSE excluded.given_at END
    RETURNING given_at
    """
)


async def give(session: AsyncSession, brand: str, viewer: UUID, version: str, now: datetime) -> datetime:
    """Record that ``viewer`` agreed to the text ``version``; returns since when. Refusal ``not_found`` for a viewer
    whom the brand does not know."""
    given: datetime | None = await session.scalar(
        _GIVE, {"brand": brand, "viewer": viewer, "version": version, "now": now}
    )
    if given is None:
        raise Refusal("not_found", "This account is not a member of the brand.")
    return given


async def standing(session: AsyncSession, viewer: UUID) -> LocationConsent | None:
    """The consent that ``viewer`` has given and not withdrawn, or None."""
    consent: LocationConsent | None = await session.scalar(
        select(LocationConsent).where(LocationConsent.viewer_id == viewer, LocationConsent.withdrawn_at.is_(None))
    )
    return consent


async def withdraw(session: AsyncSession, viewer: UUID, now: datetime) -> None:
    """Take the consent back and erase every fix of ``viewer``. Does nothing where there is none.

    The update waits for writers that hold the consent (``geo.locations`` locks it FOR SHARE), so the erasure sees what
    they wrote; writers after it find no consent.
    """
    await session.execute(
        update(LocationConsent)
        .where(LocationConsent.viewer_id == viewer, LocationConsent.withdrawn_at.is_(None))
        .values(withdrawn_at=now)
    )
    await session.execute(delete(Location).where(Location.viewer_id == viewer))
