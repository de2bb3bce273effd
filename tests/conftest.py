"""Real servers for every test: one PostgreSQL and one Redis for each test worker, a fresh database for each test."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import TypeVar
from uuid import uuid4

import pytest
from cluster import Cluster, redis_cluster
from collector import Collector, collecting
from databases import Database
from sqlalchemy import text

from app import demo, migrations, processes, up
from app.embedded import servers
from app.keys import with_keys
from app.processes import open_kernel
from app.up import Stack
from kernel.identity import Keyring
from kernel.postgres import create_engine, create_sessions
from kernel.process import Kernel
from kernel.redis import create_client
from kernel.settings import Settings

Lasting = TypeVar("Lasting")


@contextmanager
def _in_background(context: AbstractAsyncContextManager[Lasting]) -> Iterator[Lasting]:
    """Keep ``context`` open in a thread's event loop: fixtures of a whole session outlive the loops of its tests."""
    entered: list[Lasting] = []
    ready, done = Event(), Event()

    async def stay() -> None:
        async with context as value:
            entered.append(value)
            ready.set()
            await asyncio.to_thread(done.wait)

    def run() -> None:
        try:
            asyncio.run(stay())
        finally:
            ready.set()

    thread = Thread(target=run)
    thread.start()
    ready.wait()
    assert entered, "what the tests need did not start"
    try:
        yield entered[0]
    finally:
        done.set()
        thread.join()


@contextmanager
def _state_dir() -> Iterator[Path]:
    # Directly in /tmp: pytest's own folders are closed to the user PostgreSQL runs as when the tests run as root.
    path = Path("/tmp") / f"nearcast-tests-{uuid4().hex[:8]}"
    yield path
    shutil.rmtree(path, ignore_errors=True)


@asynccontextmanager
async def _migrated(settings: Settings) -> AsyncIterator[Settings]:
    """Running servers whose own database is migrated; tests clone it."""
    async with servers(settings) as started:
        engine = create_engine(started)
        await migrations.upgrade(engine)
        # Nothing here has to outlive the machine, and nothing happens unasked while a test runs.
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            for setting in ("fsync", "full_page_writes", "autovacuum"):
                await connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
            await connection.execute(text("SELECT pg_reload_conf()"))
        await engine.dispose()
        yield started


def _port() -> int:
    """For an API. The usual one is what several stacks that start at the same moment would all find free."""
    return processes.free_port()


@pytest.fixture(scope="session")
def running() -> Iterator[Settings]:
    """Settings of servers that live as long as this test worker; their database is the migrated template."""
    with (
        _state_dir() as state_dir,
        _in_background(
            _migrated(with_keys(Settings(state_dir=state_dir, dev_login=True, api_port=_port())))
        ) as settings,
    ):
        yield settings


@asynccontextmanager
async def _with_demo(settings: Settings, *, media: bool = False) -> AsyncIterator[Stack]:
    async with up.stack(settings, media=media) as stack:
        async with open_kernel(stack.settings) as kernel:
            await demo.load(kernel)
        yield stack


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """One API, two gateways, one worker on servers of their own, with the demo loaded and nobody in it."""
    nowhere = Settings(database_url=None, redis_url=None, dev_login=True, api_port=_port())
    with (
        _state_dir() as state_dir,
        _in_background(_with_demo(nowhere.model_copy(update={"state_dir": state_dir}))) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def studio() -> Iterator[Stack]:
    """The same with a media server."""
    nowhere = Settings(database_url=None, redis_url=None, dev_login=True, api_port=_port())
    with (
        _state_dir() as state_dir,
        _in_background(_with_demo(nowhere.model_copy(update={"state_dir": state_dir}), media=True)) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """Where the processes of ``traced`` send their traces."""
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def traced(collector: Collector) -> Iterator[Stack]:
    """The same as ``stack`` with traces."""
    nowhere = Settings(database_url=None, redis_url=None, dev_login=True, api_port=_port(), otlp_endpoint=collector.url)
    with (
        _state_dir() as state_dir,
        _in_background(_with_demo(nowhere.model_copy(update={"state_dir": state_dir}))) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A Redis Cluster of three masters, for one module."""
    with redis_cluster() as running:
        yield running


@pytest.fixture(scope="session")
def database(running: Settings) -> Database:
    """The database that this worker's tests use in turn."""
    assert running.database_url
    return Database(running.database_url)


@pytest.fixture
async def settings(running: Settings, database: Database) -> AsyncIterator[Settings]:
    """Settings with a database as the migrations left it and an emptied Redis."""
    await database.provide()
    client = create_client(running)
    await client.flushall()
    await client.aclose()
    yield running.model_copy(update={"database_url": database.url})
    await database.restore()


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
    return processes.free_port()
