"""Who may have a coupon, what it is worth, how long it holds: decisions only, with every fact passed in."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta, tzinfo
from hashlib import blake2b
from typing import Literal
from uuid import UUID

Kind = Literal["amount", "percent", "gift"]

BANDS_M = (500, 1000, 2000, 3000, 5000, 10_000, 20_000, 50_000, 100_000)
"""Upper edges of the distance bands that a coupon keeps instead of a position."""
REVERSIBLE = timedelta(hours=1)
"""How long a redemption can be taken back."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a coupon promises. Money in fen; ``percent_off`` 20 is what a Chinese till calls 8 折."""

    kind: str
    amount_fen: int | None = None
    threshold_fen: int = 0
    percent_off: int | None = None
    gift: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Who may have a coupon of a campaign."""

    campaign: UUID
    per_viewer: int
    min_tier: int
    holdout_percent: int


@dataclass(frozen=True, slots=True)
class Opening:
    """Everything about a drop, its room and its campaign that decides whether it gives coupons at all."""

    drop_state: str
    end_reason: str | None
    opens_at: datetime
    ends_at: datetime
    room_state: str
    campaign_state: str
    claim_from: datetime | None
    claim_until: datetime | None
    valid_until: datetime | None


def terms_problem(terms: Terms) -> str | None:
    """Why ``terms`` promise nothing that a till could carry out, as a sentence; None if they are sound."""
    if terms.kind == "amount":
        if not terms.amount_fen:
            return "An amount coupon needs amount_fen."
        if terms.threshold_fen and terms.amount_fen > terms.threshold_fen:
            return "amount_fen must not exceed threshold_fen."
    elif terms.kind == "percent":
        if terms.percent_off is None:
            return "A percent coupon needs percent_off."
    elif not terms.gift:
        return "A gift coupon needs the gift's name."
    return None


def yuan(fen: int) -> str:
    """``fen`` as people write prices: 2000 → ``20``, 1990 → ``19.9``, 5 → ``0.05``."""
    whole, cents = divmod(fen, 100)
    return f"{whole}.{cents:02d}".rstrip("0") if cents else str(whole)


def describe(terms: Terms) -> str:
    """``terms`` as a Chinese shopper expects to read them: 满100减20, 8.5折 最高减50, 凭券兑换拿铁."""
    over = f"满{yuan(terms.threshold_fen)}" if terms.threshold_fen else ""
    if terms.kind == "amount":
        return f"{over}减{yuan(terms.amount_fen or 0)}" if over else f"无门槛减{yuan(terms.amount_fen or 0)}"
    if terms.kind == "percent":
        rest = 100 - (terms.percent_off or 0)
        fold = str(rest // 10) if rest % 10 == 0 else f"{rest // 10}.{rest % 10}"
        cap = f" 最高减{yuan(terms.amount_fen)}" if terms.amount_fen else ""
        return f"{over}{'享' if over else ''}{fold}折{cap}"
    return f"{over}兑换{terms.gift}" if over else f"凭券兑换{terms.gift}"


def discount(terms: Terms, order_fen: int | None) -> int | None:
    """Fen off an order of ``order_fen`` (None: the till did not say); None if the order is below the threshold.

    Never more than the order. Without an order's amount, an amount coupon is worth its amount, a percentage nothing
    that could be stated.
    """
    if order_fen is None:
        return (terms.amount_fen or 0) if terms.kind == "amount" else 0
    if order_fen < terms.threshold_fen:
        return None
    if terms.kind == "amount":
        return min(terms.amount_fen or 0, order_fen)
    if terms.kind == "percent":
        off = order_fen * (terms.percent_off or 0) // 100
        return off if terms.amount_fen is None else min(off, terms.amount_fen)
    return 0


def validity(
    issued_at: datetime,
    zone: tzinfo,
    *,
    valid_from: datetime | None,
    valid_until: datetime | None,
    valid_days: int | None,
) -> tuple[datetime, datetime]:
    """From when until when a coupon issued at ``issued_at`` holds (the end is exclusive).

    ``valid_days`` counts whole days after the day of issue in the brand's ``zone``, so the last one is used up to
    midnight. Where both ends are given, the earlier one counts. Raises ValueError where neither is.
    """
    begin = max(issued_at, valid_from) if valid_from is not None else issued_at
    ends: list[datetime] = [] if valid_until is None else [valid_until]
    if valid_days is not None:
        last_day = issued_at.astimezone(zone).date() + timedelta(days=valid_days)
        midnight = datetime.combine(last_day + timedelta(days=1), time(), zone)
        ends.append(midnight.astimezone(issued_at.tzinfo))
    if not ends:
        raise ValueError("a campaign must say until when its coupons hold")
    return begin, min(ends)


def closed(opening: Opening, now: datetime) -> str | None:
    """Why the drop gives nobody a coupon at ``now``: a refusal's code, or None while it is open."""
    if opening.drop_state == "ended":
        return "sold_out" if opening.end_reason == "sold_out" else "ended"
    if now < opening.opens_at or (opening.claim_from is not None and now < opening.claim_from):
        return "not_started"
    ends = (opening.ends_at, opening.claim_until, opening.valid_until)
    if opening.room_state == "ended" or any(end is not None and end <= now for end in ends):
        return "ended"
    return None if opening.campaign_state == "running" else "campaign_state"


