"""Who may have a coupon, what it is worth, how long it holds: decisions only, with every fact passed in."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from hashlib import blake2b
from itertools import pairwise, product
from typing import Literal, NamedTuple
from uuid import UUID

import numpy as np

Kind = Literal["amount", "percent", "gift"]

BANDS_M = (500, 1000, 2000, 3000, 5000, 10_000, 20_000, 50_000, 100_000)
"""Upper edges of the distance bands that a coupon keeps instead of a position."""
_BANDS = np.array((*BANDS_M, BANDS_M[-1]))  # the last one has no end
TELLABLE = timedelta(hours=24)
"""How late a redemption may be told that a till made without a network."""
REVERSIBLE = timedelta(hours=1)
"""How long a redemption can be taken back."""
REVIEWABLE = timedelta(hours=2)
"""How long a coupon that is under review waits for somebody to look at it."""
VIP_TIER = 3
"""From which tier on a member is in the segment ``vip``."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a coupon promises. Money in fen; ``percent_off`` 20 is what a Chinese till calls 8 折.

    ``up_to``: the amount is the best of several. ``hours`` of the brand's day in which it may be used; None: all day.
    """

    kind: str
    amount_fen: int | None = None
    threshold_fen: int = 0
    percent_off: int | None = None
    gift: str | None = None
    up_to: bool = False
    hours: tuple[time, time] | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Who may have a coupon of a campaign.

    ``segments`` empty is everybody; ``cap`` is the brand's: that many coupons of all its campaigns in some days.
    ``doubt`` says what an implausible location does: ``allow``, ``review`` or ``refuse``.
    """

    campaign: UUID
    per_viewer: int
    min_tier: int
    holdout_percent: int
    segments: frozenset[str] = frozenset()
    doubt: str = "allow"
    cap: int | None = None


class History(NamedTuple):
    """What a viewer had of the brand: coupons in the days that its cap looks back, and purchases ever."""

    recent: int = 0
    bought: int = 0


NEWCOMER = History()
"""Nothing so far; also where nobody asks."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """Hours of the day, in ``zone``, in which nobody is to be disturbed; ``start`` after ``end`` spans midnight."""

    start: time
    end: time
    zone: tzinfo

    def until(self, moment: datetime) -> datetime | None:
        """When the quiet around ``moment`` ends; None if it is not quiet then."""
        local = moment.astimezone(self.zone)
        if not within_hours(local.time(), self.start, self.end):
            return None
        instant = moment.astimezone(UTC)
        ends = (  # twice on a day on which an hour is put back
            datetime.combine(local.date() + timedelta(days=days), self.end, self.zone).replace(fold=fold)
            for days, fold in product((0, 1), (0, 1))
        )
        return next(end for end in (end.astimezone(UTC) for end in ends) if end > instant).astimezone(moment.tzinfo)


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


def terms_problem(terms: Terms) -> tuple[str, str] | None:
    """Why ``terms`` promise nothing that a till could carry out: the field that is wrong, and a sentence; None if they
    are sound."""
    if terms.kind == "amount":
        if not terms.amount_fen:
            return "amount_fen", "An amount coupon needs amount_fen."
        if terms.threshold_fen and terms.amount_fen > terms.threshold_fen:
            return "amount_fen", "amount_fen must not exceed threshold_fen."
    elif terms.kind == "percent":
        if terms.percent_off is None:
            return "percent_off", "A percent coupon needs percent_off."
    elif not terms.gift:
        return "gift", "A gift coupon needs the gift's name."
    return None


def tiers_problem(terms: Terms, tiers: Sequence[tuple[int, int]]) -> str | None:
    """Why amounts by distance (metres, fen) cannot be carried out, as a sentence; None if they are sound."""
    if tiers and terms.kind != "amount":
        return "Only an amount coupon has amounts by distance."
    if any(near >= far for (near, _), (far, _) in pairwise(tiers)):
        return "The distances must grow."
    if terms.threshold_fen and any(fen > terms.threshold_fen for _, fen in tiers):
        return "amount_fen must not exceed threshold_fen."
    return None


def amount_at(distance_m: float, tiers: Iterable[tuple[int, int]], otherwise: int | None) -> int | None:
    """What a coupon takes off for a viewer ``distance_m`` away: the amount of the first of ``tiers`` (metres, fen,
    nearest first) that reaches so far, or else the campaign's own."""
    return next((fen for within_m, fen in tiers if distance_m <= within_m), otherwise)


def yuan(fen: int) -> str:
    """``fen`` as people write prices: 2000 → ``20``, 1990 → ``19.9``, 5 → ``0.05``."""
    whole, cents = divmod(fen, 100)
    return f"{whole}.{cents:02d}".rstrip("0") if cents else str(whole)


def describe(terms: Terms) -> str:
    """``terms`` as a Chinese shopper expects to read them: 满100减20, 8.5折 最高减50, 凭券兑换拿铁 限14:00–17:00."""
    worth = _worth(terms)
    if terms.hours is None:
        return worth
    return f"{worth} 限{terms.hours[0]:%H:%M}–{terms.hours[1]:%H:%M}"


