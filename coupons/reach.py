"""Who in a room can have a campaign's coupons, and of which store: whole rooms in memory, a few viewers by PostGIS.

Both ask the question of ``geo.matching``. A room is read once and matched as ``geo.catchments`` does it, against stores
read in the same moment; that is a fifth of what one question for each viewer costs the database.
"""

import asyncio
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple
from uuid import UUID

import numpy as np
from sqlalchemy import any_, exists, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from coupons.granting import Area, array, partaking
from coupons.tables import CampaignStore, DropViewer
from geo.catchments import Integers, Matches, Reach, read_stores
from geo.earth import Floats
from geo.matching import FRESH, MAX_ACCURACY_M, candidates
from geo.tables import Location, Store
from guides.tables import Member

AT_ONCE = 20_000
"""Fixes matched at a time: what is held meanwhile grows with the stores near each of them."""

# A probe, not a join: see `coupons.push`.
_FIXES = text(
    """
    SELECT l.viewer_id, ST_X(CAST(l.position AS geometry)), ST_Y(CAST(l.position AS geometry)), l.accuracy_m, m.tier,
           l.doubt
    FROM locations l LEFT JOIN members m ON m.id = l.viewer_id AND m.brand_id = :brand
    WHERE l.room_id = :room AND l.fixed_at > :fresh_after AND l.accuracy_m <= :max_accuracy
      AND (SELECT true FROM drop_viewers v WHERE v.viewer_id = l.viewer_id AND v.drop_id = CAST(:drop AS uuid)) IS NULL
    """
)


class Match(NamedTuple):
    """A viewer, the nearest store that may give them one, and what decides whether they may have it."""

    viewer: UUID
    store: UUID
    distance_m: float
    tier: int | None
    doubt: str | None


async def match(
    session: AsyncSession, area: Area, *, drop: UUID | None, viewers: Sequence[UUID] | None = None
) -> list[Match]:
    """Who is in reach of a store with quota left, nearest first; without those about whom ``drop`` has decided.

    ``viewers`` None: the whole room.
    """
    giving = partaking(area).where(or_(CampaignStore.quota.is_(None), CampaignStore.issued < CampaignStore.quota))
    fresh_after = area.at - FRESH
    if viewers is None:
        reach = await asyncio.to_thread(Reach, await read_stores(session, Store.id.in_(giving)), area.radius_m)
        values = {
            "brand": area.brand,
            "room": area.room,
            "drop": drop,
            "fresh_after": fresh_after,
            "max_accuracy": MAX_ACCURACY_M,
        }
        found = (await session.execute(_FIXES, values)).all()
        return await asyncio.to_thread(_nearest, reach, found, area.near_counts)
    near = candidates(
        area.room, giving, radius_m=area.radius_m, near_counts=area.near_counts, fresh_after=fresh_after
    ).where(Location.viewer_id == any_(array("reached", viewers)))
    near_by = near.subquery("near")
    query = (
        select(near_by.c.viewer_id, near_by.c.store_id, near_by.c.distance_m, Member.tier, near_by.c.doubt)
        .outerjoin(Member, (Member.id == near_by.c.viewer_id) & (Member.brand_id == area.brand))
        .where(~exists().where(DropViewer.drop_id == drop, DropViewer.viewer_id == near_by.c.viewer_id))
        .order_by(near_by.c.distance_m, near_by.c.viewer_id)
    )
    return [Match(*found) for found in await session.execute(query)]


def _nearest(reach: Reach, fixes: Sequence[Sequence[object]], near_counts: bool) -> list[Match]:
    """``fixes`` as ``_FIXES`` yields them."""
    places: Floats = np.array([fix[1:4] for fix in fixes], np.float64).reshape(-1, 3)
    matches = [
        Match(fixes[fix][0], store, distance, fixes[fix][4], fixes[fix][5])  # type: ignore[arg-type]
        for start in range(0, len(fixes), AT_ONCE)
        for fix, store, distance in _of_slice(reach, places, start, near_counts)
    ]
    return sorted(matches, key=itemgetter(2, 0))


def nearest_first(found: Matches, *, near_counts: bool) -> Integers:
    """Places in the arrays of ``found``: by fix, the nearest store first. ``near_counts=False`` leaves out fixes that
    are not inside for certain."""
    kept = np.lexsort((found.distance_m, found.fix))
    return kept if near_counts else kept[found.inside[kept]]


def _of_slice(reach: Reach, places: Floats, start: int, near_counts: bool) -> Iterator[tuple[int, UUID, float]]:
    lng, lat, accuracy = places[start : start + AT_ONCE].T
    found = reach.match(lng, lat, accuracy)
    kept = nearest_first(found, near_counts=near_counts)
    fixes, first = np.unique(found.fix[kept], return_index=True)
    nearest = kept[first]
    stores = found.store[nearest].tolist()
    for fix, store, distance in zip((fixes + start).tolist(), stores, found.distance_m[nearest].tolist(), strict=True):
        yield fix, reach.stores[store], distance
