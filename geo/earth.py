"""Metres on the WGS-84 ellipsoid, for distances up to some hundred kilometres, for floats and arrays alike.

Positions become points in space (earth-centred, metres); the chord between two of them, bent back to an arc, is the
distance. There is no division by a cosine and no wrap at 180°, so poles and date line need no care. Against PostGIS's
geodesic the error is below 1 mm at 3 km and 2 cm at 50 km.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_A = 6_378_137.0
_E2 = 0.00669437999014
MEAN_RADIUS_M = 6_371_008.8
METRES_PER_DEGREE = 110_574.0
"""Of latitude, at the equator, where a degree is shortest."""


def in_space(lng: Any, lat: Any) -> Floats:
    """Points in space, shape (…, 3), metres from the earth's centre."""
    lam, phi = np.radians(lng), np.radians(lat)
    sine, cosine = np.sin(phi), np.cos(phi)
    across = _A / np.sqrt(1 - _E2 * sine * sine)
    return np.stack([across * cosine * np.cos(lam), across * cosine * np.sin(lam), across * (1 - _E2) * sine], axis=-1)


def distance_m(one: Floats, other: Floats) -> Any:
    """Metres between points in space, shapes (…, 3) that broadcast."""
    chord = np.sqrt(((one - other) ** 2).sum(axis=-1))
    return 2 * MEAN_RADIUS_M * np.arcsin(np.minimum(chord / (2 * MEAN_RADIUS_M), 1.0))


class Plane:
    """The plane that touches the earth at a place: x metres east, y metres north.

    It is seen from the earth's centre, so an edge between two points, which PostGIS takes as an arc of a great circle,
    is a straight line here. Lengths are right at the middle and 0.006 % too long 50 km away.
    """

    def __init__(self, lng: float, lat: float) -> None:
        lam, phi = math.radians(lng), math.radians(lat)
        sin_l, cos_l, sin_p, cos_p = math.sin(lam), math.cos(lam), math.sin(phi), math.cos(phi)
        across = _A / math.sqrt(1 - _E2 * sin_p * sin_p)
        along = across * (1 - _E2) / (1 - _E2 * sin_p * sin_p)
        self._scale = np.array([across, along])
        self._axes = np.array([[-sin_l, cos_l, 0.0], [-sin_p * cos_l, -sin_p * sin_l, cos_p]])
        self._up = np.array([cos_p * cos_l, cos_p * sin_l, sin_p])

    def flatten(self, lng: Any, lat: Any) -> Floats:
        """Points on the plane, shape (…, 2); infinite for what is more than a quarter of the globe away."""
        lam, phi = np.radians(lng), np.radians(lat)
        direction = np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=-1)
        up = direction @ self._up
        with np.errstate(divide="ignore", invalid="ignore"):
            flat = direction @ self._axes.T * self._scale / up[..., None]
        return np.where(up[..., None] > 0, flat, np.inf)

    def unflatten(self, flat: Floats) -> Floats:
        """Longitudes and latitudes, shape (n, 2), of points on the plane: what ``flatten`` was given, as far as floats
        can tell."""
        direction = flat / self._scale @ self._axes + self._up
        lng = np.arctan2(direction[:, 1], direction[:, 0])
        lat = np.arctan2(direction[:, 2], np.hypot(direction[:, 0], direction[:, 1]))
        degrees: Floats = np.degrees(np.column_stack([lng, lat]))
        return degrees
