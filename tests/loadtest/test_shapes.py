"""How many viewers each shape wants, where and when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.shapes import ROOMS, SHAPES, SMALL, users_at

NAMES = st.sampled_from(sorted(SHAPES))


@given(name=NAMES, viewers=st.integers(1, 100_000))
def test_rooms_hold_exactly_the_viewers_and_the_first_is_the_biggest(name: str, viewers: int) -> None:
    rooms = SHAPES[name].rooms(viewers)
    assert sum(rooms) == viewers
    assert rooms[0] == max(rooms)
    assert all(room == SMALL for room in rooms[1:])


@given(name=NAMES, seconds=st.floats(5, 86_400), parts=st.lists(st.floats(0, 1), min_size=2))
def test_viewers_only_come_and_all_are_in_before_anything_happens(
    name: str, seconds: float, parts: list[float]
) -> None:
    shape = SHAPES[name]
    shares = [shape.share(part * seconds, seconds) for part in sorted(parts)]
    assert shares == sorted(shares)
    assert (shape.share(0, seconds), shape.share(seconds, seconds)) == (0, 1)
    for what in ("drop", "strike"):
        assert all(shape.share(at, seconds) == 1 for at in shape.when(what, seconds))


def test_an_evening_has_470_rooms_most_with_ten_and_one_with_thousands() -> None:
    rooms = SHAPES["evening"].rooms(10_000)
    assert len(rooms) == ROOMS == 470
    assert (rooms[0], set(rooms[1:])) == (5310, {10})


def test_a_peak_is_reached_within_a_minute() -> None:
    assert SHAPES["peak"].share(60, 600) == 1
    assert SHAPES["peak"].share(30, 600) == pytest.approx(0.5)
    assert SHAPES["peak"].share(15, 60) == pytest.approx(0.5)


def test_in_a_drop_all_claim_within_two_seconds_and_in_a_storm_one_gateway_dies() -> None:
    assert (SHAPES["drop"].claim_within, SHAPES["drop"].everybody_claims) == (2.0, True)
    assert len(SHAPES["drop"].when("drop", 100)) == 3
    assert SHAPES["storm"].when("strike", 100) == [50]


def test_locusts_own_users_follow_the_shape_and_stop_with_it() -> None:
    tick = users_at(SHAPES["peak"], 100, 60)
    assert [tick(at) for at in (0, 15, 30, 59.9)] == [(1, 100 / 30), (50, 100 / 30), (100, 100 / 30), (100, 100 / 30)]
    assert tick(60) is None
