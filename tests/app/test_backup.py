"""What is left when the database's disk is gone: what is restored passes the audit and can be gone on with."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import text
from world import World, make_world

from app import embedded, migrations
from app.processes import free_port
from coupons import ledger, push
from kernel.postgres import Table, create_engine, create_sessions
from kernel.process import Kernel

SCRIPT = Path(__file__).parents[2] / "deploy" / "database.sh"
DEADLINE_SECONDS = 120
pytestmark = pytest.mark.timeout(600)


async def output(*command: str, **environment: str) -> str:
    """What ``command`` says, which must succeed."""
    process = await asyncio.create_subprocess_exec(
        *command, env=os.environ | environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode()


async def an_evening(world: World, viewers: int) -> None:
    """Some viewers, and a coupon for each."""
    await world.viewers(viewers)
    drop = await world.drop(await world.campaign(stock=viewers), "push", viewers)
    assert await push.run_push(world.kernel.sessions, drop) >= viewers


@asynccontextmanager
async def opened(kernel: Kernel, url: str) -> AsyncIterator[Kernel]:
    """``kernel`` on the database at ``url``."""
    settings = kernel.settings.model_copy(update={"database_url": url})
    engine = create_engine(settings)
    yield replace(kernel, settings=settings, engine=engine, sessions=create_sessions(engine))
    await engine.dispose()


async def rows(kernel: Kernel) -> dict[str, list[str]]:
    async with kernel.sessions() as session:
        return {
            name: sorted((await session.scalars(text(f"SELECT one::text FROM {name} AS one"))).all())
            for name in Table.metadata.tables
        }


async def sound(kernel: Kernel) -> dict[str, int]:
    """The coupons by state, after an audit that found nothing."""
    async with kernel.sessions() as session:
        report = await ledger.audit(session)
    assert report.ok, report.findings
    return report.totals


async def test_a_restored_copy_is_the_same_but_for_places_and_the_evening_goes_on(kernel: Kernel) -> None:
    world = await make_world(kernel)
    await an_evening(world, 5)
    before, url = await rows(kernel), str(kernel.settings.database_url)
    assert before["locations"]
    file, name = kernel.settings.state_dir / "copy", f"restored_{uuid4().hex[:8]}"
    await output(str(SCRIPT), "backup", str(file), NEARCAST_DATABASE_URL=url)
    assert file.stat().st_mode & 0o077 == 0
    await world.execute("DELETE FROM outbox")  # what happened afterwards is what is lost
    admin = await asyncpg.connect(url)
    await admin.execute(f"CREATE DATABASE {name}")
    try:
        there = f"{url.rpartition('/')[0]}/{name}"
        await output(str(SCRIPT), "restore", str(file), NEARCAST_DATABASE_URL=there)
        async with opened(kernel, there) as restored:
            assert await rows(restored) == before | {"locations": []}
            async with restored.engine.connect() as connection:
                assert await migrations.differences(connection) == []
            assert (await sound(restored))["issued"] == 5
            await an_evening(replace(world, kernel=restored), 3)
            assert (await sound(restored))["issued"] == 8
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


@asynccontextmanager
async def running(command: list[str], log: Path, stop: str = "INT") -> AsyncIterator[asyncio.subprocess.Process]:
    log.touch()
    async with embedded.server_process(command, log, stop) as process:
        yield process


async def until_kept(url: str) -> None:
    """Return once the log as it is now lies with ``pg_receivewal``."""
    connection = await asyncpg.connect(url)
    try:
        now_at = await connection.fetchval("SELECT pg_current_wal_flush_lsn()")
        kept = "SELECT bool_or(flush_lsn >= $1) FROM pg_stat_replication WHERE application_name = 'pg_receivewal'"
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await connection.fetchval(kept, now_at):
                await asyncio.sleep(0.05)
    finally:
        await connection.close()


@pytest.mark.deep
async def test_a_base_copy_and_the_log_lose_nothing_that_had_been_kept(kernel: Kernel) -> None:
    home = embedded.server_folder(kernel.settings.state_dir / "lost")
    logs, log = home, home / "tools.log"
    base, wal = home / "base", embedded.server_folder(home / "wal")
    tools = Path(embedded._binary("postgres", embedded.POSTGRES_PACKAGE)).parent
    async with embedded.postgres(home, logs) as url:
        engine = create_engine(kernel.settings.model_copy(update={"database_url": url}))
        await migrations.upgrade(engine)
        await engine.dispose()
        async with opened(kernel, url) as lost:
            world = await make_world(lost)
            await an_evening(world, 5)
            copy = [str(tools / "pg_basebackup"), "-D", str(base), "-X", "stream", "--checkpoint=fast", "-d", url]
            async with running(copy, log) as process:
                assert await asyncio.wait_for(process.wait(), DEADLINE_SECONDS) == 0, log.read_text()
            async with running([str(tools / "pg_receivewal"), "-D", str(wal), "--synchronous", "-d", url], log):
                await an_evening(world, 20)
                await until_kept(url)
                # The machine is gone in this very moment.
                os.kill(int((home / "postgres" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
    (base / "recovery.signal").touch()
    embedded.given(base / "recovery.signal")
    port = free_port()
    fetch = f"cp {wal}/%f %p || cp {wal}/%f.partial %p"
    # As many connections as before, or it refuses to read the log.
    options = [
        "-c",
        "max_connections=200",
        "-c",
        f"port={port}",
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        "unix_socket_directories=",
    ]
    command = [str(tools / "postgres"), "-D", str(base), *options, "-c", f"restore_command={fetch}"]
    there = f"{url.rpartition(':')[0]}:{port}/{url.rpartition('/')[2]}"

    async def probe() -> None:
        connection = await asyncpg.connect(there)
        try:
            if await connection.fetchval("SELECT pg_is_in_recovery()"):
                raise ConnectionRefusedError("it is still reading the log")
        finally:
            await connection.close()

    async with running(command, log) as process:
        await embedded.until_ready("the restored PostgreSQL", process, log, probe)
        async with opened(kernel, there) as restored:
            assert (await sound(restored))["issued"] == 25
            assert (await rows(restored))["locations"] == []
