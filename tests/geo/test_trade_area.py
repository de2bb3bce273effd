"""``geo.trade_area``: GeoJSON taken, mended or refused."""

import json

import pytest
import shapely

from geo.datum import to_canonical
from geo.trade_area import BadArea, parse

HERE = (121.47, 31.23)
SQUARE = [[121.46, 31.22], [121.48, 31.22], [121.48, 31.24], [121.46, 31.24], [121.46, 31.22]]
BOW_TIE = [[121.46, 31.22], [121.48, 31.24], [121.48, 31.22], [121.46, 31.24], [121.46, 31.22]]


def polygon(*rings: object) -> str:
    return json.dumps({"type": "Polygon", "coordinates": rings})


def test_a_polygon_becomes_a_multipolygon_in_the_canonical_frame() -> None:
    for text in (polygon(SQUARE), json.dumps({"type": "Feature", "geometry": json.loads(polygon(SQUARE))})):
        area = parse(text, "wgs84", *HERE)
        shape = shapely.from_wkb(area.wkb)
        assert shape.geom_type == "MultiPolygon"
        assert area.repaired is None
        assert shapely.get_coordinates(shape)[0] == pytest.approx(to_canonical(121.46, 31.22, "wgs84"))


def test_holes_and_several_parts_are_kept() -> None:
    hole = [[121.468, 31.228], [121.472, 31.228], [121.472, 31.232], [121.468, 31.228]]
    assert len(shapely.from_wkb(parse(polygon(SQUARE, hole), "gcj02", 121.465, 31.225).wkb).geoms[0].interiors) == 1
    far = [[x + 0.1, y] for x, y in SQUARE]
    both = json.dumps({"type": "MultiPolygon", "coordinates": [[SQUARE], [far]]})
    assert len(shapely.from_wkb(parse(both, "gcj02", *HERE).wkb).geoms) == 2


def test_an_open_ring_is_closed_and_a_bow_tie_keeps_both_wings() -> None:
    assert parse(polygon(SQUARE[:-1]), "gcj02", *HERE).repaired == "open ring closed"
    area = parse(polygon(BOW_TIE), "gcj02", *HERE)
    assert area.repaired == "self-intersection"
    mended = shapely.from_wkb(area.wkb)
    assert mended.is_valid
    assert mended.area == pytest.approx(0.02 * 0.02 / 2, rel=1e-6)


def test_a_hole_that_crosses_itself_stays_a_hole() -> None:
    small = [[(x - 121.47) / 4 + 121.475, (y - 31.23) / 4 + 31.23] for x, y in BOW_TIE]
    area = parse(polygon(SQUARE, small), "gcj02", 121.462, 31.222)
    assert area.repaired is not None
    mended = shapely.from_wkb(area.wkb)
    assert mended.is_valid
    assert mended.area == pytest.approx(0.02 * 0.02 * (1 - 1 / 32), rel=1e-6)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("null", "not a GeoJSON Polygon"),
        ('{"type":"Polygon"}', "no coordinates"),
        ('{"type":"Polygon","coordinates":[]}', "no coordinates"),
        ('{"type":"MultiPolygon","coordinates":[[]]}', "no coordinates"),
        (polygon([[121, 31], [122, 31], [121, 31]]), "fewer than three corners"),
        (polygon([[121, 31], "x"]), "not \\[lng, lat\\]"),
        (polygon([[121, None], [122, 31], [121, 30]]), "not \\[lng, lat\\]"),
        ('{"type":"Polygon","coordinates":[[[NaN,1],[2,3],[4,5]]]}', "not \\[lng, lat\\]"),
        (polygon([[10**400, 1], [2, 3], [4, 5]]), "not \\[lng, lat\\]"),
        (polygon([[y, x] for x, y in SQUARE]), "swapped"),
        (polygon([[121.46, 31.22], [121.47, 31.23], [121.48, 31.24], [121.46, 31.22]]), "encloses nothing"),
        (polygon(SQUARE, SQUARE), "encloses nothing"),
        (polygon(SQUARE, [[x + 0.1, y] for x, y in SQUARE]), "a hole that is not inside it"),
        (polygon(SQUARE, [[x + 0.01, y] for x, y in SQUARE]), "a hole that is not inside it"),
        (polygon([[x + 0.1, y] for x, y in SQUARE]), r"lies 8\.\d km from the store"),
        (polygon([[120.4, 31.22], [122.4, 31.22], [121.47, 32.5], [120.4, 31.22]]), "farther than 50 km"),
        (polygon([[121.47 + i / 1e6, 31.23 + i % 2 / 100] for i in range(6000)]), "6001 vertices"),
    ],
)  # fmt: skip
def test_what_is_no_trade_area_is_refused_with_its_reason(text: str, said: str) -> None:
    with pytest.raises(BadArea, match=said):
        parse(text, "gcj02", *HERE)
