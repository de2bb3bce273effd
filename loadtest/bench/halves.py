"""One room's viewers in as many processes as their sockets need: a process of its own for whom one gateway, or one
receiver, has no descriptor left. Whatever is asked of the room is answered over all of them.
"""

import multiprocessing
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Self

from loadtest.bench.house import Gateway, House
from loadtest.bench.machine import CannotMeasure, cpu_seconds
from loadtest.bench.receiver import Receiver
from loadtest.bench.room import Delays, RoomCrowd

PATIENCE_SECONDS = 240.0
TURN_SECONDS = 0.005


@dataclass(frozen=True)
class Heard:
    """What the viewers of one process were told since ``RoomCrowd.begin``; sockets and positions since ever."""

    joined: int
    lost: int
    head: int
    positions: int
    """Sum of all positions."""
    gaps: int
    """Certain events that some viewer never got, though later ones came."""
    deliveries: int
    arrivals: int
    received: int
    certain: Delays
    lossy: Delays

    @classmethod
    def of(cls, crowd: RoomCrowd) -> Self:
        """The account of ``crowd``."""
        return cls(
            crowd.joined, crowd.lost, crowd.head(), sum(viewer.seq for viewer in crowd.viewers),
            sum(viewer.missing for viewer in crowd.viewers), crowd.deliveries, crowd.arrivals, crowd.received,
            crowd.delays(lambda told: told.certain_stamps), crowd.delays(lambda told: told.lossy_stamps),
        )  # fmt: skip

    def with_other(self, other: "Heard") -> "Heard":
        """Both together, where whoever is behind the other's head misses something."""
        return Heard(
            self.joined + other.joined, self.lost + other.lost, max(self.head, other.head),
            self.positions + other.positions, self.gaps + other.gaps, self.deliveries + other.deliveries,
            self.arrivals + other.arrivals, self.received + other.received, self.certain + other.certain,
            self.lossy + other.lossy,
        )  # fmt: skip

    def missing(self, viewers: int) -> int:
        """Certain events that some of ``viewers`` should have and has not: gaps, and what they are behind the head."""
        return self.gaps + viewers * self.head - self.positions


def _listen(pipe: Connection, port: int, room: str) -> None:
    """The other process: listens until told to leave, and answers in between."""
    crowd = RoomCrowd(port, room)
    with Receiver(delays=True) as receiver:
        while True:
            receiver.turn(TURN_SECONDS)
            if not pipe.poll():
                continue
            what, given = pipe.recv()
            match what:
                case "connect":
                    receiver.connect(crowd, given, at_once=256)
                    pipe.send(crowd.joined)
                case "begin":
                    crowd.begin()
                    receiver.watch()
                    pipe.send(None)
                case "arrivals":
                    pipe.send(crowd.arrivals)
                case "said":
                    pipe.send(crowd.said(given) >= crowd.joined)
                case "busy":
                    pipe.send(receiver.busy())
                case "account":
                    pipe.send(Heard.of(crowd))
                case _:
                    return


class _Other:
    """A gateway of its own, and a process that holds the viewers who watch through it."""

    def __init__(self, gateway: Gateway, room: str) -> None:
        self.gateway = gateway
        self.viewers = 0
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_listen, args=(theirs, gateway.port, room), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, what: str, given: Any = None) -> Any:
        """The other process's answer. Raises CannotMeasure when there is none."""
        try:
            self._pipe.send((what, given))
            if not self._pipe.poll(PATIENCE_SECONDS):
                raise CannotMeasure(f"the second receiver does not answer: {what}")
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            raise CannotMeasure(f"the second receiver broke off: {what}") from error

    def close(self) -> None:
        """Let its viewers go and end it."""
        self._pipe.close()
        self._process.terminate()
        self._process.join()


class Halves:
    """All viewers of one room: those of ``crowd``, here, and those beyond what one process can hold. A context manager.

    Whoever speaks is in ``crowd``; a second gateway and a second receiver are started when they are needed.
    """

    def __init__(self, house: House, gateway: Gateway, crowd: RoomCrowd, room: str, most: int) -> None:
        self._house = house
        self._gateway = gateway
        self._room = room
        self._most = most
        self._exits = ExitStack()
        self._other: _Other | None = None
        self.crowd = crowd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    @property
    def viewers(self) -> int:
        """How many there are, the guide included."""
        return len(self.crowd.viewers) + (self._other.viewers if self._other else 0)

    @property
    def gateways(self) -> int:
        """How many gateways the room is on."""
        return 1 + (self._other is not None)

    def connect(self, receiver: Receiver, tokens: Sequence[str]) -> None:
        """Bring these in, here as long as there is room."""
        here = max(0, min(len(tokens), self._most - len(self.crowd.viewers)))
        receiver.connect(self.crowd, tokens[:here], at_once=256)
        if rest := list(tokens[here:]):
            if self._other is None:
                self._other = _Other(self._house.gateway(), self._room)
                self._exits.callback(self._other.close)
            self._other.viewers = self._other.ask("connect", rest)

    def begin(self) -> None:
        """Forget what was told so far; positions stay."""
        self.crowd.begin()
        if self._other is not None:
            self._other.ask("begin")

    def arrivals(self) -> int:
        """Frames that arrived since ``begin``, over all viewers."""
        return self.crowd.arrivals + (self._other.ask("arrivals") if self._other else 0)

    def said(self, stamp: int) -> bool:
        """Whether everybody was shown the comment that was stamped so, since ``begin``."""
        return self.crowd.said(stamp) >= self.crowd.joined and (self._other is None or self._other.ask("said", stamp))

    def account(self) -> Heard:
        """What all were told."""
        here = Heard.of(self.crowd)
        return here if self._other is None else here.with_other(self._other.ask("account"))

    def busiest(self, here: float) -> float:
        """The part of the time that the busier receiver was on its core; ``here`` is this process's."""
        return here if self._other is None else max(here, self._other.ask("busy"))

    def cpu(self) -> float:
        """CPU seconds that all its gateways have used."""
        return cpu_seconds(self._gateway.pid) + (cpu_seconds(self._other.gateway.pid) if self._other else 0.0)

    def shed(self) -> int:
        """Events that its gateways left out so far."""
        return self._gateway.shed() + (self._other.gateway.shed() if self._other else 0)
