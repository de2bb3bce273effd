"""Decisions about coupons: what they are worth, how long they hold, who may have them."""

from datetime import UTC, date, datetime, time, timedelta, timezone
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
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
    ("terms", "field"),
    [
        (Terms("amount"), "amount_fen"),
        (Terms("amount", 0), "amount_fen"),
        (Terms("amount", 2000, 1000), "amount_fen"),
        (Terms("percent"), "percent_off"),
        (Terms("gift"), "gift"),
        (Terms("gift", gift=""), "gift"),
    ],
)
def test_terms_that_promise_nothing_are_named(terms: Terms, field: str) -> None:
    problem = rules.terms_problem(terms)
    assert problem is not None and problem[0] == field


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


def test_a_coupon_given_ahead_of_its_campaigns_days_has_all_of_them() -> None:
    first = datetime(2026, 7, 1, tzinfo=SHANGHAI)
    window = rules.validity(NOON, SHANGHAI, valid_from=first, valid_until=None, valid_days=2)
    assert window == (first, datetime(2026, 7, 4, tzinfo=SHANGHAI))


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
    (band,) = rules.distance_bands([distance])
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


# ---- hours and days ------------------------------------------------------------------------------------------------

NIGHT = rules.Quiet(time(22), time(8), SHANGHAI)
SIESTA = rules.Quiet(time(12), time(14, 30), SHANGHAI)


def _at(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 6, day, hour, minute, tzinfo=SHANGHAI)


@pytest.mark.parametrize(
    ("quiet", "moment", "until"),
    [
        (NIGHT, _at(18, 21, 59), None),
        (NIGHT, _at(18, 22), _at(19, 8)),
        (NIGHT, _at(19, 0), _at(19, 8)),
        (NIGHT, _at(19, 8), None),
        (SIESTA, _at(18, 11, 59), None),
        (SIESTA, _at(18, 12), _at(18, 14, 30)),
        (SIESTA, _at(18, 14, 30), None),
    ],
)
def test_quiet_hours_end_on_their_own_or_the_next_day(
    quiet: rules.Quiet, moment: datetime, until: datetime | None
) -> None:
    assert quiet.until(moment.astimezone(UTC)) == until


BERLIN = ZoneInfo("Europe/Berlin")
PUT_BACK = datetime(2026, 10, 25, 0, 40, tzinfo=UTC)  # 2:40 summer time in Berlin; 20 minutes later it is 2:00 again


def test_quiet_hours_that_end_in_the_hour_that_comes_twice_end_later_than_now() -> None:
    quiet = rules.Quiet(time(22), time(2, 30), BERLIN)
    assert quiet.until(PUT_BACK) is None
    assert quiet.until(PUT_BACK + timedelta(minutes=30)) == PUT_BACK + timedelta(minutes=50)
    assert quiet.until(PUT_BACK - timedelta(minutes=30)) == PUT_BACK - timedelta(minutes=10)


@given(st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)), st.times(), st.times(), st.booleans())
@example(datetime(2026, 10, 25, 1, 10), time(22), time(2, 30), False)
@example(datetime(2026, 3, 29, 1, 10), time(2, 15), time(2, 30), False)
def test_quiet_hours_end_later_than_now_whatever_the_clocks_are_put_to(
    naive: datetime, start: time, end: time, local: bool
) -> None:
    quiet, moment = rules.Quiet(start, end, BERLIN), naive.replace(tzinfo=UTC)
    given_as = moment.astimezone(BERLIN) if local else moment
    ends = quiet.until(given_as)
    assert ends is None or moment < ends.astimezone(UTC) <= moment + timedelta(hours=26)


def test_a_day_gives_so_many_and_the_next_one_again() -> None:
    today, tomorrow = date(2026, 6, 18), date(2026, 6, 19)
    assert rules.left_of_day(None, counted_on=today, issued=9, today=today) is None
    assert rules.left_of_day(10, counted_on=None, issued=0, today=today) == 10
    assert rules.left_of_day(10, counted_on=today, issued=9, today=today) == 1
    assert rules.left_of_day(10, counted_on=today, issued=12, today=today) == 0
    assert rules.left_of_day(10, counted_on=today, issued=10, today=tomorrow) == 10


def test_a_minute_of_a_drop_gives_so_many_and_the_next_one_again() -> None:
    seconds = (-1, 0, 59, 60, 3600)
    assert [rules.minute_of(NOON, NOON + timedelta(seconds=second)) for second in seconds] == [0, 0, 0, 1, 60]
    assert rules.left_of_minute(None, counted_in=0, issued=9, minute=0) is None
    assert rules.left_of_minute(10, counted_in=None, issued=0, minute=0) == 10
    assert rules.left_of_minute(10, counted_in=3, issued=4, minute=3) == 6
    assert rules.left_of_minute(10, counted_in=3, issued=10, minute=4) == 10


