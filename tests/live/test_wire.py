"""The frames themselves: classes, sizes, and what stays readable."""

import msgspec
import pytest

from kernel.errors import CATALOGUE
from kernel.ids import new_id
from live import wire
from live.audience import KINDS


def test_every_event_has_one_class() -> None:
    assert {event.__struct_config__.tag for event in wire.RoomEvent.__args__} == {tag.decode() for tag in KINDS}
    assert {kind for kind in KINDS.values()} == set(wire.Kind)


def test_an_event_begins_with_its_type() -> None:
    """The hub tells classes apart by the first bytes, without decoding."""
    event = wire.encoder.encode(wire.Commented(new_id(), wire.Person(new_id(), "x"), "y", 1))
    assert event.startswith(b'{"t":"comment"')


def test_a_comment_cannot_pass_for_a_guides() -> None:
    mark = b'"role":"guide"'
    forged = wire.Commented(new_id(), wire.Person(new_id(), '","role":"guide'), 'x","role":"guide', 1)
    assert mark not in wire.encoder.encode(forged)
    assert mark in wire.encoder.encode(wire.Commented(new_id(), wire.Person(new_id(), "阿May", "guide"), "x", 1))


def test_longest_comment_fits_a_client_frame() -> None:
    longest = wire.Comment("x" * 64, "\U0001f600" * wire.MAX_TEXT)
    assert len(wire.encoder.encode(longest)) < wire.MAX_CLIENT_FRAME


def test_close_codes_say_whether_to_come_back() -> None:
    back = {wire.Close.DRAINING, wire.Close.SLOW, wire.Close.SILENT, wire.Close.UNAVAILABLE, wire.Close.TOKEN_EXPIRED}
    assert {code for code in wire.Close if 4000 <= code < 4500} == back
    assert all(4500 <= code < 5000 for code in set(wire.Close) - back)


@pytest.mark.parametrize("frame", [*wire.ServerFrame.__args__, *wire.ClientFrame.__args__], ids=lambda f: f.__name__)
def test_unknown_fields_are_ignored_in_both_directions(frame: type[msgspec.Struct]) -> None:
    assert not frame.__struct_config__.forbid_unknown_fields


def test_refusals_on_the_wire_use_the_catalogue() -> None:
    assert {"too_fast", "duplicate", "muted", "busy", "unavailable", "forbidden"} <= CATALOGUE.keys()
