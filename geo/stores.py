"""Stores: imported from a file, given one by one, listed, and found near a point."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from geoalchemy2 import Geometry
from msgspec import Meta
from sqlalchemy import RowMapping, cast, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from geo.datum import Datum, to_canonical
from geo.store_file import BadLine, StoreLine, examine, read
from geo.tables import Store
from kernel.errors import Refusal
from kernel.ids import new_id
from kernel.tables import Brand

BATCH = 1_000
"""Stores a statement."""
NEARBY_WITHIN_M = 50_000
"""``nearby`` looks no farther: nobody walks there."""
_RINGS_M = [400.0 * 2**ring for ring in range(7)]
"""What ``nearby`` tries before that."""
_DETOUR, _METRES_A_MINUTE = 1.3, 75.0
"""Streets are some 1.3 times longer than the bee line, and people walk 4.5 km/h."""

# One statement for a batch. Rows that would not change are not written, so `updated_at` tells of real changes and
# whoever keeps stores in memory (`geo.catchments`) does not reload for nothing. `xmax = 0` is a row just inserted.
_UPSERT = text(
    """
    INSERT INTO stores AS kept (id, brand_id, code, name, banner, city, address, source_lng, source_lat, source_datum,
        position, radius_m, trade_area, opens, closes, updated_at)
    SELECT new.id, :brand, new.code, new.name, new.banner, new.city, new.address, new.lng, new.lat, new.datum,
        ST_MakePoint(new.x, new.y)::geography, new.radius_m, ST_GeogFromWKB(new.area), new.opens, new.closes,
        clock_timestamp()
    FROM unnest(CAST(:id AS uuid[]), CAST(:code AS text[]), CAST(:name AS text[]), CAST(:banner AS text[]),
        CAST(:city AS text[]), CAST(:address AS text[]), CAST(:lng AS float8[]), CAST(:lat AS float8[]),
        CAST(:datum AS text[]), CAST(:x AS float8[]), CAST(:y AS float8[]), CAST(:radius_m AS int[]),
        CAST(:area AS bytea[]), CAST(:opens AS time[]), CAST(:closes AS time[]))
        AS new (id, code, name, banner, city, address, lng, lat, datum, x, y, radius_m, area, opens, closes)
    ORDER BY new.code -- two imports at once lock rows in one order
    ON CONFLICT (brand_id, code) DO UPDATE SET
        (name, banner, city, address, source_lng, source_lat, source_datum, position, radius_m, trade_area, opens,
         closes, updated_at) =
        (excluded.name, excluded.banner, excluded.city, excluded.address, excluded.source_lng, excluded.source_lat,
         excluded.source_datum, excluded.position, excluded.radius_m, excluded.trade_area, excluded.opens,
         excluded.closes, excluded.updated_at)
    WHERE (kept.name, kept.banner, kept.city, kept.address, kept.source_lng, kept.source_lat, kept.source_datum,
           ST_AsBinary(kept.position), kept.radius_m, ST_AsBinary(kept.trade_area), kept.opens, kept.closes)
        IS DISTINCT FROM
          (excluded.name, excluded.banner, excluded.city, excluded.address, excluded.source_lng, excluded.source_lat,
           excluded.source_datum, ST_AsBinary(excluded.position), excluded.radius_m, ST_AsBinary(excluded.trade_area),
           excluded.opens, excluded.closes)
    RETURNING xmax = 0 AS created
    """
)


@dataclass(slots=True)
class ImportReport:
    """What an import did, or, of a dry run, would do."""

    lines: int = 0
    """Stores read, good and bad."""
    new: int = 0
    updated: int = 0
    unchanged: int = 0
    errors: list[BadLine] = field(default_factory=list)
    """Lines that were refused."""
    repaired: list[BadLine] = field(default_factory=list)
    """Lines that were loaded after their trade area was mended, and how."""
    ignored_columns: tuple[str, ...] = ()
    dry_run: bool = False


async def import_csv(
    session: AsyncSession,
    brand: str,
    path: Path,
    *,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Load the good lines of ``path`` as stores of ``brand``, which must exist; the report names the bad ones.

    A store whose ``code`` the brand has is updated; a store that the file does not name stays. ``dry_run`` does the
    same work and takes it back, so that its report is no guess. ``progress`` is told the line reached and the lines
    there are, a batch at a time. Raises ``geo.store_file.Unreadable`` if the file as a whole is no list of stores.
    """
    contents = examine(path)
    report = ImportReport(ignored_columns=contents.ignored, dry_run=dry_run)
    attempt = await session.begin_nested()
    batch: list[StoreLine] = []
    for item in read(path, contents):
        report.lines += 1
        if isinstance(item, BadLine):
            report.errors.append(item)
            continue
        if item.area is not None and item.area.repaired:
            report.repaired.append(BadLine(item.line, item.code, f"trade_area mended: {item.area.repaired}"))
        batch.append(item)
        if len(batch) == BATCH:
            await _load(session, brand, batch, report)
            if progress is not None:
                progress(item.line, contents.lines)
            batch = []
    await _load(session, brand, batch, report)
    if progress is not None:
        progress(contents.lines, contents.lines)
    await (attempt.rollback() if dry_run else attempt.commit())
    return report


