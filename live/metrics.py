"""What a gateway counts: plain numbers on the hot path, turned into Prometheus metrics when somebody asks."""

import resource
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import monotonic

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from live import wire

BOUNDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0, 5.0)
"""Seconds; upper edges of the delay histograms."""
RECENT_DELAYS = 512
RECENT_SECONDS = 60.0
"""What pages call now: an hour after a second of trouble they must not tell of it still."""
PREFIX = "nearcast_gateway_"

GAUGES: Mapping[str, str] = {
    "viewers": "Sockets of people who are in a room",
    "sockets": "Open sockets, also of those who did not say hello yet",
    "rooms": "Rooms that are open here",
    "rooms_mending": "Rooms whose copy of the log is being repaired",
    "ready": "1 if new viewers may come here",
    "bus_healthy": "1 if the rooms' channels are heard",
    "commands_running": "Commands of viewers and guides under way",
    "slow_viewers": "Sockets that do not take what is written as fast as it comes",
    "write_buffer_bytes": "Bytes that wait for slow sockets, of all together",
    "write_buffer_max_bytes": "Bytes that wait for the slowest socket",
    "loop_lag_seconds": "How late the event loop woke last",
    "resident_bytes": "Memory of this process",
}
COUNTERS: Mapping[str, str] = {
    "joins": "Viewers let in",
    "written_bytes": "Bytes of messages, as they were sent",
    "saved_bytes": "Bytes that compression left out of them",
    "bus_gaps": "Numbers that were missing in a room's log and were read again",
    "bus_losses": "How often a subscription was lost",
    "forgotten_early": "Viewers whose latest commands were forgotten to make room for those of others",
    "errand_failures": "Work in the background that broke: a defect",
}
_SHED = ("attendance", "comment", "join", "left", "seen", "slow", "tap")


class Delays:
    """Delays of one kind, most of them from publishing to the last socket of this gateway."""

    __slots__ = ("buckets", "recent", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.total = 0.0
        self.recent: deque[tuple[float, float]] = deque(maxlen=RECENT_DELAYS)
        """When (``monotonic``) and how much."""

    def observe(self, seconds: float) -> None:
        """Clocks of two machines differ a little; less than nothing counts as nothing."""
        seconds = max(0.0, seconds)
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds
        self.recent.append((monotonic(), seconds))

    def quantile(self, q: float) -> float:
        """Of what was observed within ``RECENT_SECONDS``; 0 if that is nothing."""
        since = monotonic() - RECENT_SECONDS
        ordered = sorted(seconds for at, seconds in self.recent if at > since)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0


class Tally:
    """The numbers of one gateway since its start."""

    def __init__(self) -> None:
        self.joins = 0
        self.frames = 0
        """Messages of rooms written to sockets; of these ``certain_frames`` told what is certain."""
        self.certain_frames = 0
        self.written = 0
        """Bytes of messages, as they were sent."""
        self.saved = 0
        """Bytes that compression left out of them."""
        self.events: Counter[str] = Counter()
        self.shed: Counter[str] = Counter()
        self.closes: Counter[str] = Counter()
        self.resumes: Counter[str] = Counter()
        self.commands: Counter[tuple[str, str]] = Counter()
        """What viewers and guides asked for, by kind and by ``ok`` or the refusal's code."""
        self.failures: Counter[str] = Counter()
        """Work that failed and was tried again or refused, by what it was."""
        self.checks: Counter[str] = Counter()
        """Comments shown to somebody outside, by what they said; ``down`` when they said nothing."""
        self.gaps = 0
        self.delays = {kind: Delays() for kind in wire.Kind}
        self.bus = Delays()
        """From publishing to hearing it here; one observation a message, however many viewers."""
        self.loop_lag = 0.0


def resident_bytes() -> int:
    """Memory of this process; the peak where the current figure is not to be had."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize()


class Exposition(Collector):
    """``/metrics`` of one gateway, from its ``Tally`` and a few figures of the moment.

    ``figures()`` names those of ``GAUGES`` and ``COUNTERS`` that are not in the tally. What the rest of the process
    counts (claims are decided here) comes along.
    """

    def __init__(self, tally: Tally, figures: Callable[[], dict[str, float]]) -> None:
        self._tally = tally
        self._figures = figures
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry) + generate_latest(REGISTRY)

    def collect(self) -> Iterable[Metric]:
        """See ``prometheus_client``."""
        tally = self._tally
        figures = self._figures() | {
            "loop_lag_seconds": tally.loop_lag,
            "resident_bytes": resident_bytes(),
            "joins": tally.joins,
            "written_bytes": tally.written,
            "saved_bytes": tally.saved,
            "bus_gaps": tally.gaps,
        }
        for name, told in GAUGES.items():
            yield GaugeMetricFamily(PREFIX + name, told, figures[name])
        for name, told in COUNTERS.items():
            yield CounterMetricFamily(PREFIX + name, told, figures[name])
        yield from self._counted()
        yield _histogram("delay_seconds", "From publishing to the last socket", "class", tally.delays)
        yield _histogram("bus_delay_seconds", "From publishing to hearing it here", None, {None: tally.bus})

    def _counted(self) -> Iterable[Metric]:
        """Counters by a label. Values known beforehand are there from the start, so that a rate sees their first."""
        tally = self._tally
        frames = {"certain": tally.certain_frames, "talk": tally.frames - tally.certain_frames}
        kinds = [kind.value for kind in wire.Kind]
        for name, told, label, known, counts in (
            ("frames", "Messages of rooms written to sockets", "class", (), frames),
            ("events", "Events heard, once for each room", "class", kinds, tally.events),
            ("shed", "Events left out, by what or for whom", "what", _SHED, tally.shed),
            ("closes", "Sockets closed by us", "code", [code.name.lower() for code in wire.Close], tally.closes),
            ("resumes", "Viewers who came back: told all they missed, or anew", "outcome", ("recovered", "fresh"),
             tally.resumes),
            ("failures", "Work that failed and was tried again or refused", "what", ("command", "defect"),
             tally.failures),
            ("checks", "Comments shown to WeChat, by what it said", "outcome", ("down",), tally.checks),
        ):  # fmt: skip
            family = CounterMetricFamily(PREFIX + name, told, labels=[label])
            for case in dict.fromkeys([*known, *counts]):
                family.add_metric([case], counts.get(case, 0))
            yield family
        commands = CounterMetricFamily(
            PREFIX + "commands", "What viewers and guides asked for", labels=["command", "outcome"]
        )
        for case, count in (dict.fromkeys([("claim", "ok"), ("locate", "ok")], 0) | tally.commands).items():
            commands.add_metric(case, count)
        yield commands


def _histogram(
    name: str, told: str, label: str | None, of: Mapping[wire.Kind, Delays] | Mapping[None, Delays]
) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, told, labels=[label] if label else [])
    for kind, delays in of.items():
        seen = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip([*map(str, BOUNDS), "+Inf"], delays.buckets, strict=True):
            seen += count
            buckets.append((bound, seen))
        family.add_metric([] if kind is None else [kind.value], buckets, delays.total)
    return family
