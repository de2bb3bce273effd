"""One socket: bytes in, bytes out. ``websockets`` speaks the protocol (Sans-I/O), asyncio moves the bytes.

No task and no timer for a viewer: reading is a callback, writing is ``transport.write``, and one ``Wheel`` for the
process sends pings, ends sockets that went silent, and closes those whose token ended.
"""

import asyncio
import logging
import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from time import monotonic, time
from typing import TYPE_CHECKING, Protocol, cast
from uuid import UUID

from websockets.datastructures import Headers
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import Origin

from live import wire
from live.session import Effect, End, Send, Session
from live.wire import Close

if TYPE_CHECKING:
    from live.replica import Room

SOFT_LIMIT = 64 * 1024
"""Unsent bytes of one viewer past which they get no lossy events."""
HARD_LIMIT = 256 * 1024
"""Unsent bytes past which the viewer is closed, to come back and resume."""
HELLO_SECONDS = 10
PING_SECONDS = 20
SILENT_SECONDS = 60
CLOSING_SECONDS = 5
"""How long a client may take to answer a close before the socket is cut."""
WHEEL_SLOTS = 64

_PATH = re.compile(r"/v1/rooms/([0-9a-fA-F-]{36})/live")
_QUIET = logging.Logger("websockets", logging.WARNING)
# Its INFO would be a line for every socket.


def prepared(payload: bytes) -> bytes:
    """``payload`` as one WebSocket text frame. A server's frames are not masked, so the same bytes suit everybody.

    A second form, compressed once for all who negotiated that, would be made here and chosen in ``Audience``.
    """
    return Frame(Opcode.TEXT, payload).serialize(mask=False)


def prepared_frame(frame: wire.Frame) -> bytes:
    """``frame`` encoded, as one WebSocket text frame."""
    return prepared(wire.encoder.encode(frame))


_PING = Frame(Opcode.PING, b"").serialize(mask=False)
_GARBAGE = wire.Bye(Close.BAD_FRAME, "this is not a frame of the protocol")


class Desk(Protocol):
    """Who carries out what a connection cannot do itself: the gateway."""

    wheel: "Wheel"
    origins: Sequence[Origin | None] | None

    def opened(self, connection: "Connection") -> bool:
        """A new socket; False refuses it."""

    def closed(self, connection: "Connection") -> None:
        """The socket is gone."""

    def page(self, path: str) -> tuple[int, str, bytes] | None:
        """Status, content type and body of a plain GET; None if there is no such page."""

    def session(self) -> Session:
        """A session for a new viewer."""

    def carry(self, connection: "Connection", effect: Effect) -> None:
        """Carry out an effect other than ``Send`` and ``End``."""

    def left(self, connection: "Connection") -> None:
        """The viewer is no longer served, though the socket may linger."""

    def ended(self, code: Close) -> None:
        """A connection was closed with ``code``; for the counters."""


class _Wire(ServerProtocol):
    """``websockets``' state machine with our close code for whatever breaks the protocol."""

    def fail(self, code: int, reason: str = "") -> None:
        """Fail the connection; a violation by the client ends in ``bye`` and 4501, as for any unreadable frame."""
        if code in (1002, 1007, 1009) and self.state is OPEN:
            self.writes.append(prepared_frame(_GARBAGE))
            code, reason = Close.BAD_FRAME, _GARBAGE.reason
        super().fail(code, reason)


