"""The pace at which a gateway's viewers leave it, and come back elsewhere."""

from bisect import bisect_left
from itertools import pairwise
from random import Random

import pytest

from live.leaving import JITTER_SECONDS, RETURNS_PER_SECOND, SOONEST_SECONDS, STEP_SECONDS, Leaving


def returns(leaving: Leaving) -> tuple[list[float], list[float]]:
    """When each of those who leave is closed, and when they come back, as the gateway's loop would do it."""
    random, closes, back, step = Random(1), list[float](), list[float](), 0
    while len(closes) < leaving.viewers:
        for place in range(len(closes), leaving.closed(step * STEP_SECONDS)):
            closes.append(step * STEP_SECONDS)
            back.append(closes[-1] + leaving.retry_after(place, random.random()))
        step += 1
    return closes, sorted(back)


@pytest.mark.parametrize("viewers", [1, 2, 300, 5_000, 20_000, 50_000])
def test_no_second_sees_more_returns_than_the_pace(viewers: int) -> None:
    seconds = 12.0
    leaving = Leaving(viewers, seconds)
    closes, back = returns(leaving)
    assert len(back) == viewers
    assert closes[-1] <= seconds
    assert back[0] >= SOONEST_SECONDS
    assert max(bisect_left(back, at + 1) - place for place, at in enumerate(back)) <= RETURNS_PER_SECOND
    # Nobody is kept away for longer than that pace asks for.
    assert back[-1] <= leaving.span + SOONEST_SECONDS + JITTER_SECONDS + 2 * STEP_SECONDS


def test_more_viewers_spread_wider() -> None:
    spans = [returns(Leaving(viewers, 12.0))[1][-1] for viewers in (100, 1_000, 10_000, 50_000)]
    assert all(fewer < more for fewer, more in pairwise(spans))
    assert spans[-1] > 50_000 / RETURNS_PER_SECOND


def test_an_empty_gateway_leaves_at_once() -> None:
    assert Leaving(0, 12.0).closed(0.0) == 0
