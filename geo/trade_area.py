"""A store's trade area as GeoJSON: read, mended where that is safe, moved to the canonical frame, or refused.

It is judged on the plane at its store, where edges are what PostGIS takes them for, arcs of great circles, and where
neither the date line nor a pole is anything special.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Point, Polygon
from shapely.geometry.base import BaseGeometry

from geo.datum import Datum, to_canonical
from geo.earth import Plane

MAX_VERTICES = 5_000
MAX_PIECES = 10
"""Pieces into which a ring that crosses itself may fall."""
MAX_REACH_M = 50_000
"""How far a trade area may reach from its store: as far as the widest radius."""
MIN_WIDTH_M = 2
"""A line drawn there and back is no area, though the earth's bend gives it a hand's breadth."""
MAX_GAP_M = 1_000
"""How far a store may stand outside its own trade area: across the street, not across the town."""


class BadArea(ValueError):
    """A trade area that cannot be used; the message says why, for a person."""


@dataclass(frozen=True, slots=True)
class TradeArea:
    """A valid multipolygon in the canonical frame, as WKB; ``repaired`` says what was mended, if anything."""

    wkb: bytes
    repaired: str | None = None


def parse(text: str, datum: Datum, lng: float, lat: float) -> TradeArea:
    """The trade area written in ``text`` (GeoJSON in ``datum``) of the store at the canonical ``lng, lat``.

    Takes a Polygon or MultiPolygon, bare or as the geometry of a Feature. Open rings are closed and rings that cross
    themselves are cut into simple ones, unless that would be a guess. Across the date line a ring may go on from 180 to
    -180, or be cut there in two (RFC 7946 §3.1.9): the two become one. Raises BadArea.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadArea("is not JSON") from error
    polygons, closed = _polygons(data)
    vertices = sum(len(ring) for rings in polygons for ring in rings)
    if vertices > MAX_VERTICES:
        raise BadArea(f"has {vertices} vertices; at most {MAX_VERTICES} are allowed")
    moved = [[np.column_stack(to_canonical(ring[:, 0], ring[:, 1], datum)) for ring in rings] for rings in polygons]
    plane = Plane(lng, lat)
    flat = [[plane.flatten(ring[:, 0], ring[:, 1]) for ring in rings] for rings in moved]
    if not all((np.hypot(*ring.T) <= MAX_REACH_M).all() for rings in flat for ring in rings):
        raise BadArea(f"reaches farther than {MAX_REACH_M // 1000} km from the store")
    repaired = "open ring closed" if closed else None
    shape: BaseGeometry = _multipolygon(flat)
    kept = shape.is_valid
    if not kept:
        parts = [_multipolygon([rings]) for rings in flat]
        cut = any((np.abs(ring[:, 0]) == 180).any() for rings in moved for ring in rings)
        if not (cut and all(part.is_valid for part in parts)):
            # The reason ends in the place in brackets; nobody reads that in a list of lines.
            repaired = shapely.is_valid_reason(shape).partition("[")[0].lower()
        shape = _mended(flat, repaired or "")
    _check_place(shape)
    whole = _multipolygon(moved) if kept else shapely.transform(shape, plane.unflatten)
    return TradeArea(shapely.to_wkb(whole), repaired)


def _multipolygon(polygons: Iterable[Sequence[np.ndarray[Any, Any]]]) -> MultiPolygon:
    return MultiPolygon([Polygon(rings[0], rings[1:]) for rings in polygons])


def _polygons(data: Any) -> tuple[list[list[np.ndarray[Any, Any]]], bool]:
    """Rings as arrays (n, 2), polygon by polygon, and whether one had to be closed."""
    if isinstance(data, dict) and data.get("type") == "Feature":
        data = data.get("geometry")
    kind = data.get("type") if isinstance(data, dict) else None
    if kind not in ("Polygon", "MultiPolygon"):
        raise BadArea("is not a GeoJSON Polygon or MultiPolygon")
    coordinates = data.get("coordinates")
    found = [coordinates] if kind == "Polygon" else coordinates
    if not isinstance(found, list) or not found or not all(isinstance(rings, list) and rings for rings in found):
        raise BadArea("has no coordinates")
    closed = [_ring(ring) for rings in found for ring in rings]
    sizes = np.cumsum([len(rings) for rings in found])[:-1].tolist()
    parts = [[ring for ring, _ in closed[a:b]] for a, b in zip([0, *sizes], [*sizes, len(closed)], strict=True)]
    return parts, any(was_open for _, was_open in closed)


def _ring(ring: Any) -> tuple[np.ndarray[Any, Any], bool]:
    if not isinstance(ring, list):
        raise BadArea("has a ring that is not a list of positions")
    points = []
    for position in ring:
        if not isinstance(position, list) or len(position) < 2 or not all(_number(part) for part in position[:2]):
            raise BadArea("has a position that is not [lng, lat]")
        x, y = float(position[0]), float(position[1])
        if not (-180 <= x <= 180 and -90 <= y <= 90):
            raise BadArea("has a position that is not on earth: are lng and lat swapped?")
        points.append((180.0 if x == -180 else x, y))
    was_open = bool(points) and points[0] != points[-1]
    if was_open:
        points.append(points[0])
    if len(set(points)) < 3:
        raise BadArea("has a ring of fewer than three corners")
    return np.array(points, np.float64), was_open


def _number(value: Any) -> bool:
    # JSON of Python's making may hold NaN, and integers of any length.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) <= 180


def _mended(polygons: list[list[np.ndarray[Any, Any]]], reason: str) -> BaseGeometry:
    """The polygons' rings made valid one by one, with the lines and points that this leaves dropped. A bow-tie keeps
    both wings; a hole that is not inside its polygon is refused, as it would become part of the area or nothing."""
    areas = []
    for shell, *holes in polygons:
        area, hole = _simple([shell], reason), _simple(holes, reason)
        if not (hole.is_empty or area.covers(hole)):
            raise BadArea("has a hole that is not inside it")
        areas.append(area.difference(hole))
    pieces = [piece for piece in shapely.get_parts(shapely.union_all(areas)) if isinstance(piece, Polygon)]
    if not pieces:
        raise BadArea(f"encloses nothing ({reason})")
    return MultiPolygon(pieces)


def _simple(rings: list[np.ndarray[Any, Any]], reason: str) -> BaseGeometry:
    """What rings enclose that may cross themselves, but not so often that it would be a guess."""
    parts: Any = shapely.get_parts(shapely.make_valid([Polygon(ring) for ring in rings])) if rings else []
    polygons = [piece for part in parts for piece in shapely.get_parts(part) if isinstance(piece, Polygon)]
    if len(polygons) > MAX_PIECES * max(1, len(rings)):
        raise BadArea(f"crosses itself so often that what it encloses would be a guess ({reason})")
    return shapely.union_all(polygons)


def _check_place(flat: BaseGeometry) -> None:
    """``flat``: on the plane at its store, in metres."""
    if shapely.area(flat) < MIN_WIDTH_M * shapely.length(flat) / 2:
        raise BadArea("encloses nothing")
    gap = float(shapely.distance(flat, Point(0, 0)))
    if gap > MAX_GAP_M:
        raise BadArea(f"lies {gap / 1000:.1f} km from the store: is it another store's, or in another datum?")
