import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.errors import Refusal
from kernel.identity import Keyring, Principal, Role, expiry
from kernel.ids import BrandId
from kernel.settings import Settings

NOW = datetime(2026, 6, 18, 12, tzinfo=UTC)
OLD, NEW = "o" * 40, "n" * 40
RING = Keyring({"old": OLD, "new": NEW})
SUBJECT = UUID(int=7)
WHO = Principal(BrandId("acme"), SUBJECT, Role.GUIDE, "阿May", NOW + timedelta(hours=1))
CLAIMS = {
    "sub": str(SUBJECT),
    "brand": "acme",
    "role": "guide",
    "name": "阿May",
    "tier": 0,
    "exp": int(NOW.timestamp()) + 3600,
}


def refusal_of(token: str, ring: Keyring = RING, now: datetime = NOW) -> str:
    with pytest.raises(Refusal) as refused:
        ring.verify(token, now)
    return refused.value.code


def signed(claims: dict[str, Any], *, key: str = NEW, kid: Any = "new", algorithm: str = "HS256") -> str:
    return jwt.encode(claims, key, algorithm=algorithm, headers={} if kid is None else {"kid": kid})


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@given(
    st.builds(
        Principal,
        brand=st.text(min_size=1).map(BrandId),
        subject=st.uuids(),
        role=st.sampled_from(Role),
        name=st.text(),
        expires_at=st.datetimes(datetime(2026, 7, 1), datetime(2100, 1, 1)).map(
            lambda t: t.replace(microsecond=0, tzinfo=UTC)
        ),
        store=st.none() | st.uuids(),
        tier=st.integers(0, 3),
    )
)
def test_a_token_says_who_it_was_issued_to(who: Principal) -> None:
    assert RING.verify(RING.issue(who), NOW) == who


def test_a_token_is_good_until_its_very_end() -> None:
    token = RING.issue(WHO)
    assert RING.verify(token, WHO.expires_at - timedelta(microseconds=1)) == WHO
    assert refusal_of(token, now=WHO.expires_at) == "token_expired"
    assert expiry(NOW.replace(microsecond=9), Settings(token_ttl_seconds=60)) == NOW + timedelta(seconds=60)


def test_keys_rotate_the_newest_signs_and_all_listed_verify() -> None:
    token = Keyring({"old": OLD}).issue(WHO)
    assert RING.verify(token, NOW) == WHO
    assert jwt.get_unverified_header(RING.issue(WHO))["kid"] == "new"
    assert refusal_of(token, Keyring({"new": NEW})) == "token_invalid"


def test_without_a_key_there_is_no_keyring_not_even_for_development() -> None:
    with pytest.raises(ValueError, match="NEARCAST_TOKEN_KEYS"):
        Keyring.from_settings(Settings(token_keys={}, dev_login=True))


FORGERIES = {
    "no algorithm": f"{part({'alg': 'none', 'kid': 'new'})}.{part(CLAIMS)}.",
    "no algorithm, capital": f"{part({'alg': 'NONE', 'kid': 'new'})}.{part(CLAIMS)}.",
    "another algorithm": signed(CLAIMS, key="n" * 64, algorithm="HS512"),
    "another key": signed(CLAIMS, key="x" * 40),
    "the other kid's key": signed(CLAIMS, key=OLD, kid="new"),
    "an unknown kid": signed(CLAIMS, kid="stolen"),
    "no kid": signed(CLAIMS, kid=None),
    "a kid that is a list": f"{part({'alg': 'HS256', 'kid': ['new']})}.{part(CLAIMS)}.x",
    "another's claims": ".".join(
        [*signed(CLAIMS).split(".")[:1], part(CLAIMS | {"role": "ops"}), signed(CLAIMS).split(".")[2]]
    ),
    "nothing": "",
    "noise": "a.b.c",
    "bytes": "\x00\ud800",
    "a header that is a list": f"{part([])}.{part(CLAIMS)}.x",
}


@pytest.mark.parametrize("token", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_token_is_invalid(token: str) -> None:
    assert refusal_of(token) == "token_invalid"


@pytest.mark.parametrize(
    "change",
    [
        {"sub": None}, {"sub": "nobody"}, {"sub": 7}, {"brand": None}, {"role": "king"}, {"role": None}, {"name": None},
        {"exp": None}, {"exp": "soon"}, {"exp": 1e300}, {"exp": -1e300}, {"tier": "high"},
        {"store": "here"}, {"store": None},
    ],
    ids=repr,
)  # fmt: skip
def test_a_signed_token_with_odd_claims_is_invalid_too(change: dict[str, Any]) -> None:
    claims = {name: value for name, value in (CLAIMS | change).items() if value is not None or name == "store"}
    assert refusal_of(signed(claims)) == "token_invalid"


@given(st.text())
def test_any_text_is_refused_not_crashed_on(text: str) -> None:
    assert refusal_of(text) == "token_invalid"


@given(st.integers(0, 200), st.characters(codec="ascii"))
def test_a_token_with_one_character_changed_is_not_accepted_as_somebody_else(place: int, character: str) -> None:
    token = RING.issue(WHO)
    changed = token[:place] + character + token[place + 1 :]
    try:
        assert RING.verify(changed, NOW) == WHO  # base64 may spell the same bits in two ways
    except Refusal as refused:
        assert refused.code == "token_invalid"


def test_whoever_was_erased_may_only_repeat_that() -> None:
    ring = Keyring({"new": NEW})
    token = ring.issue(WHO)
    ring.refuse(SUBJECT)
    assert ring.refuses(SUBJECT)
    assert refusal_of(token, ring) == "account_erased"
    assert ring.verify(token, NOW, even_erased=True) == WHO
    assert refusal_of(token, ring, NOW + timedelta(hours=2)) == "token_expired"
