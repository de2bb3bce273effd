"""Everybody's return after gateways are lost, simulated event by event; a million viewers take seconds. Pure.

Each viewer waits as the client waits (``web/client/retry.js``), picks a gateway by chance, and stands in its line; a
gateway lets its line in one by one, in order of arrival, at its pace. Whoever is not let in within ``PATIENCE_SECONDS``
goes away and waits anew, longer. Whom a dead address turns away does so too.

Exact although in arrays: nobody comes back sooner than the shortest wait, so all who come within one such span can be
looked at together. What the model leaves out makes it kinder or harsher than life, and is little: a join that was given
up costs the gateway nothing (it finds the socket closed), and networks take no time.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from live.leaving import JITTER_SECONDS, SOONEST_SECONDS, Leaving

FIRST_SECONDS = 2.0
LONGEST_SECONDS = 8.0
CLIENT_JITTER = 0.9
"""The part of a wait that is left to chance; this and the two above as in ``web/client/retry.js``."""
STRETCH = 0.3
"""By how much at most a client stays away for longer than ``retry_after`` asked."""
PATIENCE_SECONDS = 10.0
"""A client without a welcome by then gives up; ``WELCOME_MS`` of ``web/client/nearcast.js``."""
LISTED_SECONDS = 15.0
"""How long a dead gateway's address is still given out; ``GATEWAY_SECONDS`` of ``live/presence.py``."""
DRAIN_SECONDS = 13.0
"""How long a gateway has for closing its viewers (docs/operations.md, "Replacing a gateway")."""
CLOSING_SHARE = 0.7
LONGEST_STORM_SECONDS = 900.0
_FAR = 1e6  # seconds between the lines of two gateways, where one array holds all of them

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Storm:
    """``viewers`` are spread evenly over ``gateways``, of which ``lost`` go away at second 0.

    ``joins_per_s``: how many joins one gateway has room for, beside what it does anyway. ``lost`` equal to ``gateways``
    means that every socket breaks but all gateways live on. ``jitter`` 0: everybody waits the same time.
    """

    viewers: int
    gateways: int
    lost: int
    joins_per_s: float
    how: Literal["killed", "drained"] = "killed"
    jitter: float = CLIENT_JITTER
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.lost <= self.gateways or self.viewers < 1 or self.joins_per_s <= 0:
            raise ValueError("a storm needs viewers, a lost gateway, and somebody who lets people in")
        if not 0 <= self.jitter <= CLIENT_JITTER:
            raise ValueError(f"jitter lies between 0 and {CLIENT_JITTER}")
        if self.how == "drained" and self.lost == self.gateways:
            raise ValueError("if every gateway drains, nobody can come back")

    @property
    def affected(self) -> int:
        """How many viewers lose their connection."""
        return self.viewers * self.lost // self.gateways

    @property
    def open(self) -> int:
        """How many gateways let people in."""
        return self.gateways if self.lost == self.gateways else self.gateways - self.lost


@dataclass(frozen=True)
class Outcome:
    """How a storm went. Times in seconds after the loss."""

    storm: Storm
    back_at: Floats
    """When each of the affected was let in, sorted; whoever is out at ``LONGEST_STORM_SECONDS`` is missing."""
    let_in: tuple[Floats, Ints]
    """The same, in no order, with the gateway of each."""
    tries: int
    gave_up: int
    """Tries that took longer than anybody's patience."""
    turned_away: int
    """Tries at dead addresses."""
    longest_line: float
    """The longest that anybody stood in a line, served or not."""
    peak_tries: int
    """Tries at one gateway in its fullest second."""
    peak_joins: int
    """Joins at one gateway in its fullest second."""

    @property
    def still_out(self) -> int:
        """How many were not let in within ``LONGEST_STORM_SECONDS``."""
        return self.storm.affected - len(self.back_at)

    def back(self, part: float) -> float | None:
        """When ``part`` (0 to 1) of the affected were back; None if they never were."""
        needed = int(np.ceil(part * self.storm.affected))
        if needed > len(self.back_at):
            return None
        return float(self.back_at[needed - 1]) if needed else 0.0

    def curve(self, seconds: float, points: int = 200) -> list[tuple[float, float]]:
        """(second, share of the affected who are back)."""
        at = np.linspace(0, seconds, points)
        share = np.searchsorted(self.back_at, at, side="right") / max(1, self.storm.affected)
        return list(zip(at.tolist(), share.tolist(), strict=True))


def waits(attempts: Ints, chance: Floats, jitter: float = CLIENT_JITTER) -> Floats:
    """How long a client waits before try number ``attempts`` (from 0), as ``Retry.wait`` without ``retry_after``."""
    ceiling = np.minimum(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** np.minimum(attempts, 10))
    return ceiling * (1 - jitter + jitter * chance)


def returns(leaving: Leaving, chance: Floats, stretch: Floats) -> Floats:
    """When the viewers of a draining gateway come back: closed at its pace, each with a ``retry_after`` that they
    stretch by up to ``STRETCH`` (``live/leaving.py``, ``Retry.wait``)."""
    if not leaving.viewers:
        return np.zeros(0)
    place = np.arange(leaving.viewers)
    closed = place * (leaving.closing / leaving.viewers)
    behind = (leaving.span - leaving.closing) * place / leaving.viewers
    after = SOONEST_SECONDS + behind + JITTER_SECONDS * chance
    return closed + after * (1 + STRETCH * stretch)


