"""What things cost, fitted to a calibration by least squares; and how wrong that is where it was not fitted. Pure.

All CPU in core seconds. A calibration is what ``python -m loadtest.bench.calibrate`` prints.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from live.audience import MAX_REST_SECONDS, MIN_REST_SECONDS, REST_FACTOR
from live.speech import GATHER_SECONDS

VERSION = 1
CAST_SECONDS = 0.001
"""Until Redis has answered a cast; the next comments of the room gather meanwhile."""
FEWEST_POINTS = 3

Point = Mapping[str, float]


class BadCalibration(Exception):
    """This is no calibration that the model can use; the message says why."""


@dataclass(frozen=True)
class Costs:
    """What one of each costs. ``*_s`` are core seconds of the process named first."""

    gateway_second_s: float
    gateway_frame_s: float
    """One frame to one viewer."""
    gateway_comment_s: float
    """One comment: heard from its viewer or from Redis, merged, encoded."""
    gateway_join_s: float
    gateway_return_s: float
    """A join that resumes."""
    gateway_claim_s: float
    gateway_empty_kib: float
    gateway_viewer_kib: float
    frame_bytes: float
    event_bytes: float
    deflated_frame_bytes: float
    deflated_event_bytes: float
    welcome_bytes: float
    redis_second_s: float
    redis_comment_s: float
    redis_cast_s: float
    redis_listener_s: float
    """One message to one more gateway."""
    redis_join_s: float
    redis_second_commands: float
    redis_comment_commands: float
    redis_cast_commands: float
    redis_empty_bytes: float
    postgres_comment_s: float
    postgres_claim_s: float
    postgres_push_s: float
    worker_push_s: float
    comment_wal_bytes: float
    comment_rows: float
    second_commits: float
    comment_commits: float
    claim_wal_bytes: float
    claim_rows: float
    claim_commits: float
    push_wal_bytes: float
    push_rows: float
    push_commits: float


def least_squares(rows: Sequence[Sequence[float]], seen: Sequence[float]) -> NDArray[np.float64]:
    """The costs, none below 0, with the least sum of squared *relative* errors: a small run counts as a large one.

    With so few unknowns every choice of those that are not 0 is tried, which is exact.
    """
    weights = 1 / np.maximum(np.abs(np.asarray(seen, dtype=np.float64)), 1e-12)
    matrix = np.asarray(rows, dtype=np.float64) * weights[:, None]
    wanted = np.asarray(seen, dtype=np.float64) * weights
    best, least = np.zeros(matrix.shape[1]), float(wanted @ wanted)
    columns = [place for place in range(matrix.shape[1]) if matrix[:, place].any()]
    for size in range(1, len(columns) + 1):
        for chosen in combinations(columns, size):
            part = matrix[:, chosen]
            found = np.linalg.lstsq(part, wanted, rcond=None)[0]
            error = float(np.square(part @ found - wanted).sum())
            if (found >= 0).all() and error < least * (1 - 1e-9):
                best = np.zeros(matrix.shape[1])
                best[list(chosen)] = found
                least = error
    return best


def frames_per_second(viewers: float, comments: float, display_rate: float, frame_s: float) -> float:
    """Frames a second that each of ``viewers`` of a room at one gateway gets, of ``comments`` a second.

    A tick takes as long as writing to all of them; then the room rests (``live/audience.py``). A comment that comes
    in that time goes into the next tick, else the room waits for one.
    """
    shown = min(comments, display_rate)
    if shown <= 0:
        return 0.0
    tick = viewers * frame_s
    cycle = tick + max(MIN_REST_SECONDS, min(MAX_REST_SECONDS, tick * REST_FACTOR))
    return float(1 / (cycle + np.exp(-shown * cycle) / shown))


def casts_per_second(comments: float) -> float:
    """Messages a second to Redis from one room of one gateway, whose viewers say ``comments`` a second."""
    return comments / (1 + comments * (GATHER_SECONDS + CAST_SECONDS))


def _solved(points: Sequence[Point], wanted: str, *by: str) -> list[float]:
    return [float(x) for x in least_squares([[p[name] for name in by] for p in points], [p[wanted] for p in points])]


def fit(calibration: Mapping[str, Any]) -> Costs:
    """The costs in ``calibration``. Raises BadCalibration."""
    try:
        return _fit(calibration)
    except (KeyError, TypeError, IndexError, AttributeError, ZeroDivisionError, np.linalg.LinAlgError) as problem:
        raise BadCalibration(f"the calibration is damaged ({type(problem).__name__}: {problem})") from problem


def _fit(calibration: Mapping[str, Any]) -> Costs:
    if calibration["version"] != VERSION:
        raise BadCalibration(f"the calibration is of version {calibration['version']}, this program reads {VERSION}")
    points = calibration["fit"]
    if len(points) < FEWEST_POINTS:
        raise BadCalibration(f"the calibration has {len(points)} points, fewer than {FEWEST_POINTS}")
    for point in (*points, *calibration["check"], *calibration["joins"]):
        for name, value in point.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value) or value < 0:
                raise BadCalibration(f"the calibration is damaged ({name} is {value!r})")
    joins, back, memory = calibration["joins"], calibration["returns"], calibration["memory"]
    came = sum(batch["viewers"] for batch in joins)
    gateway = _solved(points, "gateway_cpu", "seconds", "frames", "comments")
    plain = _solved(points, "bytes", "frames", "events")
    deflated = _solved(points, "deflated_bytes", "frames", "events")
    redis = _solved(points, "redis_cpu", "seconds", "comments", "redis_published")
    commands = _solved(points, "redis_commands", "seconds", "comments", "redis_published")
    postgres = _solved(points, "postgres_cpu", "seconds", "comments")
    wal = _solved(points, "wal_bytes", "seconds", "comments")
    rows = _solved(points, "rows", "seconds", "comments")
    commits = _solved(points, "commits", "seconds", "comments")
    worker = _solved(points, "worker_cpu", "seconds", "comments")
    ears = [
        {"each": 1.0, "subscribers": ear["subscribers"], "cost": ear["redis_cpu"] / ear["published"]}
        for ear in calibration["listeners"]
    ]
    costs = {"gateway": gateway, "redis": redis, "postgres": postgres, "worker": worker, "commits": commits,
             "wal": wal, "rows": rows}  # fmt: skip

    def each(drop: Mapping[str, float], what: str, by: str) -> float:
        # What would have gone on anyway in that time is not the coupons' cost.
        return max(0.0, drop[by] - costs[what][0] * drop["seconds"]) / drop["coupons"]

    claim, push = calibration["claim"], calibration["push"]
    return Costs(
        gateway_second_s=gateway[0], gateway_frame_s=gateway[1], gateway_comment_s=gateway[2],
        gateway_join_s=sum(batch["gateway_cpu"] for batch in joins) / came,
        gateway_return_s=back["gateway_cpu"] / back["viewers"],
        gateway_claim_s=each(claim, "gateway", "gateway_cpu"),
        gateway_empty_kib=memory["empty_kib"],
        gateway_viewer_kib=max(0.0, memory["full_kib"] - memory["empty_kib"]) / memory["viewers"],
        frame_bytes=plain[0], event_bytes=plain[1],
        deflated_frame_bytes=deflated[0], deflated_event_bytes=deflated[1],
        welcome_bytes=sum(batch["welcome_bytes"] * batch["viewers"] for batch in joins) / came,
        redis_second_s=redis[0], redis_comment_s=redis[1], redis_cast_s=redis[2],
        redis_listener_s=_solved(ears, "cost", "each", "subscribers")[1],
        redis_join_s=sum(batch["redis_cpu"] for batch in joins) / came,
        redis_second_commands=commands[0], redis_comment_commands=commands[1], redis_cast_commands=commands[2],
        redis_empty_bytes=calibration["redis_memory_bytes"],
        postgres_comment_s=postgres[1],
        postgres_claim_s=each(claim, "postgres", "postgres_cpu"),
        postgres_push_s=each(push, "postgres", "postgres_cpu"),
        worker_push_s=each(push, "worker", "worker_cpu"),
        comment_wal_bytes=wal[1], comment_rows=rows[1], second_commits=commits[0], comment_commits=commits[1],
        claim_wal_bytes=each(claim, "wal", "wal_bytes"), claim_rows=each(claim, "rows", "rows"),
        claim_commits=each(claim, "commits", "commits"),
        push_wal_bytes=each(push, "wal", "wal_bytes"), push_rows=each(push, "rows", "rows"),
        push_commits=each(push, "commits", "commits"),
    )  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One figure at one size that the model was not fitted to."""

    viewers: int
    what: str
    unit: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Relative; positive: the model says too much."""
        return (self.predicted - self.measured) / self.measured if self.measured else 0.0


def checks(costs: Costs, calibration: Mapping[str, Any], display_rate: float = 30.0) -> list[Check]:
    """The model beside what was measured at other sizes: told only how many watch, how long and how much is said."""
    found = []
    for point in calibration["check"]:
        viewers, seconds, comments = point["viewers"], point["seconds"], point["comments"]
        rate = comments / seconds
        frames = frames_per_second(viewers, rate, display_rate, costs.gateway_frame_s) * viewers * seconds
        # Within the first second the allowance saved up in silence is shown too.
        events = min(comments, display_rate * (seconds + 1)) * viewers
        casts = casts_per_second(rate) * seconds
        gateway = costs.gateway_second_s * seconds + costs.gateway_frame_s * frames + costs.gateway_comment_s * comments
        redis = costs.redis_second_s * seconds + costs.redis_comment_s * comments + costs.redis_cast_s * casts
        for what, unit, predicted, measured in (
            ("gateway CPU", "s", gateway, point["gateway_cpu"]),
            ("frames", "", frames, point["frames"]),
            ("bytes", "B", costs.frame_bytes * frames + costs.event_bytes * events, point["bytes"]),
            ("Redis CPU", "s", redis, point["redis_cpu"]),
        ):
            found.append(Check(int(viewers) - 1, what, unit, float(predicted), float(measured)))
    return found
