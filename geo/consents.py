"""A viewer's consent to the use of their location: given with a version, read, withdrawn at once.

A brand may say which version of its text is the one in force (``require``). Consent to another one then stands no more.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from geo.tables import FormerConsent, Location, LocationConsent
from kernel.errors import Refusal
from kernel.tables import Brand

# Through `members`, so that nobody can consent for a brand they do not belong to.
_FIRST = text(
    """
    INSERT INTO location_consents (viewer_id, version, given_at)
    SELECT id, :version, :now FROM members WHERE id = :viewer AND brand_id = :brand
    ON CONFLICT (viewer_id) DO NOTHING
    RETURNING given_at
    """
)
_TO_THE_TEXT_IN_FORCE = text(
    "NOT EXISTS (SELECT FROM members m JOIN brands b ON b.id = m.brand_id"
    " WHERE m.id = location_consents.viewer_id AND b.location_consent <> location_consents.version)"
)
_ERASE = text(
    """
    DELETE FROM locations l USING location_consents c, members m
    WHERE c.viewer_id = l.viewer_id AND m.id = l.viewer_id AND m.brand_id = :brand AND c.version <> :version
    """
)
_OF_THE_BRAND = text("viewer_id IN (SELECT id FROM members WHERE brand_id = :brand)")


async def give(session: AsyncSession, brand: str, viewer: UUID, version: str, now: datetime) -> datetime:
    """Record that ``viewer`` agreed to the text ``version``; returns since when. Refusal ``not_found`` for a viewer
    whom the brand does not know, ``consent_outdated`` (with the ``version`` in force) for another text than that.

    Agreeing again to the same text keeps the first date; another text, or consent after a withdrawal, is a new consent,
    and the former one is kept beside it: what was done under it must be provable.
    """
    in_force = await required(session, brand)
    if in_force not in (None, version):
        raise Refusal("consent_outdated", version=in_force)
    values = {"brand": brand, "viewer": viewer, "version": version, "now": now}
    mine = select(LocationConsent).where(LocationConsent.viewer_id == viewer, _OF_THE_BRAND.bindparams(brand=brand))
    kept: LocationConsent | None = await session.scalar(mine.with_for_update())
    if kept is None:
        given: datetime | None = await session.scalar(_FIRST, values)
        if given is not None:
            return given
        kept = await session.scalar(mine.with_for_update())  # given at this very moment, by another device
    if kept is None:
        raise Refusal("not_found", "This account is not a member of the brand.")
    if kept.version != version or kept.withdrawn_at is not None:
        session.add(
            FormerConsent(
                viewer_id=viewer, version=kept.version, given_at=kept.given_at, withdrawn_at=kept.withdrawn_at
            )
        )
        kept.version, kept.given_at, kept.withdrawn_at = version, now, None
        await session.flush()
    return kept.given_at


async def standing(session: AsyncSession, viewer: UUID) -> LocationConsent | None:
    """The consent that ``viewer`` has given to the text in force and not withdrawn, or None."""
    consent: LocationConsent | None = await session.scalar(
        select(LocationConsent).where(
            LocationConsent.viewer_id == viewer, LocationConsent.withdrawn_at.is_(None), _TO_THE_TEXT_IN_FORCE
        )
    )
    return consent


async def required(session: AsyncSession, brand: str) -> str | None:
    """The version of ``brand``'s text that is in force; None: any."""
    version: str | None = await session.scalar(select(Brand.location_consent).where(Brand.id == brand))
    return version


async def require(session: AsyncSession, brand: str, version: str | None) -> None:
    """Put ``version`` of the brand's text in force (None: any) and erase the fixes of whoever agreed to another one.

    A fix that is being written at this moment was taken under the former text; it goes within minutes, as any.
    """
    await session.execute(update(Brand).where(Brand.id == brand).values(location_consent=version))
    if version is not None:
        await session.execute(_ERASE, {"brand": brand, "version": version})


async def withdraw(session: AsyncSession, viewer: UUID, now: datetime) -> None:
    """Take the consent back and erase every fix of ``viewer``. Does nothing where there is none.

    The update waits for writers that hold the consent (``geo.locations`` locks it), so the erasure sees what
    they wrote; writers after it find no consent.
    """
    await session.execute(
        update(LocationConsent)
        .where(LocationConsent.viewer_id == viewer, LocationConsent.withdrawn_at.is_(None))
        .values(withdrawn_at=now)
    )
    await session.execute(delete(Location).where(Location.viewer_id == viewer))
