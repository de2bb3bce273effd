"""Which Redis node a channel lives on: always the same one, or, on a Cluster, the one that owns its slot."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from kernel.redis import Client, slot_of
from kernel.tasks import finish

ASK_SECONDS = 1.0
Address = tuple[str, int]
_ONCE = {"retry": Retry(NoBackoff(), 0), "health_check_interval": 0}

log = structlog.get_logger()


class Nodes(Protocol):
    """Where channels live. ``check_seconds``: how often that has to be looked at while nothing seems to happen."""

    check_seconds: float | None

    async def refresh(self) -> None:
        """Look again. Raises RedisConnectionError when nobody can be asked; then what was known stays known."""

    def needed(self) -> set[Address]:
        """The nodes that own anything."""

    def owner(self, channel: str) -> Address | None:
        """The node on which ``channel`` is told, as far as is known."""

    def pool(self, address: Address) -> ConnectionPool:
        """For one new connection to that node, which retries nothing."""

    async def aclose(self) -> None:
        """Hang up."""


def nodes_of(client: Client) -> Nodes:
    """The nodes behind ``client``."""
    return ClusterNodes(client) if isinstance(client, RedisCluster) else OneNode(client)


class OneNode:
    """A single Redis."""

    check_seconds: float | None = None
    _ADDRESS = ("", 0)

    def __init__(self, client: Redis) -> None:
        self._pool = client.connection_pool

    async def refresh(self) -> None:
        """See ``Nodes``."""

    def needed(self) -> set[Address]:
        """See ``Nodes``."""
        return {self._ADDRESS}

    def owner(self, channel: str) -> Address | None:  # noqa: ARG002
        """See ``Nodes``."""
        return self._ADDRESS

    def pool(self, address: Address) -> ConnectionPool:  # noqa: ARG002
        """See ``Nodes``."""
        arguments: dict[str, Any] = dict(self._pool.connection_kwargs) | _ONCE
        return type(self._pool)(connection_class=self._pool.connection_class, **arguments)

    async def aclose(self) -> None:
        """See ``Nodes``."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a node says that a master owns, as of a configuration epoch."""

    epoch: int
    address: Address
    slots: Sequence[tuple[int, int]]


def claims(answer: str, asked: Address) -> dict[str, Claim]:
    """The masters in an answer to CLUSTER NODES, by id. A node that does not know its own host is where we asked."""
    found = {}
    for line in answer.splitlines():
        id, place, flags, _, _, _, epoch, _, *ranges = line.split()
        if "master" not in flags.split(",") or not ranges:
            continue
        host, _, port = place.partition("@")[0].rpartition(":")
        slots = []
        for one in ranges:
            if not one.startswith("["):  # a slot on its way: its owner lists it as well, until it is gone
                first, _, last = one.partition("-")
                slots.append((int(first), int(last or first)))
        found[id] = Claim(int(epoch), (host or asked[0], int(port)), slots)
    return found


class ClusterNodes:
    """A Redis Cluster, asked with small connections of our own.

    All nodes are asked and, as the nodes themselves do, the claim with the greatest epoch is believed: a master that
    was cut off from the others still thinks it owns what it lost.
    """

    check_seconds: float | None = 2.0

    def __init__(self, client: RedisCluster) -> None:
        arguments = dict(client.get_connection_kwargs()) | _ONCE
        for name in ("max_connections", "response_callbacks"):
            arguments.pop(name, None)
        self._connection_class: Any = arguments.pop("connection_class")
        self._arguments: dict[str, Any] = arguments
        self._first = {(str(node.host), int(node.port)) for node in client.startup_nodes}
        self._asked: dict[Address, Redis] = {}
        self._claims: list[Claim] = []

    async def refresh(self) -> None:
        """See ``Nodes``."""
        addresses = self._first | {claim.address for claim in self._claims}
        for address in self._asked.keys() - addresses:
            await finish(self._hang_up(self._asked.pop(address)))
        answers = await asyncio.gather(*map(self._ask, addresses))
        newest: dict[str, Claim] = {}
        for answer in answers:
            for id, claim in answer.items():
                if id not in newest or newest[id].epoch < claim.epoch:
                    newest[id] = claim
        if not newest:
            raise RedisConnectionError("no node of the cluster answers")
        self._claims = sorted(newest.values(), key=lambda claim: claim.epoch, reverse=True)

    async def _ask(self, address: Address) -> dict[str, Claim]:
        if address not in self._asked:
            self._asked[address] = Redis(connection_pool=self.pool(address))
        try:
            async with asyncio.timeout(ASK_SECONDS):
                asked: Any = self._asked[address]
                answer: bytes = await asked.execute_command("CLUSTER", "NODES")
            return claims(answer.decode(), address)
        except (RedisError, OSError, TimeoutError) as error:
            log.debug("node_silent", node=address, error=type(error).__name__)
            return {}

    def _owner(self, slot: int) -> Address | None:
        for claim in self._claims:
            if any(first <= slot <= last for first, last in claim.slots):
                return claim.address
        return None

    def needed(self) -> set[Address]:
        """See ``Nodes``. Who lost the beginning of all its ranges to others is asked for only by its channels."""
        beginnings: Iterable[int] = (first for claim in self._claims for first, _ in claim.slots)
        return {owner for slot in beginnings if (owner := self._owner(slot)) is not None}

    def owner(self, channel: str) -> Address | None:
        """See ``Nodes``."""
        return self._owner(slot_of(channel))

    def pool(self, address: Address) -> ConnectionPool:
        """See ``Nodes``."""
        host, port = address
        arguments = self._arguments | {"host": host, "port": port}
        return ConnectionPool(connection_class=self._connection_class, **arguments)

    async def aclose(self) -> None:
        """See ``Nodes``."""
        asked, self._asked = self._asked, {}
        await finish(*map(self._hang_up, asked.values()))

    async def _hang_up(self, asked: Redis) -> None:
        await asked.aclose()
        await asked.connection_pool.disconnect()
