"""Who is near which store: one set-based question to PostGIS, for a push drop, a preview or a batch of claims.

A fix with accuracy ``a`` at signed distance ``depth`` from the edge of a catchment (negative within it) is *inside* if
``depth + a <= 0``, *outside* if ``depth - a > 0``, else *near*. For a circle ``depth`` is distance minus radius; for a
trade area it is the distance to the polygon, or minus the distance to its boundary. ``geo.catchments`` answers the
same question in memory; tests hold the two equal.
"""

from collections.abc import Sequence
from datetime import datetime, time, timedelta
from typing import Any
from uuid import UUID

from geoalchemy2 import Geography, Geometry
from sqlalchemy import (
    ARRAY,
    CTE,
    Select,
    Subquery,
    Uuid,
    any_,
    case,
    cast,
    exists,
    false,
    func,
    literal,
    or_,
    select,
    text,
    true,
    union_all,
)

from geo.tables import Location, Store

FRESH = timedelta(minutes=10)
"""An older fix decides nothing (``location_stale``)."""
MAX_ACCURACY_M = 1000
"""A vaguer fix decides nothing (``location_uncertain``)."""
DEFAULT_RADIUS_M = 3000
"""Of a store without a radius of its own, where no campaign says otherwise."""

StoreIds = Select[Any] | CTE | Subquery


WITHIN_HOURS = """
    ({store}.opens IS NULL OR {store}.closes IS NULL OR {store}.opens = {store}.closes
     OR CASE WHEN {store}.opens < {store}.closes THEN {clock} >= {store}.opens AND {clock} < {store}.closes
             ELSE {clock} >= {store}.opens OR {clock} < {store}.closes END)"""
"""Whether the brand's ``clock`` lies within a store's opening hours, as ``geo.hours`` has it; without any, it does."""


def open_stores(brand: str, now: datetime, clock: time | None = None) -> Select[UUID]:
    """``store_id`` of every store of ``brand`` that is not closed for the time being, nor by its hours at ``clock``, a
    time of the brand's day (None: hours do not count)."""
    found = select(Store.id.label("store_id")).where(
        Store.brand_id == brand, or_(Store.closed_until.is_(None), Store.closed_until <= now)
    )
    if clock is None:
        return found
    within = text(WITHIN_HOURS.format(store="stores", clock="CAST(:clock AS time)"))
    return found.where(within.bindparams(clock=clock))


def candidates(
    room_id: UUID,
    stores: StoreIds,
    *,
    radius_m: int = DEFAULT_RADIUS_M,
    near_counts: bool = True,
    fresh_after: datetime,
    viewers: Sequence[UUID] | None = None,
    k: int = 1,
) -> Select[UUID, UUID, float, str, int, str | None]:
    """Up to ``k`` stores in reach of each viewer of a room, nearest first.

    Columns: ``viewer_id``, ``store_id``, ``distance_m`` (from the fix to the store's door, on the ellipsoid),
    ``state`` (``inside`` or ``near``), ``rank`` (1 is the viewer's nearest), ``doubt`` (why the fix is implausible, or
    null). A viewer without a fresh and certain fix, or with no store in reach, has no row.

    ``stores`` yields a column ``store_id``: the stores that may give a coupon now (``open_stores`` is a start; leave
    out those without quota). ``radius_m`` is the campaign's, used where a store has neither radius nor trade area of
    its own. ``near_counts=False`` keeps only fixes that are inside for certain. ``fresh_after`` is usually now minus
    ``FRESH``. ``viewers`` narrows the question to some viewers, None asks about the whole room.

    Reads ``ix_stores_position`` and ``ix_stores_trade_area`` once for each viewer, so the cost is viewers × stores
    nearby, not viewers × stores.
    """
    wanted = (stores if isinstance(stores, Select) else select(stores.c.store_id)).cte("wanted_stores")
    near = _in_reach(wanted, radius_m, near_counts).limit(k).lateral("near_stores")
    query = (
        select(Location.viewer_id, near.c.store_id, near.c.distance_m, near.c.state, near.c.rank, Location.doubt)
        .join(near, true())
        .where(
            Location.room_id == room_id,
            Location.fixed_at > fresh_after,
            Location.accuracy_m <= MAX_ACCURACY_M,
        )
    )
    if viewers is None:
        return query
    # One array, not a list of parameters: the statement's text stays the same for every batch, and so does its plan.
    return query.where(Location.viewer_id == any_(literal(list(viewers), ARRAY(Uuid))))


def nearest_stores(
    room_id: UUID,
    stores: StoreIds,
    *,
    radius_m: int = DEFAULT_RADIUS_M,
    near_counts: bool = True,
    fresh_after: datetime,
    viewers: Sequence[UUID] | None = None,
) -> Select[UUID, UUID, float, str, int, str | None]:
    """``candidates`` with only the nearest store in reach of each viewer: one row a viewer."""
    return candidates(
        room_id, stores, radius_m=radius_m, near_counts=near_counts, fresh_after=fresh_after, viewers=viewers
    )


def _in_reach(wanted: CTE, radius_m: int, near_counts: bool) -> Select[Any]:
    """Stores of ``wanted`` in reach of the row of ``locations`` that the statement around this one is looking at."""
    # Written as `(… IN …) IS TRUE`, so that it stays a hash looked up for the few stores that the spatial index found,
    # and does not become a join that visits every wanted store for every viewer.
    is_wanted = Store.id.in_(select(wanted.c.store_id)).is_(True)
    widest = select(func.max(Store.radius_m)).where(Store.id.in_(select(wanted.c.store_id))).scalar_subquery()
    # The index is asked on the sphere, which is quicker and up to 0.6 % off; what it finds is measured below.
    reach = (func.greatest(literal(radius_m), widest) + Location.accuracy_m) * 1.01
    distance = func.ST_Distance(Store.position, Location.position)
    circles = select(
        Store.id.label("store_id"),
        distance.label("distance_m"),
        (distance - func.coalesce(Store.radius_m, radius_m)).label("depth"),
    ).where(Store.trade_area.is_(None), is_wanted, func.ST_DWithin(Store.position, Location.position, reach, false()))
    # Asked once for the whole statement: a brand without trade areas does not pay for them.
    any_areas = select(
        exists().where(Store.trade_area.is_not(None), Store.id.in_(select(wanted.c.store_id)))
    ).scalar_subquery()
    boundary = cast(func.ST_Boundary(cast(Store.trade_area, Geometry("MULTIPOLYGON", 4326))), Geography(srid=4326))
    areas = select(
        Store.id,
        distance,
        case(
            (func.ST_Covers(Store.trade_area, Location.position), -func.ST_Distance(boundary, Location.position)),
            else_=func.ST_Distance(Store.trade_area, Location.position),
        ),
    ).where(
        any_areas,
        Store.trade_area.is_not(None),
        is_wanted,
        func.ST_DWithin(Store.trade_area, Location.position, Location.accuracy_m),
    )
    found = union_all(circles.correlate(Location), areas.correlate(Location)).subquery("found")
    slack = -Location.accuracy_m if near_counts else Location.accuracy_m
    order = (found.c.distance_m, found.c.store_id)
    return (
        select(
            found.c.store_id,
            found.c.distance_m,
            case((found.c.depth + Location.accuracy_m <= 0, "inside"), else_="near").label("state"),
            func.row_number().over(order_by=order).label("rank"),
        )
        .where(found.c.depth + slack <= 0)
        .order_by(*order)
        .correlate(Location)
    )
