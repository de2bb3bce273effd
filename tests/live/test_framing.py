"""Messages prepared once for everybody, and readers of frames that sockets share. Compared with what ``websockets``,
written by others, makes of the same bytes."""

import logging
from os import urandom

import pytest
from websockets.exceptions import NegotiationError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, OPEN, Protocol

from live import wire
from live.framing import WORTH_COMPRESSING, Prepared, Readers, Shared, SharedDeflate, whole_frames

LONG = ("这件白色的还有货吗？" * 200).encode()
QUIET = logging.Logger("quiet", logging.CRITICAL)


def heard(*data: bytes, deflates: bool) -> list[bytes]:
    """What a client makes of ``data``."""
    client = Protocol(CLIENT, state=OPEN, max_size=None)
    if deflates:
        client.extensions = [PerMessageDeflate(True, True, 15, 15)]
    for piece in data:
        client.receive_data(piece)
    assert client.parser_exc is None
    return [bytes(frame.data) for frame in client.events_received() if isinstance(frame, Frame)]


def masked(payload: bytes, opcode: Opcode = Opcode.TEXT, *, fin: bool = True, deflate: bool = False) -> bytes:
    extensions = [PerMessageDeflate(True, True, 15, 15)] if deflate else None
    return Frame(opcode, payload, fin).serialize(mask=True, extensions=extensions)


# ---- messages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 125, 126, WORTH_COMPRESSING - 1, WORTH_COMPRESSING, 65_535, 65_536, 200_000])
def test_both_forms_of_a_message_say_the_same(size: int) -> None:
    payload = (LONG * (size // len(LONG) + 1))[:size]
    message = Prepared(payload)
    assert message.plain == Frame(Opcode.TEXT, payload).serialize(mask=False)
    assert heard(message.plain, deflates=False) == [payload]
    assert heard(message.deflated, message.plain, message.deflated, deflates=True) == [payload] * 3
    assert (len(message.deflated) < len(message.plain)) == (size >= WORTH_COMPRESSING)


def test_what_compression_would_lengthen_stays_plain() -> None:
    message = Prepared(urandom(5000))
    assert message.deflated is message.plain


def test_a_compressed_message_is_made_once() -> None:
    message = Prepared(LONG)
    assert message.deflated is message.deflated


@pytest.mark.parametrize("own", [b"", b"{", LONG[:300], LONG * 30], ids=["none", "brace", "some", "much"])
def test_what_many_messages_share_is_compressed_once_for_them(own: bytes) -> None:
    shared = Shared(LONG)
    message = Prepared(own, shared)
    assert heard(message.plain, deflates=False) == [own + LONG]
    assert heard(message.deflated, deflates=True) == [own + LONG]
    assert len(message.deflated) < len(message.plain)
    assert shared.blocks is shared.blocks


# ---- offers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ([], True),
        ([("client_max_window_bits", None)], True),  # browsers
        ([("server_no_context_takeover", None), ("client_no_context_takeover", None)], True),
        ([("server_max_window_bits", "15")], True),
        ([("server_max_window_bits", "12"), ("client_max_window_bits", None)], False),
        ([("server_max_window_bits", "8")], False),
        ([("server_max_window_bits", "16")], False),
        ([("client_max_window_bits", "x")], False),
        ([("brotli", None)], False),
        ([("server_no_context_takeover", "1")], False),
    ],
)
def test_offers_that_one_shared_form_suits_are_accepted(offer: list[tuple[str, str | None]], answer: bool) -> None:
    if not answer:
        with pytest.raises((NegotiationError, ValueError)):
            SharedDeflate().process_request_params(offer, [])  # type: ignore[arg-type]
        return
    told, extension = SharedDeflate().process_request_params(offer, [])  # type: ignore[arg-type]
    assert {name for name, _ in told} >= {"server_no_context_takeover", "client_no_context_takeover"}
    assert not hasattr(extension, "encoder"), "a compressor is kept for the connection"
    assert not hasattr(extension, "decoder"), "a decompressor is kept for the connection"


# ---- readers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"x" * size for size in (0, 125, 126, wire.MAX_CLIENT_FRAME)], ids=len)
def test_only_whole_frames_are_read(payload: bytes) -> None:
    first, second = masked(b"one"), masked(payload)
    for cut in range(len(second)):
        assert whole_frames(first + second[:cut]) == (len(first), False)
    assert whole_frames(first + second) == (len(first + second), False)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1",
        Frame(Opcode.TEXT, b"not masked").serialize(mask=False)[:5],
        b"\x83\x80",  # an opcode that does not exist
        masked(b"x" * (wire.MAX_CLIENT_FRAME + 1))[:20],
        masked(b"x" * 65_536)[:20],
    ],
    ids=["http", "unmasked", "opcode", "too long", "far too long"],  # masks are random, names of tests must not be
)
def test_what_can_be_no_frame_is_refused_before_its_end_comes(data: bytes) -> None:
    assert whole_frames(masked(b"one") + data) == (len(masked(b"one")), True)
    reader = Readers(QUIET).lend(deflates=True)
    reader.receive_data(data)
    assert reader.state is not OPEN
    assert b'"code":4501' in b"".join(reader.data_to_send())


@pytest.mark.parametrize("deflates", [False, True])
def test_a_reader_that_was_given_back_serves_the_next_socket(deflates: bool) -> None:
    readers = Readers(QUIET)
    first = readers.lend(deflates=deflates)
    for deflate in (False, deflates):
        stream = [PerMessageDeflate(True, True, 15, 15)] if deflate else None
        first.receive_data(Frame(Opcode.TEXT, LONG[:900], fin=False).serialize(mask=True, extensions=stream))
        first.receive_data(masked(b"ping", Opcode.PING))
        first.receive_data(Frame(Opcode.CONT, LONG[900:1200]).serialize(mask=True, extensions=stream))
        begin, _, rest = first.events_received()
        assert isinstance(begin, Frame)
        assert isinstance(rest, Frame)
        assert bytes(begin.data) + bytes(rest.data) == LONG[:1200]
        assert len(first.data_to_send()) == 1
    readers.give_back(first, deflates=deflates)
    assert readers.lend(deflates=not deflates) is not first
    again = readers.lend(deflates=deflates)
    assert again is first
    assert not any(hasattr(extension, "decoder") for extension in again.extensions)
    again.receive_data(masked(LONG[:600], deflate=deflates))
    (frame,) = again.events_received()
    assert isinstance(frame, Frame)
    assert bytes(frame.data) == LONG[:600]
    assert again.state is OPEN
    assert again.data_to_send() == []


def test_a_small_frame_that_inflates_to_much_is_refused() -> None:
    bomb = masked(b"\0" * 1_000_000, deflate=True)
    assert len(bomb) < wire.MAX_CLIENT_FRAME
    reader = Readers(QUIET).lend(deflates=True)
    reader.receive_data(bomb)
    assert reader.events_received() == []
    assert reader.state is not OPEN
