"""What many tests of rooms begin with."""

from collections.abc import AsyncIterator

import pytest
from hubhouse import House, listening
from roomworld import World, make_world
from viewers import gateway, telling

from kernel.process import Kernel
from live.gateway import Gateway


@pytest.fixture
async def world(kernel: Kernel) -> World:
    """A brand with a live room."""
    return await make_world(kernel)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    """A hub on a bus in memory."""
    house = House()
    async with listening(house):
        yield house


@pytest.fixture
async def two(world: World) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two gateways and the worker's relay."""
    async with gateway(world.kernel) as one, gateway(world.kernel) as other, telling(world.kernel):
        yield one, other
