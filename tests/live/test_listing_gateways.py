"""The list of gateways goes by one clock, Redis's: a gateway whose own is wrong hides nobody, and is not hidden."""

import asyncio
from typing import Any

import msgspec
import pytest
from roomworld import World
from viewers import gateway, until

from kernel.process import Kernel
from kernel.redis import Client
from live import presence
from live.presence import GATEWAY_SECONDS, GatewayStats
from live.pulse import BEAT_SECONDS


def stats(id: str, at: float) -> GatewayStats:
    none: dict[str, Any] = dict.fromkeys(("viewers", "rooms", "frames", "events", "shed", "joins"), 0)
    return GatewayStats(id=id, url=f"ws://{id}", at=at, delay_ms_p50=0.0, delay_ms_p99=0.0, **none)


async def test_gateways_with_wrong_clocks_are_listed_beside_each_other(kernel: Kernel) -> None:
    now = await presence.register(kernel.redis, stats("right", 0))
    for id, ahead in (("fast", 3600), ("slow", -3600), ("right", 0)):
        assert await presence.register(kernel.redis, stats(id, now + ahead)) >= now
    listed = await presence.gateways(kernel.redis)
    assert [one.id for one in listed] == ["fast", "right", "slow"]
    assert all(now <= one.at < now + 60 for one in listed), "what is listed carries Redis's time"


async def test_a_gateway_that_fell_silent_is_not_listed_and_struck_off_by_the_next(kernel: Kernel) -> None:
    now = await presence.register(kernel.redis, stats("here", 0))
    silent = msgspec.json.encode(stats("silent", now - GATEWAY_SECONDS - 1))
    await kernel.redis.hset("nearcast:gateways", "silent", silent)
    assert [one.id for one in await presence.gateways(kernel.redis)] == ["here"]
    await presence.register(kernel.redis, stats("here", 0))
    assert await kernel.redis.hkeys("nearcast:gateways") == [b"here"]


async def test_a_gateway_that_leaves_while_it_beats_is_not_listed_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = world.kernel
    beating, go_on, register = asyncio.Event(), asyncio.Event(), presence.register

    async def slowly(redis: Client, stats: GatewayStats) -> float:
        beating.set()
        await go_on.wait()
        return await register(redis, stats)

    async with gateway(kernel) as one:
        await until(lambda: one.ready)
        monkeypatch.setattr(presence, "register", slowly)
        await beating.wait()
        leaving = asyncio.ensure_future(one.pulse.stop())
        await asyncio.wait({leaving}, timeout=1)
        go_on.set()
        await leaving
        beating.clear()
        await asyncio.sleep(2 * BEAT_SECONDS)
        assert not beating.is_set()
        assert await presence.gateways(kernel.redis) == []
