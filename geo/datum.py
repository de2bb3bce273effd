"""The three coordinate frames in use in China, and the one implementation that converts between them.

* ``wgs84``: GPS, and WeChat's ``getLocation`` unless asked otherwise.
* ``gcj02``: the frame of Chinese maps (Tencent, Amap), 89–672 m away from WGS-84.
* ``bd09``: Baidu's, GCJ-02 moved once more.

Only mainland China, Hong Kong and Macao use the latter two. Outside that region all three are the same, so nothing
is moved there. The *canonical* frame, in which Nearcast stores and compares positions, is therefore ``gcj02``.

**The region** is a polygon (``region.json``; how it is made: ``make_region.py``), not the usual box around China, which
also moves Seoul, Hanoi, Taipei, Manila and Ulaanbaatar. On land it is Natural Earth's 1:10m border, thinned to 200 m.
Of some thirty towns close to a border, on either side of it, three lay up to 1.2 km on the wrong side and are mended by
hand: expect the line to be a few hundred metres off, at worst somewhat over one kilometre. At sea it runs half-way to
the neighbour's coast, at most some 35 km out. The islands of the South China Sea are not in it.

**The inverse** has no closed form; it is iterated until a step is below 0.01 mm, at most ``MAX_STEPS`` times.

**On the border** the frames jump by the full shift (up to 700 m, to BD-09 up to 1.5 km), so two places, one on each
side, can have the same GCJ-02 pair. The reading inside the region wins then. Every WGS-84 point of the region comes
back from a round trip; one outside comes back unless it lies within that shift of the border.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import shapely
from numpy.typing import NDArray

Datum = Literal["wgs84", "gcj02", "bd09"]
DATUMS: tuple[str, ...] = get_args(Datum)
Floats = NDArray[np.float64]

MAX_STEPS = 16
_CLOSE_ENOUGH = 1e-10
"""Degrees, 0.01 mm."""
_DECIMALS = 9
_SEMI_MAJOR, _ECCENTRICITY_SQUARED = 6378245.0, 0.00669342162296594323
"""Krasovsky 1940."""
_BD_PI = math.pi * 3000 / 180

_REGION = shapely.from_geojson(json.dumps(json.loads((Path(__file__).parent / "region.json").read_text())["geometry"]))
shapely.prepare(_REGION)
_WEST, _SOUTH, _EAST, _NORTH = _REGION.bounds
_MARGIN = 0.02
"""Degrees: more than any shift, so that a pair outside the region's box by more than that is outside in any frame."""


@overload
def convert(lng: float, lat: float, source: Datum, target: Datum) -> tuple[float, float]: ...
@overload
def convert(lng: Floats, lat: Floats, source: Datum, target: Datum) -> tuple[Floats, Floats]: ...
def convert(lng: Any, lat: Any, source: Datum, target: Datum) -> tuple[Any, Any]:
    """The place that ``lng, lat`` names in ``source``, named in ``target``. Degrees.

    Takes two floats, or two arrays of one shape, and gives back the same; arguments are never changed. NaN, infinite
    and impossible coordinates come back as they are. Raises ValueError for an unknown datum.

    Equal to the published reference vectors of WGS-84 → GCJ-02 and GCJ-02 → BD-09 to 1e-9°. BD-09 → GCJ-02 inverts the
    latter exactly, so it is some centimetres away from what libraries with the usual one-step inverse give.
    """
    if source not in DATUMS or target not in DATUMS:
        raise ValueError(f"unknown datum: {source if source not in DATUMS else target}")
    if isinstance(lng, float | int) and isinstance(lat, float | int):
        if source == target or not _worth_a_look(lng, lat):
            return lng, lat
        moved_lng, moved_lat, inside = _moved(float(lng), float(lat), source, target, math)
        return (moved_lng, moved_lat) if inside else (lng, lat)
    lngs, lats = np.array(lng, np.float64), np.array(lat, np.float64)
    if lngs.shape != lats.shape:
        raise ValueError("longitudes and latitudes differ in shape")
    if source != target:
        chosen = _worth_a_look(lngs, lats)
        moved_lng, moved_lat, inside = _moved(lngs[chosen], lats[chosen], source, target, np)
        lngs[chosen] = np.where(inside, moved_lng, lngs[chosen])
        lats[chosen] = np.where(inside, moved_lat, lats[chosen])
    return lngs, lats


@overload
def to_canonical(lng: float, lat: float, source: Datum) -> tuple[float, float]: ...
@overload
def to_canonical(lng: Floats, lat: Floats, source: Datum) -> tuple[Floats, Floats]: ...
def to_canonical(lng: Any, lat: Any, source: Datum) -> tuple[Any, Any]:
    """``lng, lat`` in the frame of storage: GCJ-02 in the region, WGS-84 elsewhere. Shapes as in ``convert``."""
    return convert(lng, lat, source, "gcj02")