def test_a_reserve_is_kept_until_everybody_was_matched() -> None:
    assert rules.reserve(50, 20, matched=False) == 10
    assert rules.reserve(50, 20, matched=True) == 0
    assert rules.reserve(3, 20, matched=False) == 0


def test_what_is_used_up_first_is_named() -> None:
    assert rules.exhausted(0, left=1, left_today=None) is None
    assert rules.exhausted(1, left=1, left_today=1) == "sold_out"
    assert rules.exhausted(1, left=2, left_today=1) == "sold_out_today"
    assert rules.exhausted(1, left=2, left_today=2) is None


def test_a_till_takes_a_coupon_in_its_hours() -> None:
    lunch = Terms("amount", 500, hours=(time(11), time(14)))
    assert [rules.usable_at(lunch, time(hour)) for hour in (10, 11, 13, 14)] == [False, True, True, False]
    late = Terms("amount", 500, hours=(time(21), time(2)))
    assert [rules.usable_at(late, time(hour)) for hour in (20, 21, 1, 2)] == [False, True, True, False]
    assert rules.usable_at(Terms("amount", 500), time(3))
    assert rules.describe(lunch) == "无门槛减5 限11:00–14:00"


# ---- who -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tier", "bought", "segments"),
    [(0, 0, {"new"}), (0, 1, {"once"}), (2, 2, {"often"}), (3, 0, {"new", "vip"}), (3, 9, {"often", "vip"})],
)
def test_segments_follow_purchases_and_tier(tier: int, bought: int, segments: set[str]) -> None:
    assert rules.segments_of(tier=tier, bought=bought) == segments


def test_a_segment_of_several_is_enough() -> None:
    limits = Limits(CAMPAIGN, 1, 0, 0, segments=frozenset({"once", "vip"}))
    for tier, bought, reason in ((0, 0, "segment"), (0, 1, None), (2, 5, "segment"), (3, 5, None)):
        assert rules.barred(limits, tier=tier, held=0, history=rules.History(bought=bought)) == reason


def test_the_cap_counts_coupons_of_all_campaigns() -> None:
    limits = Limits(CAMPAIGN, 5, 0, 0, cap=2)
    assert rules.barred(limits, tier=0, held=0, history=rules.History(recent=1)) is None
    assert rules.barred(limits, tier=0, held=0, history=rules.History(recent=2)) == "cap_reached"
    assert rules.barred(Limits(CAMPAIGN, 5, 0, 0), tier=0, held=0, history=rules.History(recent=99)) is None


def test_doubt_is_refused_only_where_the_campaign_says_so() -> None:
    viewer = UUID(int=1)
    assert rules.passed_over(Limits(CAMPAIGN, 1, 0, 0, doubt="allow"), viewer, "jumped") is None
    assert rules.passed_over(Limits(CAMPAIGN, 1, 0, 0, doubt="refuse"), viewer, "jumped") == "suspect"
    assert rules.passed_over(Limits(CAMPAIGN, 1, 0, 0, doubt="refuse"), viewer, None) is None


# ---- distance ------------------------------------------------------------------------------------------------------

TIERS = [(500, 3000), (1000, 2000)]


@pytest.mark.parametrize(
    ("distance", "amount"), [(0, 3000), (500, 3000), (500.1, 2000), (1000, 2000), (1000.1, 1000), (9e6, 1000)]
)
def test_who_is_nearer_gets_the_nearer_amount(distance: float, amount: int) -> None:
    assert rules.amount_at(distance, TIERS, 1000) == amount
    assert rules.amount_at(distance, [], 1000) == 1000


def test_amounts_by_distance_must_be_sound() -> None:
    assert rules.tiers_problem(Terms("amount", 1000, 3000), TIERS) is None
    assert rules.tiers_problem(Terms("percent", percent_off=10), []) is None
    assert rules.tiers_problem(Terms("percent", percent_off=10), TIERS)
    assert rules.tiers_problem(Terms("amount", 1000, 2999), TIERS)
    assert rules.tiers_problem(Terms("amount", 1000), TIERS[::-1])
    assert rules.tiers_problem(Terms("amount", 1000), [TIERS[0], TIERS[0]])


def test_the_best_of_several_amounts_is_called_so() -> None:
    assert rules.describe(Terms("amount", 3000, 10_000, up_to=True)) == "满100最高减30"