def _worth(terms: Terms) -> str:
    over = f"满{yuan(terms.threshold_fen)}" if terms.threshold_fen else ""
    if terms.kind == "amount":
        return f"{over or '无门槛'}{'最高' if terms.up_to else ''}减{yuan(terms.amount_fen or 0)}"
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

    ``valid_days`` counts whole days after the day from which it holds in the brand's ``zone``, so the last one is used
    up to midnight. Where both ends are given, the earlier one counts. Raises ValueError where neither is.
    """
    begin = max(issued_at, valid_from) if valid_from is not None else issued_at
    ends: list[datetime] = [] if valid_until is None else [valid_until]
    if valid_days is not None:
        # Not after the issue: a coupon given ahead of its campaign's days would end before it begins.
        last_day = begin.astimezone(zone).date() + timedelta(days=valid_days)
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


def within_hours(clock: time, start: time, end: time) -> bool:
    """Whether ``clock`` lies in the hours from ``start`` to ``end`` (exclusive), which may span midnight."""
    if start <= end:
        return start <= clock < end
    return clock >= start or clock < end


def usable_at(terms: Terms, clock: time) -> bool:
    """Whether a coupon with ``terms`` may be used at this time of the brand's day."""
    return terms.hours is None or within_hours(clock, *terms.hours)


def left_of_day(per_day: int | None, *, counted_on: date | None, issued: int, today: date) -> int | None:
    """How many coupons a campaign may still give ``today``, of which ``issued`` were counted on a day; None: any."""
    return _left_of(per_day, issued if counted_on == today else 0)


def left_of_minute(per_minute: int | None, *, counted_in: int | None, issued: int, minute: int) -> int | None:
    """How many coupons a push drop may still give in its ``minute``-th minute; None: any."""
    return _left_of(per_minute, issued if counted_in == minute else 0)


def _left_of(limit: int | None, issued: int) -> int | None:
    return None if limit is None else max(0, limit - issued)


def turn_of(drop: UUID, viewer: UUID, spread_ms: int) -> timedelta:
    """How long after the opening of ``drop`` it is ``viewer``'s turn: up to ``spread_ms``, always the same for the two.

    FNV-1a with a mixing step over the identifiers as they are written, which a mini-program can compute as well
    (``web/client/opening.js``). It spreads, and hides nothing.
    """
    mixed = 0x811C9DC5
    for symbol in f"{drop}{viewer}".encode():
        mixed = (mixed ^ symbol) * 0x01000193 & 0xFFFFFFFF
    mixed = (mixed ^ mixed >> 16) * 0x45D9F3B & 0xFFFFFFFF
    return timedelta(milliseconds=(mixed ^ mixed >> 16) % (spread_ms + 1))


def minute_of(opens_at: datetime, moment: datetime) -> int:
    """In which minute of a drop ``moment`` lies, from 0."""
    return max(0, (moment - opens_at) // timedelta(minutes=1))


def reserve(stock: int, percent: int, *, matched: bool) -> int:
    """How many of a push drop's coupons are kept for viewers who come into reach after everybody was ``matched``."""
    return 0 if matched else stock * percent // 100


def exhausted(granted: int, *, left: int, left_today: int | None) -> str | None:
    """Why nothing is left after ``granted`` more coupons; None if there is."""
    if granted >= left:
        return "sold_out"
    return "sold_out_today" if left_today is not None and granted >= left_today else None


def segments_of(*, tier: int, bought: int) -> set[str]:
    """The segments that a member belongs to: one by what they bought, and ``vip`` by their tier."""
    segments = {"new" if bought == 0 else "once" if bought == 1 else "often"}
    return segments | {"vip"} if tier >= VIP_TIER else segments


def barred(limits: Limits, *, tier: int | None, held: int, history: History = NEWCOMER) -> str | None:
    """Why a viewer may have no (further) coupon wherever they are; ``tier`` None means not a member at all."""
    if tier is None:
        return "forbidden"
    if held >= limits.per_viewer:
        return "limit_reached"
    if tier < limits.min_tier:
        return "tier"
    if limits.segments and limits.segments.isdisjoint(segments_of(tier=tier, bought=history.bought)):
        return "segment"
    return "cap_reached" if limits.cap is not None and history.recent >= limits.cap else None


def passed_over(limits: Limits, viewer: UUID, doubt: str | None) -> str | None:
    """Why a viewer in range who may have a coupon gets none all the same; ``doubt`` is that of their fix, if any."""
    if doubt is not None and limits.doubt == "refuse":
        return "suspect"
    return "held_out" if held_out(limits, viewer) else None


def to_review(limits: Limits, doubt: str | None) -> str | None:
    """Why somebody has to look at it before a viewer who would get a coupon now gets it; None if nobody has to."""
    return "under_review" if doubt is not None and limits.doubt == "review" else None


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


def distance_bands(distances_m: Sequence[float]) -> list[int]:
    """Of each distance the upper edge in metres of the band that it lies in."""
    bands: list[int] = _BANDS[np.searchsorted(BANDS_M, distances_m)].tolist()
    return bands


def blurred(distance_m: float, tiers: Iterable[tuple[int, int]]) -> int:
    """The largest distance that has the same band as ``distance_m`` and gets the same of ``tiers`` (metres, fen)."""
    edges = sorted({*BANDS_M, *(within_m for within_m, _ in tiers)})
    return next((edge for edge in edges if distance_m <= edge), edges[-1] + 1)


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
