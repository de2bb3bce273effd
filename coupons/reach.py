"""Who in a room can have a campaign's coupons, and of which store: whole rooms in memory, a few viewers by PostGIS.

Both ask the question of ``geo.matching``. A room is read once and matched as ``geo.catchments`` does it, against stores
read in the same moment; that is a fifth of what one question for each viewer costs the database.
"""

import asyncio
from collections.abc import Sequence
from operator import attrgetter
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Row, any_, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from coupons.granting import array, partaking
from coupons.locking import Area
from coupons.statements import DECIDED_ABOUT
from coupons.tables import CampaignStore
from geo.catchments import Integers, Matches, Reach, read_stores
from geo.earth import Floats
from geo.matching import FRESH, MAX_ACCURACY_M, candidates
from geo.tables import Location, Store
from guides.tables import Member
from kernel.ids import ids_in

AT_ONCE = 20_000
"""Fixes matched at a time: what is held meanwhile grows with the stores near each of them."""

POINT = (("order", "u1"), ("kind", "<u4"), ("lng", "<f8"), ("lat", "<f8"))
"""A point as well-known binary, for records that PostgreSQL packs."""
_FIX = np.dtype([("viewer", "V16"), ("tier", ">i2"), ("accuracy_m", ">f4"), *POINT])
# Packed, one `_FIX` behind the other: a room of 100,000 is read in half the time. A probe, not a join: see
# `coupons.push`.
_FIXES = text(
    f"""
    SELECT string_agg(
               uuid_send(l.viewer_id) || int2send(coalesce(m.tier, CAST(-1 AS smallint))) || float4send(l.accuracy_m)
               || ST_AsBinary(CAST(l.position AS geometry)), CAST('' AS bytea)
           ) AS fixes,
           array_agg(l.viewer_id) FILTER (WHERE l.doubt IS NOT NULL) AS doubtful,
           array_agg(l.doubt) FILTER (WHERE l.doubt IS NOT NULL) AS doubts
    FROM locations l LEFT JOIN members m ON m.id = l.viewer_id AND m.brand_id = :brand
    WHERE l.room_id = :room AND l.fixed_at > :fresh_after AND l.accuracy_m <= :max_accuracy
      AND {DECIDED_ABOUT.format(viewer="l.viewer_id", drop="CAST(:drop AS uuid)")} IS NULL
    """
)

_DECIDED_NEAR = DECIDED_ABOUT.format(viewer="near.viewer_id", drop="CAST(:drop AS uuid)")


class Match(msgspec.Struct, frozen=True, gc=False):
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
        found = (await session.execute(_FIXES, values)).one()
        return await asyncio.to_thread(_nearest, reach, found, area.near_counts)
    near = candidates(
        area.room, giving, radius_m=area.radius_m, near_counts=area.near_counts, fresh_after=fresh_after
    ).where(Location.viewer_id == any_(array("reached", viewers)))
    near_by = near.subquery("near")
    query = (
        select(near_by.c.viewer_id, near_by.c.store_id, near_by.c.distance_m, Member.tier, near_by.c.doubt)
        .outerjoin(Member, (Member.id == near_by.c.viewer_id) & (Member.brand_id == area.brand))
        .where(text(f"{_DECIDED_NEAR} IS NULL").bindparams(drop=drop))
        .order_by(near_by.c.distance_m, near_by.c.viewer_id)
    )
    return [Match(*found) for found in await session.execute(query)]


def places_of(records: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    """Longitudes, latitudes and accuracies of packed fixes."""
    return records["lng"], records["lat"], records["accuracy_m"].astype(np.float64)


def _nearest(reach: Reach, packed: Row[Any], near_counts: bool) -> list[Match]:
    """``packed`` as ``_FIXES`` yields it."""
    records = np.frombuffer(packed.fixes or b"", _FIX)
    if not len(records):
        return []
    doubts = dict(zip(packed.doubtful or (), packed.doubts or (), strict=True))
    found = [
        _of_slice(reach, records[start : start + AT_ONCE], start, near_counts)
        for start in range(0, len(records), AT_ONCE)
    ]
    fix, store, distance = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(distance)
    ascending, ordered = distance[order], records[fix[order]]
    viewers = ids_in(ordered["viewer"].tobytes())
    tiers = (None if tier < 0 else tier for tier in ordered["tier"].tolist())
    matches = [
        Match(viewer, reach.stores[giving], far, tier, doubts.get(viewer))
        for viewer, giving, far, tier in zip(viewers, store[order].tolist(), ascending.tolist(), tiers, strict=True)
    ]
    if (ascending[1:] == ascending[:-1]).any():
        matches.sort(key=attrgetter("distance_m", "viewer"))
    return matches


def nearest_first(found: Matches, *, near_counts: bool) -> Integers:
    """Places in the arrays of ``found``: by fix, the nearest store first. ``near_counts=False`` leaves out fixes that
    are not inside for certain."""
    kept = np.lexsort((found.distance_m, found.fix))
    return kept if near_counts else kept[found.inside[kept]]


def _of_slice(reach: Reach, records: NDArray[Any], start: int, near_counts: bool) -> tuple[Integers, Integers, Floats]:
    """For each of ``records`` that a store is in reach of: its place (the first is ``start``), the nearest, how far."""
    found = reach.match(*places_of(records))
    kept = nearest_first(found, near_counts=near_counts)
    nearest = kept[np.flatnonzero(np.diff(found.fix[kept], prepend=-1))]
    return found.fix[nearest] + start, found.store[nearest], found.distance_m[nearest]
