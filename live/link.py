"""One connection to one Redis node, for hearing channels. It is never mended: once lost, another has to be opened.

redis-py would reconnect by itself and say nothing; then events between are missed by nobody's fault and nobody knows.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, RedisError

from kernel.redis import slot_of
from kernel.tasks import end, finish

QUIET_SECONDS = 5.0
"""After so long without a word the connection is asked for a sign of life; after twice that it counts as lost."""
CONFIRM_SECONDS = 5.0
ALIVE = "nearcast:alive"
"""A channel on which nobody speaks: with it the connection is in subscriber mode before the first room."""


class _Subscriber(PubSub):
    """Subscribes once. Where redis-py would reconnect behind our back, it fails, and the link is lost."""

    async def on_connect(self, connection: Any) -> None:  # noqa: ARG002
        raise RedisConnectionError("the subscription was lost")


class Link:
    """A connection in subscriber mode.

    ``heard(channel, message)`` is called for every message, in order; ``dropped(link, channels)`` when the node ends
    subscriptions, as it does when their slot moves away; ``lost(link, error)`` once, when the connection is gone.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        heard: Callable[[bytes, bytes], None],
        dropped: Callable[["Link", set[str]], None],
        lost: Callable[["Link", BaseException], None],
    ) -> None:
        self._pool = pool
        self._heard = heard
        self._dropped = dropped
        self._lost = lost
        self._pubsub = _Subscriber(pool)
        self._redis = Redis(connection_pool=pool)
        self._confirmations: dict[str, asyncio.Future[None]] = {}
        self._listening: asyncio.Task[None] | None = None
        self.channels: set[str] = set()
        """What is heard here; the node confirmed it."""
        self.alive = False

    async def open(self) -> None:
        """Connect. Raises what Redis raises, and TimeoutError."""
        try:
            async with asyncio.timeout(CONFIRM_SECONDS):
                await self._pubsub.subscribe(ALIVE)
        except BaseException:
            await self.close()
            raise
        self.alive = True
        self._listening = asyncio.ensure_future(self._listen_until_lost())

    async def close(self) -> None:
        """Hang up, also when cancelled meanwhile; ``lost`` is not called any more."""
        self.alive = False
        await finish(self._close())

    async def _close(self) -> None:
        if self._listening is not None:
            await end(self._listening)
        self._fail_waiting(RedisConnectionError("the subscription was given up"))
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]
        await self._redis.aclose()
        await self._pool.disconnect()

    async def subscribe(self, channels: Iterable[str]) -> None:
        """Hear ``channels``; on return the node has confirmed all of them.

        Raises MovedError when the slot of one is elsewhere, RedisConnectionError when the connection is lost, and
        TimeoutError when the node does not confirm. Those confirmed before are heard all the same.
        """
        loop = asyncio.get_running_loop()
        waiting = {
            channel: self._confirmations.setdefault(channel, loop.create_future())
            for channel in channels
            if channel not in self.channels
        }
        try:
            for channel in waiting:  # one by one: channels of different slots may not share a command
                if not self.alive:
                    raise RedisConnectionError("the subscription is down")
                await self._pubsub.ssubscribe(channel)
            async with asyncio.timeout(CONFIRM_SECONDS):
                for confirmed in waiting.values():
                    await asyncio.shield(confirmed)
        finally:
            for channel, confirmed in waiting.items():
                if self._confirmations.get(channel) is confirmed:
                    del self._confirmations[channel]
                if confirmed.done() and not confirmed.cancelled():
                    confirmed.exception()  # seen here, in case nobody waits any more

    async def unsubscribe(self, channel: str) -> None:
        """Hear ``channel`` no longer. Raises what Redis raises."""
        self.channels.discard(channel)
        await self._pubsub.sunsubscribe(channel)

    def _fail_waiting(self, error: BaseException, slot: int | None = None) -> None:
        for channel, confirmed in self._confirmations.items():
            if not confirmed.done() and (slot is None or slot_of(channel) == slot):
                confirmed.set_exception(error)
                confirmed.exception()  # seen here, in case nobody waits any more

    async def _listen_until_lost(self) -> None:
        try:
            await self._listen()
        except (RedisError, OSError, TimeoutError) as error:
            self.alive = False
            self._fail_waiting(RedisConnectionError("the subscription was lost"))
            self._lost(self, error)

    async def _listen(self) -> None:
        silent = False
        while True:
            try:
                message: dict[str, Any] | None = await self._pubsub.get_message(timeout=QUIET_SECONDS)
            except MovedError as moved:  # the answer to a subscription; the connection is as good as before
                self._fail_waiting(moved, moved.slot_id)
                continue
            if message is None:
                if silent:
                    raise RedisConnectionError("no sign of life from Redis")
                silent = True
                await self._pubsub.ping()
                continue
            silent = False
            self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "smessage":
                self._heard(message["channel"], message["data"])
            case "ssubscribe":
                channel = message["channel"].decode()
                self.channels.add(channel)
                confirmed = self._confirmations.get(channel)
                if confirmed is not None and not confirmed.done():
                    confirmed.set_result(None)
            case "sunsubscribe":
                channel = message["channel"].decode()
                if channel in self.channels:  # not asked for: the node gave the slot away
                    self.channels.discard(channel)
                    self._dropped(self, {channel})