class _Lines:
    """The lines before the gateways."""

    def __init__(self, gateways: int, joins_per_s: float) -> None:
        self._takes = 1 / joins_per_s
        self._free = np.zeros(gateways)

    def stand(self, at: Floats, gateway: Ints) -> tuple[Floats, Ints]:
        """Add who comes ``at`` to which ``gateway``, later than all before. When each is let in (NaN: gave up)."""
        order = np.lexsort((at, gateway))
        times, lines = at[order], gateway[order]
        first = np.flatnonzero(np.r_[True, lines[1:] != lines[:-1]])
        rank = np.arange(len(times)) - np.repeat(first, np.diff(np.r_[first, len(times)]))
        # Let in when the one before is, and at the earliest on arrival: a running maximum, once the service times that
        # add up on the way are taken out; lines lie so far apart that none reaches into the next.
        begun = np.maximum(times, self._free[lines]) - rank * self._takes + lines * _FAR
        done = np.maximum.accumulate(begun) - lines * _FAR + (rank + 1) * self._takes
        late = np.maximum.reduceat(done - times, first) > PATIENCE_SECONDS
        last = np.r_[first[1:], len(times)]
        for start, stop in zip(first[late], last[late], strict=True):
            done[start:stop] = self._impatient(times[start:stop], float(self._free[lines[start]]))
        for start, stop in zip(first, last, strict=True):
            served = done[start:stop][~np.isnan(done[start:stop])]
            if len(served):
                self._free[lines[start]] = served[-1]
        return done, order

    def _impatient(self, times: Floats, free: float) -> Floats:
        """One line in which some give up: then one after the other, because each who leaves helps those behind."""
        done = []
        for at in times.tolist():
            ends = max(at, free) + self._takes
            if ends - at > PATIENCE_SECONDS:
                done.append(np.nan)
            else:
                done.append(ends)
                free = ends
        return np.array(done)


def simulate(storm: Storm) -> Outcome:
    """Everybody's way back; the same for the same ``storm``."""
    random = np.random.default_rng(storm.seed)
    crowd = storm.affected
    tries = np.zeros(crowd, dtype=np.int64)
    dead_met = np.ones(crowd, dtype=np.int64)  # the own gateway's address is known to be dead
    due = _first(storm, random)
    if storm.how == "killed":
        tries += 1
    back = np.full(crowd, np.nan)
    door = np.zeros(crowd, dtype=np.int64)
    lines = _Lines(storm.open, storm.joins_per_s)
    span = FIRST_SECONDS * (1 - storm.jitter)
    out = np.arange(crowd)
    count, gave_up, turned_away, longest, rushes = 0, 0, 0, 0.0, []
    while len(out) and (now := float(due[out].min())) < LONGEST_STORM_SECONDS:
        here = out[due[out] < now + span]
        count += len(here)
        dead = _meets_the_dead(storm, due[here], dead_met[here], random)
        fallen, standing = here[dead], here[~dead]
        turned_away += len(fallen)
        dead_met[fallen] += 1
        due[fallen] += waits(tries[fallen], random.random(len(fallen)), storm.jitter)
        tries[fallen] += 1
        if len(standing):
            gateway = random.integers(0, storm.open, len(standing))
            rushes.append(np.stack([due[standing], gateway.astype(np.float64)]))
            done, order = lines.stand(due[standing], gateway)
            standing, gateway = standing[order], gateway[order]
            lost = np.isnan(done)
            back[standing[~lost]], door[standing[~lost]] = done[~lost], gateway[~lost]
            waited = np.where(lost, PATIENCE_SECONDS, done - due[standing])
            longest = max(longest, float(waited.max()))
            leaving = standing[lost]
            gave_up += len(leaving)
            wait = waits(tries[leaving], random.random(len(leaving)), storm.jitter)
            due[leaving] += PATIENCE_SECONDS + wait
            tries[leaving] += 1
            due[standing[~lost]] = np.inf
            out = out[np.isfinite(due[out])]
    inside = ~np.isnan(back) & (back <= LONGEST_STORM_SECONDS)
    arrived = np.concatenate(rushes, axis=1) if rushes else np.zeros((2, 0))
    return Outcome(
        storm, np.sort(back[inside]), (back[inside], door[inside]), count, gave_up, turned_away, longest,
        fullest_second(arrived[0], arrived[1].astype(np.int64)), fullest_second(back[inside], door[inside]),
    )  # fmt: skip


def _first(storm: Storm, random: np.random.Generator) -> Floats:
    """When each of the affected tries for the first time."""
    if storm.how == "killed":
        return waits(np.zeros(storm.affected, dtype=np.int64), random.random(storm.affected), storm.jitter)
    shares = np.full(storm.lost, storm.affected // storm.lost)
    shares[: storm.affected % storm.lost] += 1
    return np.concatenate(
        [
            returns(Leaving(int(share), DRAIN_SECONDS * CLOSING_SHARE), random.random(share), random.random(share))
            for share in shares
        ]
    )


def _meets_the_dead(storm: Storm, at: Floats, met: Ints, random: np.random.Generator) -> NDArray[np.bool_]:
    """Whose next address is a dead gateway's: drawn without those that are known to be dead."""
    if storm.lost == storm.gateways or storm.how == "drained":
        return np.zeros(len(at), dtype=bool)
    left = np.where(at < LISTED_SECONDS, np.maximum(0, storm.lost - met), 0)
    drawn: Floats = random.random(len(at)) * (left + storm.gateways - storm.lost)
    return drawn < left


def fullest_second(at: Floats, gateway: Ints) -> int:
    """The most that came to one gateway within any one second."""
    order = np.lexsort((at, gateway))
    # Gateways as far apart as no second reaches, so that one search finds each one's second ahead.
    line = at[order] + gateway[order] * _FAR
    ahead = np.searchsorted(line, line + 1.0, side="left")
    return int((ahead - np.arange(len(line))).max(initial=0))