def barred(limits: Limits, *, tier: int | None, held: int) -> str | None:
    """Why a viewer may have no (further) coupon wherever they are; ``tier`` None means not a member at all."""
    if tier is None:
        return "forbidden"
    if held >= limits.per_viewer:
        return "limit_reached"
    return "tier" if tier < limits.min_tier else None


def held_out(limits: Limits, viewer: UUID) -> bool:
    """Whether ``viewer`` belongs to the campaign's comparison group: always the same answer for the same two."""
    if not limits.holdout_percent:
        return False
    digest = blake2b(limits.campaign.bytes + viewer.bytes, digest_size=8).digest()
    return int.from_bytes(digest) % 10_000 < limits.holdout_percent * 100


def unplaced(
    fixed_at: datetime | None, accuracy_m: float | None, *, fresh_after: datetime, max_accuracy_m: float
) -> str:
    """Why no store was found for a viewer with this fix (None: without one)."""
    if fixed_at is None or accuracy_m is None:
        return "location_missing"
    if fixed_at <= fresh_after:
        return "location_stale"
    return "location_uncertain" if accuracy_m > max_accuracy_m else "out_of_range"


def distance_band(distance_m: float) -> int:
    """The upper edge in metres of the band that ``distance_m`` lies in."""
    return next((edge for edge in BANDS_M if distance_m <= edge), BANDS_M[-1])


Place = tuple[UUID, float]
"""A store, and how many metres away it is."""


def nearest_giving(candidates: Iterable[Place], left: Mapping[UUID, int | None]) -> tuple[Place | None, Place | None]:
    """Of ``candidates``, nearest first: the nearest that takes part, and the nearest that has coupons left.

    ``left`` holds the stores that take part, with None for any number.
    """
    nearest = None
    for place in candidates:
        if place[0] in left:
            nearest = nearest or place
            quota = left[place[0]]
            if quota is None or quota > 0:
                return nearest, place
    return nearest, None


def unusable(state: str, *, same_store: bool, valid_from: datetime, valid_until: datetime, now: datetime) -> str | None:
    """Why a till may not redeem a coupon in ``state``; None if it may."""
    if not same_store:
        return "wrong_store"
    if state == "voided":
        return "coupon_voided"
    if state == "redeemed":
        return "already_redeemed"
    if state == "expired" or now >= valid_until:
        return "coupon_expired"
    return "coupon_not_yet_valid" if now < valid_from else None
