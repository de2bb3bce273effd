# ruff: noqa: S311 - chance here decides what a viewer does, nothing secret
"""Viewers for Locust, through the real login and the real room socket.

    locust -f loadtest/locustfile.py --headless -H http://127.0.0.1:8080 -u 200 -r 20 -t 60s

Needs an API with ``NEARCAST_DEV_LOGIN=true`` and a live room (``--room``, or the newest of ``--brand``). Besides
Locust's own HTTP figures it reports ``WS join`` (connect to welcome), ``WS comment`` (sent to acknowledged), and
``EVENT comment`` (said by somebody to heard by this viewer; both clocks are compared, so run it on the server's machine
or one with the same time). Clerks are not simulated here yet; ``nearcast demo`` has them.
"""

import random
import time
from contextlib import suppress
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import gevent
from gevent.event import AsyncResult
from locust import FastHttpUser, between, events, task
from locust.argument_parser import LocustArgumentParser
from locust.exception import StopUser
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from live import wire

ANSWER_SECONDS = 10
TEXTS = (
    "来了",
    "好看",
    "多少钱呀",
    "已拍",
    "想要这个！",
    "附近哪家店有货？",
    "哈哈哈哈",
    "上次买的很喜欢，今晚再囤一份",
    "🍵",
    "蹲券",
)

_numbers = count(1)


@events.init_command_line_parser.add_listener
def _arguments(parser: LocustArgumentParser) -> None:
    parser.add_argument("--brand", default="demo", help="Brand to sign in with")
    parser.add_argument("--room", default="", help="Room to watch; left out: the newest live one")
    parser.add_argument("--guide", default="guide-01", help="Account of the room's guide, for GuideUser")


class RoomUser(FastHttpUser):
    """A client with one socket to one room. Subclasses say who they are and what they do."""

    abstract = True
    role = "viewer"

    def on_start(self) -> None:
        """Sign in, find the room, connect."""
        self.socket: ClientConnection | None = None
        self.answers: dict[str, AsyncResult] = {}
        self.pinned: UUID | None = None
        self.token = self.sign_in(self.account())
        page = self.find_room()
        self.room, self.shelf = page["id"], [UUID(product["id"]) for product in page["shelf"]]
        self.join(random.choice(page["sockets"]))

    def on_stop(self) -> None:
        """Leave politely."""
        if self.socket is not None:
            self.socket.close()

    def account(self) -> str:
        """What to sign in with."""
        raise NotImplementedError

    # ---- REST ------------------------------------------------------------------------------------------------------

    def sign_in(self, account: str) -> str:
        """A token by development login."""
        body = {"brand": self.options.brand, "role": self.role, "account": account}
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

    def join(self, base: str) -> None:
        """Connect, say hello, wait for the welcome; reported as ``WS join``."""
        began = time.perf_counter()
        try:
            # Compression would measure this process rather than the server; pings are the server's business.
            self.socket = connect(
                f"{base}/v1/rooms/{self.room}/live", compression=None, ping_interval=None, open_timeout=ANSWER_SECONDS
            )
            self.send(wire.Hello(self.token))
            welcome = wire.server_frames.decode(self.socket.recv(ANSWER_SECONDS))
        except (OSError, TimeoutError, WebSocketException) as error:
            self.report("WS", "join", began, exception=error)
            raise StopUser("could not join") from error
        if not isinstance(welcome, wire.Welcome):
            self.report("WS", "join", began, exception=RuntimeError(f"{type(welcome).__name__} instead of a welcome"))
            raise StopUser("not let in")
        self.report("WS", "join", began)
        self.pinned = None if welcome.pin is None else welcome.pin.product.id
        gevent.spawn(self.listen, self.socket)

    def send(self, frame: wire.Frame) -> None:
        """Send one frame."""
        assert self.socket is not None
        self.socket.send(wire.encoder.encode(frame).decode())

    def listen(self, socket: ClientConnection) -> None:
        """Read until the line ends."""
        with suppress(ConnectionClosed):
            for message in socket:
                self.hear(wire.server_frames.decode(message))

    def hear(self, frame: wire.ServerFrame) -> None:
        """Sort one frame."""
        if isinstance(frame, wire.Ack):
            waiting = self.answers.pop(frame.id, None)
            if waiting is not None:
                waiting.set(frame)
        elif isinstance(frame, wire.Batch):
            newest = 0
            for raw in frame.e:
                event = wire.room_events.decode(raw)
                if isinstance(event, wire.Commented):
                    newest = max(newest, event.at)
                elif isinstance(event, wire.Pinned):
                    self.pinned = event.product.id
            if newest:
                delay = max(0.0, time.time() * 1000 - newest)
                self.fire("EVENT", "comment", delay, length=len(frame.e))

    def command(self, name: str, frame: wire.Frame, id: str, allowed: frozenset[str] = frozenset()) -> wire.Ack | None:
        """Send a command and wait for its ack; reported as ``WS name``.

        A refusal counts as a failure unless its code is ``allowed``. None when no answer came in time.
        """
        self.answers[id] = AsyncResult()
        began = time.perf_counter()
        try:
            answer = self.answers[id]
            self.send(frame)
            ack: wire.Ack = answer.get(timeout=ANSWER_SECONDS)
        except (ConnectionClosed, gevent.Timeout) as error:
            self.answers.pop(id, None)
            self.report("WS", name, began, exception=RuntimeError(type(error).__name__))
            if isinstance(error, ConnectionClosed):
                raise StopUser("the line is gone") from error
            return None
        refused = ack.error is not None and ack.error.code not in allowed
        self.report("WS", name, began, exception=RuntimeError(ack.error.code) if refused and ack.error else None)
        return ack

    def report(self, kind: str, name: str, began: float, exception: Exception | None = None) -> None:
        """Tell Locust how long something took since ``began`` (``perf_counter``)."""
        self.fire(kind, name, (time.perf_counter() - began) * 1000, exception=exception)

    def fire(
        self, kind: str, name: str, milliseconds: float, length: int = 0, exception: Exception | None = None
    ) -> None:
        """One request event."""
        self.environment.events.request.fire(
            request_type=kind,
            name=name,
            response_time=milliseconds,
            response_length=length,
            exception=exception,
            context={},
        )


