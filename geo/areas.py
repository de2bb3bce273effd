"""Trade areas of stores that are there already, from a GeoJSON file."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from geoalchemy2 import Geometry
from sqlalchemy import cast, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from geo.area_file import Remark, judge, read
from geo.datum import Datum
from geo.tables import Store

BATCH = 500
"""Areas a statement."""

# Areas that would not change are not written: gateways reload a brand's catchments for every change.
_SET = text(
    """
    UPDATE stores SET trade_area = ST_GeogFromWKB(new.area), updated_at = clock_timestamp()
    FROM unnest(CAST(:code AS text[]), CAST(:area AS bytea[])) AS new (code, area)
    WHERE stores.brand_id = :brand AND stores.code = new.code
      AND ST_AsBinary(stores.trade_area) IS DISTINCT FROM ST_AsBinary(ST_GeogFromWKB(new.area))
    RETURNING new.area IS NULL AS removed
    """
)


@dataclass(slots=True)
class AreaReport:
    """What an import of trade areas did, or, of a dry run, would do."""

    features: int = 0
    """Read, good and bad."""
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    errors: list[Remark] = field(default_factory=list)
    repaired: list[Remark] = field(default_factory=list)
    dry_run: bool = False


async def import_areas(
    session: AsyncSession, brand: str, path: Path, datum: Datum | None, *, dry_run: bool = False
) -> AreaReport:
    """Give the stores of ``brand`` the trade areas of ``path``; the report names the features that were refused.

    ``datum`` is that of features that name none themselves. Stores that the file does not name keep what they have.
    ``dry_run`` does the same work and takes it back. Raises ``geo.store_file.Unreadable`` if the file is no GeoJSON.
    """
    features = list(read(path))
    point = cast(Store.position, Geometry("POINT", 4326))
    places = await session.execute(
        select(Store.code, func.ST_X(point), func.ST_Y(point)).where(Store.brand_id == brand)
    )
    stores = {code: (x, y) for code, x, y in places}
    report = AreaReport(features=len(features), dry_run=dry_run)
    attempt = await session.begin_nested()
    batch: list[tuple[str, bytes | None]] = []
    for feature in features:
        area = feature if isinstance(feature, Remark) else judge(feature, datum, stores)
        if isinstance(area, Remark):
            report.errors.append(area)
            continue
        if area is not None and area.repaired:
            report.repaired.append(Remark(feature.place, feature.code, f"area mended: {area.repaired}"))
        batch.append((feature.code, None if area is None else area.wkb))
        if len(batch) == BATCH:
            await _set(session, brand, batch, report)
            batch = []
    await _set(session, brand, batch, report)
    await (attempt.rollback() if dry_run else attempt.commit())
    return report


async def _set(
    session: AsyncSession, brand: str, batch: Sequence[tuple[str, bytes | None]], report: AreaReport
) -> None:
    if not batch:
        return
    # In order of code, as the import of stores: two imports at once lock rows in one order.
    codes, areas = zip(*sorted(batch, key=lambda one: one[0]), strict=True)
    done = (await session.scalars(_SET, {"brand": brand, "code": list(codes), "area": list(areas)})).all()
    report.removed += sum(done)
    report.changed += len(done) - sum(done)
    report.unchanged += len(batch) - len(done)
