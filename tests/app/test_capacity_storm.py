"""The simulated return of everybody: nobody is lost, no gateway is faster than it can be, chance spreads a crowd."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.capacity import storm
from app.capacity.storm import FIRST_SECONDS, LONGEST_SECONDS, PATIENCE_SECONDS, Storm, fullest_second, simulate
from live.leaving import RETURNS_PER_SECOND, Leaving

STORMS = st.builds(
    lambda gateways, lost, **more: Storm(gateways=gateways, lost=min(lost, gateways), **more),
    viewers=st.integers(1, 3000), gateways=st.integers(1, 8), lost=st.integers(1, 8),
    joins_per_s=st.floats(20, 2000), jitter=st.sampled_from((0.0, 0.5, 0.9)), seed=st.integers(0, 1000),
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(case=STORMS)
def test_nobody_is_lost_and_no_gateway_is_faster_than_it_can_be(case: Storm) -> None:
    outcome = simulate(case)
    assert len(outcome.back_at) + outcome.still_out == case.affected
    assert outcome.tries == len(outcome.back_at) + outcome.gave_up + outcome.turned_away or outcome.still_out
    assert outcome.peak_joins <= case.joins_per_s + 1.001
    at, gateway = outcome.let_in
    for one in np.unique(gateway):
        apart = np.diff(np.sort(at[gateway == one]))
        assert not len(apart) or apart.min() >= 1 / case.joins_per_s - 1e-6
    assert not len(at) or at.min() >= FIRST_SECONDS * (1 - case.jitter)
    assert outcome.longest_line <= PATIENCE_SECONDS + 1e-6
    assert np.array_equal(simulate(case).back_at, outcome.back_at)


@pytest.mark.parametrize("seed", range(3))
def test_chance_lowers_the_peak_and_without_it_the_peak_is_known(seed: int) -> None:
    spread = simulate(Storm(40_000, 4, 1, 5000, seed=seed))
    at_once = simulate(Storm(40_000, 4, 1, 5000, jitter=0.0, seed=seed))
    assert spread.peak_tries < at_once.peak_tries * 0.75
    # All 10,000 come in one instant, evenly by chance to three gateways.
    assert at_once.peak_tries == pytest.approx(10_000 / 3, rel=0.05)
    assert at_once.longest_line == pytest.approx(at_once.peak_tries / 5000)
    assert at_once.back(1.0) == pytest.approx(FIRST_SECONDS + at_once.peak_tries / 5000)


def test_one_viewer_comes_back_after_the_wait_and_the_join() -> None:
    outcome = simulate(Storm(1, 1, 1, 10, jitter=0.0))
    assert outcome.back_at.tolist() == [pytest.approx(FIRST_SECONDS + 0.1)]
    assert outcome.curve(4, 3) == [(0.0, 0.0), (2.0, 0.0), (4.0, 1.0)]


def test_who_is_not_let_in_in_time_goes_and_waits_longer() -> None:
    # 300 come at second 2, 99 are let in within ten seconds; the others give up at 12 and come again at 16, 34 and 52.
    takes = 1 / 9.95
    outcome = simulate(Storm(300, 1, 1, 9.95, jitter=0.0))
    assert outcome.gave_up == 201 + 102 + 3
    first, second = outcome.back_at[:99], outcome.back_at[99:198]
    assert (first.min(), first.max()) == (pytest.approx(2 + takes), pytest.approx(2 + 99 * takes))
    assert second.min() == pytest.approx(12 + 2 * FIRST_SECONDS + takes)
    assert outcome.back_at.max() == pytest.approx(44 + LONGEST_SECONDS + 3 * takes)


def test_dead_addresses_turn_people_away_while_they_are_listed() -> None:
    outcome = simulate(Storm(9000, 3, 2, 5000))
    assert outcome.turned_away > 0
    assert outcome.still_out == 0
    assert simulate(Storm(9000, 3, 1, 5000)).turned_away == 0


@pytest.mark.parametrize("viewers", [500, 5000])
def test_a_draining_gateway_sends_its_viewers_as_the_real_one_does(viewers: int) -> None:
    random = np.random.default_rng(1)
    leaving = Leaving(viewers, storm.DRAIN_SECONDS * storm.CLOSING_SHARE)
    chance, none = random.random(viewers), np.zeros(viewers)
    at = storm.returns(leaving, chance, none)
    for place in (0, viewers // 2, viewers - 1):
        asked = leaving.retry_after(place, float(chance[place]))
        assert at[place] - place * leaving.closing / viewers == pytest.approx(asked, abs=0.006)
    outcome = simulate(Storm(2 * viewers, 2, 1, 5000, "drained"))
    assert outcome.still_out == 0
    assert outcome.peak_tries <= RETURNS_PER_SECOND


def test_the_fullest_second_is_found_at_each_gateway_alone() -> None:
    at = np.array([0.0, 0.5, 0.9, 1.0, 5.0, 5.1])
    assert fullest_second(at, np.array([0, 0, 0, 0, 1, 1])) == 3
    assert fullest_second(at, np.array([0, 1, 0, 1, 0, 1])) == 2
    assert fullest_second(at[:0], np.zeros(0, dtype=np.int64)) == 0


@pytest.mark.parametrize("wrong", [
    {"lost": 0}, {"lost": 3}, {"viewers": 0}, {"joins_per_s": 0.0}, {"jitter": 1.0}, {"lost": 2, "how": "drained"},
])  # fmt: skip
def test_a_storm_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"storm|jitter|drains"):
        Storm(**({"viewers": 10, "gateways": 2, "lost": 1, "joins_per_s": 1.0} | wrong))  # type: ignore[arg-type]
