"""What a batch of claims sees before its drop is locked, and how far that still holds under the lock."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Self
from uuid import UUID

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import rules
from coupons.granting import Named, name
from coupons.locking import Locked
from coupons.reach import POINT, nearest_first, places_of
from coupons.rules import Place
from coupons.statements import FACTS, TERMS
from geo.catchments import Catchments
from geo.matching import FRESH, MAX_ACCURACY_M, WITHIN_HOURS
from kernel.postgres import Question, Sessions, asking

REMEMBERED = 8
"""Batches of a drop that ``Ours`` knows; those under way at the same time are fewer."""


class Claim(Struct, frozen=True, gc=False):
    """``viewer`` wants a coupon. ``key`` is the claim's id, chosen by the client: the same id gets the same coupon."""

    brand: str
    viewer: UUID
    key: str
    room: UUID | None


@dataclass(frozen=True, slots=True)
class Standings:
    """What is known of those who claim, by columns: the n-th of each is about the viewer of the n-th claim."""

    tier: Sequence[int | None]
    """None: no member of the brand."""
    fixed_at: Sequence[int]
    """Microseconds since 2000, ``NEVER`` without a fix."""
    accuracy_m: Sequence[float]
    doubt: Mapping[int, str]
    """Of those whose fix is implausible; see ``geo.doubt``."""
    near: Sequence[Sequence[Place]]
    """The stores in reach, nearest first."""

    @classmethod
    def unknown(cls, n: int) -> Self:
        """Of ``n`` claims whose viewers nobody has seen."""
        return cls([None] * n, [NEVER] * n, [0.0] * n, {}, [()] * n)

    def unplaced(self, place: int, at: datetime) -> str:
        """Why no store was found at ``at`` for the viewer of the claim at ``place``: see ``rules.unplaced``."""
        fixed_at = self.fixed_at[place]
        return rules.unplaced(
            None if fixed_at == NEVER else _SINCE + timedelta(microseconds=fixed_at),
            self.accuracy_m[place],
            fresh_after=at - FRESH,
            max_accuracy_m=MAX_ACCURACY_M,
        )


NEVER = -(2**63)
"""What PostgreSQL sends for the time before all times."""
_SINCE = datetime(2000, 1, 1, tzinfo=UTC)
_STANDING = np.dtype([("place", ">i8"), ("tier", ">i2"), ("fixed_at", ">i8"), ("accuracy_m", ">f4"), *POINT])
"""What ``_LOOK`` tells of a viewer, in PostgreSQL's binary forms: whose claim it is, and what is known of them."""

