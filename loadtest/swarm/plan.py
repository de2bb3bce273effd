"""What a swarm is to do, and what it tells each second: the two JSON documents between it and whoever started it."""

from typing import Any

import msgspec
from msgspec import Struct

Histogram = dict[int, int]
"""Milliseconds, rounded as ``rounded`` does, and how many took so long."""


class RoomPlan(Struct, frozen=True):
    """One room. ``guide`` is its guide's token, or empty: then somebody else runs it."""

    id: str
    viewers: int
    guide: str = ""
    shelf: list[str] = []
    campaign: str | None = None
    spot: tuple[float, float] = (121.4463, 31.2237)
    """Longitude and latitude (GCJ-02) near which its viewers are."""


class Plan(Struct, frozen=True):
    """All of it. ``tokens`` are the viewers', each of somebody else, at least as many as the rooms have viewers."""

    shape: str
    seconds: float
    sockets: list[str]
    """Addresses as rooms tell them, ``ws://…`` or ``wss://…``."""
    rooms: list[RoomPlan]
    tokens: list[str]
    pace: dict[str, Any]
    """``config.SwarmPace``."""
    located: float = 0.7
    claim: float = 0.8
    claim_within: float = 5.0
    stock: int = 200
    drop_seconds: int = 60
    alone: bool = True
    """Nobody else is in these rooms, so a number of the log that nobody here was told is a loss."""
    cuts: bool = True
    """A ``strike`` cuts the sockets to one gateway; where somebody kills a real one, it does not."""
    ends: bool = False
    """Guides end their rooms when the test is over."""
    seed: int = 1


class Tick(Struct, omit_defaults=True):
    """What happened in a second, or a little more; counts are of this second, ``viewers`` is how it stands."""

    t: float
    """Seconds since the swarm began to let viewers in."""
    at: float = 0.0
    """Seconds since 1970."""
    phase: str = "play"
    """``play``, then ``quiet`` (nobody talks; what is under way arrives), then ``end``."""
    viewers: int = 0
    wanted: int = 0
    """How many the shape wants in by now."""
    comments: int = 0
    frames: int = 0
    deliveries: int = 0
    received: int = 0
    """Bytes."""
    delays: dict[str, Histogram] = {}
    """``certain``, ``latest``, ``lossy``: from the sender's stamp to each viewer; ``missed``: certain ones that came
    with a resume, so that the time away is in them."""
    answers: dict[str, Histogram] = {}
    """``join``, ``resume``, ``return``, ``comment``, ``claim``, ``locate``, …: how long until the answer."""
    outcomes: dict[str, dict[str, int]] = {}
    """What the commands came to: ``ok`` or the refusal's code."""
    failures: dict[str, int] = {}
    """What must not happen, such as ``certain lost``."""
    recovered: int = 0
    """Resumes that were given everything that was missed."""
    unrecovered: int = 0
    """Resumes that got a fresh snapshot instead."""
    closes: dict[str, int] = {}
    """Sockets that the server ended, by the code of its ``bye``; ``cut`` without one."""
    claimable: int = 0
    """Drops of this second that viewers here may claim from."""
    cpu: float = 0.0
    """Share of its core that the swarm used."""
    lag: float = 0.0
    """Seconds by which the latest of its own timers was late."""
    coupons: list[tuple[str, str]] = []
    """Code and store of coupons that viewers got."""
    struck: bool = False


def rounded(ms: int) -> int:
    """As Locust rounds: exact below 100 ms, then to two digits; so histograms stay small and can be added."""
    if ms < 100:
        return ms
    step = 10 if ms < 1000 else 100 if ms < 10_000 else 1000
    return round(ms / step) * step


def add(into: Histogram, other: Histogram) -> None:
    """Add ``other`` to ``into``."""
    for ms, count in other.items():
        into[ms] = into.get(ms, 0) + count


def percentile(delays: Histogram, part: float) -> int:
    """What ``part`` (0 to 1) of them did not exceed, ms; 0 if there are none."""
    owed = part * sum(delays.values())
    for ms in sorted(delays):
        owed -= delays[ms]
        if owed <= 0:
            return ms
    return 0


plans = msgspec.json.Decoder(Plan)
ticks = msgspec.json.Decoder(Tick)
encoder = msgspec.json.Encoder()
