"""A brand at work, and the API as a client meets it, defects and all."""

from collections.abc import AsyncIterator

import httpx
import pytest
from world import World, make_world

from app.api import create_app
from kernel.process import Kernel


@pytest.fixture
async def world(kernel: Kernel) -> World:
    return await make_world(kernel)


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(world.kernel)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://api", timeout=60) as client,
    ):
        yield client
