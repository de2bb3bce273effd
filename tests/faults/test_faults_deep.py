"""One fault after the other on one running house; each must leave it as it was.

``FAULTS_OUT=file`` writes what was measured, one JSON line a fault: the table of docs/reliability.md.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from house import House, ended, until
from wire_between import Wire, wire

pytestmark = [pytest.mark.deep, pytest.mark.timeout(1200)]
LONG = 10.0
"""Seconds of a pause that nobody can take for a moment's load."""


@pytest.fixture
async def measured(house: House, request: pytest.FixtureRequest) -> AsyncIterator[House]:
    """The house; what was measured is written down afterwards."""
    yield house
    await _write_down(house, request.node.name)


async def _write_down(house: House, test: str) -> None:
    figures = {
        "test": test, "ready": round(house.ready_seconds, 1), "told": round(house.told_seconds, 1),
        "recovered": house.all_recovered, "announcements": len(await house.said()), "answers": house.answers,
    }  # fmt: skip
    print(json.dumps(figures))
    if out := os.environ.get("FAULTS_OUT"):
        before = Path(out).read_text() if Path(out).exists() else ""
        Path(out).write_text(f"{before}{json.dumps(figures)}\n")


@contextmanager
def standing_still(*pids: int) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def family(pid: int) -> list[int]:
    """The process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


@pytest.fixture(scope="module")
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Servers that tests started again; they go with the module."""
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for process in reversed(running):
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)


async def gone(pid: int) -> None:
    async def is_gone() -> bool:
        return ended(pid)

    await until(is_gone, "the process being gone")


# ---- kill -9 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["api", "worker", "gateway-1"])
async def test_a_process_of_each_kind_is_killed(measured: House, victim: str) -> None:
    async with measured.evening():
        await measured.heard_more(5)
        measured.signal(victim)
        await measured.recovers()
    assert measured.all_recovered


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
            await asyncio.sleep(LONG)
        await measured.recovers()
    assert measured.all_recovered


async def test_redis_is_out_of_memory(measured: House) -> None:
    async with measured.evening(), measured.redis() as redis:
        await measured.heard_more(4)
        await redis.config_set("maxmemory", 1)
        try:
            await asyncio.sleep(LONG)
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
            await asyncio.sleep(LONG)
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
            await _gateways_use(house, url.replace(f":{place.port}/", f":{between.port}/"))
            yield between
        finally:
            await _gateways_use(house, url)


async def _gateways_use(house: House, redis_url: str) -> None:
    for name, child in house.stack.children.items():
        if name.startswith("gateway"):
            child.environment["NEARCAST_REDIS_URL"] = redis_url
            before = child.process
            house.signal(name)

            async def again(child=child, before=before) -> bool:
                return child.process is not before

            await until(again, f"{name} being started again")
    await until(house.is_ready, "gateways being ready")


@pytest.mark.parametrize("how", ["hung up", "pulled", "lossy"])
async def test_the_network_between_gateways_and_redis_breaks(measured: House, how: str) -> None:
    async with through_a_wire(measured) as between, measured.evening():
        await measured.heard_more(4)
        if how == "lossy":
            between.loss = 0.2
            await asyncio.sleep(LONG)
            between.loss = 0.0
        else:
            between.alive.clear()
            if how == "hung up":
                between.hang_up()
            await asyncio.sleep(2 * LONG if how == "pulled" else LONG)
            between.alive.set()
        await measured.recovers()
    assert measured.all_recovered


async def test_a_gateway_stands_still_for_twenty_seconds(measured: House) -> None:
    async with measured.evening():
        await measured.heard_more(4)
        process = measured.stack.children["gateway-1"].process
        assert process is not None
        with standing_still(process.pid):
            await asyncio.sleep(2 * LONG)
        await measured.recovers()
    assert measured.all_recovered
