"""The embedded servers: found by others, exclusive to one owner, gone with their owner, whole again after kill -9."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from redis.asyncio import Redis

from app import embedded
from kernel.settings import Settings

OWNER = """
import asyncio, sys
from app.embedded import servers
from kernel.settings import Settings

async def main():
    async with servers(Settings(state_dir=sys.argv[1])) as settings:
        print(settings.database_url, settings.redis_url, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture
def state_dir() -> Iterator[Path]:
    # Not pytest's own folder: that is closed to the user PostgreSQL runs as when the tests run as root.
    path = Path("/tmp") / f"nearcast-embedded-{uuid4().hex[:8]}"
    yield path
    shutil.rmtree(path, ignore_errors=True)


async def owner(state_dir: Path) -> tuple[asyncio.subprocess.Process, str, str]:
    """Another process that owns the servers; returns it and their addresses."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(state_dir), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    database_url, redis_url = (await process.stdout.readline()).decode().split()
    return process, database_url, redis_url


async def until_refused(database_url: str) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await (await asyncpg.connect(database_url)).close()
            except (ConnectionRefusedError, ConnectionResetError):
                return
            except asyncpg.CannotConnectNowError:
                pass
            await asyncio.sleep(0.05)


async def test_what_was_committed_survives_kill_9_of_the_owner_and_the_servers_stop_with_it(state_dir: Path) -> None:
    process, database_url, redis_url = await owner(state_dir)
    connection = await asyncpg.connect(database_url)
    await connection.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)")
    await connection.close()
    async with Redis.from_url(redis_url) as client:
        await client.set("kept", 1)
    process.kill()
    await process.wait()
    if sys.platform == "linux":
        await until_refused(database_url)

    async with embedded.servers(Settings(state_dir=state_dir)) as settings:
        connection = await asyncpg.connect(settings.database_url)
        assert await connection.fetchval("SELECT n FROM kept") == 1
        await connection.close()
        assert settings.redis_url
        async with Redis.from_url(settings.redis_url) as client:
            assert await client.get("kept") == b"1"
    assert not (state_dir / "servers.json").exists()


async def test_kill_9_of_postgresql_itself_is_recovered_by_the_next_start(state_dir: Path) -> None:
    async with embedded.servers(Settings(state_dir=state_dir)) as settings:
        connection = await asyncpg.connect(settings.database_url)
        await connection.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)")
        pid = int((state_dir / "postgres" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        await connection.close(timeout=1)
    async with embedded.servers(Settings(state_dir=state_dir)) as settings:
        connection = await asyncpg.connect(settings.database_url)
        assert await connection.fetchval("SELECT n FROM kept") == 1
        await connection.close()


async def test_an_initdb_that_was_killed_leaves_nothing_that_stands_in_the_way(state_dir: Path) -> None:
    half = state_dir / "postgres.unfinished"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("15\n")
    async with embedded.servers(Settings(state_dir=state_dir)) as settings:
        connection = await asyncpg.connect(settings.database_url)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()


async def test_other_commands_of_the_checkout_share_running_servers_and_a_second_owner_is_refused(
    state_dir: Path,
) -> None:
    process, database_url, redis_url = await owner(state_dir)
    try:
        async with embedded.servers(Settings(state_dir=state_dir)) as shared:
            assert (shared.database_url, shared.redis_url) == (database_url, redis_url)
        with pytest.raises(embedded.AlreadyRunning):
            async with embedded.servers(Settings(state_dir=state_dir), share=False):
                pass
        connection = await asyncpg.connect(database_url)  # a guest that leaves stops nothing
        await connection.close()
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await until_refused(database_url)


async def test_servers_named_in_the_environment_are_used_and_nothing_is_started(state_dir: Path) -> None:
    given = Settings(database_url="postgresql://elsewhere/x", redis_url="redis://elsewhere/0", state_dir=state_dir)
    async with embedded.servers(given) as settings:
        assert settings == given
    assert not state_dir.exists()


def test_a_missing_binary_is_answered_with_the_one_command_that_brings_it(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(embedded.MissingServer, match=r"apt-get install -y redis-server.*compose\.yaml"):
        embedded._binary("redis-server", "redis-server")
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(embedded.MissingServer, match="brew install redis"):
        embedded._binary("redis-server", "redis-server")
