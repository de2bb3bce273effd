"""What an evening needs of each part, and which part gives out first. Pure.

Rooms: one is the largest, all others are of equal size, and each room's viewers spread evenly over all gateways, as
clients choose them by chance. Comments and drops go with the viewers.
"""

from dataclasses import dataclass, replace

from app.capacity.costs import Costs, casts_per_second, frames_per_second

BUSY = 0.6
"""Of a core that a process of ours, Redis or PostgreSQL is planned for: the rest is for bursts."""
FULL = 0.95
"""Of a gateway's core, small talk included: one room's fills half of it at most, that of many rooms may fill it."""
LATE_SECONDS = 0.25
"""The budget for certain events at p99; one may wait for the end of another's round."""
CLAIM_SECONDS = 10.0
"""Within it a viewer who claims in a drop wants an answer, and a pushed coupon should be there."""
ROOM_BYTES = 64 * 1024
"""Of Redis for a room: two HyperLogLogs' worth, recent comments, slots, a few events. An estimate, not measured."""
COUNTS_PER_SECOND = 1.0
"""How often the viewer count of a room changes for everybody."""
FRAME_OVERHEAD = 4 + 29 + 40 + 12
"""Bytes on the wire around a frame: WebSocket head, TLS 1.3 record, IPv4 and TCP with time stamps."""
MOST_GATEWAYS = 100_000
MOST_TIMES = 10_000.0
"""How far up is looked for the size at which a part gives out."""


@dataclass(frozen=True)
class Evening:
    """What is planned for. ``comments`` a second over all rooms; ``largest`` and ``near`` are shares, 0 to 1."""

    viewers: int
    comments: float = 300.0
    drops: int = 2
    """Claim drops that open in the same moment in the largest room, and as many push drops."""
    rooms: int = 1
    largest: float = 1.0
    display_rate: float = 30.0
    near: float = 0.3
    """Of viewers who have a store within reach: they all claim, and are granted."""
    postgres_cores: int = 8
    egress_gbit: float = 10.0

    def times(self, factor: float) -> "Evening":
        """The same evening with so many times the viewers, who say so many times as much."""
        return replace(self, viewers=max(1, round(self.viewers * factor)), comments=self.comments * factor)

    def sizes(self) -> list[tuple[int, float, float]]:
        """(how many such rooms, viewers in each, comments a second in each)."""
        if self.rooms == 1:
            return [(1, float(self.viewers), self.comments)]
        other = (1 - self.largest) / (self.rooms - 1)
        return [
            (count, self.viewers * share, self.comments * share)
            for count, share in ((1, self.largest), (self.rooms - 1, other))
        ]

    @property
    def claims(self) -> float:
        """Viewers of the largest room who are near a store."""
        return self.sizes()[0][1] * self.near


@dataclass(frozen=True)
class Needs:
    """What an evening takes. CPU as the part of one core."""

    gateways: int
    gateway_cpu: float
    gateway_viewers: float
    gateway_mib: float
    gateway_comments_cpu: float
    """Of ``gateway_cpu``: for hearing what is said anywhere, which no further gateway takes away."""
    gateway_joins_per_s: float
    """Joins that one gateway has room for beside that."""
    round_seconds: float
    """To write one frame to every viewer of the largest room at one gateway."""
    frames_per_viewer: float
    viewer_bits: float
    """Bits a second to a viewer of the largest room, with all that is around the text."""
    viewer_bits_deflated: float
    egress_bits: float
    egress_bits_deflated: float
    redis_cpu: float
    redis_commands: float
    redis_messages: float
    """Published and heard: one for each gateway that listens."""
    redis_bits: float
    redis_mib: float
    postgres_cpu: float
    """Cores, while nothing is dropped."""
    postgres_commits: float
    postgres_rows: float
    postgres_wal: float
    claims: float
    claim_seconds: float
    """Until every claim of the drops is answered."""
    push_seconds: float
    drop_wal_bytes: float
    drop_rows: float
    drop_commits: float


@dataclass(frozen=True)
class Part:
    """How full a part is, 1 being all that is planned for, and with how many viewers it is full."""

    name: str
    used: float
    full_at: int | None
    """None: not within ``MOST_TIMES`` the viewers."""
    advice: str


