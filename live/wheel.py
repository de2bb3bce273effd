"""One timer for all sockets of a process, which looks after each of them now and then."""

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from live.connection import Connection

SLOTS = 64


class Wheel:
    """Looks after every socket now and then: one timer for all of them."""

    def __init__(self) -> None:
        self.now = int(monotonic())
        """Seconds, as coarse as the wheel turns."""
        self._slots: list[set[Connection]] = [set() for _ in range(SLOTS)]

    def put(self, connection: "Connection", seconds: int) -> None:
        """Visit ``connection`` in ``seconds`` (1 to 63), and not at the time planned before."""
        self.take(connection)
        connection.slot = (self.now + seconds) % SLOTS
        self._slots[connection.slot].add(connection)

    def take(self, connection: "Connection") -> None:
        """Visit ``connection`` no more."""
        if connection.slot >= 0:
            self._slots[connection.slot].discard(connection)
            connection.slot = -1

    def turn(self, now: int) -> None:
        """Visit whoever is due by ``now``."""
        while self.now < now:
            self.now += 1
            slot = self.now % SLOTS
            due, self._slots[slot] = self._slots[slot], set()
            for connection in due:
                connection.slot = -1
                seconds = connection.visit()
                if seconds and connection.slot < 0 and not connection.closing:
                    self.put(connection, seconds)

    async def run(self) -> None:
        """Turn until cancelled."""
        while True:
            await asyncio.sleep(1 - monotonic() % 1)
            self.turn(int(monotonic()))
