"""Redis takes questions and does not answer: pages of rooms come without live figures, and keep nobody waiting."""

import asyncio
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient
from redis.asyncio import Redis
from redis_process import redis_server
from roomworld import World, do
from viewers import until

from app.api import create_app
from kernel.ids import new_id
from live import figures, presence, rooms
from live.presence import GatewayStats

# Nothing but the routes' own patience ends a question to this Redis.
PAGES = ("/v1/rooms", "/v1/rooms/{room}", "/v1/rooms/{ended}/summary", "/v1/ops/rooms")


async def pages(world: World, client: AsyncClient) -> list[Any]:
    headers = {"Authorization": f"Bearer {world.kernel.keyring.issue(world.ops)}"}
    paths = [page.format(room=world.room, ended=world.planned) for page in PAGES]
    return [await client.get(path, headers=headers) for path in paths]


async def test_a_redis_that_says_nothing_costs_pages_their_figures_and_no_connection(
    world: World, free_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await do(world, rooms.end, world.ops, world.planned)
    async with redis_server(free_port, tmp_path) as server, Redis(port=free_port) as redis:
        await presence.beat(redis, world.room, "one", 7, 0, [new_id()])
        await presence.register(redis, GatewayStats("one", "ws://one", 7, 1, 0, 0, 0, 0, 0, 0, 0))
        app = create_app(replace(world.kernel, redis=redis))
        transport = ASGITransport(app)
        async with AsyncClient(transport=transport, base_url="http://api") as client:
            well = await pages(world, client)
            server.send_signal(signal.SIGSTOP)
            silent = await pages(world, client)
            monkeypatch.setattr(figures, "PATIENCE_SECONDS", 3600.0)
            crowd = [asyncio.create_task(pages(world, client)) for _ in range(40)]
            pool: Any = world.kernel.engine.pool
            # All forty ask for the figures of two rooms, and hold no connection to PostgreSQL meanwhile.
            await until(lambda: len(redis.connection_pool._in_use_connections) == 80 and pool.checkedout() == 0)
            await do(world, rooms.announce, world.guide, world.room, "照常")
            server.send_signal(signal.SIGCONT)
            later = [answer for answers in await asyncio.gather(*crowd) for answer in answers]
    assert [answer.status_code for answer in (*well, *silent, *later)] == [200] * (len(PAGES) * 42)
    assert [answer.json()["viewers"] for answer in (well[1], silent[1], later[1])] == [7, 0, 7]
    assert [answer.json()["sockets"] for answer in (well[1], silent[1])] == [["ws://one"], []]
    assert [answer.json()["items"][-1]["viewers"] for answer in (well[3], silent[3])] == [7, 0]
    assert silent[2].json()["seconds"] == well[2].json()["seconds"]
