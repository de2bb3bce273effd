"""One socket: bytes in, bytes out. ``websockets`` speaks the protocol (Sans-I/O), asyncio moves the bytes.

No task and no timer for a viewer: reading is a callback, writing is a system call, and one ``Wheel`` for the process
sends pings, ends sockets that went silent, and closes those whose token ended. What the handshake needed is dropped
after it, and the state machine that reads frames is borrowed for as long as a message is unfinished: a viewer who only
watches keeps neither.
"""

import asyncio
import logging
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from time import time
from typing import TYPE_CHECKING, Protocol, cast
from uuid import UUID

from websockets.datastructures import Headers
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import OPEN
from websockets.typing import Origin

from live import wire
from live.framing import Handshake, Prepared, Reader, Readers, prepared_frame, whole_frames
from live.metrics import Tally
from live.session import Effect, End, Send, Session, Wait
from live.wheel import Wheel
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

_PATH = re.compile(r"/v1/rooms/([0-9a-fA-F-]{36})/live")
_END_OF_HEAD = b"\r\n\r\n"
QUIET = logging.Logger("websockets", logging.WARNING)
# Its INFO would be a line for every socket.
_PING = Frame(Opcode.PING, b"").serialize(mask=False)


class Desk(Protocol):
    """Who carries out what a connection cannot do itself: the gateway."""

    wheel: Wheel
    readers: Readers
    tally: Tally
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
        """Carry out an effect other than ``Send``, ``Wait`` and ``End``."""

    def left(self, connection: "Connection") -> None:
        """The viewer is no longer served, though the socket may linger."""

    def ended(self, code: Close) -> None:
        """A connection was closed with ``code``; for the counters."""


class _Lent(socket.socket):
    """A second handle of a transport's socket, for direct sends. Whatever becomes of it, closing is the transport's."""

    __slots__ = ()

    def __del__(self) -> None:
        # A loop that is closed with open transports never says ``connection_lost``. The number may be another's by now.
        self.detach()


