"""How a gateway's viewers leave it, so that the gateways they move to are never stormed."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from random import Random
from time import monotonic

from live.connection import Connection
from live.wire import Close

RETURNS_PER_SECOND = 1000
"""Viewers that come back at most in any one second, of one gateway that drains."""
PLANNED_PER_SECOND = 0.8 * RETURNS_PER_SECOND
"""What is aimed at: chance and a busy machine bunch some of them."""
SOONEST_SECONDS = 0.2
JITTER_SECONDS = 1.0
CLOSING_SHARE = 0.7
"""Of the time there is; the rest is for the last to answer their close."""
STEP_SECONDS = 0.02
LEAVING = "this server is being replaced"

_random = Random()  # noqa: S311 - spreading, not secrecy


@dataclass(frozen=True, slots=True)
class Leaving:
    """The departure of ``viewers``, closed within ``seconds``.

    All come back evenly over as long as the pace asks for, be that longer than there is time for closing: then the
    later somebody is closed, the longer they are asked to stay away.
    """

    viewers: int
    seconds: float

    @property
    def span(self) -> float:
        """The seconds over which they come back."""
        return self.viewers / PLANNED_PER_SECOND

    @property
    def closing(self) -> float:
        """The seconds over which they are closed."""
        return min(self.span, self.seconds)

    def closed(self, elapsed: float) -> int:
        """How many ought to be closed ``elapsed`` seconds after the first."""
        return min(self.viewers, int(self.viewers * elapsed / self.closing) + 1) if self.viewers else 0

    def retry_after(self, place: int, chance: float) -> float:
        """Seconds after which the viewer closed as number ``place`` (from 0) may come back; 0 ≤ ``chance`` < 1."""
        behind = (self.span - self.closing) * place / self.viewers
        return round(SOONEST_SECONDS + behind + JITTER_SECONDS * chance, 2)


def soon() -> float:
    """Seconds after which somebody may try elsewhere who came to a gateway that is about to go."""
    return Leaving(1, STEP_SECONDS).retry_after(0, _random.random())


async def send_away(connections: Collection[Connection], deadline: float) -> None:
    """Close all of ``connections``, a growing or shrinking collection, at the pace of ``Leaving``.

    Returns once it is empty, or at ``deadline`` (of the monotonic clock).
    """
    waiting = list(connections)
    _random.shuffle(waiting)  # no room empties before the others
    began = monotonic()
    leaving = Leaving(len(waiting), (deadline - began) * CLOSING_SHARE)
    place = 0
    while connections and (elapsed := monotonic() - began) < deadline - began:
        due = leaving.closed(elapsed)
        if elapsed < leaving.closing:
            # A process that was held up must not catch up in one go.
            due = min(due, place + 2 + leaving.closed(2 * STEP_SECONDS))
        for connection in waiting[place:due]:
            if connection.session is None:
                connection.transport.close()
            elif not connection.closing:
                after = leaving.retry_after(place, _random.random())
                connection.apply(connection.session.end(Close.DRAINING, LEAVING, after))
            place += 1
        await asyncio.sleep(STEP_SECONDS)
