"""Thousands of viewers in one process: an epoll loop over raw sockets, one buffer, no object per frame.

It must never be what is measured. It reads with ``recv_into``, looks at two to ten bytes of each frame, and hands the
payload's place in the buffer to the viewer's crowd. ``busy`` tells which part of the time it was on the CPU.

Where delays are measured it asks the kernel when a frame came to the viewer's socket (``SO_TIMESTAMPNS``). Ten thousand
phones read their frames at once; one process that stands for all of them reads them one after the other.
"""

import select
import socket
import struct
import time
from collections.abc import Callable, Iterable
from typing import Any

from loadtest.bench import frames
from loadtest.bench.machine import CannotMeasure

BUFFER = 4 << 20
"""Bytes read at most at once: more than any frame that a room of the benches can send."""
AT_ONCE = 512
"""Sockets served between two looks at the clock."""
PER_ADDRESS = 20_000
"""Viewers for each source address: the system has some 28,000 ports for one."""
_BIND_ADDRESS_NO_PORT = 24
_LINGER_ZERO = struct.pack("ii", 1, 0)
SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("qq")
_NOTES = socket.CMSG_SPACE(_TIMESPEC.size)


class Viewer:
    """One socket, and how far it has come."""

    __slots__ = (
        "alive", "came", "crowd", "held", "joined", "missing", "open", "receive", "seq", "sock", "token", "told",
    )  # fmt: skip

    def __init__(self, crowd: "Crowd", sock: socket.socket, token: str) -> None:
        self.crowd = crowd
        self.sock = sock
        self.receive: Callable[[Any], int] = sock.recv_into
        self.came = 0.0
        """When the last of what was read came to the socket, in seconds since 1970; 0 where the kernel does not say."""
        self.token = token
        self.held = b""
        """The beginning of what has not come whole."""
        self.open = self.joined = False
        self.alive = True
        self.seq = 0
        self.missing = 0
        """Certain events that never came."""
        self.told = 0
        """Certain events that came since the welcome."""

    def ask_when(self) -> None:
        """Know when it ``came``; the first moments may pass before the kernel begins to note it."""
        self.sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.receive = self._receive_and_ask

    def _receive_and_ask(self, into: Any) -> int:
        size, notes, _, _ = self.sock.recvmsg_into((into,), _NOTES)
        seconds, nanoseconds = _TIMESPEC.unpack(notes[0][2]) if notes else (0, 0)
        self.came = seconds + nanoseconds * 1e-9
        return size

    def send(self, payload: bytes, opcode: int = frames.TEXT) -> None:
        """One frame; a viewer's frames are so few that they always fit the socket's buffer."""
        self.sock.send(frames.masked(payload, opcode))


class Crowd:
    """The viewers of one server. This one counts frames; subclasses know the server's words."""

    def __init__(self, name: str, port: int, path: str = "/") -> None:
        self.name = name
        self.address = ("127.0.0.1", port)
        self.path = path
        self.viewers: list[Viewer] = []
        self.joined = 0
        self.lost = 0
        """Sockets that the server closed or broke."""
        self.frames = 0
        self.bytes = 0

    def admit(self, sock: socket.socket, token: str) -> Viewer:
        """The viewer of a socket that was just connected."""
        viewer = Viewer(self, sock, token)
        self.viewers.append(viewer)
        return viewer

    def broke(self, viewer: Viewer, error: frames.BadBytes) -> None:  # noqa: ARG002
        """The server of ``viewer`` sent what no server may send; here that ends the bench."""
        raise error

    def opened(self, viewer: Viewer) -> None:
        """The handshake is done."""
        self.enter(viewer)

    def enter(self, viewer: Viewer) -> None:
        """``viewer`` is in."""
        viewer.joined = True
        self.joined += 1

    def hear(self, viewer: Viewer, buffer: bytearray, start: int, stop: int, now: float) -> None:  # noqa: ARG002
        """A text frame's payload is ``buffer[start:stop]``; it came ``now``, in seconds since 1970."""
        self.frames += 1
        self.bytes += stop - start

    def gone(self, viewer: Viewer) -> None:
        """The server ended ``viewer``'s socket."""
        self.lost += 1
        self.joined -= viewer.joined
        viewer.joined = False


