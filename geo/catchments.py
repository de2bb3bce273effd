"""Which stores are near a fix, answered from memory: a spatial index over a brand's catchments, checked in metres.

Asks the question of ``geo.matching`` without a query. A ``Reach`` is immutable; ``Catchments`` swaps in a new one when
stores change, while others go on asking the old.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal
from uuid import UUID

import numpy as np
import shapely
import structlog
from geoalchemy2 import Geometry
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry
from sqlalchemy import ColumnElement, RowMapping, cast, func, or_, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from geo.earth import METRES_PER_DEGREE, Floats, Plane, distance_m, in_space
from geo.matching import DEFAULT_RADIUS_M, MAX_ACCURACY_M
from geo.tables import Store
from kernel.postgres import Sessions
from kernel.tasks import end

log = structlog.get_logger()

POLL_SECONDS = 3.0
"""How long a change of stores may go unnoticed."""
RADII = 16
"""Radii of campaigns for which a brand's catchments are kept; the one that was built first makes room."""
_MARGIN = 1.01
"""Boxes are this much wider than what they stand for: they only choose whom to measure."""
_POLAR_LATITUDE = 89.0
"""Beyond it a box is the whole circle of latitude."""

State = Literal["inside", "near"]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Near:
    """A store in reach of a fix: how far its door is, and whether the fix is inside for certain."""

    store: UUID
    distance_m: float
    state: State


@dataclass(frozen=True, slots=True)
class Matches:
    """Pairs of a fix and a store in reach of it, as equally long arrays; ``fix`` and ``store`` are positions in the
    arrays that were asked about and in ``Reach.stores``."""

    fix: Integers
    store: Integers
    distance_m: Floats
    inside: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Area:
    """A trade area on the plane at its store, in metres."""

    plane: Plane
    shape: BaseGeometry
    boundary: BaseGeometry

    def depth(self, lng: Floats, lat: Floats) -> Floats:
        """Metres to the edge: positive outside, negative inside."""
        points = shapely.points(self.plane.flatten(lng, lat))
        away = shapely.distance(self.boundary, points)
        return np.where(shapely.intersects(self.shape, points), -away, away)


class Reach:
    """The catchments of one brand's open stores at one moment. Immutable, so any number of tasks may ask it.

    ``radius_m`` is the radius of stores that have neither one of their own nor a trade area: a campaign's.
    """

    def __init__(self, rows: Sequence[RowMapping], radius_m: int = DEFAULT_RADIUS_M) -> None:
        self._rows = rows
        self.stores: list[UUID] = [row["id"] for row in rows]
        lng = np.array([row["x"] for row in rows], np.float64)
        lat = np.array([row["y"] for row in rows], np.float64)
        self._points = in_space(lng, lat)
        self._radius = np.array([row["radius_m"] or radius_m for row in rows], np.float64)
        self._areas: dict[int, _Area] = {}
        extent = self._radius.copy()
        for index, row in enumerate(rows):
            if row["area"] is not None:
                area, extent[index] = _flat_area(bytes(row["area"]), row["x"], row["y"])
                self._areas[index] = area
        boxes = _boxes(lng, lat, extent)
        owner = np.arange(len(rows))
        # A catchment stands on both sides of the map if it, or a fix in whose reach it is, lies across the date line.
        seen = _boxes(lng, lat, extent + MAX_ACCURACY_M)
        west, _, east, _ = shapely.bounds(seen).T if len(rows) else np.empty((4, 0))
        beyond = [(east > 180, -360.0), (west < -180, 360.0)]
        copies = [_shifted(boxes[there], by) for there, by in beyond]
        self._owner = np.concatenate([owner, *(owner[there] for there, _ in beyond)])
        self._doubled = len(self._owner) > len(owner)
        self._tree = shapely.STRtree(np.concatenate([boxes, *copies]))

    def match(self, lng: Floats, lat: Floats, accuracy_m: Floats) -> Matches:
        """Every store in reach of each fix; arrays of shape (n,), canonical degrees and metres, of which at most
        ``MAX_ACCURACY_M``: a vaguer fix decides nothing."""
        fix, box = self._tree.query(_boxes(lng, lat, accuracy_m))
        store = self._owner[box]
        if self._doubled and len(fix):
            fix, store = np.unique(np.stack([fix, store]), axis=1)
        distance = distance_m(in_space(lng, lat)[fix], self._points[store])
        depth = distance - self._radius[store]
        for index in self._areas.keys() & set(store.tolist()) if self._areas else ():
            here = store == index
            depth[here] = self._areas[index].depth(lng[fix[here]], lat[fix[here]])
        kept = depth - accuracy_m[fix] <= 0
        return Matches(fix[kept], store[kept], distance[kept], (depth + accuracy_m[fix] <= 0)[kept])

    def with_radius(self, radius_m: int) -> "Reach":
        """The same stores, for a campaign of another radius."""
        return Reach(self._rows, radius_m)

    def near(self, lng: float, lat: float, accuracy_m: float) -> list[Near]:
        """The stores in reach of one fix, nearest first."""
        found = self.match(np.array([lng]), np.array([lat]), np.array([accuracy_m]))
        return [
            Near(self.stores[found.store[i]], float(found.distance_m[i]), "inside" if found.inside[i] else "near")
            for i in np.argsort(found.distance_m, kind="stable")
        ]


