"""The list of gateways goes by one clock, Redis's: a gateway whose own is wrong hides nobody, and is not hidden."""

from typing import Any

import msgspec

from kernel.process import Kernel
from live import presence
from live.presence import GATEWAY_SECONDS, GatewayStats


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
