"""What a gateway counts: plain numbers on the hot path, turned into Prometheus metrics when somebody asks."""

import resource
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from live import wire

BOUNDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0, 5.0)
"""Seconds; upper edges of the delay histogram."""
RECENT_DELAYS = 512


class Delays:
    """Delays of one class, from publishing to the last socket of this gateway."""

    __slots__ = ("buckets", "recent", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.total = 0.0
        self.recent: deque[float] = deque(maxlen=RECENT_DELAYS)

    def observe(self, seconds: float) -> None:
        """Clocks of two machines differ a little; less than nothing counts as nothing."""
        seconds = max(0.0, seconds)
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds
        self.recent.append(seconds)

    def quantile(self, q: float) -> float:
        """Of the newest observations; 0 if there are none."""
        ordered = sorted(self.recent)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0


class Tally:
    """The numbers of one gateway since its start."""

    def __init__(self) -> None:
        self.joins = 0
        self.frames = 0
        self.written = 0
        """Bytes of messages, as they were sent."""
        self.saved = 0
        """Bytes that compression left out of them."""
        self.events: Counter[str] = Counter()
        self.shed: Counter[str] = Counter()
        self.closes: Counter[str] = Counter()
        self.resumes: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        """Work that failed and was tried again or refused, by what it was."""
        self.checks: Counter[str] = Counter()
        """Comments shown to somebody outside, by what they said; ``down`` when they said nothing."""
        self.gaps = 0
        self.delays = {kind: Delays() for kind in (wire.Kind.CERTAIN, wire.Kind.LOSSY)}
        self.loop_lag = 0.0


def resident_bytes() -> int:
    """Memory of this process; the peak where the current figure is not to be had."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize()


class Exposition(Collector):
    """``/metrics`` of one gateway, from its ``Tally`` and a few figures of the moment."""

    def __init__(self, tally: Tally, gauges: Callable[[], dict[str, float]], losses: Callable[[], int]) -> None:
        self._tally = tally
        self._gauges = gauges
        self._losses = losses
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """See ``prometheus_client``."""
        tally = self._tally
        figures = self._gauges() | {"loop_lag_seconds": tally.loop_lag, "resident_bytes": resident_bytes()}
        for name, value in figures.items():
            yield GaugeMetricFamily(f"nearcast_gateway_{name}", name.replace("_", " "), value)
        for name, value in (
            ("joins", tally.joins),
            ("frames", tally.frames),
            ("bytes_written", tally.written),
            ("bytes_saved", tally.saved),
            ("bus_gaps", tally.gaps),
            ("bus_losses", self._losses()),
        ):
            yield CounterMetricFamily(f"nearcast_gateway_{name}", name.replace("_", " "), value)
        for name, label, counts in (
            ("events", "class", tally.events),
            ("shed", "what", tally.shed),
            ("closes", "code", tally.closes),
            ("resumes", "outcome", tally.resumes),
            ("failures", "what", tally.failures),
            ("checks", "outcome", tally.checks),
        ):
            family = CounterMetricFamily(f"nearcast_gateway_{name}", f"{name} by {label}", labels=[label])
            for case, count in counts.items():
                family.add_metric([case], count)
            yield family
        histogram = HistogramMetricFamily(
            "nearcast_gateway_delay_seconds", "from publishing to the last socket", labels=["class"]
        )
        for kind, delays in tally.delays.items():
            seen = 0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip([*map(str, BOUNDS), "+Inf"], delays.buckets, strict=True):
                seen += count
                buckets.append((bound, seen))
            histogram.add_metric([kind.value], buckets, delays.total)
        yield histogram
