"""What a batch of claims sees before its drop is locked, and how far that still holds under the lock."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
from msgspec import Struct
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from coupons.granting import Named, array_of, name, stores_left
from coupons.locking import Area, Locked
from coupons.reach import nearest_first
from geo.catchments import Catchments
from geo.matching import FRESH, MAX_ACCURACY_M
from kernel.postgres import Sessions

REMEMBERED = 8
"""Batches of a drop that ``Ours`` knows; those under way at the same time are fewer."""


class Claim(NamedTuple):
    """``viewer`` wants a coupon. ``key`` is the claim's id, chosen by the client: the same id gets the same coupon."""

    brand: str
    viewer: UUID
    key: str
    room: UUID | None


class Standing(Struct, frozen=True, gc=False):
    """What is known of a viewer who claims; ``near`` holds stores in reach and metres, nearest first."""

    tier: int | None
    fixed_at: datetime | None
    accuracy_m: float | None
    doubt: str | None
    near: Sequence[tuple[UUID, float]]


UNKNOWN = Standing(None, None, None, None, ())

_AREA = text(
    """
    SELECT d.room_id AS room, c.brand_id AS brand, c.id AS campaign, c.all_stores, c.radius_m, c.near_counts,
           clock_timestamp() AS at, c.issued, c.store_quota
    FROM drops d JOIN campaigns c ON c.id = d.campaign_id
    WHERE d.id = :drop AND d.state = 'open' AND d.mode = 'claim'
    """
)
_STANDINGS = text(
    """
    SELECT w.viewer_id, m.tier, l.fixed_at, l.accuracy_m, l.doubt,
           ST_X(CAST(l.position AS geometry)), ST_Y(CAST(l.position AS geometry)),
           (SELECT true FROM coupons c WHERE c.viewer_id = w.viewer_id AND c.campaign_id = :campaign LIMIT 1)
    FROM unnest(CAST(CAST(:viewers AS text) AS uuid[])) AS w (viewer_id)
    LEFT JOIN members m ON m.id = w.viewer_id AND m.brand_id = :brand
    LEFT JOIN locations l ON l.room_id = :room AND l.viewer_id = w.viewer_id
    """
)
_PARTAKING = text("SELECT store_id FROM campaign_stores WHERE campaign_id = :campaign")
# One probe of the unique index for each viewer, whatever the planner believes: OFFSET keeps it from making joins of
# them. Planned while the campaign was empty, a join reads all of the campaign for every batch, eight times their cost.
FORMER = text(
    """
    SELECT c.viewer_id, c.drop_id, c.claim_key, c.id, c.code, c.state, c.amount_fen, c.valid_from, c.valid_until,
           c.distance_band_m, s.code AS store, s.name AS store_name, s.address AS store_address
    FROM unnest(CAST(CAST(:viewers AS text) AS uuid[])) AS w (viewer_id)
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
        certainly committed."""
        if viewers:
            self._steps[issued] = issued + len(viewers), frozenset(viewers)
            if len(self._steps) > REMEMBERED:
                del self._steps[next(iter(self._steps))]

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
    campaign holds while ``Ours`` knows whatever was granted since. Numbers that stores have left do not hold.
    """

    area: Area
    issued: int
    """Coupons of the campaign, read before all the rest."""
    standings: dict[UUID, Standing]
    former: Sequence[Row[Any]]
    """The coupons that they have of the campaign: rows of ``FORMER``."""
    left: dict[UUID, int | None]
    """Of every store that somebody is in reach of and that gives coupons: how many it has left."""
    named: Named


async def look(
    sessions: Sessions, catchments: Catchments, drop: UUID, claims: Sequence[Claim], named: Named
) -> Sight | None:
    """Everything about ``claims`` that can be seen without a lock; None if ``drop`` gives nothing that could be near.

    ``named`` holds what is known of stores' names, and gets what is not.
    """
    async with _reading(sessions) as session:
        row = (await session.execute(_AREA, {"drop": drop})).one_or_none()
        if row is None:
            return None
        *where, issued, quota = row
        area = Area(*where)
        viewers = array_of({claim.viewer for claim in claims})
        asked = {"viewers": viewers, "brand": area.brand, "room": area.room, "campaign": area.campaign}
        found = (await session.execute(_STANDINGS, asked)).all()
        former = await _former(session, area.campaign, [seen[0] for seen in found if seen[7]])
        partaking = None
        if not area.all_stores:
            partaking = set(await session.scalars(_PARTAKING, {"campaign": area.campaign}))
    near, stores = await _in_reach(catchments, area, found, partaking)  # may ask for a connection of its own
    left: dict[UUID, int | None] = {}
    if stores:
        async with _reading(sessions) as session:
            left = await stores_left(session, area, quota, stores)
            await name(session, left, named)
    standings = {
        viewer: Standing(tier, fixed_at, accuracy_m, doubt, near.get(place, ()))
        for place, (viewer, tier, fixed_at, accuracy_m, doubt, *_) in enumerate(found)
    }
    return Sight(area, issued, standings, former, left, named)


@asynccontextmanager
async def _reading(sessions: Sessions) -> AsyncIterator[AsyncSession]:
    """A session of single questions, which spares each two round trips."""
    async with sessions() as session:
        await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        yield session


async def _former(session: AsyncSession, campaign: UUID, viewers: Collection[UUID]) -> Sequence[Row[Any]]:
    """The coupons of ``campaign`` that ``viewers`` have."""
    if not viewers:
        return []
    return (await session.execute(FORMER, {"campaign": campaign, "viewers": array_of(viewers)})).all()


async def _in_reach(
    catchments: Catchments, area: Area, found: Sequence[Sequence[Any]], partaking: set[UUID] | None
) -> tuple[dict[int, list[tuple[UUID, float]]], list[UUID]]:
    """For each place in ``found`` (rows of ``_STANDINGS``) the stores in reach, nearest first; and all these stores."""
    fresh_after = area.at - FRESH
    placed = [
        place
        for place, (_, _, fixed_at, accuracy, *_) in enumerate(found)
        if fixed_at is not None and fixed_at > fresh_after and accuracy <= MAX_ACCURACY_M
    ]
    if not placed:
        return {}, []
    reach = await catchments.of(area.brand, area.radius_m)
    lng, lat, accuracy = np.array([(found[place][5], found[place][6], found[place][3]) for place in placed]).T
    matches = reach.match(lng, lat, accuracy)
    kept = nearest_first(matches, near_counts=area.near_counts)
    stores = [reach.stores[store] for store in matches.store[kept].tolist()]
    pairs = list(zip(stores, matches.distance_m[kept].tolist(), strict=True))
    fixes, begins = np.unique(matches.fix[kept], return_index=True)
    bounds = pairwise([*begins.tolist(), len(pairs)])
    near = {placed[fix]: pairs[start:end] for fix, (start, end) in zip(fixes.tolist(), bounds, strict=True)}
    if partaking is not None:
        near = {place: [pair for pair in those if pair[0] in partaking] for place, those in near.items()}
    return near, list(dict.fromkeys(stores))


async def recalled(
    session: AsyncSession, locked: Locked, viewers: set[UUID], sight: Sight | None, ours: Ours
) -> Sequence[Row[Any]]:
    """The coupons of the locked campaign that ``viewers`` have: as they were seen, or asked again where that may not
    hold any more."""
    campaign = locked.row.campaign_id
    granted = None if sight is None else ours.since(sight.issued, locked.row.campaign_issued)
    if sight is None or granted is None:
        return await _former(session, campaign, viewers)
    again = await _former(session, campaign, viewers & granted)
    known = viewers - granted
    return [*again, *(coupon for coupon in sight.former if coupon.viewer_id in known)]
