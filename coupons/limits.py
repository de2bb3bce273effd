"""What a brand allows over all its campaigns: coupons a viewer, quiet hours, drops a guide."""

from dataclasses import asdict, dataclass
from datetime import time

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.tables import Brand


@dataclass(frozen=True, slots=True)
class BrandLimits:
    """None is no limit. A viewer gets at most ``cap_coupons`` in ``cap_days`` times 24 hours; what is given in quiet
    hours (in the brand's time zone) holds from their end on, and viewers are told of it then; with ``quiet_claims``,
    what they claim themselves holds from then on, too."""

    cap_coupons: int | None
    cap_days: int | None
    quiet_from: time | None
    quiet_until: time | None
    quiet_claims: bool
    guide_drops_a_day: int | None


async def of_brand(session: AsyncSession, who: Principal) -> BrandLimits:
    """The limits of ``who``'s brand; Refusal ``not_found`` if the brand is gone."""
    query = select(*(getattr(Brand, name) for name in BrandLimits.__slots__)).where(Brand.id == who.brand)
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise Refusal("not_found", what=who.brand)
    return BrandLimits(*row)


async def change(session: AsyncSession, who: Principal, limits: BrandLimits) -> BrandLimits:
    """Set all limits of ``who``'s brand; the next batch of claims and of grants obeys them.

    Drops that are open keep their times. Refusal ``invalid`` for half a pair, and for hours that begin as they end.
    """
    if (limits.cap_coupons is None) != (limits.cap_days is None):
        raise Refusal("invalid", "Give both cap_coupons and cap_days, or neither.", field="cap_days")
    if (limits.quiet_from is None) != (limits.quiet_until is None) or (
        limits.quiet_from is not None and limits.quiet_from == limits.quiet_until
    ):
        raise Refusal("invalid", "Give both quiet_from and quiet_until, and not the same.", field="quiet_until")
    await session.execute(update(Brand).where(Brand.id == who.brand).values(asdict(limits)))
    return await of_brand(session, who)
