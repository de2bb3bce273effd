"""``geo.trade_area``: GeoJSON taken, mended or refused."""

import json
from typing import Any

import numpy as np
import pytest
import shapely

from geo.datum import to_canonical
from geo.earth import Plane
from geo.trade_area import MAX_PIECES, BadArea, TradeArea, parse

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
    assert mended.area == pytest.approx(0.02 * 0.02 / 2, rel=1e-4)


def test_a_hole_that_crosses_itself_stays_a_hole() -> None:
    small = [[(x - 121.47) / 4 + 121.475, (y - 31.23) / 4 + 31.23] for x, y in BOW_TIE]
    area = parse(polygon(SQUARE, small), "gcj02", 121.462, 31.222)
    assert area.repaired is not None
    mended = shapely.from_wkb(area.wkb)
    assert mended.is_valid
    assert mended.area == pytest.approx(0.02 * 0.02 * (1 - 1 / 32), rel=1e-4)


TAVEUNI = (179.99, -16.8)
ACROSS = [[179.97, -16.82], [-179.98, -16.82], [-179.98, -16.78], [179.97, -16.78], [179.97, -16.82]]
"""A ring across the date line, and below the same as RFC 7946 §3.1.9 wants it: cut there."""
CUT = [
    [[[179.97, -16.82], [180.0, -16.82], [180.0, -16.78], [179.97, -16.78], [179.97, -16.82]]],
    [[[-180.0, -16.82], [-179.98, -16.82], [-179.98, -16.78], [-180.0, -16.78], [-180.0, -16.82]]],
]


def flat(area: TradeArea, lng: float, lat: float) -> Any:
    """On the plane at the store, in metres."""
    return shapely.transform(shapely.from_wkb(area.wkb), lambda xy: Plane(lng, lat).flatten(xy[:, 0], xy[:, 1]))


def test_a_ring_across_the_date_line_is_taken_as_it_is_drawn() -> None:
    area = parse(polygon(ACROSS), "wgs84", *TAVEUNI)
    assert area.repaired is None
    assert np.abs(shapely.get_coordinates(shapely.from_wkb(area.wkb))).max() <= 180
    # 0.05° of longitude and 0.04° of latitude are 5,330 m and 4,427 m there.
    assert flat(area, *TAVEUNI).bounds == pytest.approx((-2132, -2213, 3198, 2213), abs=5)
    assert flat(area, *TAVEUNI).area == pytest.approx(5330 * 4427, rel=2e-3)


@pytest.mark.parametrize("door", [TAVEUNI, (-179.99, -16.8), (180.0, -16.8), (-180.0, -16.8)])
def test_a_ring_that_was_cut_at_the_date_line_is_whole_again(door: tuple[float, float]) -> None:
    whole = parse(polygon(ACROSS), "wgs84", *door)
    cut = parse(json.dumps({"type": "MultiPolygon", "coordinates": CUT}), "wgs84", *door)
    assert cut.repaired is None
    assert len(shapely.from_wkb(cut.wkb).geoms) == 1, "the cut is no edge of it"
    # A cut edge is an arc in two parts, bent at the line by a hand's breadth.
    assert flat(whole, *door).symmetric_difference(flat(cut, *door)).area < 5330 * 1


def test_a_bow_tie_across_the_date_line_is_mended_there() -> None:
    crossed = [ACROSS[0], ACROSS[2], ACROSS[1], ACROSS[3], ACROSS[0]]
    area = parse(polygon(crossed), "wgs84", *TAVEUNI)
    assert area.repaired == "self-intersection"
    assert flat(area, *TAVEUNI).is_valid
    assert flat(area, *TAVEUNI).area == pytest.approx(5330 * 4427 / 2, rel=2e-3)


def test_a_ring_around_a_pole_holds_the_pole() -> None:
    ring = [[lng, 89.98] for lng in (0.0, 90.0, 180.0, -90.0, 0.0)]
    area = parse(polygon(ring), "wgs84", 30.0, 89.99)
    assert area.repaired is None
    assert flat(area, 30.0, 89.99).contains(shapely.Point(Plane(30.0, 89.99).flatten(0.0, 90.0)))


def strokes(n: int) -> list[list[float]]:
    """A ring of two zigzags that cross each other ``n`` times, and so falls into one piece more."""
    there = [[121.46 + 0.002 * step, 31.23 + 0.004 * (-1) ** step] for step in range(n + 1)]
    back = [[x, 62.46 - y] for x, y in reversed(there)]
    return [*there, *back, there[0]]


def test_a_ring_that_crosses_itself_too_often_is_a_guess() -> None:
    mended = parse(polygon(strokes(MAX_PIECES - 1)), "gcj02", *HERE)
    assert len(shapely.from_wkb(mended.wkb).geoms) == MAX_PIECES
    with pytest.raises(BadArea, match="would be a guess"):
        parse(polygon(strokes(MAX_PIECES)), "gcj02", *HERE)


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
