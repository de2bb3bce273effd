"""One fault after the other on one running house; each must leave it as it was.

``FAULTS_OUT=file`` writes what was measured, one JSON line a fault: the table of docs/reliability.md.
"""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from breaking import LONG, family, gone, standing_still
from house import House
from wire_between import Wire, wire

pytestmark = [pytest.mark.deep, pytest.mark.timeout(1200)]


# ---- kill -9 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["api", "worker", "gateway-1"])
async def test_a_process_of_each_kind_is_killed(measured: House, victim: str) -> None:
    async with measured.evening():
        await measured.heard_more(5)
        pid = measured.signal(victim)
        await measured.recovers()
        await measured.is_gone(victim, pid)
    assert measured.all_recovered


async def test_everything_is_killed_at_once(measured: House, started: list[subprocess.Popen[bytes]]) -> None:
    """As when the power goes, but for what the disk was still to be given."""
    async with measured.evening():
        await measured.heard_more(10)
        ours = {name: measured.pid(name) for name in measured.stack.children}
        killed = [*ours.values(), *family(measured.postgres_pid), measured.redis_pid]
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        for pid in killed:
            await gone(pid)
        started.append(measured.start_postgres())
        started.append(measured.start_redis())
        await measured.recovers()
        for name, pid in ours.items():
            await measured.is_gone(name, pid)
    assert measured.all_recovered
    assert all(len(listener.welcomes) > 1 for listener in measured.listeners), "nobody had to come back"


# ---- Redis ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [True, False], ids=["with its log", "with nothing"])
async def test_redis_is_killed_and_started_again(
    measured: House, kept: bool, started: list[subprocess.Popen[bytes]]
) -> None:
    async with measured.evening():
        await measured.heard_more(4)
        pid = measured.redis_pid
        os.kill(pid, signal.SIGKILL)
        await gone(pid)
        if not kept:
            shutil.rmtree(measured.redis_data / "appendonlydir")
        await asyncio.sleep(1)  # it stays away for a moment
        started.append(measured.start_redis())
        await measured.recovers()
    assert measured.all_recovered is kept


async def test_redis_stands_still(measured: House) -> None:
    async with measured.evening():
        await measured.heard_more(4)
        with standing_still(measured.redis_pid):
            await measured.nobody_hears_for(LONG)
        await measured.recovers()
    assert measured.all_recovered


async def test_redis_is_out_of_memory(measured: House) -> None:
    async with measured.evening(), measured.redis() as redis:
        await measured.heard_more(4)
        await redis.config_set("maxmemory", 1)
        try:
            await measured.nobody_hears_for(LONG)
        finally:
            await redis.config_set("maxmemory", 0)
        await measured.recovers()
    assert measured.all_recovered


# ---- PostgreSQL ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=["in order", "at once"])
async def test_postgresql_is_restarted(
    measured: House, number: signal.Signals, started: list[subprocess.Popen[bytes]]
) -> None:
    async with measured.evening():
        await measured.heard_more(4)
        pid = measured.postgres_pid
        os.kill(pid, number)
        await gone(pid)
        started.append(measured.start_postgres())
        await measured.recovers()
    assert measured.all_recovered


async def test_postgresql_stands_still(measured: House) -> None:
    async with measured.evening():
        await measured.heard_more(4)
        with standing_still(*family(measured.postgres_pid)):
            await measured.nobody_hears_for(LONG)
        await measured.recovers()
    assert measured.all_recovered


# ---- the network between gateways and Redis ------------------------------------------------------------------------


@asynccontextmanager
async def through_a_wire(house: House) -> AsyncIterator[Wire]:
    """Both gateways reach Redis through a wire of ours only."""
    url = house.stack.settings.redis_url
    assert url
    place = urlsplit(url)
    assert place.hostname
    assert place.port
    async with wire(place.hostname, place.port) as between:
        try:
            await house.use("NEARCAST_REDIS_URL", url.replace(f":{place.port}/", f":{between.port}/"), only="gateway")
            yield between
        finally:
            await house.use("NEARCAST_REDIS_URL", url, only="gateway")


@pytest.mark.parametrize("how", ["hung up", "pulled", "lossy"])
async def test_the_network_between_gateways_and_redis_breaks(measured: House, how: str) -> None:
    async with through_a_wire(measured) as between, measured.evening():
        await measured.heard_more(4)
        if how == "lossy":
            between.loss = 0.2
            await asyncio.sleep(LONG)
            between.loss = 0.0
            assert between.resent > 10, "too little was lost"
        else:
            between.alive.clear()
            if how == "hung up":
                between.hang_up()
            await measured.nobody_hears_for(2 * LONG if how == "pulled" else LONG)
            assert between.held, "nothing was to be carried"
            between.alive.set()
        await measured.recovers()
    assert measured.all_recovered


async def test_a_gateway_stands_still_for_twenty_seconds(measured: House) -> None:
    async with measured.evening():
        await measured.heard_more(4)
        there = measured.at(0)
        assert there
        with standing_still(measured.pid("gateway-1")):
            await asyncio.sleep(2 * LONG)
            assert all(len(listener.welcomes) > 1 for listener in there), "nobody had to go elsewhere"
        await measured.recovers()
    assert measured.all_recovered