async def _load(session: AsyncSession, brand: str, batch: Sequence[StoreLine], report: ImportReport) -> None:
    created = await upsert(session, brand, batch)
    report.new += sum(created)
    report.updated += len(created) - sum(created)
    report.unchanged += len(batch) - len(created)


async def upsert(session: AsyncSession, brand: str, stores: Sequence[StoreLine]) -> list[bool]:
    """Write ``stores`` (no code twice) of ``brand``; True for each new row, False for each that changed."""
    if not stores:
        return []
    columns = {
        "id": [new_id() for _ in stores],
        "code": [s.code for s in stores],
        "name": [s.name for s in stores],
        "banner": [s.banner for s in stores],
        "city": [s.city for s in stores],
        "address": [s.address for s in stores],
        "lng": [s.lng for s in stores],
        "lat": [s.lat for s in stores],
        "datum": [s.datum for s in stores],
        "x": [s.canonical[0] for s in stores],
        "y": [s.canonical[1] for s in stores],
        "radius_m": [s.radius_m for s in stores],
        "area": [s.area and s.area.wkb for s in stores],
        "opens": [s.opens for s in stores],
        "closes": [s.closes for s in stores],
    }
    return list(await session.scalars(_UPSERT, {"brand": brand} | columns))


async def brand_exists(session: AsyncSession, brand: str) -> bool:
    """Whether there is such a tenant. Its row is share-locked, so it is still there at the end of the transaction."""
    return await session.scalar(select(Brand.id).where(Brand.id == brand).with_for_update(read=True)) is not None


def walk_minutes(distance_m: float) -> int:
    """A guess at the minutes to walk to a place ``distance_m`` away as the crow flies; at least 1."""
    return max(1, math.ceil(distance_m * _DETOUR / _METRES_A_MINUTE))


def _columns() -> list[Any]:
    point = cast(Store.position, Geometry("POINT", 4326))
    return [
        Store.id,
        Store.code,
        Store.name,
        Store.banner,
        Store.city,
        Store.address,
        Store.source_lng.label("lng"),
        Store.source_lat.label("lat"),
        Store.source_datum.label("datum"),
        func.ST_X(point).label("x"),
        func.ST_Y(point).label("y"),
        Store.radius_m,
        Store.trade_area.is_not(None).label("has_trade_area"),
        Store.opens,
        Store.closes,
        Store.closed_until,
    ]


async def listed(
    session: AsyncSession, brand: str, *, city: str | None = None, after: str = "", limit: int = 50
) -> Sequence[RowMapping]:
    """Up to ``limit`` stores of ``brand`` by code, behind the code ``after``. Columns as in the class ``Store``, with
    ``lng``, ``lat``, ``datum`` as they were given and ``x``, ``y`` in the canonical frame."""
    query = select(*_columns()).where(Store.brand_id == brand, Store.code > after).order_by(Store.code).limit(limit)
    if city is not None:
        query = query.where(Store.city == city)
    return (await session.execute(query)).mappings().all()


