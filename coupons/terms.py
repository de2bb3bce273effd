"""The columns of campaigns and brands as the rules want them, from a row of any statement that selected them."""

from dataclasses import replace
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import func

from coupons import rules
from coupons.tables import Campaign, Coupon

PROMISED = (
    Campaign.title,
    Campaign.kind,
    func.coalesce(Coupon.amount_fen, Campaign.amount_fen).label("amount_fen"),
    Campaign.threshold_fen,
    Campaign.percent_off,
    Campaign.gift,
    Campaign.usable_from,
    Campaign.usable_until,
)
"""What a coupon takes off and when, as ``terms_of`` wants it, and how it is called."""


def terms_of(row: Any, amount_fen: int | None = None) -> rules.Terms:
    """What the campaign in ``row`` promises with a coupon whose own amount is ``amount_fen`` (None: the campaign's)."""
    amount = row.amount_fen if amount_fen is None else amount_fen
    hours = None if row.usable_from is None else (row.usable_from, row.usable_until)
    return rules.Terms(row.kind, amount, row.threshold_fen, row.percent_off, row.gift, hours=hours)


def offer_of(row: Any) -> rules.Terms:
    """What the campaign in ``row`` promises before anybody's distance is known: the best of its amounts."""
    tiers = tiers_of(row)
    best = max([fen for _, fen in tiers] + [row.amount_fen]) if tiers else None
    return replace(terms_of(row, best), up_to=bool(tiers))


def tiers_of(row: Any) -> list[tuple[int, int]]:
    """The amounts by distance of the campaign in ``row``: metres and fen, nearest first."""
    return [(tier["within_m"], tier["amount_fen"]) for tier in row.distance_tiers or ()]


def limits_of(row: Any, campaign: UUID, cap: int | None) -> rules.Limits:
    """Who may have coupons of ``campaign``, whose columns ``row`` has, of a brand with this ``cap``."""
    return rules.Limits(
        campaign, row.per_viewer, row.min_tier, row.holdout_percent, frozenset(row.segments or ()), row.doubt, cap
    )


def quiet_of(row: Any) -> rules.Quiet | None:
    """The quiet hours of the brand in ``row``, None if it has none."""
    if row.quiet_from is None:
        return None
    return rules.Quiet(row.quiet_from, row.quiet_until, ZoneInfo(row.timezone))
