"""Simulated comments are as long as real ones and tell when they were sent."""

from random import Random
from statistics import mean

from hypothesis import given
from hypothesis import strategies as st

from loadtest.comments import LENGTHS, SPAN_MS, comment, length, stamp, stamped_at

NOW = 1_795_000_000_123


def test_lengths_are_distributed_as_measured() -> None:
    chance = Random(1)
    drawn = [length(chance) for _ in range(20_000)]
    for characters, at_most in LENGTHS:
        assert abs(sum(n <= characters for n in drawn) / len(drawn) - at_most) < 0.015
    assert 5 < mean(drawn) < 6.5
    assert (min(drawn), max(drawn)) >= (1, 60)


@given(sent=st.integers(NOW - 10_000_000, NOW + 900), seed=st.integers())
def test_a_comment_tells_when_it_was_sent(sent: int, seed: int) -> None:
    text = comment(Random(seed), sent)
    assert 2 <= len(text) <= 98
    assert stamped_at(text, NOW) == sent


def test_what_others_say_bears_no_stamp_and_an_old_one_wraps() -> None:
    assert [stamped_at(text, NOW) for text in ("", "好", "好看", "𠮷𠮷", "来" + stamp(NOW)[0])] == [None] * 5
    assert stamped_at(stamp(NOW - SPAN_MS), NOW) == NOW