def _gateway(costs: Costs, evening: Evening, gateways: int) -> tuple[float, float, float]:
    """CPU of one of ``gateways``, the part of it that is for comments, and the longest round to one room's viewers."""
    frames, longest = 0.0, 0.0
    for count, viewers, comments in evening.sizes():
        here = viewers / gateways
        rate = frames_per_second(here, comments + COUNTS_PER_SECOND, evening.display_rate + COUNTS_PER_SECOND,
                                 costs.gateway_frame_s)  # fmt: skip
        frames += count * here * rate
        longest = max(longest, here * costs.gateway_frame_s)
    comments_cpu = evening.comments * costs.gateway_comment_s
    return costs.gateway_second_s + frames * costs.gateway_frame_s + comments_cpu, comments_cpu, longest


def _suffices(costs: Costs, evening: Evening, gateways: int) -> bool:
    # Small talk gives way: it rests as long as it took, so it fills half of any core, and less when there is more to
    # do. What has to be done all the same is to hear every comment, and to tell what is certain in time.
    cpu, comments_cpu, longest = _gateway(costs, evening, gateways)
    return costs.gateway_second_s + comments_cpu <= BUSY and cpu <= FULL and 2 * longest <= LATE_SECONDS


def gateways_for(costs: Costs, evening: Evening) -> int | None:
    """The fewest gateways, a core each, that hold; None if comments alone are too many for any gateway."""
    low, high = 0, 1
    while not _suffices(costs, evening, high):
        low, high = high, high * 2
        if high > MOST_GATEWAYS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        if _suffices(costs, evening, middle):
            high = middle
        else:
            low = middle
    return high


def needs(costs: Costs, evening: Evening, gateways: int | None = None) -> Needs:
    """What ``evening`` takes, with so many ``gateways`` or with the fewest that hold."""
    count = gateways or gateways_for(costs, evening)
    if count is None:  # comments alone are too many; the other parts are judged as if they were not
        count = gateways_for(replace(costs, gateway_comment_s=0.0), evening) or MOST_GATEWAYS
    cpu, comments_cpu, longest = _gateway(costs, evening, count)
    egress = deflated = commands = casts = heard = 0.0
    rates = []
    for rooms, viewers, comments in evening.sizes():
        here = viewers / count
        rate = frames_per_second(here, comments + COUNTS_PER_SECOND, evening.display_rate + COUNTS_PER_SECOND,
                                 costs.gateway_frame_s)  # fmt: skip
        shown = min(comments, evening.display_rate) + COUNTS_PER_SECOND
        around = FRAME_OVERHEAD * rate
        plain = 8 * (around + costs.frame_bytes * rate + costs.event_bytes * shown)
        packed = 8 * (around + costs.deflated_frame_bytes * rate + costs.deflated_event_bytes * shown)
        rates.append((rate, plain, packed))
        egress += rooms * viewers * plain
        deflated += rooms * viewers * packed
        # A room with fewer viewers than there are gateways is heard by as many as it has viewers.
        hearing = min(count, max(1.0, viewers))
        room_casts = hearing * casts_per_second(comments / hearing)
        casts += rooms * room_casts
        heard += rooms * room_casts * hearing
        commands += rooms * (costs.redis_comment_commands * comments + costs.redis_cast_commands * room_casts)
    per_cast = evening.comments / casts if casts else 0.0
    redis_cpu = (
        costs.redis_second_s * count + costs.redis_comment_s * evening.comments + costs.redis_cast_s * casts
        + costs.redis_listener_s * max(0.0, heard - casts)
    )  # fmt: skip
    claims = evening.drops * evening.claims
    # A drop is one row, locked by whoever gives of it: each drop keeps one core of PostgreSQL busy at most.
    claim_cores = max(1, min(evening.drops, evening.postgres_cores))
    push_each = max(costs.postgres_push_s, costs.worker_push_s)
    return Needs(
        gateways=count, gateway_cpu=cpu, gateway_viewers=evening.viewers / count,
        gateway_mib=(costs.gateway_empty_kib + costs.gateway_viewer_kib * evening.viewers / count) / 1024,
        gateway_comments_cpu=comments_cpu,
        # Small talk takes half at most of what is left beside the comments, the other half is for who comes in.
        gateway_joins_per_s=max(0.0, 1 - cpu, (1 - costs.gateway_second_s - comments_cpu) / 2)
        / max(costs.gateway_return_s, 1e-9),
        round_seconds=longest, frames_per_viewer=rates[0][0], viewer_bits=rates[0][1], viewer_bits_deflated=rates[0][2],
        egress_bits=egress, egress_bits_deflated=deflated,
        redis_cpu=redis_cpu, redis_commands=costs.redis_second_commands * count + commands,
        redis_messages=casts + heard, redis_bits=8 * heard * per_cast * costs.event_bytes,
        redis_mib=(costs.redis_empty_bytes + evening.rooms * ROOM_BYTES) / 2**20,
        postgres_cpu=costs.postgres_comment_s * evening.comments,
        postgres_commits=costs.second_commits + costs.comment_commits * evening.comments,
        postgres_rows=costs.comment_rows * evening.comments, postgres_wal=costs.comment_wal_bytes * evening.comments,
        claims=claims, claim_seconds=claims * costs.postgres_claim_s / (claim_cores * BUSY),
        push_seconds=claims * push_each / BUSY,
        drop_wal_bytes=claims * (costs.claim_wal_bytes + costs.push_wal_bytes),
        drop_rows=claims * (costs.claim_rows + costs.push_rows),
        drop_commits=claims * (costs.claim_commits + costs.push_commits),
    )  # fmt: skip


