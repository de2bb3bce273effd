"""A gateway's wall clock jumps by an hour while people watch; the others' and the servers' stay right."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from time import monotonic, time
from typing import Any
from uuid import uuid4

import pytest
from house import PATIENCE, House, until
from websockets.asyncio.client import connect

from kernel.clock import now
from live import presence, wire

pytestmark = [pytest.mark.deep, pytest.mark.timeout(1200)]
HOUR = 3600
LISTED_SECONDS = presence.GATEWAY_SECONDS + 5
"""By then the gateway that stood in this one's place before is no longer listed."""


def faketime() -> Path:
    """Debian's libfaketime, which answers in the C library's place when a process asks what time it is."""
    found = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    assert found is not None, "deploy/install.sh test installs libfaketime"
    return found


@asynccontextmanager
async def clock_of(house: House, name: str) -> AsyncIterator[Callable[[int], object]]:
    """The process ``name`` with a wall clock of its own, to be set so many seconds forward or back."""
    folder = Path("/tmp") / f"nearcast-clock-{uuid4().hex[:8]}"
    folder.mkdir()
    offset = folder / "offset"
    environment = house.stack.children[name].environment
    added = {
        "LD_PRELOAD": str(faketime()), "FAKETIME_TIMESTAMP_FILE": str(offset), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DISABLE_SHM": "1", "NO_FAKE_STAT": "1",
    }  # fmt: skip

    def jump(seconds: int) -> None:
        whole = folder / "whole"
        whole.write_text(f"{seconds:+d}\n")
        whole.replace(offset)

    async def start_anew() -> None:
        await house.is_gone(name, house.signal(name))
        await until(house.is_ready, f"{name} being ready")

    jump(0)
    try:
        environment.update(added)
        await start_anew()
        yield jump
    finally:
        for variable in added:
            if (before := os.environ.get(variable)) is None:
                environment.pop(variable, None)
            else:
                environment[variable] = before
        await start_anew()
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


@pytest.mark.parametrize("seconds", [HOUR, -HOUR], ids=["an hour forward", "an hour back"])
async def test_a_gateways_clock_jumps(measured: House, seconds: int) -> None:
    async with clock_of(measured, "gateway-1") as jump, measured.evening():
        await measured.heard_more(4)
        pid = measured.pid("gateway-1")
        there = measured.at(0)
        assert there
        jump(seconds)
        welcome = await _greeted(measured, 0, minutes=90)
        assert isinstance(welcome, wire.Welcome)
        assert abs(welcome.now / 1000 - time() - seconds) < PATIENCE, "the clock did not jump"
        await measured.heard_more(10)
        await _told_who_is_there(measured)
        short = await _greeted(measured, 0, minutes=30)
        assert isinstance(short, wire.Bye if seconds > 0 else wire.Welcome), "tokens end by the clock of who is asked"
        jump(0)
        await measured.recovers()
        assert isinstance(await _greeted(measured, 0, minutes=30), wire.Welcome)
        assert measured.pid("gateway-1") == pid, "it did not outlive the jump"
    assert measured.all_recovered
    assert all(listener.welcomes == [False] for listener in there), "viewers with a good token were sent away"


async def _greeted(house: House, gateway: int, *, minutes: int) -> Any:
    """What a viewer with a token for so long is told first."""
    who = replace(house.listeners[0].who, expires_at=now() + timedelta(minutes=minutes))
    url = f"{house.sockets[gateway]}/v1/rooms/{house.world.room}/live"
    async with connect(url, open_timeout=PATIENCE, compression=None) as socket, asyncio.timeout(PATIENCE):
        await socket.send(wire.encoder.encode(wire.Hello(house.world.kernel.keyring.issue(who))).decode())
        return wire.server_frames.decode(await socket.recv())


async def _told_who_is_there(house: House) -> None:
    """Both gateways are listed all the time, and all their viewers counted."""
    redis = house.world.kernel.redis
    room = house.world.room

    async def counted() -> bool:
        return (await presence.figures_of(redis, [room]))[room].counts.viewers == len(house.listeners)

    await until(counted, "everybody being counted")
    since = monotonic()

    async def listed() -> bool:
        nonlocal since
        if len(await presence.gateways(redis)) < len(house.sockets):
            since = monotonic()
        return monotonic() - since > LISTED_SECONDS

    await until(listed, "both gateways staying listed")
