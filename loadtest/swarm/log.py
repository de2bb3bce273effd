"""Was a viewer told everything certain, in order? Judged from the numbers of a room's log alone; pure.

A batch says where the log stands after it, and brings its certain events; so the number must move by exactly as many.
It moves further where a number belongs to something private (a coupon of somebody else). Whose number that was is known
only when its owner has it too, therefore leaps are noted first and judged a few seconds later.
"""

from collections import Counter, deque

SETTLE_SECONDS = 5.0
"""After so long everybody who was to be told something has been, or is as late as if it were lost."""


class Log:
    """What is known of a room's log in one epoch."""

    def __init__(self, *, alone: bool) -> None:
        self.strict = alone
        """Whether a number that nobody here was told is a loss. Not where others may be meant by it: other people's
        viewers, or one of ours who won a coupon and did not stay to hear of it."""
        self.head = 0
        self._public: set[int] = set()
        self._private: set[int] = set()
        self._leaps: deque[tuple[float, Counter[tuple[int, int, int]]]] = deque()

    def told(self, first: int, last: int) -> None:
        """Events for everybody have the numbers ``first`` to ``last``."""
        self._public.update(range(first, last + 1))
        self.head = max(self.head, last)

    def granted(self, seq: int) -> None:
        """``seq`` is a private one."""
        self._private.add(seq)
        self.head = max(self.head, seq)

    def leapt(self, after: int, to: int, events: int, now: float) -> None:
        """Some viewer's position moved from ``after`` to ``to``, with so many ``events``."""
        if not self._leaps or now - self._leaps[-1][0] > 1.0:
            self._leaps.append((now, Counter()))
        self._leaps[-1][1][after, to, events] += 1

    def lost(self, now: float | None = None) -> int:
        """Events that viewers were not told, from leaps that are old enough to judge; all of them without ``now``."""
        missing = 0
        while self._leaps and (now is None or now - self._leaps[0][0] > SETTLE_SECONDS):
            for (after, to, events), viewers in self._leaps.popleft()[1].items():
                missing += viewers * max(0, self.owed(after, to) - events)
        return missing

    def owed(self, after: int, to: int) -> int:
        """How many events everybody is to be told between two positions."""
        numbers = range(after + 1, to + 1)
        if self.strict:
            return sum(number not in self._private for number in numbers)
        return sum(number in self._public for number in numbers)
