"""All the channels that a process hears: one supervised connection for each Redis node. It may be lost, never silently.

On a single Redis that is one connection; on a Cluster each channel is heard from the node that owns its slot. Whatever
is lost (a connection, or a channel whose slot moved) is said, counted, subscribed again where it now lives, and its gap
closed by the owner, before the feed calls itself healthy.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, RedisError

from kernel.redis import Client
from kernel.tasks import end, finish
from live.link import Link
from live.nodes import Address, nodes_of

FIRST_BACKOFF_SECONDS = 0.05
MAX_BACKOFF_SECONDS = 2.0
MOVES = 3
"""How often a new channel is followed to another node at once."""
Restored = Callable[[Collection[str]], Awaitable[None]]

log = structlog.get_logger()


class Feed:
    """The channels that a process hears. ``heard(channel, message)`` is called for every message, in order."""

    def __init__(self, client: Client, heard: Callable[[bytes, bytes], None]) -> None:
        self._nodes = nodes_of(client)
        self._heard = heard
        self._channels: set[str] = set()
        self._unrepaired: set[str] = set()
        """Heard again, but what was said in between is not read yet."""
        self._links: dict[Address, Link] = {}
        self._wake = asyncio.Event()
        self.healthy = False
        self.losses = 0
        """How often something that was heard was lost."""

    # ---- channels --------------------------------------------------------------------------------------------------

    async def add(self, channel: str) -> None:
        """Hear ``channel``; on return Redis has confirmed it, so nothing said from now on is missed unnoticed.

        Raises redis ConnectionError while there is no connection, and TimeoutError when Redis does not confirm.
        """
        for _ in range(MOVES):
            address = self._nodes.owner(channel)
            link = None if address is None else self._links.get(address)
            if link is None or not link.alive:
                self._wake.set()
                raise RedisConnectionError("the subscription is down")
            try:
                await link.subscribe([channel])
            except MovedError:
                await self._nodes.refresh()
                continue
            if channel in link.channels and link.alive:
                self._channels.add(channel)
                return
            raise RedisConnectionError("the subscription was lost")
        self._wake.set()
        raise RedisConnectionError("the channel's slot is moving")

    async def discard(self, channel: str) -> None:
        """Hear ``channel`` no longer."""
        self._channels.discard(channel)
        self._unrepaired.discard(channel)
        for link in list(self._links.values()):
            if channel in link.channels:
                try:
                    await link.unsubscribe(channel)
                except (RedisError, OSError):
                    log.info("unsubscribe_lost")  # its reader sees the same loss; a new link starts without it

    # ---- losses ----------------------------------------------------------------------------------------------------

    def _lost(self, link: Link, error: BaseException) -> None:
        self._fell(len(link.channels), type(error).__name__)

    def _dropped(self, _: Link, channels: set[str]) -> None:
        if channels & self._channels:
            self._fell(len(channels), "SlotMoved")

    def _fell(self, channels: int, error: str) -> None:
        self.losses += 1
        self.healthy = False
        self._wake.set()
        log.warning("bus_lost", error=error, channels=channels)

    # ---- supervision -----------------------------------------------------------------------------------------------

    async def run(self, restored: Restored) -> None:
        """Listen until cancelled. ``restored(channels)`` is awaited after each loss, once those are heard again."""
        failures = 0
        try:
            while True:
                self._wake.clear()
                whole = await self._settle(restored)
                if whole and not self._wake.is_set():
                    self.healthy, failures = True, 0
                    await self._sleep(self._nodes.check_seconds)
                else:
                    failures += 1
                    longest = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** min(failures, 10))
                    await asyncio.sleep(random.uniform(longest / 2, longest))  # noqa: S311
        finally:
            self.healthy = False
            links, self._links = self._links, {}
            await finish(*(link.close() for link in links.values()), self._nodes.aclose())

    async def _sleep(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _settle(self, restored: Restored) -> bool:
        """Hear what is not heard where it should be, and close the gaps; returns whether nothing is left to do."""
        try:
            await self._nodes.refresh()
        except (RedisError, OSError) as error:
            self._failed("topology", error)
            return False
        whole = await self._connect()
        whole = await self._place() and whole
        heard = set().union(*(link.channels for link in self._links.values() if link.alive))
        if repairable := self._unrepaired & heard:
            whole = await self._repair(restored, repairable) and whole
        return whole and not self._unrepaired and all(link.alive for link in self._links.values())

    async def _connect(self) -> bool:
        """Have a live link to each node that owns something, and to no other."""
        owners = self._nodes.needed() | {self._nodes.owner(channel) for channel in self._channels}
        needed = {owner for owner in owners if owner is not None}
        for address, link in list(self._links.items()):
            if not link.alive or (address not in needed and not link.channels & self._channels):
                del self._links[address]
                await link.close()
        return all(await asyncio.gather(*(self._open(address) for address in needed - self._links.keys())))

    async def _open(self, address: Address) -> bool:
        link = Link(self._nodes.pool(address), self._heard, self._dropped, self._lost)
        try:
            await link.open()
        except (RedisError, OSError, TimeoutError) as error:
            if not self.losses:  # never heard so far: as much a loss as any
                self.losses += 1
                log.warning("bus_lost", error=type(error).__name__, channels=0)
            self._failed("connect", error)
            return False
        self._links[address] = link
        return True

    async def _place(self) -> bool:
        """Subscribe each channel at its owner; a slot's former owner is left alone afterwards."""
        missing: dict[Address, set[str]] = {}
        whole = True
        for channel in self._channels:
            address = self._nodes.owner(channel)
            if address is None or address not in self._links:
                whole = False
            elif channel not in self._links[address].channels:
                missing.setdefault(address, set()).add(channel)
        return all(await asyncio.gather(*(self._move(*one) for one in missing.items()))) and whole

    async def _move(self, address: Address, channels: set[str]) -> bool:
        link = self._links[address]
        try:
            await link.subscribe(channels)
        except (RedisError, OSError, TimeoutError) as error:
            self._failed("subscribe", error)
            whole = False
        else:
            whole = True
        placed = channels & link.channels & self._channels
        self._unrepaired |= placed
        if placed:
            self.healthy = False
        for other in self._links.values():
            if other is not link:
                for channel in other.channels & placed:
                    try:
                        await other.unsubscribe(channel)
                    except (RedisError, OSError):
                        log.info("unsubscribe_lost")
        return whole

    async def _repair(self, restored: Restored, channels: set[str]) -> bool:
        """Let the owner close the gaps, while listening: what is said meanwhile must not pile up in Redis."""
        repairing = asyncio.ensure_future(restored(channels))
        losing = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait({repairing, losing}, return_when=asyncio.FIRST_COMPLETED)
            if not repairing.done():
                return False
            repairing.result()
        except (RedisError, OSError, TimeoutError) as error:
            self._failed("repair", error)
            return False
        finally:
            await end(repairing, losing)
        still = set().union(*(link.channels for link in self._links.values() if link.alive))
        self._unrepaired -= channels & still
        log.info("bus_restored", channels=len(channels))
        return True

    def _failed(self, step: str, error: BaseException) -> None:
        self.healthy = False
        log.info("bus_not_restored", step=step, error=type(error).__name__)
