"""A fair sample of what may be lost: pure, so that fairness can be tested."""

from collections.abc import Callable
from random import Random


class Sample:
    """Shows at most ``rate`` events a second (bursts up to one second's worth) and counts the rest.

    Within a tick every event has the same chance; what is shown keeps its order.
    """

    __slots__ = ("_allowance", "_always", "_at", "_draw", "_kept", "_place", "_seen", "rate")

    def __init__(self, rate: float, random: Callable[[], float] | None = None) -> None:
        self.rate = rate
        self._draw = random or Random().random  # noqa: S311 - fairness, not secrecy
        self._allowance = rate
        self._at = 0.0
        self._kept: list[tuple[int, bytes]] = []
        self._always: list[tuple[int, bytes]] = []
        self._seen = 0
        self._place = 0

    def __len__(self) -> int:
        return len(self._kept) + len(self._always)

    def add(self, event: bytes, *, always: bool = False) -> None:
        """One more event of this tick; ``always`` ones are never left out."""
        self._place += 1
        if always:
            self._always.append((self._place, event))
            return
        self._seen += 1
        capacity = max(1, int(self.rate))
        if len(self._kept) < capacity:
            self._kept.append((self._place, event))
            return
        # Reservoir: memory is bounded by what could be shown at most, whatever comes in.
        slot = int(self._draw() * self._seen)
        if slot < capacity:
            self._kept[slot] = (self._place, event)

    def take(self, now: float) -> tuple[list[bytes], int]:
        """The events to show now, oldest first, and how many were left out since the last call."""
        self._allowance = min(self.rate, self._allowance + max(0.0, now - self._at) * self.rate)
        self._at = now
        shown = self._kept
        budget = int(self._allowance)
        while len(shown) > budget:
            last = shown.pop()
            slot = int(self._draw() * (len(shown) + 1))
            if slot < len(shown):
                shown[slot] = last
        self._allowance -= len(shown)
        left_out = self._seen - len(shown)
        events = [event for _, event in sorted(shown + self._always)]
        self._kept, self._always, self._seen, self._place = [], [], 0, 0
        return events, left_out