class Connection(asyncio.Protocol):
    """A viewer's socket, from handshake to its end."""

    __slots__ = ("_desk", "_fragments", "_held", "_rest", "_send", "_socket", "_waits", "_wire", "closing", "deflates",
                 "heard", "room", "room_id", "session", "slot", "slow", "transport")  # fmt: skip

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._wire: Handshake | Reader | None = Handshake(desk.origins, QUIET)
        """What shakes hands, then what reads frames; None between two messages."""
        self._rest = b""
        """The beginning of a frame whose end did not come yet; during the handshake the last bytes of what came."""
        self._fragments: list[bytes] | None = None
        self._held: list[Frame] | None = None
        self._socket: _Lent | None = None
        self._send: Callable[[bytes], int] | None = None
        self._waits = False
        """``push`` left something to the transport, which may not be done with it."""
        self.transport: asyncio.Transport
        self.session: Session | None = None
        self.room: Room | None = None
        self.room_id: UUID | None = None
        self.deflates = False
        """The client reads compressed frames."""
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
        own = self.transport.get_extra_info("socket")
        if own is not None and self.transport.get_extra_info("sslcontext") is None:
            self._socket = _Lent(own.family, own.type, own.proto, fileno=own.fileno())
            self._socket.setblocking(False)
            self._send = self._socket.send
        self._desk.wheel.put(self, HELLO_SECONDS)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - how it broke changes nothing
        """See ``asyncio.Protocol``."""
        self.closing = True
        if self._socket is not None:
            self._socket.detach()
        self._desk.wheel.take(self)
        self._desk.left(self)
        self._desk.closed(self)

    def pause_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self.slow = True

    def resume_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self.slow = False
        if self.room is not None and self in self.room.late and not self.closing:
            self.room.catch_up(self)

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        self.heard = self._desk.wheel.now
        if self.session is None:
            data = self._shake_hands(data)
        if data:
            self._read(data)

    def _shake_hands(self, data: bytes) -> bytes:
        """Read the request; returns what an eager client sent along behind it, once that is answered: a welcome must
        not overtake the answer, and a broken frame must not end a connection that is not open yet."""
        shaking = self._wire
        assert isinstance(shaking, Handshake)
        seen = self._rest + data
        end = seen.find(_END_OF_HEAD)
        head = len(data) if end < 0 else end + len(_END_OF_HEAD) - len(self._rest)
        self._rest = seen[-3:] if end < 0 else b""
        shaking.receive_data(data[:head])
        for event in shaking.events_received():
            if isinstance(event, Request):
                self._request(shaking, event)
        self._flush(shaking)
        if self.session is None:
            return b""  # not a room, or not a request
        # It keeps the request and its headers, which nobody needs any more and which are half of what a viewer costs.
        self._wire = None
        return data[head:]

    def _read(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        whole, hopeless = whole_frames(data)
        if hopeless:
            whole = len(data)  # for the reader to refuse, now or with what it still needs for that
        self._rest = data[whole:]
        if not whole:
            return
        # A message in fragments is unfinished until its last one; so is a connection that is being closed.
        unfinished = self._wire is not None
        reader = self._reader()
        reader.receive_data(data[:whole])
        for event in reader.events_received():
            assert isinstance(event, Frame)
            if event.opcode is Opcode.TEXT or event.opcode is Opcode.CONT or event.opcode is Opcode.BINARY:
                unfinished = not event.fin
            self._frame(event)
        self._flush(reader)
        if not unfinished and not hopeless and reader.state is OPEN:
            self._wire = None
            self._desk.readers.give_back(reader, deflates=self.deflates)

    def _reader(self) -> Reader:
        if self._wire is None:
            self._wire = self._desk.readers.lend(deflates=self.deflates)
        assert isinstance(self._wire, Reader)
        return self._wire

    def eof_received(self) -> None:
        """See ``asyncio.Protocol``; returning nothing lets the transport close itself."""
        reading = self._wire if self.session is None else self._reader()
        assert reading is not None
        reading.receive_eof()
        self._flush(reading)

    # ---- what is served --------------------------------------------------------------------------------------------

    def _request(self, shaking: Handshake, request: Request) -> None:
        path = request.path.partition("?")[0]
        room = _PATH.fullmatch(path)
        if room is None:
            found = self._desk.page(path)
            status, kind, body = found or (404, "text/plain", b"not found\n")
            headers = Headers([("Connection", "close"), ("Content-Type", kind), ("Content-Length", str(len(body)))])
            shaking.send_response(Response(status, HTTPStatus(status).phrase, headers, body))
            return
        response = shaking.accept(request)
        shaking.send_response(response)
        if response.status_code == 101:
            self.deflates = bool(shaking.extensions)
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
                (self if effect.to is None else effect.to).send(effect.frame)
            elif isinstance(effect, Wait):
                effect.hearers.add(self)
            elif isinstance(effect, End):
                self._end(effect)
            else:
                self._desk.carry(self, effect)

    def send(self, frame: wire.Frame) -> None:
        """``frame`` to this viewer alone."""
        self.write(prepared_frame(frame))

    def write(self, message: Prepared) -> None:
        """A message that must not be left out, to this viewer alone."""
        if self.closing:
            return
        if self.slow and self.overdue():
            return
        tally = self._desk.tally
        if self.deflates:
            data = message.deflated
            tally.saved += len(message.plain) - len(data)
        else:
            data = message.plain
        tally.written += len(data)
        self.push(data)

    def push(self, data: bytes) -> None:
        """``data`` to the socket, at once if nothing waits before it; what the kernel does not take now waits.

        A transport collects writes until the loop's turn ends. They cost the same there, but after the turn of the room
        that made them, which could not be measured and kept short.
        """
        transport = self.transport
        # Nobody else writes to the transport: only after it was left something does its buffer need a look. A closed
        # transport's descriptor may be another socket's by now.
        if (
            self._send is not None
            and not (self._waits and transport.get_write_buffer_size())
            and not transport.is_closing()
        ):
            try:
                sent = self._send(data)
            except OSError:
                sent = 0  # full, or broken: the transport will meet the same and deal with it
            self._waits = sent < len(data)
            if not self._waits:
                return
            data = data[sent:]
        transport.write(data)

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
        if self.session is not None and (reader := self._reader()).state is OPEN:
            self.push(prepared_frame(wire.Bye(end.code, end.reason, end.retry_after)).plain)
            reader.send_close(end.code, end.reason)
            self._flush(reader)
        self._desk.wheel.put(self, CLOSING_SECONDS)

    def _flush(self, speaking: Handshake | Reader) -> None:
        for data in speaking.data_to_send():
            if data:
                self.push(data)
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
            self._desk.wheel.put(self, self._next_visit(self.session, time()))

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
            self.push(_PING)
        return self._next_visit(session, now)

    def _next_visit(self, session: Session, now: float) -> int:
        return max(1, min(PING_SECONDS, int(session.next_look(now)) + 1))


def buffers(connections: Iterable[Connection]) -> tuple[int, int, int]:
    """How many of ``connections`` are slow, the bytes that wait for all of them, and the most for one."""
    slow = [one.transport.get_write_buffer_size() for one in connections if one.slow]
    return len(slow), sum(slow), max(slow, default=0)