_CLOCK = "CAST(clock_timestamp() AT TIME ZONE d.timezone AS time)"
# One row. What is asked of each viewer comes packed, one `_STANDING` behind the other: half of what reading a row for
# each viewer costs.
_LOOK = Question(
    f"""
    SELECT d.*, clock_timestamp() AS clock, {TERMS.format(facts="d")} AS terms,
           ARRAY(
               SELECT id FROM stores WHERE brand_id = d.brand_id AND closed_until > clock_timestamp()
               UNION ALL
               SELECT s.id FROM stores s
               WHERE d.only_open AND s.brand_id = d.brand_id AND NOT {WITHIN_HOURS.format(store="s", clock=_CLOCK)}
           ) AS closed,
           CASE WHEN NOT d.all_stores
               THEN ARRAY(SELECT store_id FROM campaign_stores WHERE campaign_id = d.campaign_id) END AS partaking,
           v.*
    FROM ({FACTS.format(first="")} AND d.state = 'open' AND d.mode = 'claim' OFFSET 0) AS d
    CROSS JOIN LATERAL (
        SELECT string_agg(
                   int8send(w.place) || int2send(coalesce(m.tier, CAST(-1 AS smallint)))
                   || timestamptz_send(coalesce(l.fixed_at, '-infinity')) || float4send(coalesce(l.accuracy_m, 0))
                   || coalesce(ST_AsBinary(CAST(l.position AS geometry)), decode(repeat('00', 21), 'hex')),
                   CAST('' AS bytea)
               ) AS standings,
               array_agg(w.place) FILTER (WHERE l.doubt IS NOT NULL) AS doubtful,
               array_agg(l.doubt) FILTER (WHERE l.doubt IS NOT NULL) AS doubts,
               array_agg(w.viewer_id) FILTER (WHERE EXISTS (
                   SELECT FROM coupons c WHERE c.viewer_id = w.viewer_id AND c.campaign_id = d.campaign_id
               )) AS having
        FROM unnest(CAST(:viewers AS uuid[])) WITH ORDINALITY AS w (viewer_id, place)
        LEFT JOIN members m ON m.id = w.viewer_id AND m.brand_id = d.brand_id
        LEFT JOIN locations l ON l.room_id = d.room_id AND l.viewer_id = w.viewer_id
    ) AS v
    """
)
# One probe of the unique index for each viewer, whatever the planner believes: OFFSET keeps it from making joins of
# them. Planned while the campaign was empty, a join reads all of the campaign for every batch, eight times their cost.
FORMER = text(
    """
    SELECT c.viewer_id, c.drop_id, c.claim_key, c.id, c.code, c.state, c.amount_fen, c.valid_from, c.valid_until,
           c.held_until, c.distance_band_m, s.code AS store, s.name AS store_name, s.address AS store_address
    FROM unnest(CAST(:viewers AS uuid[])) AS w (viewer_id)
    CROSS JOIN LATERAL (
        SELECT * FROM coupons WHERE viewer_id = w.viewer_id AND campaign_id = :campaign OFFSET 0
    ) AS c
    CROSS JOIN LATERAL (SELECT code, name, address FROM stores WHERE id = c.store_id OFFSET 0) AS s
    """
)


class Ours:
    """What batches of this process granted of a drop lately, so that the next one need not ask for it.

    A batch looks at its viewers before it has the lock. If everything that was granted of the campaign since then is in
    here, what it saw still holds for all viewers but those named here. A campaign's count of coupons only grows, and
    nothing grants without it, so each number in it names one state.
    """

    def __init__(self) -> None:
        self._steps: dict[int, tuple[int, frozenset[UUID]]] = {}

    def add(self, issued: int, viewers: Sequence[UUID]) -> None:
        """A transaction that found ``issued`` coupons of the campaign has given one to each of ``viewers`` and has
        certainly committed; or it is on its way, and ``take_back`` will be called if it fails."""
        if viewers:
            self._steps[issued] = issued + len(viewers), frozenset(viewers)
            if len(self._steps) > REMEMBERED:
                del self._steps[next(iter(self._steps))]

    def take_back(self, issued: int) -> None:
        """What was to be given on finding ``issued`` coupons was not, or nobody knows."""
        self._steps.pop(issued, None)

    def after(self, seen: int) -> tuple[int, frozenset[UUID]]:
        """How many coupons the campaign will have if nobody else gives any, ``seen`` and what was granted here since
        or is on its way; and to whom these are."""
        granted: frozenset[UUID] = frozenset()
        while seen in self._steps:
            seen, viewers = self._steps[seen]
            granted |= viewers
        return seen, granted

    def since(self, seen: int, now: int) -> frozenset[UUID] | None:
        """To whom coupons were granted between two counts of the campaign's; None if others gave some, too."""
        granted: frozenset[UUID] = frozenset()
        while seen != now:
            if seen not in self._steps:
                return None
            seen, viewers = self._steps[seen]
            granted |= viewers
        return granted


@dataclass(frozen=True, slots=True)
class Sight:
    """What a batch saw before the drop was locked: it must not be held meanwhile.

    Places, tiers and closed stores are nobody's to lock, and were seen after the claims came. What viewers have of the
    campaign holds while ``Ours`` knows whatever was granted since.
    """

    facts: Locked
    """The drop and its campaign as they were then, which nobody had locked."""
    standings: Standings
    former: Sequence[Row[Any]]
    """The coupons that they have of the campaign: rows of ``FORMER``."""
    giving: Sequence[UUID]
    """The stores that somebody is in reach of, that take part and are not closed for the time being."""
    named: Named