class ViewerUser(RoomUser):
    """Watches, chats, likes, looks at what is pinned."""

    wait_time = between(2, 8)
    weight = 100

    def account(self) -> str:
        """Everybody their own, so that limits for one viewer do not limit the test."""
        return f"load-{next(_numbers)}-{uuid4().hex[:6]}"

    @task(3)
    def comment(self) -> None:
        """Say something new, so that it is not refused as a repetition."""
        id = uuid4().hex[:16]
        text = f"{random.choice(TEXTS)} {random.randrange(1000)}"
        self.command("comment", wire.Comment(id, text), id, frozenset({"too_fast"}))

    @task(8)
    def like(self) -> None:
        """A few taps on the heart; not answered."""
        self.tell(wire.Like(random.randint(1, 10)))

    @task(1)
    def tap(self) -> None:
        """Open the pinned product; not answered."""
        if self.pinned is not None:
            self.tell(wire.Tap(self.pinned))

    @task(1)
    def leave_and_return(self) -> None:
        """Go, and be somebody else who comes in."""
        self.on_stop()
        self.on_start()

    def tell(self, frame: wire.Frame) -> None:
        """Send what is not answered."""
        try:
            self.send(frame)
        except ConnectionClosed as error:
            raise StopUser("the line is gone") from error


class GuideUser(RoomUser):
    """The room's guide, exactly one: pins the products of the shelf in turn.

    Name the classes to run without it: ``locust … ViewerUser``. The account must be that of the room's own guide.
    """

    role = "guide"
    fixed_count = 1
    wait_time = between(5, 10)

    def on_start(self) -> None:
        """Take the chair; the room goes live, if it was not."""
        super().on_start()
        id = uuid4().hex[:16]
        self.command("start", wire.Start(id), id)

    def account(self) -> str:
        """The guide of the room."""
        return str(self.options.guide)

    @task
    def pin(self) -> None:
        """Explain the next product."""
        if self.shelf:
            self.shelf = [*self.shelf[1:], self.shelf[0]]
            id = uuid4().hex[:16]
            self.command("pin", wire.Pin(id, self.shelf[0]), id)
