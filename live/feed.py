"""One supervised subscription a process: all its rooms' channels on one connection. It may be lost, never silently.

redis-py would reconnect by itself and say nothing; then events between are missed by nobody's fault and nobody knows.
So this connection retries nothing: every loss ends in ``run``, which says so, connects again with backoff,
subscribes every channel, and lets its owner close the gaps before it calls itself healthy.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import structlog
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from kernel.redis import Client

QUIET_SECONDS = 5.0
"""After so long without a word the connection is asked for a sign of life; after twice that it counts as lost."""
CONFIRM_SECONDS = 5.0
FIRST_BACKOFF_SECONDS = 0.05
MAX_BACKOFF_SECONDS = 2.0
ALIVE = "nearcast:alive"
"""A channel on which nobody speaks: with it the connection is in subscriber mode before the first room."""

log = structlog.get_logger()


class Feed:
    """The channels that a process hears, on one connection.

    ``heard(channel, message)`` is called for every message, in order. On a Cluster one such connection for each node
    is needed; the bus would keep a Feed a node and choose by slot.
    """

    def __init__(self, client: Client, heard: Callable[[bytes, bytes], None]) -> None:
        self._client = client
        self._heard = heard
        self._channels: set[str] = set()
        self._confirmations: dict[bytes, asyncio.Future[None]] = {}
        self._pubsub: PubSub | None = None
        self.healthy = False
        self.losses = 0
        """How often the subscription was lost."""

    async def add(self, channel: str) -> None:
        """Hear ``channel``; on return Redis has confirmed it, so nothing said from now on is missed unnoticed.

        Raises redis ConnectionError while there is no connection, and TimeoutError when Redis does not confirm.
        """
        pubsub = self._pubsub
        if pubsub is None:
            raise RedisConnectionError("the subscription is down")
        confirmed = self._confirmations.setdefault(channel.encode(), asyncio.get_running_loop().create_future())
        self._channels.add(channel)
        try:
            await pubsub.ssubscribe(channel)
            async with asyncio.timeout(CONFIRM_SECONDS):
                await asyncio.shield(confirmed)
        except BaseException:
            self._channels.discard(channel)
            raise
        finally:
            self._confirmations.pop(channel.encode(), None)

    async def discard(self, channel: str) -> None:
        """Hear ``channel`` no longer."""
        self._channels.discard(channel)
        if self._pubsub is not None:
            try:
                await self._pubsub.sunsubscribe(channel)
            except (RedisError, OSError):
                log.info("unsubscribe_lost")  # the reader sees the same loss; a new connection starts without it

    async def run(self, restored: Callable[[], Awaitable[None]]) -> None:
        """Listen until cancelled. ``restored`` is awaited after each loss, once all channels are heard again."""
        failures = 0
        for attempt in count():
            try:
                async with _Connection(self) as pubsub:
                    await self._serve(pubsub, restored if attempt else None)
            except (RedisError, OSError, TimeoutError) as error:
                if self.healthy or not attempt:
                    self.losses += 1
                    log.warning("bus_lost", error=type(error).__name__)
            finally:
                failures = 0 if self.healthy else failures + 1
                self._down()
            longest = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** min(failures, 10))
            await asyncio.sleep(random.uniform(longest / 2, longest))  # noqa: S311

    async def _serve(self, pubsub: PubSub, restored: Callable[[], Awaitable[None]] | None) -> None:
        """Listen until the connection is lost. Gaps are closed while already listening: what is said meanwhile must
        not pile up in Redis."""
        listening = asyncio.ensure_future(self._listen(pubsub))
        repairing = asyncio.ensure_future(restored()) if restored is not None else None
        try:
            if repairing is not None:
                await asyncio.wait({listening, repairing}, return_when=asyncio.FIRST_COMPLETED)
                if repairing.done():
                    repairing.result()
                    log.info("bus_restored", channels=len(self._channels))
            self.healthy = not listening.done()
            await listening
        finally:
            for task in filter(None, (listening, repairing)):
                task.cancel()
            await asyncio.gather(*filter(None, (listening, repairing)), return_exceptions=True)

    def _down(self) -> None:
        self.healthy = False
        self._pubsub = None
        for confirmed in self._confirmations.values():
            if not confirmed.done():
                confirmed.set_exception(RedisConnectionError("the subscription was lost"))
                confirmed.exception()  # seen here, in case nobody waits any more

    async def _listen(self, pubsub: PubSub) -> None:
        silent = False
        while True:
            message: dict[str, Any] | None = await pubsub.get_message(timeout=QUIET_SECONDS)
            if message is None:
                if silent:
                    raise RedisConnectionError("no sign of life from Redis")
                silent = True
                await pubsub.ping()
                continue
            silent = False
            if message["type"] == "smessage":
                self._heard(message["channel"], message["data"])
            elif message["type"] == "ssubscribe":
                confirmed = self._confirmations.get(message["channel"])
                if confirmed is not None and not confirmed.done():
                    confirmed.set_result(None)


class _Subscriber(PubSub):
    """Subscribes once. Where redis-py would reconnect behind our back, it fails, and ``Feed.run`` begins anew."""

    async def on_connect(self, connection: Any) -> None:  # noqa: ARG002
        raise RedisConnectionError("the subscription was lost")


class _Connection:
    """A fresh connection with all channels subscribed, closed on leaving."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    async def __aenter__(self) -> PubSub:
        feed = self._feed
        if not isinstance(feed._client, Redis):
            raise NotImplementedError("subscribing through a Cluster")
        arguments = dict(feed._client.connection_pool.connection_kwargs)
        arguments |= {"retry": Retry(NoBackoff(), 0), "health_check_interval": 0}
        pool_type = type(feed._client.connection_pool)
        assert issubclass(pool_type, ConnectionPool)
        self._redis = Redis(
            connection_pool=pool_type(connection_class=feed._client.connection_pool.connection_class, **arguments)
        )
        self._pubsub = _Subscriber(self._redis.connection_pool)
        try:
            await self._pubsub.subscribe(ALIVE)
            if feed._channels:
                await self._pubsub.ssubscribe(*feed._channels)
        except BaseException:
            await self.__aexit__()
            raise
        feed._pubsub = self._pubsub
        return self._pubsub

    async def __aexit__(self, *_: object) -> None:
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()