def _flat_area(wkb: bytes, lng: float, lat: float) -> tuple[_Area, float]:
    """A trade area in metres, and how far it reaches from its store."""
    plane = Plane(lng, lat)
    flat = shapely.transform(shapely.from_wkb(wkb), lambda xy: plane.flatten(xy[:, 0], xy[:, 1]))
    shapely.prepare(flat)
    reach = float(np.hypot(*shapely.get_coordinates(flat).T).max())
    return _Area(plane, flat, flat.boundary), reach


def _boxes(lng: Floats, lat: Floats, reach_m: Floats) -> Any:
    """Boxes in degrees that hold every point within ``reach_m`` of each place."""
    up = reach_m * _MARGIN / METRES_PER_DEGREE
    farthest = np.abs(lat) + up
    cosine = np.cos(np.radians(np.minimum(farthest, _POLAR_LATITUDE)))
    across = np.where(farthest >= _POLAR_LATITUDE, 360.0, up / cosine)
    return shapely.box(lng - across, lat - up, lng + across, lat + up)


def _shifted(boxes: Any, degrees: float) -> Any:
    return shapely.transform(boxes, lambda xy: xy + np.array([degrees, 0.0]))


async def read_stores(session: AsyncSession, *which: ColumnElement[bool]) -> Sequence[RowMapping]:
    """What ``Reach`` is made of: the stores for which ``which`` holds."""
    point = cast(Store.position, Geometry("POINT", 4326))
    query = select(
        Store.id,
        func.ST_X(point).label("x"),
        func.ST_Y(point).label("y"),
        Store.radius_m,
        func.ST_AsBinary(Store.trade_area).label("area"),
    )
    return (await session.execute(query.where(*which))).mappings().all()


class Catchments:
    """The catchments of every brand that this process was asked about, kept as new as ``POLL_SECONDS`` allow.

    Use it as an async context manager: it owns the task that looks for changes.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._reach: dict[str, dict[int, Reach]] = {}
        self._fingerprints: dict[str, Any] = {}
        self._loading: dict[str, asyncio.Lock] = {}
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Catchments":
        self._watching = asyncio.create_task(self._watch(), name="catchments")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._watching is not None
        await end(self._watching)

    async def of(self, brand: str, radius_m: int = DEFAULT_RADIUS_M) -> Reach:
        """The catchments of ``brand`` for a campaign's radius; read on the first question, from memory after that."""
        known = self._reach.get(brand)
        if known is None or radius_m not in known:
            async with self._loading.setdefault(brand, asyncio.Lock()):
                if brand not in self._reach:
                    async with self._sessions() as session:
                        await self.load(session, brand)
                known = self._reach[brand]
                if radius_m not in known:
                    if len(known) > RADII:
                        del known[next(radius for radius in known if radius != DEFAULT_RADIUS_M)]
                    known[radius_m] = await asyncio.to_thread(known[DEFAULT_RADIUS_M].with_radius, radius_m)
        return known[radius_m]

    async def near(self, brand: str, lng: float, lat: float, accuracy_m: float) -> list[Near]:
        """The stores of ``brand`` in reach of a canonical fix, nearest first."""
        return (await self.of(brand)).near(lng, lat, accuracy_m)

    async def load(self, session: AsyncSession, brand: str) -> Reach:
        """Read the stores of ``brand`` and swap the new catchments in; questions under way keep the old ones."""
        # First the fingerprint, then the stores: a change between the two is loaded twice, and never missed.
        fingerprint = await _fingerprint(session, brand)
        rows = await read_stores(session, Store.brand_id == brand, _is_open)
        # Building the index of a big brand takes a tenth of a second; viewers must not wait for it.
        reach = await asyncio.to_thread(Reach, rows)
        self._reach[brand], self._fingerprints[brand] = {DEFAULT_RADIUS_M: reach}, fingerprint
        return reach

    async def refresh(self) -> list[str]:
        """Reload the brands whose stores have changed; returns them."""
        changed = []
        async with self._sessions() as session:
            for brand in list(self._reach):
                if await _fingerprint(session, brand) != self._fingerprints[brand]:
                    await self.load(session, brand)
                    changed.append(brand)
        return changed

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                for brand in await self.refresh():
                    log.info("catchments_reloaded", brand=brand, stores=len((await self.of(brand)).stores))
            except (DBAPIError, OSError) as error:
                # The database is away: old catchments are better than none, and the next turn asks again.
                log.warning("catchments_not_refreshed", error=type(error).__name__)


_is_open = or_(Store.closed_until.is_(None), Store.closed_until <= func.now())


async def _fingerprint(session: AsyncSession, brand: str) -> Any:
    """Something that changes when a store does. A sum, not only the newest: transactions may commit out of order."""
    query = select(
        func.count().filter(_is_open), func.count(), func.sum(func.extract("epoch", Store.updated_at))
    ).where(Store.brand_id == brand)
    return (await session.execute(query)).one()
