"""The receiver reads what a server sends, however the network cuts it, and refuses what no server may send."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from loadtest.bench import frames

PAYLOADS = st.lists(st.one_of(st.binary(max_size=130), st.integers(65_530, 65_540).map(bytes)), max_size=5)


def read(pieces: list[bytes]) -> list[bytes]:
    """The payloads in ``pieces``, read one after the other as the receiver does: what is not whole is kept."""
    held, found = b"", []
    for piece in pieces:
        buffer = bytearray(held + piece)
        whole, rest = frames.split(buffer, len(buffer))
        found += [bytes(buffer[start:stop]) for _, start, stop in whole]
        held = bytes(buffer[rest:])
    assert held == b""
    return found


@given(payloads=PAYLOADS, data=st.data())
def test_frames_are_found_wherever_the_network_cuts(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(Frame(Opcode.TEXT, payload).serialize(mask=False) for payload in payloads)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert read(pieces) == payloads


def test_what_lies_behind_the_end_is_of_an_earlier_read() -> None:
    buffer = bytearray(b"\x81\x03abc\x81\x03xyz")
    assert frames.split(buffer, 5) == ([(frames.TEXT, 2, 5)], 5)
    assert frames.split(buffer, 9) == ([(frames.TEXT, 2, 5)], 5)


@pytest.mark.parametrize("head", [b"\x81\x83", b"\xc1\x03", b"\x01\x03"], ids=["masked", "compressed", "fragmented"])
def test_what_no_server_may_send_is_not_counted_but_told(head: bytes) -> None:
    with pytest.raises(frames.BadBytes):
        frames.split(bytearray(head + b"abc\0\0\0\0"), 5)


@given(payload=st.binary(max_size=70_000))
def test_a_viewers_frame_is_what_a_server_reads(payload: bytes) -> None:
    stream = iter([frames.masked(payload)])
    left = bytearray(next(stream))

    def exactly(n: int):  # type: ignore[no-untyped-def]
        yield from ()
        taken = bytes(left[:n])
        del left[:n]
        return taken

    parsing = Frame.parse(exactly, mask=True)
    with pytest.raises(StopIteration) as done:
        next(parsing)
    assert done.value.value.data == payload
    assert not left


def test_an_answer_to_the_handshake_is_read_once_it_is_whole_and_must_be_the_right_one() -> None:
    answer = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: " + frames.ACCEPT + b"\r\n\r\n"
    buffer = bytearray(answer + b"\x81\x00")
    assert frames.upgraded(buffer, len(answer) - 1) == 0
    assert frames.upgraded(buffer, len(buffer)) == len(answer)
    with pytest.raises(frames.BadBytes, match="403"):
        frames.upgraded(bytearray(b"HTTP/1.1 403 Forbidden\r\n\r\n"), 26)
