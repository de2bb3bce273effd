"""Who is in a swarm: people, and the connections that they have one after the other."""

import socket
from typing import TYPE_CHECKING

from live import wire
from loadtest.bench.receiver import Viewer as Line
from loadtest.swarm.log import Log

if TYPE_CHECKING:
    from loadtest.swarm.room import Room


class Person:
    """Somebody with a phone: stays the same over many connections."""

    __slots__ = (
        "attempts",
        "avoid",
        "began",
        "epoch",
        "is_guide",
        "line",
        "located",
        "lost_at",
        "place",
        "room",
        "seq",
        "token",
    )

    def __init__(self, room: "Room", token: str, *, is_guide: bool = False) -> None:
        self.room = room
        self.token = token
        self.is_guide = is_guide
        self.line: Seat | None = None
        self.epoch = ""
        self.seq = 0
        self.attempts = 0
        self.avoid: object = None
        """The address that failed them last."""
        self.began = 0.0
        """When they set out to come in; 0 while they are not on their way (monotonic)."""
        self.lost_at = 0.0
        """When they lost the room; 0 if they did not (monotonic)."""
        self.located = False
        self.place = (0.0, 0.0)

    def forget(self) -> None:
        """Next time they come as somebody who was never there."""
        self.epoch, self.seq, self.lost_at = "", 0, 0.0


class Seat(Line):
    """A person's connection."""

    __slots__ = ("address", "bye", "likes", "log", "person", "replaying", "welcomed_at")

    def __init__(self, crowd: "Room", sock: socket.socket, person: Person) -> None:
        super().__init__(crowd, sock, person.token)
        self.person = person
        self.address: object = None
        """Where it is connected to."""
        self.log: Log | None = None
        self.likes = -1
        self.replaying = 0
        """Until the position is this, what comes is a replay, which may lump far-apart numbers together."""
        self.welcomed_at = 0
        self.bye: wire.Bye | None = None
