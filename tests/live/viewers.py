"""Real gateways and real clients for the tests of the room socket."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from app import relay
from kernel.clock import now
from kernel.errors import Refusal
from kernel.identity import Keyring, Principal, Role
from kernel.ids import BrandId, new_id
from kernel.process import Kernel
from live import wire
from live.bus import Bus, RedisBus
from live.gateway import Gateway, serving

PATIENCE = 90.0
UNHURRIED: dict[str, Any] = {"open_timeout": PATIENCE, "ping_interval": None, "close_timeout": 1}
"""How a client of ``websockets`` connects that must not give up on a busy machine."""


def principal(name: str = "小林", role: Role = Role.VIEWER, brand: str = "acme", seconds: float = 3600) -> Principal:
    return Principal(BrandId(brand), new_id(), role, name, now() + timedelta(seconds=seconds))


class Nearby:
    """A locator that remembers what it was told."""

    def __init__(self) -> None:
        self.fixes: list[tuple[UUID, wire.Locate]] = []
        self.forgotten: list[tuple[UUID, list[UUID]]] = []

    async def locate(self, who: Principal, room: UUID, fix: wire.Locate) -> int:
        if fix.accuracy is None:
            raise Refusal("location_uncertain")
        self.fixes.append((who.subject, fix))
        return 3

    async def forget(self, room: UUID, viewers: list[UUID], before: datetime) -> None:
        self.forgotten.append((room, viewers))


class Coupons:
    """An issuer with one coupon for everybody."""

    def __init__(self) -> None:
        self.shown: list[tuple[UUID, list[UUID]]] = []
        self.claims: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def claim(self, who: Principal, room: UUID, command: wire.Claim) -> wire.CouponCard:
        await self.gate.wait()
        self.claims.append(command.id)
        return coupon("claimed")

    async def open_drop(self, who: Principal, room: UUID, command: wire.Drop) -> UUID:
        return command.campaign

    async def seen(self, viewer: UUID, coupons: list[UUID]) -> None:
        self.shown.append((viewer, coupons))


def coupon(title: str) -> wire.CouponCard:
    return wire.CouponCard(new_id(), title, "满30减10", "ABCD", "S1", "静安寺店", 2_000_000_000_000)


@asynccontextmanager
async def gateway(
    kernel: Kernel, bus: Bus | None = None, locator: Any = None, issuer: Any = None, checker: Any = None
) -> AsyncIterator[Gateway]:
    bus = bus or RedisBus(kernel.redis, log_length=kernel.settings.room_log_length)
    async with serving(
        kernel, bus, locator or Nearby(), issuer or Coupons(), host="127.0.0.1", port=0, checker=checker
    ) as (running, _):
        await until(lambda: running.ready)
        yield running


async def until(condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Return once ``condition`` holds; fails the test after ``seconds``."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


class Client:
    """A viewer's client: keeps what it heard, and its position in the log."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.frames: list[Any] = []
        self.events: list[Any] = []
        self.seq = 0
        self.epoch = ""

    async def send(self, frame: wire.Frame) -> None:
        await self.socket.send(wire.encoder.encode(frame).decode())

    async def next(self) -> Any:
        """The next frame, decoded; what a batch holds is in ``events``."""
        async with asyncio.timeout(PATIENCE):
            data = await self.socket.recv()
        assert isinstance(data, str)
        frame = wire.server_frames.decode(data)
        self.frames.append(frame)
        if isinstance(frame, wire.Welcome):
            self.epoch, self.seq = frame.log.epoch, frame.log.seq if not frame.recovered else self.seq
        elif isinstance(frame, wire.Batch):
            self.events += [wire.room_events.decode(event) for event in frame.e]
            self.seq = frame.seq or self.seq
        elif isinstance(frame, wire.CouponGranted):
            self.seq = frame.seq or self.seq
        return frame

    async def frame(self, kind: type[Any]) -> Any:
        """The next frame of this type; others are kept aside."""
        async with asyncio.timeout(PATIENCE):
            while not isinstance(frame := await self.next(), kind):
                continue
        return frame

    async def event(self, kind: type[Any], condition: Callable[[Any], bool] = lambda _: True) -> Any:
        """The first event of this type, heard already or to come, that meets ``condition``."""
        looked = 0
        async with asyncio.timeout(PATIENCE):  # for all of it: counts that keep coming must not hide what never comes
            while True:
                for event in self.events[looked:]:
                    if isinstance(event, kind) and condition(event):
                        return event
                looked = len(self.events)
                await self.next()

    async def ack(self, id: str) -> wire.Ack:
        async with asyncio.timeout(PATIENCE):
            while True:
                for frame in self.frames:
                    if isinstance(frame, wire.Ack) and frame.id == id:
                        self.frames.remove(frame)
                        return frame
                await self.next()

    def certain(self) -> list[Any]:
        """The numbered events heard so far."""
        return [event for event in self.events if event.kind is wire.Kind.CERTAIN]

    @property
    def position(self) -> wire.Position:
        return wire.Position(self.epoch, self.seq)


@asynccontextmanager
async def watching(
    url: str, keyring: Keyring, room: UUID, who: Principal | None = None, resume: wire.Position | None = None
) -> AsyncIterator[Client]:
    """A client that said hello and was welcomed; the welcome is its first frame."""
    # Without a bound it goes on reading, and answers pings, while the test waits for others.
    async with connect(f"{url}/v1/rooms/{room}/live", compression=None, max_queue=None, **UNHURRIED) as socket:
        client = Client(socket)
        if resume is not None:
            client.seq = resume.seq
        await client.send(wire.Hello(keyring.issue(who or principal()), resume))
        welcome = await client.next()
        assert isinstance(welcome, wire.Welcome), welcome
        yield client


async def last_words(socket: ClientConnection) -> tuple[wire.Bye | None, int | None]:
    """What a socket says before it closes: the bye, and the close code."""
    bye = None
    with suppress(ConnectionClosed):
        async with asyncio.timeout(PATIENCE):
            while True:
                frame = wire.server_frames.decode(await socket.recv())
                bye = frame if isinstance(frame, wire.Bye) else bye
    return bye, socket.close_code


def announced(text: str) -> bytes:
    return wire.encoder.encode(wire.Announced(text, 1))


def slots(text: str) -> dict[str, bytes]:
    return {"announcement": msgspec.json.encode(text)}


@asynccontextmanager
async def telling(kernel: Kernel) -> AsyncIterator[None]:
    """The worker's relay, woken by every commit."""
    bus = RedisBus(kernel.redis)
    running = asyncio.ensure_future(relay.run(kernel.settings, kernel.sessions, bus))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait({running})


async def turned_away(url: str, kernel: Kernel, room: UUID, who: Principal) -> int | None:
    async with connect(f"{url}/v1/rooms/{room}/live", close_timeout=1) as socket:
        await Client(socket).send(wire.Hello(kernel.keyring.issue(who)))
        bye, code = await last_words(socket)
        assert bye is not None
        assert bye.code == code
        return code


async def closed(client: Client) -> int | None:
    bye, code = await last_words(client.socket)
    assert bye is not None
    assert bye.code == code
    return code