class Receiver:
    """All viewers of a bench; a context manager that leaves no socket open. ``delays``: they are measured, so the
    kernel is asked when frames came, which takes as long again as reading a small one."""

    def __init__(self, *, delays: bool = False) -> None:
        self._delays = delays
        self._epoll = select.epoll()
        self._viewers: dict[int, Viewer] = {}
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._connected = 0
        self._wall = time.perf_counter()
        self._cpu = time.process_time()
        self._full_since: float | None = None
        self._behind = 0.0

    def __enter__(self) -> "Receiver":
        return self

    def __exit__(self, *_: object) -> None:
        self.leave(list(self._viewers.values()))
        self._epoll.close()

    # ---- coming and going ------------------------------------------------------------------------------------------

    def connect(self, crowd: Crowd, tokens: Iterable[str], at_once: int = 64, seconds: float = 180.0) -> None:
        """Bring one viewer in for each token, ``at_once`` at a time. Raises CannotMeasure if they are not let in."""
        waiting = iter(tokens)
        target, ends = crowd.joined, time.monotonic() + seconds
        request = frames.upgrade(f"{crowd.address[0]}:{crowd.address[1]}", crowd.path)
        lost, more = crowd.lost, True
        while more or crowd.joined < target:
            while more and target - crowd.joined < at_once:
                token = next(waiting, None)
                if token is None:
                    more = False
                    break
                self._open(crowd, token, request)
                target += 1
            self.turn(0.05)
            if crowd.lost > lost:
                raise CannotMeasure(f"{crowd.name} turned viewers away")
            if time.monotonic() > ends:
                raise CannotMeasure(f"{crowd.name} let in {crowd.joined} viewers of {target} in {seconds:.0f} s")

    def _open(self, crowd: Crowd, token: str, request: bytes) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        sock.bind((f"127.0.0.{2 + self._connected // PER_ADDRESS % 200}", 0))
        self._connected += 1
        sock.settimeout(10)
        try:
            sock.connect(crowd.address)
        except OSError:
            sock.close()
            raise
        self.adopt(crowd, sock, token, request)

    def adopt(self, crowd: Crowd, sock: socket.socket, token: str, request: bytes) -> Viewer:
        """Take over a connected socket, and send ``request``, the handshake."""
        sock.setblocking(False)
        sock.send(request)
        viewer = crowd.admit(sock, token)
        if self._delays:
            viewer.ask_when()
        self._viewers[sock.fileno()] = viewer
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        return viewer

    def leave(self, viewers: Iterable[Viewer]) -> None:
        """Cut these sockets off, as a network does: no goodbye, and no port that lingers."""
        for viewer in viewers:
            if not viewer.alive:
                continue
            self._forget(viewer)
            viewer.crowd.joined -= viewer.joined
            viewer.joined = False

    def _forget(self, viewer: Viewer) -> None:
        viewer.alive = False
        fd = viewer.sock.fileno()
        del self._viewers[fd]
        self._epoll.unregister(fd)
        viewer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        viewer.sock.close()

    # ---- listening -------------------------------------------------------------------------------------------------

    def until(self, done: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
        """Listen until ``done()``. Raises CannotMeasure if that takes longer than ``seconds``."""
        ends = time.monotonic() + seconds
        while not done():
            if time.monotonic() > ends:
                raise CannotMeasure(f"{what}: not within {seconds:.0f} s")
            self.turn(0.05)

    def listen(self, seconds: float) -> None:
        """Listen for so long."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            self.turn(min(left, 0.05))

    def turn(self, timeout: float) -> None:
        """Read what has come, waiting ``timeout`` seconds for the first of it."""
        buffer, view, viewers, now = self._buffer, self._view, self._viewers, time.time
        ready = self._epoll.poll(timeout, AT_ONCE)
        self._look_behind(len(ready) == AT_ONCE)
        for fd, _ in ready:
            viewer = viewers[fd]
            kept = len(viewer.held)
            try:
                if kept:
                    buffer[:kept] = viewer.held
                    end = kept + viewer.receive(view[kept:])
                else:
                    end = viewer.receive(buffer)
            except BlockingIOError:
                continue
            except OSError:
                end = kept
            if end == kept:
                self._forget(viewer)
                viewer.crowd.gone(viewer)
                continue
            if buffer[0] == 0x81 and buffer[1] == 126 and end == 4 + (buffer[2] << 8 | buffer[3]):
                # By far the commonest: exactly one text frame of middling size.
                viewer.held = b""
                viewer.crowd.hear(viewer, buffer, 4, end, viewer.came or now())
                continue
            try:
                if not viewer.open:
                    end = self._answered(viewer, end)
                rest = self._read(viewer, end) if viewer.open else 0
            except frames.BadBytes as error:
                self._forget(viewer)
                viewer.crowd.broke(viewer, error)
                continue
            viewer.held = bytes(view[rest:end]) if rest < end else b""

    def _answered(self, viewer: Viewer, end: int) -> int:
        """Take the answer to the handshake from the buffer, once it is whole; returns the new end."""
        skip = frames.upgraded(self._buffer, end)
        if not skip:
            return end
        viewer.open = True
        self._buffer[: end - skip] = self._buffer[skip:end]
        viewer.crowd.opened(viewer)
        return end - skip

    def _read(self, viewer: Viewer, end: int) -> int:
        """Understand ``buffer[:end]``; returns where the rest begins."""
        buffer, crowd = self._buffer, viewer.crowd
        found, rest = frames.split(buffer, end)
        now = viewer.came or time.time()
        for opcode, start, stop in found:
            if opcode == frames.TEXT:
                crowd.hear(viewer, buffer, start, stop, now)
            elif opcode == frames.PING:
                viewer.send(bytes(buffer[start:stop]), frames.PONG)
            elif opcode == frames.CLOSE:
                viewer.send(bytes(buffer[start:stop]), frames.CLOSE)  # the server then ends the connection
        return rest

    # ---- is it the bottleneck? -------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Begin to watch how busy this process is, and how far behind."""
        self._behind, self._full_since = 0.0, None
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def busy(self) -> float:
        """The part of the time since ``watch`` that this process was on its core, 0 to 1."""
        return (time.process_time() - self._cpu) / max(1e-9, time.perf_counter() - self._wall)

    def behind(self) -> float:
        """The longest time, in seconds since ``watch``, in which more sockets waited than one turn serves: what came
        meanwhile may have waited for this process that long (which is no part of a delay that the kernel tells). In the
        mean it may be idle all the same."""
        return self._behind

    def _look_behind(self, full: bool) -> None:
        if not full:
            self._full_since = None
            return
        now = time.perf_counter()
        self._full_since = self._full_since or now
        self._behind = max(self._behind, now - self._full_since)

    def used(self) -> float:
        """CPU seconds of this process since ``watch``."""
        return time.process_time() - self._cpu
