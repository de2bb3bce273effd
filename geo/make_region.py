"""Makes ``region.json``, the polygon of mainland China, Hong Kong and Macao, from Natural Earth's countries.

    python -m geo.make_region ne_10m_admin_0_countries.shp geo/region.json

Run by hand when the source changes; nothing imports it. The source is Natural Earth 1:10m, "Admin 0 – Countries", in
the public domain. Steps: join the three; widen them over the sea, since piers, reclaimed land and small islands are
missing in the source, but never past the middle between them and a neighbour's coast; mend the few places where the
source puts a border town on the wrong side; thin out; round.
"""

import json
import struct
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry import MultiPoint, MultiPolygon, Point, Polygon, mapping
from shapely.geometry.base import BaseGeometry

INSIDE = ("CHN", "HKG", "MAC")
SEA = [0.003, 0.006, 0.012, 0.02, 0.03, 0.05, 0.08, 0.12, 0.16, 0.2, 0.25, 0.3, 0.35]
"""Degrees. At each width, what is that near to the region and not that near to a neighbour is added."""
THINNING = 0.002
"""Degrees, some 200 m: the source is no better than that."""
TAIWAN_ISLETS = [
    (118.165, 24.385),
    (118.235, 24.43),
    (119.455, 24.99),
    (119.94, 25.97),
    (119.99, 26.225),
    (120.49, 26.367),
]
"""Dadan, Lieyu, Wuqiu, Juguang, Beigan, Dongyin: in sight of the mainland, and not all in the source."""
PUT_IN = {"Hekou": (103.96, 22.505, 0.008), "Alashankou": (82.57, 45.17, 0.015), "Dadeng": (118.365, 24.545, 0.025)}
PUT_OUT = {"Mong Cai": (107.966, 21.525, 0.012)}
"""Places that the source has on the wrong side or not at all: longitude, latitude and degrees around it."""


def _parts(record: bytes) -> BaseGeometry:
    """One polygon record of a shapefile: rings in any order, outer ones clockwise."""
    n_parts, n_points = struct.unpack_from("<2i", record, 36)
    starts = [*struct.unpack_from(f"<{n_parts}i", record, 44), n_points]
    flat = struct.unpack_from(f"<{2 * n_points}d", record, 44 + 4 * n_parts)
    points = list(zip(flat[::2], flat[1::2], strict=True))
    rings = [Polygon(points[a:b]) for a, b in pairwise(starts)]
    outer = [ring for ring in rings if not ring.exterior.is_ccw]
    holes = [ring for ring in rings if ring.exterior.is_ccw]
    return shapely.union_all(outer).difference(shapely.union_all(holes))


def _codes(table: bytes) -> Iterator[str]:
    """The three-letter code of each row of a dBASE table (column ADM0_A3)."""
    n_rows, header, width = struct.unpack_from("<IHH", table, 4)
    at = 1
    for start in range(32, header - 1, 32):
        name, length = table[start : start + 11].rstrip(b"\0").decode(), table[start + 16]
        if name == "ADM0_A3":
            break
        at += length
    for row in range(n_rows):
        yield table[header + row * width + at :][:3].decode()


def countries(path: Path) -> dict[str, BaseGeometry]:
    """Code → shape of every country of a shapefile (``path`` ends in .shp; its .dbf lies beside it)."""
    data = path.read_bytes()
    shapes, at = {}, 100
    for code in _codes(path.with_suffix(".dbf").read_bytes()):
        (words,) = struct.unpack_from(">i", data, at + 4)
        shapes[code] = _parts(data[at + 8 : at + 8 + 2 * words])
        at += 8 + 2 * words
    return shapes


def region(shapes: dict[str, BaseGeometry]) -> BaseGeometry:
    """The region in which the GCJ-02 transform applies, as a valid multipolygon with three decimals."""
    own = shapely.union_all([shapes[code] for code in INSIDE])
    around = shapely.box(*own.bounds).buffer(1)
    neighbours = [shapely.intersection(shape, around) for code, shape in shapes.items() if code not in INSIDE]
    foreign = shapely.union_all([*neighbours, MultiPoint(TAIWAN_ISLETS).buffer(0.01)])
    wide = shapely.union_all([own, *(own.buffer(d).difference(foreign.buffer(d)) for d in SEA)])
    put_in, put_out = (shapely.union_all([Point(*at).buffer(r) for *at, r in d.values()]) for d in (PUT_IN, PUT_OUT))
    mended = wide.union(put_in).difference(put_out)
    rounded = shapely.set_precision(shapely.simplify(mended, THINNING), 0.001)
    return MultiPolygon([p for p in shapely.get_parts(rounded) if p.intersects(own)])


def main(source: Path, target: Path) -> None:
    """Write the region of ``source`` to ``target`` as one GeoJSON feature that says where it comes from."""
    rounded: Any = json.loads(json.dumps(mapping(region(countries(source)))), parse_float=lambda d: round(float(d), 3))
    feature = {
        "type": "Feature",
        "properties": {
            "name": "Where GCJ-02 applies: mainland China, Hong Kong, Macao",
            "source": "Natural Earth 5.1, 1:10m, Admin 0 – Countries",
            "licence": "public domain (naturalearthdata.com/about/terms-of-use)",
            "made_by": "geo/make_region.py",
        },
        "geometry": rounded,
    }
    target.write_text(json.dumps(feature, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
