"""The way between our processes and PostgreSQL is cut, and nobody hangs up: who lost their power says no farewell."""

import asyncio
import os
import shlex
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from breaking import LONG, gone
from cable import Cable, cable
from house import PATIENCE, House, until
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from kernel.postgres import create_engine

pytestmark = [pytest.mark.deep, pytest.mark.timeout(1200)]


async def test_the_cable_to_the_database_is_pulled(measured: House, started: list[subprocess.Popen[bytes]]) -> None:
    async with through_a_cable(measured, started) as way, measured.evening():
        await measured.heard_more(4)
        way.pull()
        await measured.nobody_hears_for(2 * LONG)
        way.plug()
        await measured.recovers()
    assert measured.all_recovered


async def test_all_connections_to_the_database_are_gone_without_a_word(
    measured: House, started: list[subprocess.Popen[bytes]]
) -> None:
    """Both sides believe in them: ours wait for answers, PostgreSQL's keep what they had locked."""
    async with through_a_cable(measured, started) as way, measured.evening():
        await measured.heard_more(4)
        async with sessions_there(measured, way) as (one, other):
            asking = asyncio.ensure_future(one.execute(text("SELECT pg_sleep(3600)")))
            try:
                await other.execute(text("SELECT lane FROM outbox_lanes FOR UPDATE"))

                async def asked() -> bool:
                    sleeps = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query ~ '3600'"
                    return bool(await measured.world.scalar(sleeps))

                await until(asked, "PostgreSQL being asked")
                await asyncio.sleep(1)  # all is acknowledged: nobody has a reason to send anything again
                way.pull()
                await measured.nobody_hears_for(LONG)
                await way.lose_power()
                await way.lead_to(_port(measured))
                await measured.recovers()
                with pytest.raises(DBAPIError):
                    await asyncio.wait_for(asking, PATIENCE)
            finally:
                asking.cancel()
    assert measured.all_recovered


@asynccontextmanager
async def sessions_there(house: House, way: Cable) -> AsyncIterator[tuple[AsyncConnection, AsyncConnection]]:
    """Two connections as a process of ours would have them."""
    engine = create_engine(house.stack.settings.model_copy(update={"database_url": _url(house, way)}))
    one, other = await engine.connect(), await engine.connect()
    try:
        yield one, other
    finally:
        for each in (one, other):
            await each.invalidate()
            await each.close()
        await engine.dispose()


def _port(house: House) -> int:
    found = urlsplit(house.stack.settings.database_url or "").port
    assert found
    return found


def _url(house: House, way: Cable) -> str:
    url = house.stack.settings.database_url
    assert url
    return url.replace(f"127.0.0.1:{_port(house)}", f"{way.there}:{way.port}")


@asynccontextmanager
async def through_a_cable(house: House, started: list[subprocess.Popen[bytes]]) -> AsyncIterator[Cable]:
    """All our processes reach PostgreSQL only so while the block runs."""
    async with cable() as way:
        await _listen_there(house, way, started)
        await way.lead_to(_port(house))
        try:
            await house.use("NEARCAST_DATABASE_URL", _url(house, way))
            yield way
        finally:
            await house.use("NEARCAST_DATABASE_URL", house.stack.settings.database_url or "")


async def _listen_there(house: House, way: Cable, started: list[subprocess.Popen[bytes]]) -> None:
    """Start PostgreSQL again such that it listens at this end of the cable too."""
    options, rules = house.postgres_data / "postmaster.opts", house.postgres_data / "pg_hba.conf"
    command = [f"listen_addresses=127.0.0.1,{way.here}" if part.startswith("listen_addresses=") else part
               for part in shlex.split(options.read_text())]  # fmt: skip
    rules.write_text(f"{rules.read_text()}host all all {way.there}/32 scram-sha-256\n")
    pid = house.postgres_pid
    os.kill(pid, signal.SIGINT)
    await gone(pid)
    started.append(house.start_postgres(command))
    await until(house.is_ready, "all being ready with it")