def _uses(costs: Costs, evening: Evening, gateways: int | None) -> dict[str, float]:
    """How full each part is."""
    taken = needs(costs, evening, gateways)
    # However many gateways there are, each hears every comment; a fixed number must also tell everybody in time.
    gateway = (taken.gateway_comments_cpu + costs.gateway_second_s) / BUSY
    if gateways is not None:
        gateway = max(gateway, taken.gateway_cpu / FULL, 2 * taken.round_seconds / LATE_SECONDS)
    return {
        "gateways": gateway,
        "Redis": taken.redis_cpu / BUSY,
        "PostgreSQL": taken.postgres_cpu / (evening.postgres_cores * BUSY),
        "claim drops": taken.claim_seconds / CLAIM_SECONDS,
        "push drops": taken.push_seconds / CLAIM_SECONDS,
        "bandwidth": taken.egress_bits / (evening.egress_gbit * 1e9),
    }


ADVICE = {
    "gateways": "every gateway hears every comment: more rooms on separate groups of gateways, or slow mode",
    "Redis": "one core is full: a Redis Cluster spreads rooms, one room stays on one node; slow mode, fewer gateways",
    "PostgreSQL": "more cores for PostgreSQL, or fewer comments kept (slow mode)",
    "claim drops": "smaller or more drops, opened one after the other; announce openings, which spreads them",
    "push drops": "start push drops earlier, or release them at a pace; late coupons lose nothing",
    "bandwidth": "a wider line, a lower display rate, or clients that offer permessage-deflate",
}
FEW_GATEWAYS = "more gateways, each on a core of its own"


def parts(costs: Costs, evening: Evening, gateways: int | None = None) -> list[Part]:
    """Every part of the evening, that first which gives out first while viewers and comments grow together.

    Without ``gateways``, as many are taken as it needs.
    """
    found = []
    for name, used in _uses(costs, evening, gateways).items():
        advice = FEW_GATEWAYS if name == "gateways" and gateways is not None else ADVICE[name]
        found.append(Part(name, used, _full_at(costs, evening, gateways, name), advice))
    return sorted(found, key=lambda part: (part.full_at is None, part.full_at or 0, -part.used))


def _full_at(costs: Costs, evening: Evening, gateways: int | None, name: str) -> int | None:
    def full(factor: float) -> bool:
        return _uses(costs, evening.times(factor), gateways)[name] > 1

    low, high = 1 / evening.viewers, MOST_TIMES
    if not full(high):
        return None
    if full(low):
        return 1
    while high / low > 1.005:
        middle = (low * high) ** 0.5
        if full(middle):
            high = middle
        else:
            low = middle
    return max(1, round(evening.viewers * low))
