"""Real servers for every test: one PostgreSQL and one Redis for each test worker, a fresh database for each test."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event, Thread
from uuid import uuid4

import asyncpg
import pytest
from pydantic import SecretStr

from app import migrations
from app.embedded import servers
from kernel.http import Kernel
from kernel.identity import Keyring
from kernel.postgres import create_engine, create_sessions
from kernel.redis import create_client
from kernel.settings import Settings


@asynccontextmanager
async def _template(settings: Settings) -> AsyncIterator[None]:
    """Migrate the servers' own database; tests clone it."""
    engine = create_engine(settings)
    await migrations.upgrade(engine)
    await engine.dispose()
    yield


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of servers that live as long as this test worker; their database is the migrated template."""
    # In /var/tmp or /tmp itself: pytest's own folders are closed to the user PostgreSQL runs as.
    state_dir = Path("/tmp") / f"nearcast-tests-{uuid4().hex[:8]}"
    base = Settings(state_dir=state_dir, dev_login=True, token_keys={"test": SecretStr("k" * 40)})
    started: list[Settings] = []
    ready, done = Event(), Event()

    async def serve() -> None:
        async with servers(base) as settings, _template(settings):
            started.append(settings)
            ready.set()
            await asyncio.to_thread(done.wait)

    def run() -> None:
        try:
            asyncio.run(serve())
        finally:
            ready.set()

    thread = Thread(target=run)
    thread.start()
    ready.wait()
    assert started, "the embedded servers did not start"
    yield started[0]
    done.set()
    thread.join()
    import shutil

    shutil.rmtree(state_dir)


@pytest.fixture
async def settings(running: Settings) -> AsyncIterator[Settings]:
    """Settings with a fresh migrated database and an emptied Redis."""
    assert running.database_url and running.redis_url
    server, _, template = running.database_url.rpartition("/")
    name = f"t_{uuid4().hex[:12]}"
    admin = await asyncpg.connect(f"{server}/postgres")
    try:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        client = create_client(running)
        await client.flushall()
        await client.aclose()
        yield running.model_copy(update={"database_url": f"{server}/{name}"})
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


@pytest.fixture
async def kernel(settings: Settings) -> AsyncIterator[Kernel]:
    """What a process holds: engine, sessions, Redis client, keys."""
    engine = create_engine(settings)
    client = create_client(settings)
    yield Kernel(settings, engine, create_sessions(engine), client, Keyring.from_settings(settings))
    await client.aclose()
    await engine.dispose()


@pytest.fixture
def free_port() -> int:
    """A loopback port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
