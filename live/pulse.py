"""The gateway's pulse: once a second it says how many watch here, hears how many watch in all, and tells the rooms."""

import asyncio
from collections.abc import Callable
from time import monotonic, time
from uuid import UUID

import structlog
from redis.exceptions import RedisError

from kernel.redis import Client
from live import presence, wire
from live.bus import Bus
from live.hub import Hub
from live.metrics import Tally
from live.presence import ARRIVALS_AT_ONCE, RENEW_SECONDS, GatewayStats
from live.replica import Room

BEAT_SECONDS = 1.0
AT_ONCE = 16

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

    async def run(self) -> None:
        """Beat until cancelled. While Redis is away nothing is lost but the figures of the moment."""
        while True:
            try:
                await self.beat()
            except (RedisError, OSError) as error:
                self._tally.failures["presence"] += 1
                log.warning("presence_failed", error=type(error).__name__)
            await asyncio.sleep(BEAT_SECONDS)

    async def beat(self) -> None:
        """Say what changed, and renew what would expire."""
        waiting = iter([room for room in self._hub.rooms.values() if self._due(room)])

        async def work() -> None:
            for room in waiting:
                await self._beat(room)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        for room in self._told.keys() - self._hub.rooms.keys():
            del self._told[room]
        await presence.register(self._redis, self.stats())

    def _due(self, room: Room) -> bool:
        viewers, at = self._told.get(room.id, (0, 0.0))
        if room.likes or room.arrivals or room.audience.size != viewers:
            return True
        return bool(room.audience.connections) and monotonic() - at >= RENEW_SECONDS

    async def _beat(self, room: Room) -> None:
        viewers = room.audience.size
        likes, room.likes = room.likes, 0
        arrivals = [room.arrivals.pop() for _ in range(min(len(room.arrivals), ARRIVALS_AT_ONCE))]
        try:
            counts, fresh = await presence.beat(self._redis, room.id, self._id, viewers, likes, arrivals)
        except BaseException:
            room.likes += likes
            room.arrivals.update(arrivals)
            raise
        self._told[room.id] = (viewers, monotonic())
        told = [wire.encoder.encode(wire.CountsChanged(counts))]
        if fresh:
            await self._bus.cast(room.id, told)
        elif counts != room.counts:
            # Whoever was to tell these figures failed to, or we did not hear it.
            self._hub.cast(room.id, told, time())

    def stats(self) -> GatewayStats:
        """What this gateway says of itself."""
        tally, delays = self._tally, self._tally.delays[wire.Kind.CERTAIN]
        return GatewayStats(
            id=self._id,
            url=self._url,
            viewers=sum(len(room.audience.connections) for room in self._hub.rooms.values()),
            rooms=len(self._hub.rooms),
            frames=tally.frames,
            events=sum(tally.events.values()),
            shed=sum(tally.shed.values()),
            joins=tally.joins,
            delay_ms_p50=round(delays.quantile(0.5) * 1000, 1),
            delay_ms_p99=round(delays.quantile(0.99) * 1000, 1),
            at=time(),
            ready=self._ready(),
        )

    async def stop(self) -> None:
        """This gateway is going: its viewers and its place in the list go at once, not by expiry."""
        try:
            for room in list(self._told):  # a beat under way may still add to them
                await presence.beat(self._redis, room, self._id, 0, 0, [])
            await presence.unregister(self._redis, self._id)
        except (RedisError, OSError) as error:
            log.warning("presence_not_cleared", error=type(error).__name__)