async def look(
    sessions: Sessions, catchments: Catchments, drop: UUID, claims: Sequence[Claim], named: Named
) -> Sight | None:
    """Everything about ``claims`` that can be seen without a lock; None if ``drop`` gives nothing that could be near.

    ``named`` holds what is known of stores' names, and gets what is not.
    """
    asked = {"drop": drop, "viewers": [claim.viewer for claim in claims]}
    found = await _LOOK.ask(sessions, asked)
    if not found:
        return None
    (seen,) = found
    former: Sequence[Row[Any]] = ()
    if seen.having:
        async with asking(sessions) as session:
            former = await _former(session, seen.campaign_id, seen.having)
    records = np.frombuffer(seen.standings, _STANDING)
    records = records[np.argsort(records["place"])]  # an aggregate promises no order
    doubts = {place - 1: doubt for place, doubt in zip(seen.doubtful or (), seen.doubts or (), strict=True)}
    near, stores = await _in_reach(catchments, seen, records)  # may ask for a connection of its own
    closed, partaking = set(seen.closed), None if seen.partaking is None else set(seen.partaking)
    giving = [store for store in stores if store not in closed and (partaking is None or store in partaking)]
    if not named.keys() >= set(giving):
        async with asking(sessions) as session:
            await name(session, giving, named)
    return Sight(Locked(seen), _standings(records, doubts, near), former, giving, named)


async def _former(session: AsyncSession, campaign: UUID, viewers: Collection[UUID]) -> Sequence[Row[Any]]:
    """The coupons of ``campaign`` that ``viewers`` have."""
    if not viewers:
        return []
    return (await session.execute(FORMER, {"campaign": campaign, "viewers": list(viewers)})).all()


def _standings(records: NDArray[Any], doubts: Mapping[int, str], near: Sequence[Sequence[Place]]) -> Standings:
    return Standings(
        [None if tier < 0 else tier for tier in records["tier"].tolist()],
        records["fixed_at"].tolist(),
        records["accuracy_m"].tolist(),
        doubts,
        near,
    )


async def _in_reach(
    catchments: Catchments, facts: Row[Any], records: NDArray[Any]
) -> tuple[list[Sequence[Place]], list[UUID]]:
    """For each viewer in ``records`` the stores in reach, nearest first; and all these stores."""
    near: list[Sequence[Place]] = [()] * len(records)
    fresh_after = (facts.clock - FRESH - _SINCE) // timedelta(microseconds=1)
    placed = np.flatnonzero((records["fixed_at"] > fresh_after) & (records["accuracy_m"] <= MAX_ACCURACY_M))
    if not len(placed):
        return near, []
    reach = await catchments.of(facts.brand_id, facts.radius_m)
    matches = reach.match(*places_of(records[placed]))
    kept = nearest_first(matches, near_counts=facts.near_counts)
    numbers = matches.store[kept]
    pairs = list(zip(map(reach.stores.__getitem__, numbers.tolist()), matches.distance_m[kept].tolist(), strict=True))
    fixes = matches.fix[kept]
    begins = np.flatnonzero(np.diff(fixes, prepend=-1))
    bounds = pairwise([*begins.tolist(), len(pairs)])
    for place, (start, end) in zip(placed[fixes[begins]].tolist(), bounds, strict=True):
        near[place] = pairs[start:end]
    return near, [reach.stores[number] for number in sorted(set(numbers.tolist()))]


async def recalled(
    session: AsyncSession, locked: Locked, viewers: Iterable[UUID], sight: Sight | None, ours: Ours
) -> Sequence[Row[Any]]:
    """The coupons of the locked campaign that ``viewers`` have: as they were seen, or asked again where that may not
    hold any more."""
    campaign = locked.row.campaign_id
    granted = None if sight is None else ours.since(sight.facts.row.campaign_issued, locked.row.campaign_issued)
    if sight is None or granted is None:
        return await _former(session, campaign, set(viewers))
    again = await _former(session, campaign, granted.intersection(viewers))
    return [*again, *(coupon for coupon in sight.former if coupon.viewer_id not in granted)]
