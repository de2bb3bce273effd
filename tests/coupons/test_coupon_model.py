"""Whatever is done to a campaign, in whatever order: the database stays what a few dictionaries say."""

from collections.abc import Iterator
from typing import Any

import pytest
from coupon_model import machine_of
from house_for_models import House
from hypothesis import HealthCheck, Phase, seed
from hypothesis import settings as profile
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from coupons import granting, ledger, privacy, rules
from kernel.settings import Settings

_QUIETLY = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
# Shrinking asks the database again for minutes: only where there is time for it.
SHORT = profile(max_examples=6, stateful_step_count=20, phases=[Phase.generate], **_QUIETLY)
LONG = profile(max_examples=80, stateful_step_count=60, **_QUIETLY)
FAULTS = profile(
    max_examples=60, stateful_step_count=40, phases=[Phase.generate], report_multiple_bugs=False, **_QUIETLY
)


EVERYTHING = {
    "a minute passes",
    *(f"claim: {answer}" for answer in ("a coupon", "again", "limit_reached", "out_of_range", "sold_out", "ended")),
    *(f"claim: {answer}" for answer in ("campaign_state", "not_found")),
    *(f"push: {what}" for what in ("coupons", "none", "quiet", "held by its pace")),
    *(
        f"open a {mode} drop: {a}"
        for mode in ("claim", "push")
        for a in ("open", "campaign_state", "sold_out", "invalid")
    ),
    "claim: quiet_hours",
    *("night", "day", "wake up: told", "wake up: nothing", "redeem: coupon_not_yet_valid"),
    "two drops at once",
    "end a drop",
    "pause",
    "run",
    *(f"edit the budget: {what}" for what in ("less", "more", "budget_conflict")),
    *(f"redeem: {answer}" for answer in ("used", "used once more", "again", "wrong_store", "already_redeemed")),
    *(f"redeem: {answer}" for answer in ("coupon_expired", "idempotency_mismatch")),
    *(f"reverse: {what}" for what in ("usable", "ownerless", "wrong_store", "again")),
    "redeem: coupon_voided",
    *(f"void: {what}" for what in ("issued", "voided", "already_redeemed", "coupon_expired")),
    *(f"expire: {what}" for what in ("none", "some", "returned")),
    *(f"erase: with {state} coupons" for state in ("no", "issued", "redeemed", "expired")),
}
"""What long games must have come to, or they prove nothing."""


@pytest.fixture
def house(settings: Settings) -> Iterator[House]:
    with House(settings) as opened:
        yield opened


def test_any_order_of_steps_leaves_what_the_model_says(house: House) -> None:
    run_state_machine_as_test(machine_of(house), settings=SHORT)


@pytest.mark.deep
@pytest.mark.timeout(3600)
def test_any_order_of_many_steps_leaves_what_the_model_says(house: House) -> None:
    missed, game = EVERYTHING, 0
    while game < 3 or (missed and game < 8):  # what is rare may need some more
        run_state_machine_as_test(seed(game)(machine_of(house)), settings=LONG)
        missed, game = EVERYTHING - house.happened.keys(), game + 1
    assert not missed, f"the games never came to it: {sorted(missed)}"


def _limit_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rules, "barred", lambda *_, **__: None)


def _stock_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rules, "exhausted", lambda *_, **__: None)


def _pause_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(granting.Locked, "closed", lambda _: None)


def _expiry_writes_no_line(patch: pytest.MonkeyPatch) -> None:
    sweep = str(ledger._EXPIRE).replace("FROM expired\n", "FROM expired WHERE false\n")
    patch.setattr(ledger, "_EXPIRE", text(sweep))


def _coupons_outlive_their_owner(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(privacy, "_COUPONS", text(str(privacy._COUPONS).replace("least(valid_until, :at)", "valid_until")))


def _coupons_keep_the_name(patch: pytest.MonkeyPatch) -> None:
    keep = "UPDATE coupons SET claim_key = NULL, viewer_id = :pseudonym WHERE viewer_id = :member AND :at IS NULL"
    patch.setattr(privacy, "_COUPONS", text(keep.replace(":at", "CAST(:at AS timestamptz)")))


@pytest.mark.deep
@pytest.mark.parametrize(
    "fault",
    [
        _limit_is_forgotten,
        _stock_is_forgotten,
        _pause_is_forgotten,
        _expiry_writes_no_line,
        _coupons_outlive_their_owner,
        _coupons_keep_the_name,
    ],
)
def test_a_fault_is_found(house: House, monkeypatch: pytest.MonkeyPatch, fault: Any) -> None:
    fault(monkeypatch)
    # The model, the audit, or where both come too late a constraint.
    with pytest.raises((AssertionError, IntegrityError, Flaky)):
        for _ in range(5):  # the first is nearly always enough
            run_state_machine_as_test(machine_of(house), settings=FAULTS)
