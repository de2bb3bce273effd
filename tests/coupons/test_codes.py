"""Codes that people type and QR payloads that machines read."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import SecretStr

from coupons import codes
from coupons.codes import ALPHABET, CHECK_ALPHABET, Signer
from kernel.errors import Refusal
from kernel.ids import new_id
from kernel.settings import Settings

code = st.text(ALPHABET, min_size=16, max_size=16)
NOW = 1_800_000_000.0
SIGNER = Signer(b"\x01" * 32)


def test_new_codes_differ_and_are_well_formed() -> None:
    made = {codes.new_code() for _ in range(10_000)}
    assert len(made) == 10_000
    assert all(len(one) == 16 and set(one) <= set(ALPHABET) for one in made)


@given(code)
def test_what_is_displayed_can_be_typed(stored: str) -> None:
    assert codes.parse(codes.display(stored)) == stored


@given(code)
def test_typing_is_forgiven_case_hyphens_and_lookalikes(stored: str) -> None:
    shown = codes.display(stored).lower().replace("-", " ").replace("0", "o").replace("1", "l")
    assert codes.parse(f"  {shown} ") == stored
    assert codes.parse(codes.display(stored).replace("-", "").replace("1", "i")) == stored


@given(code, st.integers(0, 16), st.sampled_from(CHECK_ALPHABET))
def test_every_single_wrong_symbol_is_found(stored: str, place: int, wrong: str) -> None:
    symbols = list(codes.display(stored).replace("-", ""))
    assume(symbols[place] != wrong)
    symbols[place] = wrong
    with pytest.raises(Refusal, match="code_mistyped"):
        codes.parse("".join(symbols))


@given(code, st.integers(0, 15))
def test_every_swap_of_neighbours_is_found(stored: str, place: int) -> None:
    symbols = list(codes.display(stored).replace("-", ""))
    assume(symbols[place] != symbols[place + 1])
    symbols[place], symbols[place + 1] = symbols[place + 1], symbols[place]
    with pytest.raises(Refusal, match="code_mistyped"):
        codes.parse("".join(symbols))


@given(st.text(max_size=40))
def test_anything_else_is_refused_without_a_crash(typed: str) -> None:
    try:
        parsed = codes.parse(typed)
    except Refusal as refusal:
        assert refusal.code == "code_mistyped"
    else:
        assert len(parsed) == 16 and set(parsed) <= set(ALPHABET)


def test_a_coupons_qr_code_says_its_code() -> None:
    stored = codes.new_code()
    payload = SIGNER.show_coupon(stored, NOW)
    assert payload.startswith("NC1.")
    shown = SIGNER.read_coupon(payload)
    assert shown.code == stored
    shown.require_fresh(NOW)


def test_a_members_qr_code_says_who_it_is() -> None:
    member = new_id()
    payload = SIGNER.show_member(member, NOW)
    assert payload.startswith("NM1.")
    assert SIGNER.read_member(payload).member == member


def test_one_kind_of_qr_code_is_not_taken_for_the_other() -> None:
    with pytest.raises(Refusal, match="code_mistyped"):
        SIGNER.read_coupon(SIGNER.show_member(new_id(), NOW))
    with pytest.raises(Refusal, match="code_mistyped"):
        SIGNER.read_member(SIGNER.show_coupon(codes.new_code(), NOW))


def test_the_payload_changes_every_half_minute() -> None:
    stored = codes.new_code()
    step = codes.step_at(NOW) * 30
    assert SIGNER.show_coupon(stored, step) == SIGNER.show_coupon(stored, step + 29.9)
    assert SIGNER.show_coupon(stored, step) != SIGNER.show_coupon(stored, step + 30)


@pytest.mark.parametrize(("age", "fresh"), [(-6, False), (-5, True), (0, True), (59, True), (64.9, True), (65, False)])
def test_a_screenshot_ages(age: float, fresh: bool) -> None:
    begin = codes.step_at(NOW) * 30
    shown = SIGNER.read_coupon(SIGNER.show_coupon(codes.new_code(), begin))
    if fresh:
        shown.require_fresh(begin + age)
    else:
        with pytest.raises(Refusal, match="qr_expired"):
            shown.require_fresh(begin + age)


@given(st.integers(0, 124), st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"))
def test_a_changed_payload_is_not_ours(place: int, symbol: str) -> None:
    payload = SIGNER.show_coupon("0" * 16, NOW)
    place += 4
    changed = payload[:place] + symbol + payload[place + 1 :]
    try:
        shown = SIGNER.read_coupon(changed)
    except Refusal as refusal:
        assert refusal.code == "code_mistyped"
    else:  # the last symbol has bits that mean nothing
        assert shown.code == "0" * 16 and (changed == payload or place == len(payload) - 1)


@given(st.text(max_size=200))
def test_any_text_as_payload_is_refused_without_a_crash(payload: str) -> None:
    for text in (payload, f"NC1.{payload}"):
        with pytest.raises(Refusal, match="code_mistyped"):
            SIGNER.read_coupon(text)


def test_the_public_key_alone_can_check() -> None:
    key = Ed25519PublicKey.from_public_bytes(SIGNER.public_key)
    payload = SIGNER.show_coupon("Z" * 16, NOW)
    assert codes.read(key, codes.COUPON_PREFIX, payload, codes.CODE_BYTES).code == "Z" * 16
    with pytest.raises(Refusal):
        Signer(b"\x02" * 32).read_coupon(payload)


def test_without_a_key_there_is_no_signer() -> None:
    with pytest.raises(ValueError, match="NEARCAST_COUPON_KEY"):
        Signer.from_settings(Settings(dev_login=True))
    seed = b"\x03" * 32
    configured = Settings(coupon_key=SecretStr(base64.b64encode(seed).decode()))
    assert Signer.from_settings(configured).public_key == Signer(seed).public_key


def test_codes_made_and_shown_in_bulk_are_those_of_one() -> None:
    many = codes.new_codes(300)
    assert len(set(many)) == 300
    assert codes.display_all(many) == [codes.display(code) for code in many]
    assert [codes.parse(shown) for shown in codes.display_all(many)] == many
