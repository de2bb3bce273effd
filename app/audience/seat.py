"""A place in a room: the line, the position in the room's log, and coming back after the line was lost."""

import asyncio
from abc import ABC, abstractmethod
from functools import partial
from urllib.parse import urlsplit

import msgspec

from app.audience.line import Events, Line
from app.audience.rest import Account
from app.audience.stage import Scene, Stage
from live import wire

RECONNECT_BELOW = 4500
"""Close codes from here on say: do not come back."""
LEAVING = frozenset({1000, wire.Close.ROOM_ENDED})
"""Close codes that end a visit as planned."""
CONNECT_SECONDS = 10
TRIES = 12


class Seat(ABC):
    """What a viewer's and a guide's client have in common. Subclasses fill in the hooks below."""

    def __init__(self, stage: Stage, scene: Scene) -> None:
        self.stage = stage
        self.scene = scene
        self.account: Account | None = None
        self.line: Line | None = None
        self.socket = ""
        self.log: wire.Position | None = None
        self.in_room = False
        self.leaving = False
        self.welcomes = 0
        self._resuming = False
        self._left_from = ""
        self._expired = False
        self._losses = 0
        self._retry_after: float | None = None

    # ---- hooks -----------------------------------------------------------------------------------------------------

    @abstractmethod
    async def sign_in(self) -> Account:
        """A fresh token."""

    def welcomed(self, welcome: wire.Welcome) -> None:  # noqa: B027 - nothing to do is an answer
        """Let in, or back in."""

    def batch(self, events: Events) -> None:  # noqa: B027 - nothing to do is an answer
        """Events of the room."""

    def acked(self, ack: wire.Ack) -> None:  # noqa: B027 - nothing to do is an answer
        """An answer to a command."""

    def granted(self, coupon: wire.CouponCard) -> None:  # noqa: B027 - nothing to do is an answer
        """A coupon for this viewer."""

    # ---- the line --------------------------------------------------------------------------------------------------

    async def connect(self, other: bool = False) -> None:
        """Take the seat, with resume where there is something to resume; ``other`` prefers another gateway."""
        for attempt in range(TRIES):
            if self.stage.over or self.leaving:
                return
            if self.account is None or self._expired:
                self.account, self._expired = await self.sign_in(), False
            if attempt:
                await self._look_again()
            self.socket = self._choose(other or attempt > 0)
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await self._dial(self.account)
            except (OSError, TimeoutError):
                self.stage.tally.counts["connect_failures"] += 1
                await asyncio.sleep(self.stage.chance.uniform(0.2, 0.5) * (attempt + 1))
            else:
                return
        if not self.stage.over:
            self.stage.tally.problem("no gateway could be reached", self.socket)

    async def _return(self, other: bool) -> None:
        await self.stage.tried("coming back", self.connect(other))

    async def _dial(self, account: Account) -> None:
        self._resuming = self.log is not None
        line = Line(f"{self.socket}/v1/rooms/{self.scene.id}/live", wire.Hello(account.token, self.log), self)
        where = urlsplit(self.socket)
        assert where.hostname is not None
        port = where.port or (443 if where.scheme == "wss" else 80)
        tls = True if where.scheme == "wss" else None
        await asyncio.get_running_loop().create_connection(lambda: line, where.hostname, port, ssl=tls)
        self.line = line

    def _choose(self, other: bool) -> str:
        sockets = self.scene.sockets
        if other and len(sockets) > 1:
            sockets = [socket for socket in sockets if socket != self.socket]
        return self.stage.chance.choice(sockets)

    async def _look_again(self) -> None:
        """Gateways may have moved."""
        assert self.account is not None
        page = await self.stage.tried(
            "look up a room", self.stage.rest.call("GET", f"/v1/rooms/{self.scene.id}", self.account.token)
        )
        if page and page["sockets"]:
            self.scene.sockets = page["sockets"]

    def send(self, frame: wire.Frame) -> bool:
        """Send ``frame`` if in the room; says whether."""
        if not self.in_room or self.line is None or not self.line.open:
            return False
        self.line.send(frame)
        return True

    def leave(self) -> None:
        """Go for good."""
        self.leaving = True
        self.in_room = False
        if self.line is not None:
            self.line.close()

    def vanish(self) -> None:
        """Lose the line without a word; ``hung_up`` brings the viewer back."""
        if self.line is not None:
            self.line.cut()

    # ---- what is heard ---------------------------------------------------------------------------------------------

    def heard(self, payload: bytes) -> None:
        """Sort one message."""
        tally = self.stage.tally
        try:
            frame = self.stage.reader.read(payload)
        except msgspec.MsgspecError as error:
            tally.problem("a frame that the protocol does not know", error)
            return
        if isinstance(frame, Events):
            tally.counts["delivered"] += frame.count
            if frame.seq is not None:
                self._moved(frame.seq)
            self.batch(frame)
        elif isinstance(frame, wire.Ack):
            self.acked(frame)
        elif isinstance(frame, wire.CouponGranted):
            tally.counts["delivered"] += 1
            if frame.seq is not None:
                self._moved(frame.seq)
            self.granted(frame.coupon)
        elif isinstance(frame, wire.Welcome):
            self._enter(frame)
        elif isinstance(frame, wire.Bye):
            self._told_to_go(frame)

    def _enter(self, welcome: wire.Welcome) -> None:
        tally = self.stage.tally
        self.in_room = True
        self.welcomes += 1
        if self._resuming:
            tally.counts["resumes"] += 1
            tally.counts["resumes_elsewhere"] += self.socket != self._left_from
            tally.expect(welcome.recovered, "a resume was not recovered", f"socket {self.socket}")
            tally.counts["recovered_events"] += welcome.missed
            if welcome.recovered:
                self.welcomed(welcome)
                return  # the position moves with the events that follow
        self.log = welcome.log
        self.welcomed(welcome)

    def _moved(self, seq: int) -> None:
        assert self.log is not None
        self.stage.tally.expect(seq >= self.log.seq, "the log ran backwards", f"{self.log.seq} → {seq}")
        self.log = wire.Position(self.log.epoch, seq)

    def _told_to_go(self, bye: wire.Bye) -> None:
        self._retry_after = bye.retry_after
        if bye.code not in LEAVING:
            self.stage.tally.counts[f"bye_{bye.code}"] += 1

    def hung_up(self, code: int | None, reason: str) -> None:
        """Come back, unless told not to."""
        self.in_room = False
        self.line = None
        if self.stage.over or self.leaving or code == wire.Close.ROOM_ENDED:
            return
        if code is not None and code >= RECONNECT_BELOW:
            self.stage.tally.problem(f"closed with {code}", reason)
            return
        if code == wire.Close.TOKEN_EXPIRED:
            self._expired = True
        self._left_from = self.socket
        self._losses += 1
        wait = self._retry_after or self.stage.chance.uniform(0.5, 1.5) * min(self._losses, 6)
        self._retry_after = None
        self.stage.later(wait, partial(self._return, other=self.stage.chance.random() < 0.5))