class Connection(asyncio.Protocol):
    """A viewer's socket, from handshake to its end."""

    __slots__ = ("_desk", "_fragments", "_held", "_wire", "closing", "heard", "room", "room_id", "session", "slot",
                 "slow", "transport")  # fmt: skip

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._wire = _Wire(origins=desk.origins, max_size=wire.MAX_CLIENT_FRAME, logger=_QUIET)
        self._fragments: list[bytes] | None = None
        self._held: list[Frame] | None = None
        self.transport: asyncio.Transport
        self.session: Session | None = None
        self.room: Room | None = None
        self.room_id: UUID | None = None
        self.slow = False
        """More than ``SOFT_LIMIT`` bytes wait for this viewer."""
        self.closing = False
        self.heard = desk.wheel.now
        self.slot = -1

    # ---- asyncio.Protocol ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        self.transport = cast(asyncio.Transport, transport)
        if not self._desk.opened(self):
            self.transport.abort()
            return
        self.transport.set_write_buffer_limits(high=SOFT_LIMIT, low=SOFT_LIMIT // 4)
        self._desk.wheel.put(self, HELLO_SECONDS)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - how it broke changes nothing
        """See ``asyncio.Protocol``."""
        self.closing = True
        self._desk.wheel.take(self)
        self._desk.left(self)
        self._desk.closed(self)

    def pause_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self.slow = True

    def resume_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self.slow = False

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        self.heard = self._desk.wheel.now
        if self.session is None:
            # What an eager client sends along with its handshake is read once that is answered: a welcome must not
            # overtake the answer, and a broken frame must not end a connection that is not open yet.
            head, end, data = data.partition(b"\r\n\r\n")
            self._read(head + end)
        if data:
            self._read(data)

    def _read(self, data: bytes) -> None:
        self._wire.receive_data(data)
        for event in self._wire.events_received():
            if isinstance(event, Frame):
                self._frame(event)
            elif isinstance(event, Request):
                self._request(event)
        self._flush()

    def eof_received(self) -> None:
        """See ``asyncio.Protocol``; returning nothing lets the transport close itself."""
        self._wire.receive_eof()
        self._flush()

    # ---- what is served --------------------------------------------------------------------------------------------

    def _request(self, request: Request) -> None:
        path = request.path.partition("?")[0]
        room = _PATH.fullmatch(path)
        if room is None:
            found = self._desk.page(path)
            status, kind, body = found or (404, "text/plain", b"not found\n")
            headers = Headers([("Connection", "close"), ("Content-Type", kind), ("Content-Length", str(len(body)))])
            self._wire.send_response(Response(status, HTTPStatus(status).phrase, headers, body))
            return
        response = self._wire.accept(request)
        self._wire.send_response(response)
        if response.status_code == 101:
            try:
                self.room_id = UUID(room[1])
            except ValueError:
                self.room_id = None  # not an id: no such room, said after hello like for any other unknown room
            self.session = self._desk.session()

    def _frame(self, frame: Frame) -> None:
        session = self.session
        if session is None:
            return
        if session.waiting:
            # At most what one read brought along: reading is paused until the viewer is in.
            self._held = [*(self._held or ()), frame]
            return
        now = time()
        if frame.opcode is Opcode.CLOSE:
            self.closing = True
            self._desk.left(self)
        elif frame.opcode is Opcode.TEXT or frame.opcode is Opcode.CONT:
            data = self._assembled(frame)
            if data is not None:
                self.apply(session.receive(data, now))
        elif frame.opcode is Opcode.BINARY:
            self.apply(session.end(Close.BAD_FRAME, "frames are text"))
        else:
            self.apply(session.control(now))
        if session.waiting:
            self.transport.pause_reading()

    def _assembled(self, frame: Frame) -> bytes | None:
        """The whole message once its last fragment is here; its size is bounded by the protocol object."""
        if frame.fin and self._fragments is None:
            return bytes(frame.data)
        self._fragments = [*(self._fragments or ()), bytes(frame.data)]
        if not frame.fin:
            return None
        data, self._fragments = b"".join(self._fragments), None
        return data

    def admitted(self) -> None:
        """The viewer was let in (or refused): go on with what they sent meanwhile."""
        held, self._held = self._held, None
        for frame in held or ():
            self._frame(frame)
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def apply(self, effects: Iterable[Effect]) -> None:
        """Carry out ``effects`` in order."""
        for effect in effects:
            if isinstance(effect, Send):
                self.send(effect.frame)
            elif isinstance(effect, End):
                self._end(effect)
            else:
                self._desk.carry(self, effect)

    def send(self, frame: wire.Frame) -> None:
        """``frame`` to this viewer alone."""
        self.write(prepared_frame(frame))

    def write(self, data: bytes) -> None:
        """A prepared frame that must not be left out, to this viewer alone."""
        if self.closing:
            return
        if self.slow and self.overdue():
            return
        self.transport.write(data)

    def overdue(self) -> bool:
        """Whether too much waits for this viewer; if so, they are closed with a reconnect code."""
        if self.transport.get_write_buffer_size() < HARD_LIMIT:
            return False
        if self.session is not None:
            self.apply(self.session.end(Close.SLOW, "too slow to keep up; resume", 1.0))
        return True

    def _end(self, end: End) -> None:
        if self.closing:
            return
        self.closing = True
        self._desk.left(self)
        self._desk.ended(end.code)
        if self._wire.state is OPEN:
            bye = wire.Bye(end.code, end.reason, end.retry_after)
            self._wire.send_text(wire.encoder.encode(bye))
            self._wire.send_close(end.code, end.reason)
        self._flush()
        self._desk.wheel.put(self, CLOSING_SECONDS)

    def _flush(self) -> None:
        for data in self._wire.data_to_send():
            if data:
                self.transport.write(data)
            elif not self.transport.is_closing():
                # Half-closed rather than closed: unread bytes of the client would turn a close into a reset,
                # and a reset may take the bye with it. The wheel cuts whoever does not close in turn.
                self.closing = True
                self._desk.left(self)
                self.transport.write_eof()
                self._desk.wheel.put(self, CLOSING_SECONDS)
                break  # an answer to a handshake whose end brought a broken frame along comes too late
        if self.slow and self.transport.get_write_buffer_size() > 2 * HARD_LIMIT:
            self.transport.abort()  # pings that are answered and never read; nothing more to be said

    def look_after(self) -> None:
        """The viewer is in: the wheel comes when their token or their silence asks for it, no later."""
        if self.session is not None and not self.closing:
            self._desk.wheel.put(self, self._rest(self.session, time()))

    def visit(self) -> int:
        """The wheel came by: look after this socket. Returns the seconds until the next visit, 0 for none."""
        session = self.session
        if self.closing or session is None:
            self.transport.abort()
            return 0
        now = time()
        if session.who is None:
            self.apply(session.silent())
            return 0
        self.apply(session.expired(now))
        if session.over:
            return 0
        quiet = self._desk.wheel.now - self.heard
        if quiet >= SILENT_SECONDS:
            self.apply(session.silent())
            return 0
        if quiet >= PING_SECONDS - 1:
            self.write(_PING)
        return self._rest(session, now)

    def _rest(self, session: Session, now: float) -> int:
        return max(1, min(PING_SECONDS, int(session.next_look(now)) + 1))


class Wheel:
    """Looks after every socket now and then: one timer for all of them."""

    def __init__(self) -> None:
        self.now = int(monotonic())
        """Seconds, as coarse as the wheel turns."""
        self._slots: list[set[Connection]] = [set() for _ in range(WHEEL_SLOTS)]

    def put(self, connection: Connection, seconds: int) -> None:
        """Visit ``connection`` in ``seconds`` (1 to 63), and not at the time planned before."""
        self.take(connection)
        connection.slot = (self.now + seconds) % WHEEL_SLOTS
        self._slots[connection.slot].add(connection)

    def take(self, connection: Connection) -> None:
        """Visit ``connection`` no more."""
        if connection.slot >= 0:
            self._slots[connection.slot].discard(connection)
            connection.slot = -1

    def turn(self, now: int) -> None:
        """Visit whoever is due by ``now``."""
        while self.now < now:
            self.now += 1
            slot = self.now % WHEEL_SLOTS
            due, self._slots[slot] = self._slots[slot], set()
            for connection in due:
                connection.slot = -1
                seconds = connection.visit()
                if seconds and connection.slot < 0 and not connection.closing:
                    self.put(connection, seconds)

    async def run(self) -> None:
        """Turn until cancelled."""
        while True:
            await asyncio.sleep(1 - monotonic() % 1)
            self.turn(int(monotonic()))
