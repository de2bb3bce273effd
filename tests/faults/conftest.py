"""A house for each test of a fault, on one stack for a module.

``FAULTS_OUT=file`` writes what was measured, one JSON line a fault: the table of docs/reliability.md.
"""

import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from house import House
from sqlalchemy import text
from world import World, make_world

from app.processes import open_kernel
from app.up import Stack
from kernel.clock import now
from kernel.identity import Principal, Role
from kernel.ids import BrandId, new_id
from kernel.process import Kernel

ACME = {"acme": "acme"}


@pytest.fixture
async def acme(stack: Stack) -> AsyncIterator[World]:
    """A brand in the running stack, with a room that no other test of the module uses."""
    async with open_kernel(stack.settings) as kernel:
        yield await _world(kernel)


@pytest.fixture
async def house(stack: Stack, acme: World) -> AsyncIterator[House]:
    """A room of its own in the running stack."""
    async with httpx.AsyncClient(timeout=20) as client:
        yield House(stack, acme, client)


@pytest.fixture
async def measured(house: House, request: pytest.FixtureRequest) -> AsyncIterator[House]:
    """The house; what was measured is written down afterwards, if the test held."""
    yield house
    if request.node.stash.get(HELD, False):
        await _write_down(house, request.node.path.name, request.node.name)


async def _write_down(house: House, file: str, test: str) -> None:
    figures = {
        "file": file, "test": test, "ready": round(house.ready_seconds, 1), "told": round(house.told_seconds, 1),
        "recovered": house.all_recovered, "announcements": len(await house.said()), "answers": house.answers,
    }  # fmt: skip
    print(json.dumps(figures))
    if out := os.environ.get("FAULTS_OUT"):
        before = Path(out).read_text() if Path(out).exists() else ""
        Path(out).write_text(f"{before}{json.dumps(figures)}\n")


HELD = pytest.StashKey[bool]()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = (yield).get_result()
    if call.when == "call":
        item.stash[HELD] = report.passed


@pytest.fixture(scope="module")
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Servers that tests started again; they go with the module."""
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for process in reversed(running):
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)


async def _world(kernel: Kernel) -> World:
    """The brand as the first test of the module made it, and a new room."""
    async with kernel.sessions() as session:
        staff = (await session.execute(text("SELECT id, name, role FROM staff WHERE brand_id = :acme"), ACME)).all()
        stores = (await session.execute(text("SELECT code, id FROM stores WHERE brand_id = :acme"), ACME)).all()
    if not staff:
        return await make_world(kernel)
    until = now() + timedelta(hours=1)
    known = {row.role: Principal(BrandId("acme"), row.id, Role(row.role), row.name, until) for row in staff}
    world = World(kernel, known["guide"], known["ops"], new_id(), {row.code: row.id for row in stores})
    await world.execute(
        "INSERT INTO rooms (id, brand_id, guide_id, title, state, live_at)"
        " VALUES (:id, :acme, :guide, '夜', 'live', now())",
        id=world.room,
        guide=world.guide.subject,
        **ACME,
    )
    return world
