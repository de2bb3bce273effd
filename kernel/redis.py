"""Redis: one client for a single node or a Cluster, and scripts kept in named ``.lua`` files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from kernel.settings import SettingMissing, Settings

Client = Redis | RedisCluster


def create_client(settings: Settings) -> Client:
    """A client for ``settings.redis_url``. It connects on first use, not here. Answers are bytes."""
    if settings.redis_url is None:
        raise SettingMissing("no Redis: set NEARCAST_REDIS_URL or start the embedded server")
    retry = Retry(ExponentialWithJitterBackoff(cap=0.5, base=0.02), 3)
    if settings.redis_url.startswith("redis+cluster://"):
        return RedisCluster.from_url(settings.redis_url.replace("redis+cluster", "redis", 1), retry=retry)
    return Redis.from_url(settings.redis_url, retry=retry, health_check_interval=15)


class Script:
    """A Lua script in a file beside the module that uses it; its header says keys, arguments and result."""

    def __init__(self, path: Path) -> None:
        self._source = path.read_text()

    async def __call__(self, client: Client, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run the script; every key must lie in one slot."""
        script = client.register_script(self._source)  # hashes locally; EVALSHA, loaded again after NOSCRIPT
        return await script(keys=list(keys), args=list(args))
