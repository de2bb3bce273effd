"""What the audience counts, and what it found to be wrong."""

from bisect import insort
from collections import Counter
from typing import Any

MAX_EXAMPLES = 3
MAX_PROBLEMS = 20
"""Kinds of problems in the summary; the line must stay a line."""


class Delays:
    """A bounded, evenly thinned sample of delays in milliseconds."""

    LIMIT = 4096

    def __init__(self) -> None:
        self._kept: list[float] = []
        self._step = 1
        self._seen = 0

    def add(self, value: float) -> None:
        """Take ``value`` into account."""
        self._seen += 1
        if self._seen % self._step == 0:
            insort(self._kept, value)
            if len(self._kept) >= self.LIMIT:
                self._kept = self._kept[::2]
                self._step *= 2

    def percentile(self, share: float) -> int | None:
        """The delay that ``share`` (0–1) of the sample does not exceed, or None before the first one."""
        if not self._kept:
            return None
        return round(self._kept[min(len(self._kept) - 1, int(share * len(self._kept)))])


class Tally:
    """Counts by name, refusals by what was tried and code, and problems: outcomes that should not have been."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.comment_delay = Delays()
        self.comment_ack = Delays()
        self._problems: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def problem(self, what: str, example: object = "") -> None:
        """Report an outcome that should not have been. ``example`` must hold no token and no coordinate."""
        self._problems[what] += 1
        known = self._examples.setdefault(what, [])
        if example != "" and len(known) < MAX_EXAMPLES:
            known.append(str(example)[:200])

    def expect(self, holds: bool, what: str, example: object = "") -> None:
        """Report ``what`` unless ``holds``."""
        self.counts["checks"] += 1
        if not holds:
            self.problem(what, example)

    def refusal(self, tried: str, code: str, expected: frozenset[str]) -> None:
        """Count that ``tried`` was refused with ``code``; a problem unless that was to be expected."""
        self.refused[f"{tried}:{code}"] += 1
        if code not in expected:
            self.problem(f"{tried} refused with {code}")

    @property
    def problems(self) -> list[dict[str, Any]]:
        """The problems found so far, the most frequent first."""
        return [
            {"what": what, "count": count, "examples": self._examples[what]}
            for what, count in self._problems.most_common(MAX_PROBLEMS)
        ]
