"""``geo.datum``: published vectors, who is moved and who is not, and what a round trip promises."""

import subprocess
import sys

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from geo import datum
from geo.datum import convert, in_region, to_canonical

METRES_PER_DEGREE = 111_320

WGS_TO_GCJ = [
    ((121.5272106, 31.1774276), (121.531541859215, 31.17530398364597)),
    ((113.912316, 22.543847), (113.9171764808363, 22.540796131694766)),
    ((116.377817, 39.911954), (116.38404722455657, 39.91334545536069)),
    ((116.404, 39.915), (116.41024449916938, 39.91640428150164)),
]
INSIDE = {
    "Urumqi": (87.6168, 43.8256), "Lhasa": (91.1322, 29.6603), "Harbin": (126.63, 45.75), "Sanya": (109.508, 18.248),
    "Hong Kong": (114.1694, 22.3193), "Hong Kong airport": (113.915, 22.308), "Macao": (113.5439, 22.1987),
    "Dandong": (124.383, 40.124), "Manzhouli": (117.455, 49.59), "Horgos": (80.42, 44.21), "Ruili": (97.855, 24.01),
    "Hekou": (103.96, 22.505), "Hunchun": (130.366, 42.863), "Zhuhai": (113.5767, 22.2707),
    "Shenzhen": (114.0579, 22.5431), "Dongxing": (107.97, 21.547), "Heihe": (127.5, 50.245),
    "Suifenhe": (131.155, 44.395), "Alashankou": (82.57, 45.17), "Erenhot": (111.98, 43.65),
    "Mohe": (122.53, 52.97), "Fuyuan": (134.28, 48.36), "Tashkurgan": (75.23, 37.77), "Yadong": (88.91, 27.48),
    "Xiamen": (118.09, 24.48), "Gulangyu": (118.065, 24.447), "Weizhou": (109.12, 21.05), "Dachen": (121.9, 28.45),
    "Yangshan port": (122.05, 30.62), "Dongji": (122.7, 30.19), "Pudong airport": (121.805, 31.143),
    "bridge to Macao": (113.75, 22.27), "Tianjin port": (117.8, 39.02),
}  # fmt: skip
OUTSIDE = {
    "Seoul": (126.978, 37.566), "Hanoi": (105.8342, 21.0278), "Taipei": (121.5654, 25.033), "Manila": (120.98, 14.6),
    "Ulaanbaatar": (106.905, 47.886), "Vladivostok": (131.886, 43.115), "Almaty": (76.886, 43.238),
    "Kathmandu": (85.324, 27.717), "Pyongyang": (125.754, 39.03), "Vientiane": (102.633, 17.976),
    "Bishkek": (74.59, 42.875), "Kinmen": (118.317, 24.432), "Lieyu": (118.235, 24.43), "Matsu": (119.95, 26.16),
    "Penghu": (119.566, 23.57), "Sinuiju": (124.4, 40.1), "Lao Cai": (103.975, 22.48), "Mong Cai": (107.966, 21.525),
    "Blagoveshchensk": (127.53, 50.28), "Zabaikalsk": (117.327, 49.651), "Khasan": (130.643, 42.43),
    "Muse": (97.905, 23.99), "Thimphu": (89.64, 27.47), "Lang Son": (106.76, 21.85), "Tokyo": (139.69, 35.69),
    "Singapore": (103.82, 1.35), "London": (-0.12, 51.5), "Null Island": (0.0, 0.0),
}  # fmt: skip

datums = st.sampled_from(["wgs84", "gcj02", "bd09"])
positions = st.tuples(st.floats(73, 136), st.floats(16, 54))


def metres(one: tuple[float, float], other: tuple[float, float]) -> float:
    return METRES_PER_DEGREE * float(np.hypot(one[0] - other[0], one[1] - other[1]))


@pytest.mark.parametrize(("wgs", "gcj"), WGS_TO_GCJ)
def test_wgs84_and_gcj02_agree_with_published_vectors(wgs: tuple[float, float], gcj: tuple[float, float]) -> None:
    assert convert(*wgs, "wgs84", "gcj02") == pytest.approx(gcj, abs=1e-12)
    assert metres(convert(*gcj, "gcj02", "wgs84"), wgs) < 0.001


def test_bd09_agrees_with_published_vectors() -> None:
    assert convert(116.404, 39.915, "gcj02", "bd09") == pytest.approx(
        (116.41036949371029, 39.92133699351021), abs=1e-12
    )
    # The published figure comes from the one-step inverse, which is itself centimetres off.
    published = (116.39762729119315, 39.90865673957631)
    assert metres(convert(116.404, 39.915, "bd09", "gcj02"), published) < 0.06


@pytest.mark.parametrize("place", INSIDE)
def test_places_of_the_region_are_shifted(place: str) -> None:
    assert in_region(*INSIDE[place])
    assert 50 < metres(INSIDE[place], convert(*INSIDE[place], "wgs84", "gcj02")) < 1000


