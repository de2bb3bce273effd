"""Redis: one client for a single node or a Cluster, and scripts kept in named ``.lua`` files."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.crc import key_slot
from redis.exceptions import ClusterDownError, NoScriptError, RedisClusterException
from redis.exceptions import ConnectionError as RedisConnectionError

from kernel.settings import SettingMissing, Settings

CLUSTER_SCHEME = "redis+cluster://"
SCHEMES = ("redis://", "rediss://", "unix://")
RETRIES = 3
ANSWER_SECONDS = 5.0
"""How long a Redis may take to answer, or to take a connection: one that hangs keeps them open and says nothing."""

Client = Redis | RedisCluster


class Cluster(RedisCluster):
    """redis-py's Cluster client, whose failures are failures of Redis like any other.

    redis-py says that a node or a slot cannot be reached by exceptions outside ``RedisError`` (even a KeyError, for a
    slot without an owner); whoever is ready for a Redis that is away would not be ready for them. And when it looks at
    the topology anew it hangs up connections that another task is just opening: that one finds no writer, or no reader.
    """

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """As its parent; raises RedisError only."""
        try:
            return await super().execute_command(*args, **kwargs)
        except (RedisClusterException, ClusterDownError) as error:
            raise RedisConnectionError(str(error)) from error
        except (KeyError, IndexError) as error:
            raise RedisConnectionError("a slot has no owner") from error
        except AttributeError as error:
            if error.obj is not None:
                raise
            raise RedisConnectionError("the connection was hung up while it was opened") from error

    async def aclose(self) -> None:
        """Hang up. The parent does nothing while it is about to look at the topology anew, and leaves sockets open."""
        await super().aclose()
        await self.nodes_manager.aclose()
        await self.nodes_manager.aclose("startup_nodes")


def create_client(settings: Settings) -> Client:
    """A client for ``settings.redis_url``. It connects on first use, not here. Answers are bytes.

    A Cluster's address may name several nodes (``redis+cluster://:password@a:6379,b:6379``): one that answers will do.
    """
    if settings.redis_url is None:
        raise SettingMissing("no Redis: set NEARCAST_REDIS_URL or start the embedded server")
    retry = Retry(ExponentialWithJitterBackoff(cap=0.5, base=0.02), RETRIES)
    bounds: Any = {
        "socket_timeout": ANSWER_SECONDS, "socket_connect_timeout": ANSWER_SECONDS, "health_check_interval": 15,
    }  # fmt: skip
    if not settings.redis_url.startswith(CLUSTER_SCHEME):
        if not settings.redis_url.startswith(SCHEMES):
            raise SettingMissing(f"NEARCAST_REDIS_URL begins with none of {', '.join((*SCHEMES, CLUSTER_SCHEME))}")
        return Redis.from_url(settings.redis_url, retry=retry, **bounds)
    login, _, rest = settings.redis_url.removeprefix(CLUSTER_SCHEME).rpartition("@")
    hosts, slash, path = rest.partition("/")
    first, *others = hosts.split(",")
    nodes = [ClusterNode(host, int(port or 6379)) for host, _, port in (other.partition(":") for other in others)]
    return Cluster.from_url(
        f"redis://{login}{'@' if login else ''}{first}{slash}{path}",
        startup_nodes=nodes,
        retry=retry,
        # Rooms whose node is there go on while another is not.
        require_full_coverage=False,
        # As on a single node: a command must not fail because many others are under way.
        max_connections=2**31,
        **bounds,
    )


def slot_of(key: str) -> int:
    """The Cluster slot of ``key``."""
    slot: int = key_slot(key.encode())
    return slot


async def answers(client: Client) -> None:
    """Return if Redis answers: every master, on a Cluster. Raises what Redis raises."""
    if isinstance(client, RedisCluster):
        await client.execute_command("PING", target_nodes=RedisCluster.PRIMARIES)
    else:
        await client.ping()


class Script:
    """A Lua script in a file beside the module that uses it; its header says keys, arguments and result."""

    def __init__(self, path: Path) -> None:
        self._source = path.read_text()
        self._sha = hashlib.sha1(self._source.encode()).hexdigest()  # noqa: S324 - Redis names scripts so

    async def __call__(self, client: Client, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run the script; every key must lie in one slot."""
        run: Any = client
        try:
            return await run.evalsha(self._sha, len(keys), *keys, *args)
        except NoScriptError:
            # EVAL makes it known on this room's node; SCRIPT LOAD would have to reach every node of a Cluster.
            return await run.eval(self._source, len(keys), *keys, *args)
