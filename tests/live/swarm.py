"""Many light viewers in one event loop: raw bytes on real sockets, no task and no library for each.

They do what a good client does: resume where they were, on the other gateway when one sends them away, not before
``retry_after`` has passed; and they keep what they were told, in order.
"""

import asyncio
import json
import os
import random
import resource
from collections.abc import Sequence
from time import monotonic
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from live import wire
from live.wire import Close

_HANDSHAKE = (
    "GET /v1/rooms/{room}/live HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


def allow_sockets(number: int) -> None:
    """Let this process have so many more descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, number + 1000)
    assert hard == resource.RLIM_INFINITY or wanted <= hard, f"ulimit -Hn is {hard}, {wanted} are needed"
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def masked(opcode: int, payload: bytes) -> bytes:
    """One frame of a client."""
    key = os.urandom(4)
    size = len(payload)
    head = bytes([0x80 | opcode, 0x80 | size]) if size < 126 else bytes([0x80 | opcode, 0xFE]) + size.to_bytes(2, "big")
    stream = (key * (size // 4 + 1))[:size]
    return head + key + (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(size, "big")


class Swarm:
    """Viewers of one room, or of several, spread over ``urls``."""

    def __init__(self, urls: Sequence[str], room: UUID) -> None:
        self.addresses = [(str(part.hostname), int(part.port or 0)) for part in map(urlsplit, urls)]
        self.room = room
        self.viewers: list[Viewer] = []
        self.closing = False
        self.lag = 0.0
        """The longest time, in seconds, for which this loop did not come round."""
        self._decoded: dict[bytes, Any] = {}
        self._watching = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        while True:
            at = monotonic()
            await asyncio.sleep(0.05)
            self.lag = max(self.lag, monotonic() - at - 0.05)

    def join(
        self, token: str, place: int = 0, resume: wire.Position | None = None, room: UUID | None = None
    ) -> "Viewer":
        """A new viewer, first at the gateway with this number; with ``resume``, one who was there before; in
        the swarm's room unless another ``room`` is given."""
        viewer = Viewer(self, token, place, resume or wire.Position("", 0), room or self.room)
        self.viewers.append(viewer)
        viewer.connect()
        return viewer

    def close(self) -> None:
        """Everybody hangs up."""
        self.closing = True
        self._watching.cancel()
        for viewer in self.viewers:
            if viewer.transport is not None:
                viewer.transport.abort()

    def decode(self, payload: bytes) -> Any:
        """The frame in ``payload``, decoded once for all who get these bytes."""
        if payload not in self._decoded:
            self._decoded[payload] = json.loads(payload)
        return self._decoded[payload]

    def gone_wrong(self) -> list[BaseException]:
        return [viewer.error for viewer in self.viewers if viewer.error is not None]


class Viewer(asyncio.Protocol):
    """One viewer over all their connections."""

    def __init__(self, swarm: Swarm, token: str, place: int, position: wire.Position, room: UUID) -> None:
        self.swarm = swarm
        self.room = room
        self.place = place
        self.told: list[str] = []
        """The texts of the announcements they were told, also by a snapshot after a resume that failed."""
        self.welcomes: list[tuple[float, int, bool]] = []
        """When, at which gateway, and whether with all that was missed."""
        self.sent_away: list[tuple[float, float]] = []
        """When a gateway said that it goes, and after how many seconds to come back."""
        self.attempts: list[float] = []
        """When they tried to come in."""
        self.lost = 0
        """Connections that ended without a word."""
        self.error: BaseException | None = None
        self.transport: asyncio.Transport | None = None
        self._token = token
        self._epoch, self._seq = position.epoch, position.seq
        self._buffer = bytearray()
        self._open = False
        self._retry_after: float | None = None

    def connect(self) -> None:
        if not self.swarm.closing:
            self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        self.attempts.append(monotonic())
        try:
            await loop.create_connection(lambda: self, *self.swarm.addresses[self.place])
        except OSError:
            self._elsewhere(random.uniform(0.2, 1.0))

    def _elsewhere(self, seconds: float) -> None:
        self.place = (self.place + 1) % len(self.swarm.addresses)
        asyncio.get_running_loop().call_later(seconds, self.connect)

    # ---- asyncio.Protocol ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._buffer.clear()
        self._open = False
        self._retry_after = None
        host, port = self.swarm.addresses[self.place]
        resume = wire.Position(self._epoch, self._seq) if self._epoch else None
        hello = wire.encoder.encode(wire.Hello(self._token, resume))
        transport.write(_HANDSHAKE.format(room=self.room, host=f"{host}:{port}").encode() + masked(TEXT, hello))

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self.swarm.closing:
            return
        if self._retry_after is None:
            self.lost += 1
        self._elsewhere(random.uniform(0.2, 1.0) if self._retry_after is None else self._retry_after)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            if not self._open:
                head, end, rest = bytes(self._buffer).partition(b"\r\n\r\n")
                if not end:
                    return
                assert head.startswith(b"HTTP/1.1 101"), head
                self._open, self._buffer = True, bytearray(rest)
            while self._next():
                pass
        except Exception as error:
            self.error = self.error or error
            raise

    def _next(self) -> bool:
        buffer = self._buffer
        if len(buffer) < 2:
            return False
        assert buffer[0] & 0xF0 == 0x80, "whole frames, without extensions"
        size, at = buffer[1], 2
        if size >= 126:
            at = 4 if size == 126 else 10
            if len(buffer) < at:
                return False
            size = int.from_bytes(buffer[2:at], "big")
        if len(buffer) < at + size:
            return False
        opcode, payload = buffer[0] & 0x0F, bytes(buffer[at : at + size])
        del buffer[: at + size]
        assert self.transport is not None
        if opcode == PING:
            self.transport.write(masked(PONG, payload))
        elif opcode == CLOSE:
            self.transport.write(masked(CLOSE, payload[:2]))
            self.transport.close()
        elif opcode == TEXT:
            self._frame(self.swarm.decode(payload) if b'"welcome"' not in payload[:20] else json.loads(payload))
        return True

    # ---- the protocol of rooms -------------------------------------------------------------------------------------

    def _frame(self, frame: dict[str, Any]) -> None:
        match frame["t"]:
            case "welcome":
                recovered = frame.get("recovered", False)
                self.welcomes.append((monotonic(), self.place, recovered))
                if not recovered:
                    if self._epoch:
                        self.told.append(frame.get("announcement", ""))
                    self._epoch, self._seq = frame["log"]["epoch"], frame["log"]["seq"]
            case "batch":
                self.told += [event["text"] for event in frame["e"] if event["t"] == "announce"]
                self._seq = frame.get("seq") or self._seq
            case "bye":
                if frame["code"] == Close.DRAINING:
                    self.sent_away.append((monotonic(), frame["retry_after"]))
                self._retry_after = frame.get("retry_after")
