"""Decisions about coupons: what they are worth, how long they hold, who may have them."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coupons import rules
from coupons.rules import Limits, Opening, Terms

NOON = datetime(2026, 6, 18, 4, 0, tzinfo=UTC)  # noon in Shanghai
SHANGHAI = timezone(timedelta(hours=8))
CAMPAIGN = UUID(int=7)

fen = st.integers(0, 10_000_000)


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (Terms("amount", 2000, 10_000), "满100减20"),
        (Terms("amount", 1990, 3050), "满30.5减19.9"),
        (Terms("amount", 505), "无门槛减5.05"),
        (Terms("percent", percent_off=20), "8折"),
        (Terms("percent", 5000, 10_000, 15), "满100享8.5折 最高减50"),
        (Terms("percent", percent_off=95), "0.5折"),
        (Terms("gift", gift="拿铁"), "凭券兑换拿铁"),
        (Terms("gift", threshold_fen=5000, gift="杯子"), "满50兑换杯子"),
    ],
)
def test_terms_read_as_a_shopper_expects(terms: Terms, words: str) -> None:
    assert rules.describe(terms) == words


@pytest.mark.parametrize(
    "terms",
    [
        Terms("amount"),
        Terms("amount", 0),
        Terms("amount", 2000, 1000),
        Terms("percent"),
        Terms("gift"),
        Terms("gift", gift=""),
    ],
)
def test_terms_that_promise_nothing_are_named(terms: Terms) -> None:
    assert rules.terms_problem(terms)


def test_an_amount_needs_its_threshold() -> None:
    terms = Terms("amount", 2000, 10_000)
    assert rules.discount(terms, 9_999) is None
    assert rules.discount(terms, 10_000) == 2000
    assert rules.discount(terms, None) == 2000


def test_a_percentage_is_capped() -> None:
    terms = Terms("percent", 5000, 0, 20)
    assert rules.discount(terms, 10_001) == 2000
    assert rules.discount(terms, 1_000_000) == 5000
    assert rules.discount(terms, None) == 0


@given(
    st.builds(
        Terms,
        st.sampled_from(["amount", "percent", "gift"]),
        fen,
        fen,
        st.integers(1, 99),
        st.just("杯子"),
    ),
    fen,
    fen,
)
def test_a_discount_is_never_more_than_the_order_and_grows_with_it(terms: Terms, order: int, more: int) -> None:
    off = rules.discount(terms, order)
    assert (off is None) == (order < terms.threshold_fen)
    if off is not None:
        assert 0 <= off <= order
        assert (rules.discount(terms, order + more) or 0) >= off


def test_days_of_validity_end_at_the_brands_midnight() -> None:
    _, until = rules.validity(NOON, SHANGHAI, valid_from=None, valid_until=None, valid_days=1)
    assert until == datetime(2026, 6, 20, 0, 0, tzinfo=SHANGHAI)


def test_validity_begins_at_issue_and_ends_with_the_campaign() -> None:
    last = NOON + timedelta(hours=3)
    window = rules.validity(NOON, SHANGHAI, valid_from=NOON - timedelta(days=1), valid_until=last, valid_days=30)
    assert window == (NOON, last)
    later = NOON + timedelta(hours=1)
    assert rules.validity(NOON, SHANGHAI, valid_from=later, valid_until=last, valid_days=None)[0] == later


def test_validity_without_an_end_is_an_error() -> None:
    with pytest.raises(ValueError, match="until when"):
        rules.validity(NOON, SHANGHAI, valid_from=None, valid_until=None, valid_days=None)


@given(st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)), st.integers(0, 400))
def test_days_of_validity_are_never_short(naive: datetime, days: int) -> None:
    issued = naive.replace(tzinfo=UTC)
    _, until = rules.validity(issued, SHANGHAI, valid_from=None, valid_until=None, valid_days=days)
    assert timedelta(days=days) < until - issued <= timedelta(days=days + 1)


def _opening(**changes: object) -> Opening:
    facts: dict[str, object] = {
        "drop_state": "open", "end_reason": None, "opens_at": NOON, "ends_at": NOON + timedelta(minutes=5),
        "room_state": "live", "campaign_state": "running", "claim_from": None, "claim_until": None, "valid_until": None,
    }  # fmt: skip
    return Opening(**(facts | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("opening", "reason"),
    [
        (_opening(), None),
        (_opening(opens_at=NOON + timedelta(seconds=1)), "not_started"),
        (_opening(claim_from=NOON + timedelta(seconds=1)), "not_started"),
        (_opening(ends_at=NOON), "ended"),
        (_opening(claim_until=NOON), "ended"),
        (_opening(valid_until=NOON), "ended"),
        (_opening(room_state="ended"), "ended"),
        (_opening(drop_state="ended", end_reason="stopped"), "ended"),
        (_opening(drop_state="ended", end_reason="sold_out"), "sold_out"),
        (_opening(campaign_state="paused"), "campaign_state"),
    ],
)
def test_a_drop_that_is_not_open_says_why(opening: Opening, reason: str | None) -> None:
    assert rules.closed(opening, NOON) == reason


def test_who_may_have_one() -> None:
    limits = Limits(CAMPAIGN, per_viewer=2, min_tier=1, holdout_percent=0)
    assert rules.barred(limits, tier=1, held=1) is None
    assert rules.barred(limits, tier=0, held=0) == "tier"
    assert rules.barred(limits, tier=3, held=2) == "limit_reached"
    assert rules.barred(limits, tier=None, held=0) == "forbidden"


def test_the_holdout_is_its_share_and_always_the_same() -> None:
    limits = Limits(CAMPAIGN, 1, 0, holdout_percent=20)
    viewers = [UUID(int=n) for n in range(20_000)]
    held = [rules.held_out(limits, viewer) for viewer in viewers]
    assert 0.18 < sum(held) / len(held) < 0.22
    assert held == [rules.held_out(limits, viewer) for viewer in viewers]
    other = Limits(UUID(int=8), 1, 0, holdout_percent=20)
    assert held != [rules.held_out(other, viewer) for viewer in viewers]


def test_no_holdout_holds_nobody_out() -> None:
    assert not any(rules.held_out(Limits(CAMPAIGN, 1, 0, 0), UUID(int=n)) for n in range(1000))


@given(st.floats(0, 100_000))
def test_a_band_contains_the_distance(distance: float) -> None:
    band = rules.distance_band(distance)
    lower = max([0, *(edge for edge in rules.BANDS_M if edge < band)])
    assert lower <= distance <= band


def test_a_viewer_without_a_store_learns_why() -> None:
    old = NOON - timedelta(minutes=10)

    def why(fixed_at: datetime | None, accuracy: float | None) -> str:
        return rules.unplaced(fixed_at, accuracy, fresh_after=old, max_accuracy_m=1000)

    assert why(None, None) == "location_missing"
    assert why(old, 5) == "location_stale"
    assert why(NOON, 1001) == "location_uncertain"
    assert why(NOON, 1000) == "out_of_range"


@pytest.mark.parametrize(
    ("state", "same_store", "begin", "end", "reason"),
    [
        ("issued", True, -1, 1, None),
        ("issued", False, -1, 1, "wrong_store"),
        ("redeemed", True, -1, 1, "already_redeemed"),
        ("voided", True, -1, 1, "coupon_voided"),
        ("expired", True, -2, -1, "coupon_expired"),
        ("issued", True, -2, 0, "coupon_expired"),
        ("issued", True, 1, 2, "coupon_not_yet_valid"),
    ],
)
def test_a_till_learns_why_not(state: str, same_store: bool, begin: int, end: int, reason: str | None) -> None:
    found = rules.unusable(
        state,
        same_store=same_store,
        valid_from=NOON + timedelta(hours=begin),
        valid_until=NOON + timedelta(hours=end),
        now=NOON,
    )
    assert found == reason
