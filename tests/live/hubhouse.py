"""A hub on a bus in memory with one room, and viewers whose transports write down, for the tests of hubs."""

import asyncio
from collections.abc import Coroutine
from time import sleep
from typing import Any
from uuid import UUID
from zlib import decompressobj

from viewers import announced, principal, slots

from kernel.errors import Refusal
from kernel.identity import Principal, Role
from kernel.ids import new_id
from live import wire
from live.connection import QUIET, Connection
from live.errands import Errands
from live.framing import Readers
from live.hub import Hub
from live.memory_bus import MemoryBus
from live.metrics import Tally
from live.replica import Facts, Room
from live.session import Session
from live.wheel import Wheel
from live.wire import Close

BROWSER = "permessage-deflate; client_max_window_bits"
"""What a browser offers as Sec-WebSocket-Extensions."""


class Paper(asyncio.Transport):
    """A transport that writes down what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.unsent = 0
        self.aborted = False
        self.takes = 0.0

    def write(self, data: Any) -> None:
        sleep(self.takes)
        self.written.append(bytes(data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


class Doorman:
    """As much of a gateway as a connection needs."""

    origins = None

    def __init__(self, tally: Tally) -> None:
        self.wheel = Wheel()
        self.readers = Readers(QUIET)
        self.tally = tally
        self.who: Principal | None = None
        self.closes: list[Close] = []

    def opened(self, connection: Connection) -> bool:
        return True

    def closed(self, connection: Connection) -> None:
        pass

    def page(self, path: str) -> None:
        return None

    def session(self) -> Session:
        assert self.who is not None
        who = self.who
        return Session(lambda _token, _now: who)

    def carry(self, connection: Connection, effect: object) -> None:
        pass

    def left(self, connection: Connection) -> None:
        if connection.room is not None:
            connection.room.remove(connection)

    def ended(self, code: Close) -> None:
        self.closes.append(code)


class Viewer:
    """Somebody in a room."""

    def __init__(
        self, who: Principal, room: Room, doorman: Doorman, resume: wire.Position | None = None, offer: str = ""
    ) -> None:
        self.paper = Paper()
        self.connection = Connection(doorman)
        self.connection.connection_made(self.paper)
        doorman.who = who
        self.connection.data_received(request(room.id, offer))
        assert self.connection.session is not None
        self.answer = self.paper.written.pop()
        self.connection.session.receive(b'{"t":"hello","token":"x"}', 0)
        self.recovered = room.admit(self.connection, resume)

    @property
    def frames(self) -> list[Any]:
        return [wire.server_frames.decode(payload(data)) for data in self.paper.written]

    @property
    def events(self) -> list[Any]:
        return [wire.room_events.decode(e) for frame in self.frames if isinstance(frame, wire.Batch) for e in frame.e]


def request(room: UUID, offer: str = "") -> bytes:
    """What a browser asks; ``offer`` is its Sec-WebSocket-Extensions."""
    lines = [f"GET /v1/rooms/{room}/live HTTP/1.1", "Host: localhost", "Connection: Upgrade", "Upgrade: websocket",
             "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg=="]  # fmt: skip
    if offer:
        lines.append(f"Sec-WebSocket-Extensions: {offer}")
    return "\r\n".join([*lines, "", ""]).encode()


def payload(data: bytes) -> bytes:
    """What one prepared frame carries."""
    assert data[0] in (0x81, 0xC1)
    length = data[1]
    assert not length & 0x80, "a server's frame must not be masked"
    carried = data[2:] if length < 126 else data[4:] if length == 126 else data[10:]
    return carried if data[0] == 0x81 else decompressobj(wbits=-15).decompress(carried + b"\x00\x00\xff\xff")


class House:
    """A hub on a bus in memory, with one room."""

    def __init__(self, log_length: int = 10_000) -> None:
        self.bus = MemoryBus(log_length=log_length)
        self.tally = Tally()
        self.errands = Errands(1000, 1000)
        self.doorman = Doorman(self.tally)
        self.room_id = new_id()
        self.loads = 0
        self.hub = Hub(
            self.bus,
            self._facts,
            self._settled,
            lambda _, text: text.strip(),
            self.tally,
            self._spawn,
            log_length=log_length,
            failed=self._failed,
        )

    def _failed(self, error: BaseException) -> None:
        raise error

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        assert self.errands.start(work)

    async def _facts(self, room: UUID) -> Facts:
        self.loads += 1
        if room != self.room_id:
            raise Refusal("not_found")
        card = wire.RoomCard(room, "新品", "live", wire.Person(new_id(), "阿May", "guide"))
        return Facts("acme", 30, {"room": wire.encoder.encode(card), "pin": b"", "announcement": b'""'})

    async def _settled(self, room: UUID) -> None:
        """In memory whatever is committed was told."""

    async def open(self) -> Room:
        return await self.hub.open(self.room_id)

    async def enter(self, role: Role = Role.VIEWER, resume: wire.Position | None = None, offer: str = "") -> Viewer:
        return Viewer(principal(role=role), await self.open(), self.doorman, resume, offer)

    async def announce(self, text: str) -> None:
        await self.bus.publish(self.room_id, text, event=announced(text), slots=slots(text))


class listening:
    """The house hears its bus as long as the ``async with``."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def __aenter__(self) -> None:
        self._running = asyncio.ensure_future(self._house.bus.run(self._house.hub))
        await asyncio.sleep(0)

    async def __aexit__(self, *_: object) -> None:
        await self._house.errands.finish(60)
        self._running.cancel()
        await asyncio.wait({self._running})
