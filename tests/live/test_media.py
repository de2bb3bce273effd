"""Signed stream addresses: the CDN's own examples, and everything that is not quite one of ours."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from live import media
from live.media import Standing, StreamKey

KEY = "e12c46f2612d5106e2034781ab261ca3"
AT = datetime(2026, 6, 18, 12, tzinfo=UTC)
ROOM = UUID("019c2f6e-1a2b-7c3d-8e4f-5a6b7c8d9e0f")
NAME = media.stream_name(ROOM, uuid4())


def test_the_signature_is_the_one_of_the_vendors_documentation() -> None:
    expires_at = datetime.fromtimestamp(0x5C271099, UTC)
    key = media.sign(KEY, "test", expires_at)
    assert str(key) == "txSecret=f85a2ab363fe4deaffef9754d79da6fe&txTime=5C271099"
    assert key.expires_at == expires_at
    address = media.address("rtmp://livepush.example.com/live/", "test", key)
    assert address == "rtmp://livepush.example.com/live/test?txSecret=f85a2ab363fe4deaffef9754d79da6fe&txTime=5C271099"


def test_a_key_is_good_until_it_expires() -> None:
    key = media.sign(KEY, NAME, AT)
    assert media.standing(KEY, NAME, key, AT - timedelta(seconds=1)) is Standing.GOOD
    assert media.standing(KEY, NAME, key, AT) is Standing.EXPIRED


@pytest.mark.parametrize(
    ("signing", "name", "changed"),
    [
        ("another key", NAME, lambda key: key),
        (KEY, "another name", lambda key: key),
        (KEY, NAME, lambda key: StreamKey(key.secret, f"{int(key.time, 16) + 1:X}")),
        (KEY, NAME, lambda key: StreamKey(key.secret[:-1], key.time)),
        (KEY, NAME, lambda key: StreamKey("", key.time)),
        (KEY, NAME, lambda key: StreamKey("密", key.time)),
    ],
    ids=["key", "name", "time", "cut", "empty", "not ascii"],
)
def test_anything_changed_is_forged(signing, name, changed) -> None:  # type: ignore[no-untyped-def]
    key = changed(media.sign(signing, name, AT))
    assert media.standing(KEY, NAME, key, AT - timedelta(hours=1)) is Standing.FORGED


@pytest.mark.parametrize("time", ["", "-1", "0x6A", "6A 3B", "FFFFFFFFFFF", "FFFFFFFFFF", "100000000", "６A", "zz"])
def test_a_time_that_is_none_is_forged_even_when_it_is_signed(time: str) -> None:
    assert media.standing(KEY, NAME, StreamKey(media._signature(KEY, NAME, time), time), AT) is Standing.FORGED


@given(st.text(max_size=40), st.text(max_size=12))
def test_no_offer_makes_it_stumble(secret: str, time: str) -> None:
    assert media.standing(KEY, NAME, StreamKey(secret, time), AT) is Standing.FORGED


def test_either_case_is_accepted_as_cdns_do() -> None:
    time = f"{int(AT.timestamp()):x}"
    key = StreamKey(media._signature(KEY, NAME, time).upper(), time)
    assert media.standing(KEY, NAME, key, AT - timedelta(seconds=1)) is Standing.GOOD


def test_a_name_tells_its_room_and_not_its_nonce() -> None:
    nonce = uuid4()
    name = media.stream_name(ROOM, nonce)
    assert media.room_of(name) == ROOM
    assert nonce.hex not in name
    assert media.stream_name(ROOM, uuid4()) != name
    for other in ("", "test", ROOM.hex, f"{ROOM.hex}-", f"{name}0", f"{name}\n", name.upper(), f"../{name}"):
        assert media.room_of(other) is None, other


def test_a_key_said_twice_is_none() -> None:
    key = media.sign(KEY, NAME, AT)
    assert media.offered(f"?{key}") == media.offered(f"vhost=a&{key}&x=") == key
    for query in ("", "?", "txSecret=a", f"{key}&txTime=1", f"txSecret=a&{key}", f"{key}{'&a' * 40}"):
        assert media.offered(query) is None, query


def test_playback_has_an_address_for_each_way_the_server_has() -> None:
    bases: dict[media.Way, str] = {"hls": "https://play/live", "flv": "https://play/live", "rtmp": "rtmp://play/live"}
    assert media.playback(bases, "s", None) == {
        "hls": "https://play/live/s.m3u8",
        "flv": "https://play/live/s.flv",
        "rtmp": "rtmp://play/live/s",
    }
    key = media.sign(KEY, "s", AT)
    assert media.playback({"hls": "http://h"}, "s", key) == {"hls": f"http://h/s.m3u8?{key}"}