@overload
def in_region(lng: float, lat: float) -> bool: ...
@overload
def in_region(lng: Floats, lat: Floats) -> NDArray[np.bool_]: ...
def in_region(lng: Any, lat: Any) -> Any:
    """Whether the WGS-84 point (or each of an array) lies in mainland China, Hong Kong or Macao.

    Asked of the point rounded to 0.1 mm, lest the last bit of a round trip decide about a point on the very line.
    """
    if isinstance(lng, float | int):
        # The box is asked first: most of the world is far away, and NaN is nowhere.
        in_box = _WEST <= lng <= _EAST and _SOUTH <= lat <= _NORTH
        return in_box and bool(shapely.contains_xy(_REGION, round(lng, _DECIMALS), round(lat, _DECIMALS)))
    return shapely.contains_xy(_REGION, np.round(lng, _DECIMALS), np.round(lat, _DECIMALS))


def _worth_a_look(lng: Any, lat: Any) -> Any:
    """False where ``lng, lat``, in whatever frame, cannot be a place of the region."""
    return (lng > _WEST - _MARGIN) & (lng < _EAST + _MARGIN) & (lat > _SOUTH - _MARGIN) & (lat < _NORTH + _MARGIN)


# ---- the transforms, blind to the region; ``m`` is ``math`` for floats and ``numpy`` for arrays ----------------------


def _moved(lng: Any, lat: Any, source: Datum, target: Datum, m: Any) -> tuple[Any, Any, Any]:
    """The pair in ``target`` if the transforms apply at this place, and whether they do."""
    from_wgs = {"gcj02": _wgs_to_gcj, "bd09": _wgs_to_bd}
    if source == "wgs84":
        return *from_wgs[target](lng, lat, m), in_region(lng, lat)
    # Whether they apply is always asked of the WGS-84 point, lest two ways to one frame differ at the border.
    wgs = _solve(from_wgs[source], lng, lat, m)
    inside = in_region(*wgs)
    if target == "wgs84":
        return *wgs, inside
    return *(_gcj_to_bd(lng, lat, m) if target == "bd09" else _solve(_gcj_to_bd, lng, lat, m)), inside


def _wgs_to_gcj(lng: Any, lat: Any, m: Any) -> tuple[Any, Any]:
    x, y = lng - 105.0, lat - 35.0
    root, pi = m.sqrt(m.fabs(x)), math.pi
    ripple = (20.0 * m.sin(6.0 * x * pi) + 20.0 * m.sin(2.0 * x * pi)) * 2.0 / 3.0
    north = -100.0 + 2.0 * x + 3.0 * y + 0.2 * y * y + 0.1 * x * y + 0.2 * root + ripple
    north += (20.0 * m.sin(y * pi) + 40.0 * m.sin(y / 3.0 * pi)) * 2.0 / 3.0
    north += (160.0 * m.sin(y / 12.0 * pi) + 320.0 * m.sin(y * pi / 30.0)) * 2.0 / 3.0
    east = 300.0 + x + 2.0 * y + 0.1 * x * x + 0.1 * x * y + 0.1 * root + ripple
    east += (20.0 * m.sin(x * pi) + 40.0 * m.sin(x / 3.0 * pi)) * 2.0 / 3.0
    east += (150.0 * m.sin(x / 12.0 * pi) + 300.0 * m.sin(x / 30.0 * pi)) * 2.0 / 3.0
    # Metres to degrees on the ellipsoid: radii of curvature along the meridian and across it.
    phi = lat * (pi / 180.0)
    sine = m.sin(phi)
    w_squared = 1.0 - _ECCENTRICITY_SQUARED * sine * sine
    across = _SEMI_MAJOR / m.sqrt(w_squared)
    along = across * (1.0 - _ECCENTRICITY_SQUARED) / w_squared
    return lng + east * 180.0 / (across * m.cos(phi) * pi), lat + north * 180.0 / (along * pi)


def _gcj_to_bd(lng: Any, lat: Any, m: Any) -> tuple[Any, Any]:
    radius = m.sqrt(lng * lng + lat * lat) + 0.00002 * m.sin(lat * _BD_PI)
    angle = m.atan2(lat, lng) + 0.000003 * m.cos(lng * _BD_PI)
    return radius * m.cos(angle) + 0.0065, radius * m.sin(angle) + 0.006


def _wgs_to_bd(lng: Any, lat: Any, m: Any) -> tuple[Any, Any]:
    return _gcj_to_bd(*_wgs_to_gcj(lng, lat, m), m)


def _solve(forward: Callable[..., tuple[Any, Any]], lng: Any, lat: Any, m: Any) -> tuple[Any, Any]:
    """The pair that ``forward`` takes to ``lng, lat``. Each step is some fifty times smaller than the one before."""
    x, y = lng, lat
    for _ in range(MAX_STEPS):
        there_lng, there_lat = forward(x, y, m)
        step_x, step_y = there_lng - lng, there_lat - lat
        x, y = x - step_x, y - step_y
        size = m.fabs(step_x) + m.fabs(step_y)
        if (size if m is math else size.max(initial=0.0)) < _CLOSE_ENOUGH:
            break
    return x, y
