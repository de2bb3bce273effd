"""What coupons changed: how many more came to a store than of those who were held out for comparison.

A campaign's holdout is drawn by lot among those who could have had a coupon, so both groups differ in nothing but the
offer. Who was offered one and found it sold out stays among the offered, and so does who had to be looked at first,
however that ended: they would have been held out as likely as anybody. Whoever was offered two campaigns counts twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import funnel

Z = 1.959963984540054
"""Standard deviations to each side that hold 95 %."""


class Interval(NamedTuple):
    """A difference of shares (0.05: five points more), and the ends of its 95 % interval."""

    lift: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Lift:
    """Pairs of viewer and campaign, offered and held out, and how many of them came: redeemed, or showed their code."""

    offered: int = 0
    offered_came: int = 0
    held_out: int = 0
    held_out_came: int = 0

    @property
    def interval(self) -> Interval | None:
        """None where one of the groups is empty."""
        if not self.offered or not self.held_out:
            return None
        return difference(self.offered_came, self.offered, self.held_out_came, self.held_out)


def _share(came: int, of: int) -> Interval:
    """Wilson's score interval of a share."""
    share, square = came / of, Z * Z
    middle = (share + square / (2 * of)) / (1 + square / of)
    half = Z * sqrt(share * (1 - share) / of + square / (4 * of * of)) / (1 + square / of)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def difference(came: int, of: int, other_came: int, other_of: int) -> Interval:
    """Newcombe's interval of the difference of two shares (Statistics in Medicine 17, 1998, method 10).

    It holds in small groups and at shares of 0 and 1, where the usual one, of the normal distribution, shrinks to
    nothing.
    """
    one, other = _share(came, of), _share(other_came, other_of)
    lift = one.lift - other.lift
    low = lift - sqrt((one.lift - one.low) ** 2 + (other.high - other.lift) ** 2)
    high = lift + sqrt((one.high - one.lift) ** 2 + (other.lift - other.low) ** 2)
    return Interval(lift, low, high)


# Whom a drop gave a coupon is told by the coupons, whom it gave none by its decisions. Whoever came, came last at some
# time: so nobody is looked up one by one.
_LIFT = """
    WITH asked AS (
        SELECT {coupons} AS spot, k.campaign_id, k.viewer_id, false AS held_out, k.issued_at AS at
        FROM coupons k JOIN rooms r ON r.id = k.room_id WHERE k.brand_id = :brand AND {of_coupons}
        UNION ALL
        SELECT {decisions}, d.campaign_id, v.viewer_id, v.outcome = 'held_out', v.at
        FROM drop_viewers v JOIN drops d ON d.id = v.drop_id JOIN rooms r ON r.id = d.room_id
        JOIN campaigns c ON c.id = d.campaign_id
        WHERE r.brand_id = :brand AND v.outcome <> 'issued' AND {of_decisions}
          AND (v.outcome = 'held_out' OR v.reason IN ('sold_out', 'sold_out_today', 'under_review')
               -- Of a review that ended without a coupon; where doubt refuses, it does so before the lot.
               OR (v.reason = 'suspect' AND c.doubt = 'review'))
    ), decided AS (
        SELECT spot, viewer_id, bool_or(held_out) AS held_out, min(at) AS at
        FROM asked GROUP BY spot, campaign_id, viewer_id
    ), arrivals AS (
        -- The same question for both groups: to any store of the brand, with a coupon of any campaign or with none.
        SELECT viewer_id, max(at) AS at FROM (
            SELECT viewer_id, at FROM visits WHERE brand_id = :brand
            UNION ALL
            SELECT k.viewer_id, u.at FROM redemptions u JOIN coupons k ON k.id = u.coupon_id
            WHERE u.reversed_at IS NULL AND k.brand_id = :brand
        ) AS came GROUP BY 1
    )
    SELECT e.spot, count(*) FILTER (WHERE NOT e.held_out) AS offered,
           count(*) FILTER (WHERE NOT e.held_out AND w.at >= e.at) AS offered_came,
           count(*) FILTER (WHERE e.held_out) AS held_out,
           count(*) FILTER (WHERE e.held_out AND w.at >= e.at) AS held_out_came
    FROM decided e LEFT JOIN arrivals w USING (viewer_id)
    GROUP BY e.spot HAVING bool_or(e.held_out)
"""


async def by(
    session: AsyncSession, brand: str, spot: funnel.By, spots: Sequence[UUID] | None = None
) -> dict[UUID, Lift]:
    """The lift of each of ``spots`` (None: of all rooms, stores, guides or drops) that held somebody out."""
    coupons, decisions = funnel.spot_of_coupons(spot), funnel.spot_of_decisions(spot)
    of = {"of_coupons": funnel.chosen(coupons), "of_decisions": funnel.chosen(decisions)}
    await session.execute(funnel.MEMORY)
    asked = text(_LIFT.format(coupons=coupons, decisions=decisions, **of))
    rows = await session.execute(asked, {"brand": brand, "spots": spots})
    return {row.spot: Lift(row.offered, row.offered_came, row.held_out, row.held_out_came) for row in rows}