async def by_code(session: AsyncSession, brand: str, code: str) -> RowMapping | None:
    """One store of ``brand``, with the columns of ``listed``; None if it has no such code."""
    query = select(*_columns()).where(Store.brand_id == brand, Store.code == code)
    return (await session.execute(query)).mappings().one_or_none()


Distance = Annotated[float, Meta(ge=0, le=4e7)]
"""Metres between two places on earth, in a cursor."""


class Place(NamedTuple):
    """A place in the list of stores near a point: how far the last store of a page was, and its code."""

    distance_m: float
    code: str


START = Place(-1.0, "")
"""Before every store."""


# The nearest stores behind a place in their list: the smallest ring that holds enough of them, and what lies in it in
# the order that is shown. A page far behind passes over all stores before it. PostGIS's own walk by distance (`<->`)
# will not do: on geographies it fails for some points with "index returned tuples in wrong order", when it rounds one
# distance in two ways. The point is cast, never the column: the index is on the column as it is.
NEARBY = text(
    f"""
    WITH here AS (SELECT ST_SetSRID(ST_MakePoint(:lng, :lat), 4326)::geography AS point)
    SELECT stores.id, code, name, banner, city, address, source_lng AS lng, source_lat AS lat, source_datum AS datum,
        ST_X(position::geometry) AS x, ST_Y(position::geometry) AS y, radius_m,
        trade_area IS NOT NULL AS has_trade_area, opens, closes, closed_until,
        ST_Distance(position, here.point) AS distance_m
    FROM here, stores
    WHERE brand_id = :brand
        -- A metre more: within exactly its own distance a store need not be, to the last bit.
        AND ST_DWithin(position, here.point, coalesce(
            (SELECT metres + 1 FROM unnest(ARRAY{_RINGS_M}) AS metres
             WHERE :limit = (SELECT count(*) FROM (
                 SELECT FROM stores WHERE brand_id = :brand AND ST_DWithin(position, here.point, metres)
                     AND (:after_m < 0.0::float8 OR (ST_Distance(position, here.point), code) > (:after_m, :after_code))
                 LIMIT :limit) AS inside)
             LIMIT 1), -- any that holds enough is right; they are tried in this order
            {NEARBY_WITHIN_M}))
        AND (:after_m < 0.0::float8 OR (ST_Distance(position, here.point), code) > (:after_m, :after_code))
    ORDER BY distance_m, code
    LIMIT :limit
    """
)


async def nearby(
    session: AsyncSession,
    brand: str,
    lng: float,
    lat: float,
    datum: Datum,
    limit: int = 20,
    after: Place = START,
) -> Sequence[RowMapping]:
    """Up to ``limit`` stores of ``brand`` within 50 km of a point, nearest first: ``listed`` plus ``distance_m``.

    ``after`` is the place of the last store of the page before, from the same point.
    """
    x, y = to_canonical(lng, lat, datum)
    found = await session.execute(
        NEARBY,
        {"brand": brand, "lng": x, "lat": y, "limit": limit, "after_m": after.distance_m, "after_code": after.code},
    )
    return found.mappings().all()


async def zone_of(session: AsyncSession, brand: str) -> ZoneInfo:
    """The time zone in which the brand's hours are meant. Refusal ``not_found`` for a brand that does not exist."""
    name = await session.scalar(select(Brand.timezone).where(Brand.id == brand))
    if name is None:
        raise Refusal("not_found", "This brand does not exist.")
    return ZoneInfo(name)


async def close_until(session: AsyncSession, brand: str, code: str, until: datetime | None) -> UUID:
    """Close a store for the time being, or (None) open it again; returns its id. Refusal ``not_found``.

    From the commit on it is matched to nobody; gateways, which keep stores in memory, see it within seconds and ask
    the database under the drop's lock anyway.
    """
    query = update(Store).where(Store.brand_id == brand, Store.code == code)
    # The clock, not the transaction's beginning: `geo.catchments` looks at this to see that something changed.
    changed = query.values(closed_until=until, updated_at=func.clock_timestamp()).returning(Store.id)
    store: UUID | None = await session.scalar(changed)
    if store is None:
        raise Refusal("not_found", "The brand has no store with this code.")
    return store
