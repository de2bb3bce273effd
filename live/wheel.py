"""One timer for all sockets of a process, which looks after each of them now and then."""

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from live.connection import Connection

SLOTS = 64
_DUE = SLOTS
"""The slot of those whose time has come."""
AT_ONCE = 32
"""Visits between two looks of the event loop at everything else: viewers who came together are due together, by the
thousand, and each is written a ping."""
PAUSE_SECONDS = 0.004
"""Between two such slices, so that the answers to pings do not come all at once either."""


class Wheel:
    """Looks after every socket now and then: one timer for all of them."""

    def __init__(self) -> None:
        self.now = int(monotonic())
        """Seconds, as coarse as the wheel turns."""
        self._slots: list[set[Connection]] = [set() for _ in range(SLOTS + 1)]

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

    def turn(self, now: int, most: int | None = None) -> bool:
        """Visit whoever is due by ``now``, ``most`` of them if that is given; returns whether others are left.

        A second begins when everybody of the one before was visited.
        """
        due, visits = self._slots[_DUE], 0
        while due or self.now < now:
            if not due:
                self._begin(self.now + 1)
            while due:
                if visits == most:
                    return True
                visits += 1
                self._visit(due.pop())
        return False

    def _begin(self, second: int) -> None:
        self.now = second
        coming, due = self._slots[second % SLOTS], self._slots[_DUE]
        for connection in coming:
            connection.slot = _DUE
        due |= coming
        coming.clear()

    def _visit(self, connection: "Connection") -> None:
        connection.slot = -1
        seconds = connection.visit()
        if seconds and connection.slot < 0 and not connection.closing:
            self.put(connection, seconds)

    async def run(self) -> None:
        """Turn until cancelled."""
        now = self.now
        while True:
            if not self.turn(now, AT_ONCE):
                await asyncio.sleep(1 - monotonic() % 1)
                now = int(monotonic())
            else:
                # No pauses once a second takes longer than itself.
                await asyncio.sleep(PAUSE_SECONDS if monotonic() < now + 1 else 0)
