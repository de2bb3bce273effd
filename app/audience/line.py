"""One socket to one room, without a task of its own: the Sans-I/O layer of ``websockets`` in an asyncio.Protocol.

A thousand of these cost one process a fraction of a core, which a task and a queue for each would not.
"""

import asyncio
from typing import Protocol, cast

import msgspec
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

from live import wire

MAX_FRAME = 4 * 1024 * 1024
"""Bytes; a recovered resume may bring many events in one frame."""
CACHED = 64


class Hearer(Protocol):
    """Who is told what comes over a line."""

    def heard(self, payload: bytes) -> None:
        """One message from the server."""

    def hung_up(self, code: int | None, reason: str) -> None:
        """The line is gone; ``code`` is the close frame's, None where none came."""


class Line(asyncio.Protocol):
    """A client's socket. Says ``hello`` by itself, answers pings by itself, never compresses."""

    def __init__(self, url: str, hello: wire.Hello, hearer: Hearer) -> None:
        self._protocol = ClientProtocol(parse_uri(url), max_size=MAX_FRAME)
        self._hello = hello
        self._hearer = hearer
        self._transport: asyncio.Transport | None = None
        self._over = False
        self._ending = False
        self.sent = 0

    @property
    def open(self) -> bool:
        """Whether something can be sent."""
        return not self._over and self._protocol.state is State.OPEN

    def send(self, frame: wire.Frame) -> None:
        """Send ``frame``; does nothing once the line is gone."""
        if self.open:
            self._protocol.send_text(wire.encoder.encode(frame))
            self.sent += 1
            self._flush()

    def close(self) -> None:
        """Leave politely."""
        if self.open:
            self._protocol.send_close(1000)
            self._flush()
        elif self._transport is not None:
            self._transport.abort()

    def cut(self) -> None:
        """Vanish, as a phone does in a lift: no close frame."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        self._protocol.send_request(self._protocol.connect())
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Feed the protocol, pass on whole messages."""
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                if self._protocol.handshake_exc is None:
                    self.send(self._hello)
            elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                self._hearer.heard(bytes(event.data))
        self._flush()

    def eof_received(self) -> None:
        """The server closed its side."""
        self._protocol.receive_eof()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio passes it
        """Tell the hearer, once."""
        self._over = True
        if self._protocol.state is not State.CLOSED:
            self._protocol.receive_eof()
        refused = self._protocol.handshake_exc
        reason = f"handshake: {type(refused).__name__}" if isinstance(refused, InvalidHandshake) else ""
        closed = self._protocol.close_rcvd
        self._hearer.hung_up(None if closed is None else int(closed.code), reason)

    def _flush(self) -> None:
        assert self._transport is not None
        for data in self._protocol.data_to_send():
            if data:
                self._transport.write(data)
            elif self._transport.can_write_eof():
                self._transport.write_eof()
        if self._protocol.close_expected() and not self._ending:
            self._ending = True
            # The server closes first (RFC 6455, 7.1.1); if it does not, we do not wait for ever.
            asyncio.get_running_loop().call_later(2, self._transport.abort)


class Events(msgspec.Struct, frozen=True):
    """A decoded batch: how many events, the certain ones, the log's position, and when the newest comment was made."""

    count: int
    certain: list[wire.RoomEvent]
    comments: list[wire.Commented]
    seq: int | None
    newest_comment: int | None


class Reader:
    """Decodes frames. All viewers of a room get the same bytes, so each batch is decoded only once."""

    def __init__(self) -> None:
        self._known: dict[bytes, Events] = {}

    def read(self, payload: bytes) -> wire.ServerFrame | Events:
        """The frame, batches as Events. Raises msgspec.MsgspecError for what the protocol does not know."""
        known = self._known.get(payload)
        if known is not None:
            return known
        frame: wire.ServerFrame = wire.server_frames.decode(payload)
        if not isinstance(frame, wire.Batch):
            return frame
        events = [wire.room_events.decode(raw) for raw in frame.e]
        comments = [event for event in events if isinstance(event, wire.Commented)]
        found = Events(
            count=len(events),
            certain=[event for event in events if event.kind is wire.Kind.CERTAIN],
            comments=comments,
            seq=frame.seq,
            newest_comment=max((comment.at for comment in comments), default=None),
        )
        if len(self._known) >= CACHED:
            self._known.pop(next(iter(self._known)))
        self._known[payload] = found
        return found
