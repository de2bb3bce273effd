"""The little of RFC 6455 that a viewer needs, over one reused buffer; pure, so that it can be tested byte by byte."""

import base64
import hashlib

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
_FINAL = 0x80
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
KEY = base64.b64encode(b"nearcast benches")
ACCEPT = base64.b64encode(hashlib.sha1(KEY + _GUID, usedforsecurity=False).digest())


class BadBytes(Exception):
    """A server sent what no server may send to a client that offered no extension."""


def split(buffer: bytearray, end: int) -> tuple[list[tuple[int, int, int]], int]:
    """The whole frames in ``buffer[:end]``: opcode, start and stop of each payload; and where the rest begins.

    Raises BadBytes for what a server must not send: masked, compressed (never offered) or fragmented frames.
    """
    found = []
    at = 0
    while at + 2 <= end:
        head, size = buffer[at], buffer[at + 1]
        if not head & _FINAL or head & 0x70 or size & 0x80:
            raise BadBytes(f"frame begins {head:#04x} {size:#04x}")
        start = at + 2
        if size == 126:
            if at + 4 > end:
                break
            start, size = at + 4, buffer[at + 2] << 8 | buffer[at + 3]
        elif size == 127:
            if at + 10 > end:
                break
            start, size = at + 10, int.from_bytes(buffer[at + 2 : at + 10], "big")
        if start + size > end:
            break
        at = start + size
        found.append((head & 0x0F, start, at))
    return found, at


def masked(payload: bytes, opcode: int = TEXT) -> bytes:
    """``payload`` as a client's frame. The mask is zero, which is one of the allowed ones and costs nothing."""
    size = len(payload)
    if size < 126:
        head = bytes((_FINAL | opcode, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((_FINAL | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((_FINAL | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


def upgrade(host: str, path: str) -> bytes:
    """A client's handshake. It offers no compression: inflating would measure the receiver."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {KEY.decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def upgraded(buffer: bytearray, end: int) -> int:
    """Where the frames begin after the server's answer in ``buffer[:end]``; 0 if it is not whole yet.

    Raises BadBytes for any answer but the right 101.
    """
    stop = buffer.find(b"\r\n\r\n", 0, end)
    if stop < 0:
        return 0
    answer = bytes(buffer[:stop])
    if not answer.startswith(b"HTTP/1.1 101") or ACCEPT not in answer:
        raise BadBytes(answer.partition(b"\r\n")[0].decode(errors="replace"))
    return stop + 4
