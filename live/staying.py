"""Who is still in a room, noted about once a minute: some of them each time, never everybody at once."""

from collections import deque
from collections.abc import Callable, Iterable
from uuid import UUID

from live.audience import Audience


class Staying:
    """Goes round among all viewers of a gateway, in as many shares as ``shares`` says.

    With a crowd, one minute's notes in one go would take the better part of a second, in which no room is served.
    """

    def __init__(self, stayed: Callable[[UUID, UUID], None], shares: int) -> None:
        """``stayed(room, viewer)`` notes one."""
        self._stayed = stayed
        self._shares = shares
        self._share = 0
        self._viewers = 0
        """How many this round began with, and (``_left``) those who are not looked at yet."""
        self._left: deque[tuple[UUID, Audience, list[UUID]]] = deque()

    def note(self, rooms: Iterable[tuple[UUID, Audience]]) -> None:
        """Note one share of the viewers; ``rooms`` are looked at when a round begins."""
        if not self._share:
            here = ((room, audience, list(audience.viewers())) for room, audience in rooms)
            self._left.extend(one for one in here if one[2])
            self._viewers = sum(len(viewers) for _, _, viewers in self._left)
        before, self._share = self._share, self._share + 1
        self._take(self._viewers * self._share // self._shares - self._viewers * before // self._shares)
        self._share %= self._shares

    def _take(self, count: int) -> None:
        for _ in range(count):
            room, audience, viewers = self._left[0]
            viewer = viewers.pop()
            if not viewers:
                self._left.popleft()
            if viewer in audience.people:  # who left meanwhile was noted then
                self._stayed(room, viewer)
