"""The gateway's pulse: once a second it says how many watch here, hears how many watch in all, and tells the rooms."""

import asyncio
from collections.abc import Callable, Collection
from random import Random
from time import monotonic, time
from uuid import UUID

import structlog
from redis.exceptions import RedisError

from kernel.redis import Client
from live import presence, roster, wire
from live.bus import Bus
from live.connection import buffers
from live.hub import Hub
from live.metrics import Delays, Tally
from live.presence import ARRIVALS_AT_ONCE, RENEW_SECONDS, GatewayStats
from live.replica import Room

BEAT_SECONDS = 1.0
ROSTER_SECONDS = 2.0
"""How often a room that somebody asks about is named anew; with few viewers also whenever they change."""
ASKED_TIMEOUT_SECONDS = 0.5
"""How long their list may take: of a Cluster its node may be away, and presence elsewhere must not wait for it."""
AT_ONCE = 16
CLOCK_SECONDS = 5.0
"""A clock that is farther from Redis's than this is told of in the log: countdowns and tokens go by it."""

log = structlog.get_logger()


class Pulse:
    """Presence of one gateway's rooms, and the gateway's place in the list of gateways."""

    def __init__(
        self, id: str, url: str, redis: Client, bus: Bus, hub: Hub, tally: Tally, ready: Callable[[], bool]
    ) -> None:
        self._id = id
        self._url = url
        self._redis = redis
        self._bus = bus
        self._hub = hub
        self._tally = tally
        self._ready = ready
        self._told: dict[UUID, tuple[int, float]] = {}
        """The number of viewers said last, and when."""
        self._named: dict[UUID, float] = {}
        """When viewers were named last, of rooms that somebody asks about."""
        self._astray = False
        """This machine's clock was last found to be wrong."""
        self._random = Random()  # noqa: S311 - a choice, not a secret
        self._beating = asyncio.Lock()
        self._stopped = False

    async def run(self) -> None:
        """Beat until stopped. While Redis is away nothing is lost but the figures of the moment."""
        while not self._stopped:
            try:
                async with self._beating:
                    if not self._stopped:
                        await self.beat()
            except (RedisError, OSError) as error:
                self._tally.failures["presence"] += 1
                log.warning("presence_failed", error=type(error).__name__)
            await asyncio.sleep(BEAT_SECONDS)

    async def beat(self) -> None:
        """Say what changed, and renew what would expire. Raises what Redis raised, after all that could be said."""
        failed: list[Exception] = []
        asked = await self._asked(failed)
        waiting = iter([room for room in self._hub.rooms.values() if self._due(room, asked)])

        async def work() -> None:
            for room in waiting:
                try:
                    await self._beat(room, asked)
                except (RedisError, OSError) as error:
                    failed.append(error)  # of a Cluster one node may be away; the other rooms go on

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        for room in self._told.keys() - self._hub.rooms.keys():
            del self._told[room]
        for room in self._named.keys() - asked:
            del self._named[room]
        self._compare(await presence.register(self._redis, self.stats()))
        if failed:
            raise failed[0]

    def _compare(self, theirs: float) -> None:
        ahead = time() - theirs
        astray = abs(ahead) > CLOCK_SECONDS
        if astray != self._astray:
            self._astray = astray
            log.warning("clock_astray" if astray else "clock_right_again", ahead_seconds=round(ahead, 1))

    async def _asked(self, failed: list[Exception]) -> Collection[UUID]:
        if not self._hub.rooms:
            return set()
        try:
            async with asyncio.timeout(ASKED_TIMEOUT_SECONDS):
                return await roster.asked(self._redis)
        except (RedisError, OSError) as error:
            failed.append(error)
            return set()

    def _due(self, room: Room, asked: Collection[UUID]) -> bool:
        viewers, at = self._told.get(room.id, (0, 0.0))
        if room.likes or room.arrivals or room.audience.size != viewers:
            return True
        if viewers and room.id in asked and self._unnamed(room):
            return True
        return bool(room.audience.connections) and monotonic() - at >= RENEW_SECONDS

    def _unnamed(self, room: Room) -> bool:
        return monotonic() - self._named.get(room.id, -ROSTER_SECONDS) >= ROSTER_SECONDS

    async def _beat(self, room: Room, asked: Collection[UUID]) -> None:
        viewers = room.audience.size
        sample = b""
        if viewers and room.id in asked and (viewers <= roster.LISTED or self._unnamed(room)):
            sample = roster.draw(room.audience, self._random)
        likes, room.likes = room.likes, 0
        arrivals = [room.arrivals.pop() for _ in range(min(len(room.arrivals), ARRIVALS_AT_ONCE))]
        try:
            counts, fresh = await presence.beat(self._redis, room.id, self._id, viewers, likes, arrivals, sample)
        except BaseException:
            room.likes += likes
            room.arrivals.update(arrivals)
            raise
        self._told[room.id] = (viewers, monotonic())
        if sample:
            self._named[room.id] = monotonic()
        told = [wire.encoder.encode(wire.CountsChanged(counts))]
        if fresh:
            await self._bus.cast(room.id, told)
        elif counts != room.counts:
            # Whoever was to tell these figures failed to, or we did not hear it.
            self._hub.cast(room.id, told, time())

    def stats(self) -> GatewayStats:
        """What this gateway says of itself."""
        tally, delays = self._tally, self._tally.delays[wire.Kind.CERTAIN]
        slow, waiting, _ = buffers(one for room in self._hub.rooms.values() for one in room.audience.connections)
        return GatewayStats(
            id=self._id,
            url=self._url,
            viewers=sum(len(room.audience.connections) for room in self._hub.rooms.values()),
            rooms=len(self._hub.rooms),
            frames=tally.frames,
            events=sum(tally.events.values()),
            shed=sum(tally.shed.values()),
            joins=tally.joins,
            delay_ms_p50=_ms(delays, 0.5),
            delay_ms_p99=_ms(delays, 0.99),
            at=time(),
            ready=self._ready(),
            delay_ms_p95=_ms(delays, 0.95),
            latest_ms_p95=_ms(tally.delays[wire.Kind.LATEST], 0.95),
            lossy_ms_p95=_ms(tally.delays[wire.Kind.LOSSY], 0.95),
            bus_ms_p95=_ms(tally.bus, 0.95),
            bus_healthy=self._bus.healthy,
            bus_gaps=tally.gaps,
            slow_viewers=slow,
            slow_closes=tally.closes["slow"],
            write_buffer_bytes=waiting,
            loop_lag_ms=round(tally.loop_lag * 1000, 1),
            resumes=dict(tally.resumes),
            claims={outcome: count for (command, outcome), count in tally.commands.items() if command == "claim"},
        )

    async def stop(self) -> None:
        """This gateway is going: its viewers and its place in the list go at once, not by expiry."""
        self._stopped = True
        async with self._beating:  # a beat that is under way would put it on the list again
            told = [presence.beat(self._redis, room, self._id, 0, 0, []) for room in self._told]
            for leaving in (*told, presence.unregister(self._redis, self._id)):
                try:
                    await leaving
                except (RedisError, OSError) as error:
                    log.warning("presence_not_cleared", error=type(error).__name__)


def _ms(delays: Delays, q: float) -> float:
    return round(delays.quantile(q) * 1000, 1)
