"""A house for each test of a fault, on one stack for a module."""

from collections.abc import AsyncIterator
from datetime import timedelta

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
async def house(stack: Stack) -> AsyncIterator[House]:
    """A room of its own in the running stack."""
    async with open_kernel(stack.settings) as kernel, httpx.AsyncClient(timeout=20) as client:
        yield House(stack, await _world(kernel), client)


async def _world(kernel: Kernel) -> World:
    """The brand as the first test of the module made it, and a new room."""
    async with kernel.sessions() as session:
        staff = (await session.execute(text("SELECT id, name, role FROM staff WHERE brand_id = :acme"), ACME)).all()
    if not staff:
        return await make_world(kernel)
    until = now() + timedelta(hours=1)
    known = {row.role: Principal(BrandId("acme"), row.id, Role(row.role), row.name, until) for row in staff}
    world = World(kernel, known["guide"], known["ops"], new_id())
    await world.execute(
        "INSERT INTO rooms (id, brand_id, guide_id, title, state, live_at)"
        " VALUES (:id, :acme, :guide, '夜', 'live', now())",
        id=world.room,
        guide=world.guide.subject,
        **ACME,
    )
    return world
