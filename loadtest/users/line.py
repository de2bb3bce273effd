# ruff: noqa: S311 - chance here decides what somebody does, nothing secret
"""A Locust user with one socket to one room: signs in, joins, listens, asks and waits for answers, resumes."""

import random
import time
from abc import ABCMeta, abstractmethod
from contextlib import suppress
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import gevent
from gevent.event import AsyncResult
from locust import FastHttpUser
from locust.exception import StopUser
from locust.user.users import UserMeta
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from live import wire
from loadtest import comments
from loadtest.config import Config
from loadtest.swarm.log import Log

ANSWER_SECONDS = 10
WELCOME_SECONDS = 15
RETURNS = 5
"""So often a viewer tries to come back before giving up."""
SPOT = (121.4463, 31.2237)
_numbers = count()
_logs: dict[tuple[str, str], Log] = {}


def config_of(user: Any) -> Config:
    """The configuration of the test, read once when Locust starts."""
    found: Config = user.environment.nearcast_config
    return found


class Lost(Exception):
    """What must not happen to certain events."""


class _RoomUserMeta(UserMeta, ABCMeta):
    """Locust's users have a metaclass of their own."""


class RoomUser(FastHttpUser, metaclass=_RoomUserMeta):
    """A client with one socket to one room. Subclasses say who they are and what they do."""

    abstract = True
    role = "viewer"

    def on_start(self) -> None:
        """Sign in, find the room, connect."""
        self.socket: ClientConnection | None = None
        self.answers: dict[str, AsyncResult] = {}
        self.unanswered: dict[str, wire.Frame] = {}
        self.pinned: UUID | None = None
        self.position: wire.Position | None = None
        self.log: Log | None = None
        self.leaving = False
        self.token = self.sign_in(self.account())
        page = self.find_room()
        self.room, self.shelf = page["id"], [UUID(product["id"]) for product in page["shelf"]]
        self.sockets = page["sockets"]
        self.join()

    def on_stop(self) -> None:
        """Leave politely."""
        self.leaving = True
        for answer in getattr(self, "answers", {}).values():
            answer.set(None)  # nobody waits for it any more
        if (socket := getattr(self, "socket", None)) is not None:
            self.judge(None)
            socket.close()

    @abstractmethod
    def account(self) -> str:
        """What to sign in with."""

    # ---- REST ------------------------------------------------------------------------------------------------------

    def sign_in(self, account: str, **more: Any) -> str:
        """A token by development login."""
        body = {"brand": self.options.brand, "role": self.role, "account": account, **more}
        answer: dict[str, Any] = self.ask("POST", "/v1/auth/dev", json=body)
        return str(answer["token"])

    def find_room(self) -> Any:
        """The page of the room to watch."""
        room = self.options.room
        if not room:
            live = self.ask("GET", "/v1/rooms?state=live")["items"]
            if not live:
                raise StopUser("there is no live room")
            room = live[0]["id"]
        return self.ask("GET", f"/v1/rooms/{room}", name="/v1/rooms/{room}")

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """The answer's JSON; a user who is refused stops, and Locust has counted the failure."""
        token = getattr(self, "token", None)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with self.client.request(method, path, headers=headers, catch_response=True, **more) as response:
            if response.status_code is None or response.status_code >= 400:
                response.failure(f"{method} {path}: {response.status_code}")
                raise StopUser(path)
            return response.json() if response.content else None

    @property
    def options(self) -> Any:
        """The command line."""
        return self.environment.parsed_options

    # ---- the socket ------------------------------------------------------------------------------------------------

    def join(self) -> None:
        """Connect, say hello (with the position, where there is one), wait for the welcome.

        Reported as ``WS join``, or ``WS resume``. Stops the user where it fails.
        """
        what = "join" if self.position is None else "resume"
        began = time.perf_counter()
        try:
            # Compression would measure this process rather than the server; pings are the server's business.
            self.socket = connect(
                f"{random.choice(self.sockets)}/v1/rooms/{self.room}/live",
                compression=None, ping_interval=None, open_timeout=ANSWER_SECONDS, max_size=None,
            )  # fmt: skip
            self.send(wire.Hello(self.token, self.position))
            welcome = wire.server_frames.decode(self.socket.recv(WELCOME_SECONDS))
        except (OSError, TimeoutError, WebSocketException) as error:
            self.report("WS", what, began, exception=error)
            raise StopUser("could not join") from error
        if not isinstance(welcome, wire.Welcome):
            self.report("WS", what, began, exception=RuntimeError(f"{type(welcome).__name__} instead of a welcome"))
            raise StopUser("not let in")
        unresumed = self.position is not None and not welcome.recovered
        self.report("WS", what, began, exception=Lost("not recovered") if unresumed else None)
        self.welcomed(welcome)
        gevent.spawn(self.listen, self.socket)
        for frame in list(self.unanswered.values()):
            self.tell(frame)  # nobody knows whether it was heard; by its id it is carried out once

    def welcomed(self, welcome: wire.Welcome) -> None:
        """Take over the snapshot, and the position from which to go on."""
        epoch = welcome.log.epoch
        self.log = _logs.setdefault((str(self.room), epoch), Log(alone=True))
        if welcome.drops:
            self.log.strict = False
        if not (welcome.recovered and self.position is not None):
            self.position = welcome.log
        self.replaying = welcome.log.seq
        self.pinned = None if welcome.pin is None else welcome.pin.product.id

    def lose_network(self) -> None:
        """The line is cut; come back with what was missed."""
        assert self.socket is not None
        former, self.socket = self.socket, None
        former.close_socket()
        gevent.sleep(random.uniform(0.2, 2.0))
        self.join()

    def send(self, frame: wire.Frame) -> None:
        """Send one frame."""
        if self.socket is None:
            raise StopUser("the line is gone")
        self.socket.send(wire.encoder.encode(frame).decode())

    def listen(self, socket: ClientConnection) -> None:
        """Read until the line ends; one that the server ended is taken up again, with the position."""
        with suppress(ConnectionClosed):
            for message in socket:
                self.hear(wire.server_frames.decode(message))
        if self.socket is not socket or self.leaving:
            return
        for attempt in range(RETURNS):
            gevent.sleep(random.uniform(0.1, 1.0) * min(8.0, 2.0 * 2**attempt))
            with suppress(StopUser):
                return self.join()

    # ---- hearing ---------------------------------------------------------------------------------------------------

    def hear(self, frame: wire.ServerFrame) -> None:
        """Sort one frame."""
        match frame:
            case wire.Ack():
                waiting = self.answers.pop(frame.id, None)
                if waiting is not None:
                    waiting.set(frame)
            case wire.Batch():
                self.told(frame)
            case wire.CouponGranted():
                self.moved(frame.seq, 0, private=True)
                self.won(frame.coupon)
            case wire.Review():
                self.moved(frame.seq, 0, private=True)
            case wire.Welcome():
                self.position = None
                self.welcomed(frame)

    def told(self, batch: wire.Batch) -> None:
        """Report how late each class was, and check that nothing certain is missing."""
        certain, now = 0, int(time.time() * 1000)
        away = self.position is not None and self.position.seq < self.replaying
        for raw in batch.e:
            event = wire.room_events.decode(raw)
            certain += event.kind is wire.Kind.CERTAIN
            if isinstance(event, wire.Commented | wire.Announced):
                sent = comments.stamped_at(event.text, now)
                if sent is not None:
                    # What was missed and comes with a resume is as late as we were away.
                    kind = "missed" if away and event.kind is wire.Kind.CERTAIN else event.kind.value
                    self.fire("EVENT", kind, max(0, now - sent), length=len(raw))
            elif isinstance(event, wire.Pinned):
                self.pinned = event.product.id
            elif isinstance(event, wire.DropOpened):
                if self.log is not None:
                    self.log.strict = False
                self.dropped(event.drop)
            elif isinstance(event, wire.CountsChanged):
                self.counted(event.counts.likes, now)
        self.moved(batch.seq, certain)

    def moved(self, seq: int | None, certain: int, *, private: bool = False) -> None:
        """Follow the log's numbers; a number that goes back is a failure at once, one left out a little later."""
        if seq is None or self.log is None or self.position is None:
            return
        before, now = self.position.seq, time.time()
        if seq <= before:
            self.fire("EVENT", "certain", 0, exception=Lost("out of order"))
            return
        if private:
            self.log.granted(seq)
        elif before >= self.replaying:
            self.log.told(seq - certain + 1, seq)
        if seq - before - private != certain:
            self.log.leapt(before, seq, certain, now)
        self.position = wire.Position(self.position.epoch, seq)
        self.judge(now)

    def judge(self, now: float | None) -> None:
        """Report as failures what leaps of some seconds ago have left out; of any time without ``now``."""
        for _ in range(self.log.lost(now) if self.log is not None else 0):
            self.fire("EVENT", "certain", 0, exception=Lost("lost"))

    def dropped(self, drop: wire.DropCard) -> None:
        """A drop was announced."""

    def counted(self, likes: int, now_ms: int) -> None:
        """The room's likes are so many."""

    def won(self, coupon: wire.CouponCard) -> None:
        """A coupon is ours."""

    # ---- asking ----------------------------------------------------------------------------------------------------

    def command(self, name: str, frame: wire.Frame, id: str, allowed: frozenset[str] = frozenset()) -> wire.Ack | None:
        """Send a command and wait for its ack; reported as ``WS name``.

        A refusal counts as a failure unless its code is ``allowed``. None when no answer came in time, however often
        the line was lost meanwhile, or when the user left without waiting for it.
        """
        answer = self.answers[id] = AsyncResult()
        self.unanswered[id] = frame
        began = time.perf_counter()
        if self.socket is not None:
            self.tell(frame)
        try:
            ack: wire.Ack | None = answer.get(timeout=ANSWER_SECONDS)
        except gevent.Timeout:
            self.answers.pop(id, None)
            self.report("WS", name, began, exception=RuntimeError("no answer"))
            return None
        finally:
            self.unanswered.pop(id, None)
        if ack is None:
            return None
        refused = ack.error is not None and ack.error.code not in allowed
        self.report("WS", name, began, exception=RuntimeError(ack.error.code) if refused and ack.error else None)
        return ack

    def tell(self, frame: wire.Frame) -> None:
        """Send what is not answered; what is said while the line is away is lost."""
        if self.socket is not None:
            with suppress(ConnectionClosed):
                self.send(frame)

    def report(self, kind: str, name: str, began: float, exception: Exception | None = None) -> None:
        """Tell Locust how long something took since ``began`` (``perf_counter``)."""
        self.fire(kind, name, (time.perf_counter() - began) * 1000, exception=exception)

    def fire(
        self, kind: str, name: str, milliseconds: float, length: int = 0, exception: Exception | None = None
    ) -> None:
        """One request event."""
        self.environment.events.request.fire(
            request_type=kind, name=name, response_time=milliseconds, response_length=length, exception=exception,
            context={},
        )  # fmt: skip

    def new_id(self) -> str:
        """A command's id."""
        return f"{next(_numbers)}-{uuid4().hex[:12]}"

    def choose(self, weights: dict[str, float]) -> str:
        """One of the names, in proportion."""
        return random.choices(list(weights), list(weights.values()))[0]
