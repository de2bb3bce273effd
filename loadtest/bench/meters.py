"""What gateway, worker, Redis and PostgreSQL of a house have used, read from outside."""

import asyncio
import time
from pathlib import Path

import asyncpg
import redis

from loadtest.bench.house import Gateway, House
from loadtest.bench.machine import CannotMeasure, cpu_seconds, resident_kib

LISTENERS = (1, 16, 64)
"""Subscribers of one channel, from whose difference comes what Redis pays for each."""


class Meters:
    """What the parts have done so far, in CPU seconds and in counts."""

    def __init__(self, house: House, gateway: Gateway) -> None:
        self._gateway = gateway
        self._redis = redis.Redis.from_url(house.redis_url)
        self._redis_pid = int(self._redis.info("server")["process_id"])
        self._database = house.database_url
        self._worker = _child(house.up.pid, "worker")

    def read(self) -> dict[str, float]:
        """Everything now; differences of two of these say what happened between them."""
        commands = self._redis.info("commandstats")
        stats = self._redis.info("stats")
        commits, wal, rows, backends = asyncio.run(_postgres(self._database))
        return {
            "gateway_cpu": cpu_seconds(self._gateway.pid),
            "worker_cpu": cpu_seconds(self._worker),
            "redis_cpu": cpu_seconds(self._redis_pid),
            "redis_commands": sum(value["calls"] for name, value in commands.items() if name != "cmdstat_info"),
            "redis_published": commands.get("cmdstat_spublish", {"calls": 0})["calls"],
            "redis_out_bytes": stats["total_net_output_bytes"],
            "postgres_cpu": sum(cpu_seconds(pid) for pid in backends),
            "commits": commits,
            "wal_bytes": wal,
            "rows": rows,
        }

    def resident(self) -> float:
        """KiB of the gateway."""
        return resident_kib(self._gateway.pid)

    def redis_memory(self) -> float:
        """Bytes that Redis uses for data."""
        return float(self._redis.info("memory")["used_memory"])

    def listeners(self, seconds: float, size: int = 400) -> list[dict[str, float]]:
        """CPU of Redis for publishing to channels with few and with many subscribers."""
        return [self._publish(subscribers, seconds, b"x" * size) for subscribers in LISTENERS]

    def _publish(self, subscribers: int, seconds: float, payload: bytes) -> dict[str, float]:
        pool = self._redis.connection_pool
        ears = [redis.Redis(connection_pool=pool).pubsub() for _ in range(subscribers)]
        try:
            for ear in ears:
                ear.ssubscribe("calibrate")
                ear.get_message(timeout=5)
            before, published, ends = cpu_seconds(self._redis_pid), 0, time.monotonic() + seconds
            while time.monotonic() < ends:
                self._redis.spublish("calibrate", payload)
                published += 1
                for ear in ears:
                    ear.get_message(timeout=5)
            used = cpu_seconds(self._redis_pid) - before
        finally:
            for ear in ears:
                ear.close()
        return {"subscribers": subscribers, "published": published, "redis_cpu": used}


async def _postgres(url: str) -> tuple[float, float, float, list[int]]:
    connection = await asyncpg.connect(url)
    try:
        row = await connection.fetchrow(
            "SELECT xact_commit, pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8 AS wal, tup_inserted"
            " FROM pg_stat_database WHERE datname = current_database()"
        )
        assert row is not None
        backends = await connection.fetch("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    finally:
        await connection.close()
    return float(row["xact_commit"]), row["wal"], float(row["tup_inserted"]), [each["pid"] for each in backends]


def _child(parent: int, verb: str) -> int:
    """The process that ``nearcast up`` started for ``verb``."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # ended while we looked
        if int(fields[1]) == parent and verb.encode() in words:
            return int(folder.name)
    raise CannotMeasure(f"`nearcast up` runs no {verb}")
