"""The figures of a load test, from what was told second by second; pure. Budgets are set for those of ``FIGURES``."""

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from loadtest.swarm.plan import Histogram, Tick, add, percentile
from loadtest.watch import Sample

FIGURES = {
    "certain_p50_ms": "delay of certain events, median",
    "certain_p95_ms": "delay of certain events, 95 of 100",
    "certain_p99_ms": "delay of certain events, 99 of 100",
    "missed_p99_ms": "from a certain event to who was away when it was told, 99 of 100",
    "latest_p99_ms": "delay of counts (likes), 99 of 100",
    "lossy_p50_ms": "delay of comments, median",
    "lossy_p99_ms": "delay of comments, 99 of 100",
    "certain_lost": "certain events that a viewer was not told",
    "certain_disordered": "certain events that came out of order",
    "join_p99_ms": "from setting out to the welcome, 99 of 100",
    "return_p99_ms": "from losing the room to the welcome, 99 of 100",
    "comment_ack_p99_ms": "from a comment to its answer, 99 of 100",
    "claim_p99_ms": "from a claim to its answer, 99 of 100",
    "claims_answered": "share of claims that were answered",
    "recovered": "share of resumes with everything that was missed",
    "let_in": "share of the wanted viewers who were in at the end",
    "failed": "whatever must not happen: refused for no good reason, unanswered, not let in, closed for good",
    "viewers": "most viewers at once",
    "deliveries_per_s": "events told to viewers, a second, in the busiest ten seconds",
    "memory_growth": "memory of the server's processes in the last fifth, against the second fifth of the test",
}
GENERATOR_SHARE = 0.85
GENERATOR_LAG = 0.1
"""Above this share of its core, or with timers this late (s), the generator measured itself."""
SERVERS_SHARE = 0.9
"""Above this share of a core, or of all that they have, the servers had no more to give."""
NAMED_SHARE = 0.05
"""Processes with less than this share of a core are not named."""
WINDOW = 10
CERTAIN = {"certain lost": "certain_lost", "certain out of order": "certain_disordered"}


class Said(NamedTuple):
    """A text in both languages."""

    zh: str
    en: str


class Totals:
    """A test summed up."""

    def __init__(self, ticks: Sequence[Tick]) -> None:
        self.ticks = ticks
        self.delays: dict[str, Histogram] = {}
        self.answers: dict[str, Histogram] = {}
        self.outcomes: dict[str, Counter[str]] = {}
        self.failures: Counter[str] = Counter()
        self.closes: Counter[str] = Counter()
        for tick in ticks:
            for kind, histogram in tick.delays.items():
                add(self.delays.setdefault(kind, {}), histogram)
            for kind, histogram in tick.answers.items():
                add(self.answers.setdefault(kind, {}), histogram)
            for kind, outcomes in tick.outcomes.items():
                self.outcomes.setdefault(kind, Counter()).update(outcomes)
            self.failures.update(tick.failures)
            self.closes.update(tick.closes)

    def total(self, name: str) -> int:
        """A count of all ticks."""
        return sum(getattr(tick, name) for tick in self.ticks)


def of(ticks: Sequence[Tick], memory: Sequence[float] = ()) -> dict[str, float | None]:
    """Every figure by its name; None where the test has nothing to tell it from.

    ``memory`` is the server's in all, in any unit, at equal intervals over the whole test.
    """
    totals = Totals(ticks)
    found: dict[str, float | None] = dict.fromkeys(FIGURES)
    for kind in ("certain", "missed", "latest", "lossy"):
        histogram = totals.delays.get(kind)
        for part in (50, 95, 99):
            if histogram and f"{kind}_p{part}_ms" in FIGURES:
                found[f"{kind}_p{part}_ms"] = percentile(histogram, part / 100)
    for kind, name in (("join", "join"), ("return", "return"), ("comment", "comment_ack"), ("claim", "claim")):
        if totals.answers.get(kind):
            found[f"{name}_p99_ms"] = percentile(totals.answers[kind], 0.99)
    for what, name in CERTAIN.items():
        found[name] = totals.failures[what]
    found["failed"] = sum(many for what, many in totals.failures.items() if what not in CERTAIN)
    resumes = totals.total("recovered") + totals.total("unrecovered")
    if resumes:
        found["recovered"] = totals.total("recovered") / resumes
    if claims := sum(totals.outcomes.get("claim", {}).values()):
        found["claims_answered"] = claims / (claims + totals.failures["claim: no answer"])
    playing = [tick for tick in ticks if tick.phase == "play"]
    if playing:
        found["viewers"] = max(tick.viewers for tick in playing)
        found["let_in"] = max(tick.viewers for tick in ticks if tick.t >= playing[-1].t) / max(1, playing[-1].wanted)
        busy = [tick.deliveries for tick in playing]
        windows = [busy[start : start + WINDOW] for start in range(max(1, len(busy) - WINDOW + 1))]
        found["deliveries_per_s"] = max(sum(window) / len(window) for window in windows)
    if len(memory) >= 10:
        fifth = len(memory) // 5
        found["memory_growth"] = median(memory[-fifth:]) / max(1.0, median(memory[fifth : 2 * fifth]))
    return found


def limited_by_generator(ticks: Sequence[Tick]) -> Said | None:
    """Why the generator, not the server, was the limit; None where it was not."""
    playing = [tick for tick in ticks if tick.phase == "play" and tick.viewers]
    if not playing:
        return None
    # The busiest tenth of the time decides: a peak of joins that the generator could not follow is one, too.
    worst = max(1, len(playing) // 10)
    share = sorted(tick.cpu for tick in playing)[-worst]
    lag = sorted(tick.lag for tick in playing)[-worst]
    zh, en = [], []
    if share > GENERATOR_SHARE:
        zh.append(f"用了它那个核的 {share:.0%}")
        en.append(f"it used {share:.0%} of its core")
    if lag > GENERATOR_LAG:
        zh.append(f"自己的定时器晚了 {lag * 1000:.0f} 毫秒")
        en.append(f"its own timers were {lag * 1000:.0f} ms late")
    return Said("，".join(zh), " and ".join(en)) if en else None


def full_servers(samples: Sequence[Sample], cores: int) -> Said | None:
    """What of the servers' CPU was full over half of the time, and who used it; None where there was more to be had.

    ``cores`` are all that the servers have; 0 where that is not known, then only single processes are looked at.
    """
    looked = [sample for sample in samples if sample.cpu]
    if not looked:
        return None
    names = {name for sample in looked for name in sample.cpu}
    used = {name: median(sample.cpu.get(name, 0.0) for sample in looked) for name in names}
    whole = median(sum(sample.cpu.values()) for sample in looked)
    most = sorted(used.items(), key=lambda pair: -pair[1])
    told = ", ".join(f"{name} {share:.0%}" for name, share in most if share > NAMED_SHARE)
    if cores and whole > SERVERS_SHARE * cores:
        en = "the servers' core was" if cores == 1 else f"all {cores} cores of the servers were"
        return Said(
            f"服务器的 {cores} 个核用了 {whole / cores:.0%} ({told})", f"{en} {whole / cores:.0%} used ({told})"
        )
    # PostgreSQL is many processes; each of the others has one thread that does the work.
    full = [(name, share) for name, share in most if share > SERVERS_SHARE and name != "postgres"]
    if not full:
        return None
    told = ", ".join(f"{name} {share:.0%}" for name, share in full)
    return Said(f"占满一个核的进程：{told}", f"these processes filled a core: {told}")
