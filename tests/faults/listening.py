"""A viewer with a good client, who remembers all that was told."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, WebSocketException

from kernel.identity import Principal
from live import wire

if TYPE_CHECKING:
    from house import House


@dataclass(eq=False)
class Listener:
    """Resumes where they were, and asks again for what was not answered."""

    house: "House"
    who: Principal
    place: int
    told: list[str] = field(default_factory=list)
    """Announcements, in the order heard."""
    coupons: set[UUID] = field(default_factory=set)
    yes: set[UUID] = field(default_factory=set)
    """Coupons that an answer to a claim named."""
    refusals: list[str] = field(default_factory=list)
    welcomes: list[bool] = field(default_factory=list)
    """Whether each gave all that was missed."""
    first: str = ""
    """The announcement that stood when they first came."""
    position: wire.Position | None = None
    claims: dict[str, UUID] = field(default_factory=dict)
    """Those without an answer, by command."""
    task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """The gateway of this visit."""
        return self.house.sockets[self.place % len(self.house.sockets)]

    async def watch(self) -> None:
        while True:
            with suppress(OSError, InvalidHandshake, WebSocketException, TimeoutError):
                await self._visit()  # until the gateway goes away, or sends them away
            self.place += 1
            await asyncio.sleep(0.2)

    async def _visit(self) -> None:
        async with connect(
            f"{self.url}/v1/rooms/{self.house.world.room}/live",
            open_timeout=5, close_timeout=0.2, ping_interval=3, ping_timeout=4, compression=None, max_queue=None,
        ) as gateway:  # fmt: skip
            hello = wire.Hello(self.house.world.kernel.keyring.issue(self.who), self.position)
            await gateway.send(wire.encoder.encode(hello).decode())
            asking = asyncio.ensure_future(self._ask(gateway))
            try:
                async for data in gateway:
                    self._take(wire.server_frames.decode(data))
            finally:
                asking.cancel()

    async def _ask(self, gateway: ClientConnection) -> None:
        while True:  # an answer that got lost is asked for again, by the same id
            for id, drop in list(self.claims.items()):
                await gateway.send(wire.encoder.encode(wire.Claim(id, drop)).decode())
            await asyncio.sleep(1)

    def _take(self, frame: Any) -> None:
        match frame:
            case wire.Welcome():
                if not self.welcomes:
                    self.first = frame.announcement
                self.welcomes.append(frame.recovered)
                self.coupons |= {coupon.id for coupon in frame.coupons}
                if not frame.recovered:
                    if self.position is not None and frame.announcement != (self.told or [self.first])[-1]:
                        self.told.append(frame.announcement)
                    self.position = frame.log
            case wire.Batch():
                self._move(frame.seq)
                for event in map(wire.room_events.decode, frame.e):
                    if isinstance(event, wire.Announced):
                        self.told.append(event.text)
                    elif isinstance(event, wire.DropOpened) and event.drop.mode == "claim":
                        self.claims[f"c{event.drop.id}"[:32]] = event.drop.id
            case wire.CouponGranted():
                self._move(frame.seq)
                self.coupons.add(frame.coupon.id)
            case wire.Ack():
                self._answered(frame)

    def _move(self, seq: int | None) -> None:
        if seq is not None:
            assert self.position is not None
            assert seq > self.position.seq, "the log went back"
            self.position = wire.Position(self.position.epoch, seq)

    def _answered(self, ack: wire.Ack) -> None:
        if ack.coupon is not None:
            self.yes.add(ack.coupon.id)
        elif ack.error is not None:
            self.refusals.append(ack.error.code)
            if ack.error.code in ("unavailable", "busy"):
                return  # for now only: asked again
        self.claims.pop(ack.id, None)