@pytest.mark.parametrize("place", OUTSIDE)
def test_places_abroad_are_not_shifted(place: str) -> None:
    at = OUTSIDE[place]
    assert not in_region(*at)
    for source in datum.DATUMS:
        for target in datum.DATUMS:
            assert convert(*at, source, target) == at, (source, target)


@given(positions, datums, datums)
def test_a_place_of_the_region_survives_any_round_trip(at: tuple[float, float], via: str, back: str) -> None:
    assume(in_region(*at))
    there = convert(*at, "wgs84", via)
    assert metres(convert(*convert(*there, via, back), back, "wgs84"), at) < 0.001


@given(positions, datums)
def test_a_place_abroad_survives_unless_a_shifted_one_has_the_same_name(at: tuple[float, float], via: str) -> None:
    assume(not in_region(*at))
    back = convert(*convert(*at, "wgs84", via), via, "wgs84")
    # Either nothing moved, or the pair is also the name of a place of the region, which wins.
    assert back == at or (in_region(*back) and metres(convert(*back, "wgs84", via), at) < 0.001)


def _border(step: float) -> list[tuple[float, float]]:
    return [tuple(xy) for xy in shapely.get_coordinates(datum._REGION.boundary.segmentize(step))]


BORDER = _border(0.05)


@given(st.sampled_from(BORDER), st.floats(-0.02, 0.02), st.floats(-0.02, 0.02), st.sampled_from(["gcj02", "bd09"]))
def test_round_trips_hold_right_at_the_border(corner: tuple[float, float], dx: float, dy: float, via: str) -> None:
    at = (corner[0] + dx, corner[1] + dy)
    there = convert(*at, "wgs84", via)
    back = convert(*there, via, "wgs84")
    if in_region(*at):
        assert metres(back, at) < 0.001
    else:
        assert there == at
        assert back == at or (in_region(*back) and metres(back, at) < 2_500)


@given(st.lists(positions, max_size=12), datums, datums)
def test_arrays_and_floats_give_the_same(places: list[tuple[float, float]], source: str, target: str) -> None:
    lngs, lats = (np.array([p[i] for p in places], float) for i in (0, 1))
    before = lngs.copy()
    moved = convert(lngs, lats, source, target)
    assert np.array_equal(lngs, before), "arguments stay as they are"
    assert moved[0].shape == lngs.shape
    for i, place in enumerate(places):
        assert (moved[0][i], moved[1][i]) == pytest.approx(convert(*place, source, target), abs=1e-9)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 3)])
def test_arrays_keep_their_shape(shape: tuple[int, ...]) -> None:
    lngs, lats = np.full(shape, 116.4), np.full(shape, 39.9)
    for target in ("gcj02", "bd09", "wgs84"):
        moved = convert(lngs, lats, "wgs84", target)
        assert moved[0].shape == moved[1].shape == shape


@given(st.floats(allow_nan=True, allow_infinity=True), st.floats(allow_nan=True, allow_infinity=True), datums, datums)
@settings(max_examples=300)
def test_nonsense_comes_back_as_it_went_in(lng: float, lat: float, source: str, target: str) -> None:
    assume(not (72 < lng < 137 and 16 < lat < 55))
    assert np.array_equal(convert(lng, lat, source, target), (lng, lat), equal_nan=True)
    moved = convert(np.array([lng]), np.array([lat]), source, target)
    assert np.array_equal(np.array(moved)[:, 0], (lng, lat), equal_nan=True)


def test_unknown_datum_is_an_error() -> None:
    for pair in [("wgs84", "cgcs2000"), ("WGS84", "gcj02"), ("", "")]:
        with pytest.raises(ValueError, match="unknown datum"):
            convert(116.4, 39.9, *pair)


def test_canonical_frame_is_gcj02_in_the_region_and_wgs84_elsewhere() -> None:
    assert to_canonical(116.404, 39.915, "wgs84") == convert(116.404, 39.915, "wgs84", "gcj02")
    assert to_canonical(116.404, 39.915, "gcj02") == (116.404, 39.915)
    assert to_canonical(126.978, 37.566, "wgs84") == (126.978, 37.566)


def test_where_two_places_have_one_pair_the_one_inside_is_meant() -> None:
    shared = [
        (at, there) for at in BORDER if in_region(*at) and not in_region(*(there := convert(*at, "wgs84", "gcj02")))
    ]
    assert shared, "somewhere the shift leads across the border"
    for inside, outside in shared:
        assert convert(*outside, "wgs84", "gcj02") == outside, "abroad, WGS-84 and GCJ-02 are the same pair"
        assert metres(convert(*outside, "gcj02", "wgs84"), inside) < 0.001


def test_importing_datum_opens_no_way_to_the_outside() -> None:
    script = (
        "import sys, geo.datum\n"
        "print([m for m in ('asyncio', 'socket', 'sqlalchemy', 'redis', 'fastapi') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
