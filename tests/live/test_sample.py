"""Lossy events: a fair sample, in order, every one left out counted."""

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from live.sample import Sample


def events(count: int) -> list[bytes]:
    return [f"{n:04}".encode() for n in range(count)]


def test_everything_is_shown_below_the_rate() -> None:
    sample = Sample(30)
    for event in events(20):
        sample.add(event)
    assert sample.take(100.0) == (events(20), 0)


@given(st.integers(0, 500), st.integers(1, 60))
def test_shown_and_left_out_add_up_and_order_is_kept(count: int, rate: int) -> None:
    sample = Sample(rate)
    for event in events(count):
        sample.add(event)
    shown, left_out = sample.take(100.0)
    assert len(shown) == min(count, rate)
    assert len(shown) + left_out == count
    assert shown == sorted(shown)
    assert len(sample) == 0


def test_rate_holds_over_many_ticks() -> None:
    sample = Sample(30)
    shown = 0
    for tick in range(1000):  # 10 s of 10 ms, 5 events each
        for event in events(5):
            sample.add(event)
        shown += len(sample.take(100 + tick / 100)[0])
    assert 300 <= shown <= 331  # ten seconds' worth, and the first burst


def test_every_event_of_a_tick_has_the_same_chance() -> None:
    random = Random(7)
    seen: Counter[bytes] = Counter()
    for round in range(2000):
        sample = Sample(10, random.random)
        sample.take(round * 100.0)
        for event in events(40):
            sample.add(event)
        seen.update(sample.take(round * 100.0 + 50)[0])
    assert sum(seen.values()) == 20_000
    # 2000 draws with p = 1/4: five standard deviations are 97.
    assert all(abs(seen[event] - 500) < 100 for event in events(40))


def test_always_means_always_and_in_its_place() -> None:
    sample = Sample(1)
    for n, event in enumerate(events(100)):
        sample.add(event, always=n in (10, 90))
    shown, left_out = sample.take(5.0)
    assert {b"0010", b"0090"} <= set(shown)
    assert shown == sorted(shown)
    assert (len(shown), left_out) == (3, 97)


def test_memory_is_bounded_by_what_could_be_shown() -> None:
    sample = Sample(30)
    for event in events(9999):
        sample.add(event)
    assert len(sample) == 30
