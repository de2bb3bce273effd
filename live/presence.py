"""How many watch a room, over all gateways; and which gateways there are.

Each gateway writes one number per room, which expires unless it is written again: a gateway that dies takes its viewers
with it. Nothing here costs more when a room grows.
"""

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import time
from typing import Any
from uuid import UUID

import msgspec
from redis.exceptions import RedisError

from kernel.redis import Client, Script
from live.bus import ROOM_TTL_SECONDS, key
from live.wire import Counts

HOLD_SECONDS = 10.0
"""How long a gateway's figure counts without being renewed."""
RENEW_SECONDS = 3.0
GATEWAY_SECONDS = 15.0
"""How long a gateway that says nothing is listed."""
LATELY_SECONDS = 60.0
ARRIVALS_AT_ONCE = 1000
_AT_ONCE = 32
_GATEWAYS = "nearcast:gateways"
_HERE = Path(__file__).parent
_beat = Script(_HERE / "presence.lua")
_counts = Script(_HERE / "counts.lua")
_listed = Script(_HERE / "listed.lua")


class GatewayStats(msgspec.Struct, frozen=True):
    """What a gateway says of itself; times in seconds since 1970, delays from publishing to the last socket."""

    id: str
    url: str
    viewers: int
    rooms: int
    frames: int
    events: int
    shed: int
    joins: int
    delay_ms_p50: float
    delay_ms_p99: float
    at: float
    ready: bool = True
    delay_ms_p95: float = 0.0
    latest_ms_p95: float = 0.0
    lossy_ms_p95: float = 0.0
    bus_ms_p95: float = 0.0
    bus_healthy: bool = True
    bus_gaps: int = 0
    slow_viewers: int = 0
    slow_closes: int = 0
    write_buffer_bytes: int = 0
    loop_lag_ms: float = 0.0
    resumes: dict[str, int] = {}
    claims: dict[str, int] = {}


def _keys(room: UUID) -> list[str]:
    return [key(room, name) for name in ("presence", "uniques", "meta")]


async def beat(
    redis: Client, room: UUID, gateway: str, viewers: int, likes: int, arrivals: Sequence[UUID], sample: bytes = b""
) -> tuple[Counts, bool]:
    """Say that ``gateway`` has ``viewers`` in ``room``, with ``likes`` and ``arrivals`` since the last beat, and, where
    somebody asks who is there, a ``sample`` of them (``live.roster.draw``).

    Returns the figures of all gateways, and whether nobody told them to the room yet. Raises what Redis raises.
    """
    arguments = [gateway, viewers, int(HOLD_SECONDS * 1000), likes, ROOM_TTL_SECONDS, sample]
    keys = [*_keys(room), key(room, "roster")]
    people, uniques, total, fresh = await _beat(redis, keys, [*arguments, *(who.bytes for who in arrivals)])
    return Counts(viewers=people, likes=total, uniques=uniques), bool(fresh)


class Figures(msgspec.Struct, frozen=True):
    """A room's live figures, and the most viewers it had at one time."""

    counts: Counts
    peak: int


async def figures_of(redis: Client, rooms: Iterable[UUID]) -> dict[UUID, Figures]:
    """The live figures of ``rooms``, without those that cannot be read. Raises what Redis raises if that is all."""
    found: dict[UUID, Figures] = {}
    failed: list[Exception] = []
    waiting = iter(list(rooms))

    async def work() -> None:
        for room in waiting:
            try:
                viewers, uniques, likes, peak = await _counts(redis, _keys(room), [])
            except (RedisError, OSError) as error:
                failed.append(error)  # of a Cluster one node may be away
                continue
            found[room] = Figures(Counts(viewers=viewers, likes=likes, uniques=uniques), peak)

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
    if failed and not found:
        raise failed[0]
    return found


async def register(redis: Client, stats: GatewayStats) -> float:
    """List ``stats`` among the gateways, and strike off those that fell silent; returns Redis's time.

    What is listed carries that time: one gateway whose clock is wrong would else strike off all the others, or be
    struck off by them.
    """
    at, listed = await _read(redis)
    await redis.hset(_GATEWAYS, stats.id, msgspec.json.encode(msgspec.structs.replace(stats, at=at)))
    gone = [other.id for other in listed if not _fresh(other, at) and other.id != stats.id]
    if gone:
        await redis.hdel(_GATEWAYS, *gone)
    return at


async def unregister(redis: Client, gateway: str) -> None:
    """Strike ``gateway`` off the list."""
    await redis.hdel(_GATEWAYS, gateway)


async def gateways(redis: Client) -> list[GatewayStats]:
    """The gateways that said something within ``GATEWAY_SECONDS``, by id. Raises what Redis raises."""
    at, listed = await _read(redis)
    return sorted((stats for stats in listed if _fresh(stats, at)), key=lambda stats: stats.id)


async def serving(redis: Client, room: UUID) -> list[str]:
    """The gateways that hold viewers of ``room``, also those that fell silent within ``LATELY_SECONDS`` while nobody
    else took their viewers over. Raises what Redis raises."""
    listed: Any = await redis.hgetall(key(room, "presence"))
    since = (time() - LATELY_SECONDS) * 1000
    figures = {name.decode(): value.split() for name, value in listed.items() if name != b"told"}
    return sorted(name for name, (viewers, until) in figures.items() if int(viewers) and int(until) > since)


async def _read(redis: Client) -> tuple[float, list[GatewayStats]]:
    """Redis's time, and every gateway that is listed."""
    seconds, micros, *listed = await _listed(redis, [_GATEWAYS], [])
    return int(seconds) + int(micros) / 1e6, [msgspec.json.decode(said, type=GatewayStats) for said in listed[1::2]]


def _fresh(stats: GatewayStats, at: float) -> bool:
    return stats.at > at - GATEWAY_SECONDS
