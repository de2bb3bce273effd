"""What one viewer commanded and said in a room of late: what a resend is answered, and whether they may comment.

No clock: the time is an argument (seconds since 1970).
"""

from dataclasses import dataclass, field
from typing import Protocol

from live import wire

COMMENT_BURST = 5.0
COMMENTS_PER_SECOND = 1.0
"""One viewer's comments, whatever the room; slow mode comes on top."""
ANSWERS = 32
"""Commands of one viewer whose answers are remembered for a resend."""


class Hearer(Protocol):
    """A socket."""

    def send(self, frame: wire.Frame) -> None:
        """``frame`` to its viewer."""


@dataclass(slots=True, eq=False)
class Said:
    """A comment, and the one before it as long as this one may still be refused. ``text`` is in the form in which it
    is known again (``live.moderation.normalise``)."""

    text: str
    at: float
    before: "Said | None"
    taken_back: bool = False


@dataclass(slots=True, eq=False)
class Answer:
    """A command, and its answer; None while it is being carried out for ``by``, a session."""

    fingerprint: int
    by: object
    said: Said | None
    ack: wire.Ack | None = None
    hearers: set[Hearer] = field(default_factory=set)


class Lately:
    """What one viewer commanded and said in one room."""

    __slots__ = ("_allowance", "_spoke_at", "answers", "said", "used_at")

    def __init__(self) -> None:
        self._allowance = COMMENT_BURST
        self._spoke_at = 0.0
        self.said: Said | None = None
        self.answers: dict[str, Answer] = {}
        self.used_at = 0.0

    def wait(self, now: float) -> float:
        """In how many seconds this viewer may comment, whatever the room; 0: now."""
        # A clock that was set back gives nothing, and takes nothing.
        self._allowance = min(COMMENT_BURST, self._allowance + max(0.0, now - self._spoke_at) * COMMENTS_PER_SECOND)
        self._spoke_at = now
        return max(0.0, (1 - self._allowance) / COMMENTS_PER_SECOND)

    def spend(self) -> None:
        """A comment of the allowance is used."""
        self._allowance -= 1

    def since(self, now: float) -> float | None:
        """How long ago the last comment was said; None if there was none, or if it lies ahead: the clock was set."""
        return None if self.said is None or self.said.at > now else now - self.said.at

    def take_back(self, said: Said) -> None:
        """``said`` was not told to the room: it counts no more, for slow mode as little as for duplicates."""
        said.taken_back = True
        while self.said is not None and self.said.taken_back:
            self.said = self.said.before

    def keep(self, id: str, answer: Answer) -> None:
        """Remember one more command, in place of the oldest that was answered."""
        if len(self.answers) >= ANSWERS:
            done = (known for known, former in self.answers.items() if former.ack is not None)
            del self.answers[next(done, next(iter(self.answers)))]
        self.answers[id] = answer
