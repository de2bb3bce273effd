"""Whose turn it is to write. Rooms of any size take turns of about two milliseconds: none waits long for another.

Between two rounds the event loop serves everything else: frames that came in, new sockets, timers.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter

TURN_SECONDS = 0.002
"""One room's turn."""
ROUND_SECONDS = 0.006
"""All turns between two looks of the event loop at its sockets."""

Step = Callable[[float], bool]
"""Does a piece of work until about the given time (``perf_counter``); returns whether more is left."""


class Turns:
    """The rooms of one process that have something to write, in the order in which they wait for their next turn."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Step] = deque()
        self._scheduled = False

    def begin(self, step: Step) -> None:
        """Wait for the first turn; it comes in the loop's next round unless many others wait."""
        self._waiting.append(step)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._round)

    def _round(self) -> None:
        self._scheduled = False
        ends = perf_counter() + ROUND_SECONDS
        while self._waiting:
            now = perf_counter()
            if now >= ends:
                break
            step = self._waiting.popleft()
            if step(now + TURN_SECONDS):
                self._waiting.append(step)
                if len(self._waiting) == 1:
                    break  # alone: nothing is gained by going on at once, and the loop gets its look
        if self._waiting:
            self._scheduled = True
            self._loop.call_soon(self._round)
