"""Redis goes away under a gateway, and comes back with nothing."""

import asyncio
from dataclasses import replace
from pathlib import Path

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis_process import redis_server
from roomworld import World, do
from viewers import announced, gateway, until, watching

from app import relay, worker
from kernel.process import Kernel
from kernel.tasks import end
from live import rooms, wire
from live.bus import RedisBus


async def test_sockets_stay_comments_are_refused_and_all_goes_on_afterwards(
    world: World, free_port: int, tmp_path: Path
) -> None:
    async with (
        Redis(port=free_port) as client,
        redis_server(free_port, tmp_path) as first,
        gateway(kernel := replace(world.kernel, redis=client)) as one,
        watching(one.url, kernel.keyring, world.room, world.viewer) as me,
    ):
        epoch = me.epoch
        first.kill()
        await until(lambda: not one.ready)
        await me.send(wire.Comment("1", "在吗"))
        refused = await me.ack("1")
        assert refused.error is not None
        assert refused.error.code == "unavailable"
        await me.send(wire.Ping())
        await me.frame(wire.Pong)
        async with watching(one.url, kernel.keyring, world.room):
            pass  # whoever comes now gets what this gateway knows
        async with redis_server(free_port, tmp_path):
            again = await me.frame(wire.Welcome)
            assert again.log.epoch != epoch
            await until(lambda: one.ready)
            await me.send(wire.Comment("1", "在吗"))
            assert (await me.ack("1")).ok
            await RedisBus(client).publish(world.room, "a", event=announced("好了"))
            await me.event(wire.Announced)


async def test_gateway_that_starts_before_redis_becomes_ready_with_it(
    world: World, free_port: int, tmp_path: Path
) -> None:
    async with Redis(port=free_port) as client:
        kernel = replace(world.kernel, redis=client)
        opening = asyncio.ensure_future(_watch_a_comment(kernel, world))
        await asyncio.sleep(0)
        async with redis_server(free_port, tmp_path):
            await opening


async def _watch_a_comment(kernel: Kernel, world: World) -> None:
    async with gateway(kernel) as one, watching(one.url, kernel.keyring, world.room) as me:
        await me.send(wire.Comment("1", "早"))
        assert (await me.ack("1")).ok


async def test_after_a_long_while_without_redis_nothing_is_told_behind_a_snapshot_that_has_it(
    world: World, free_port: int, tmp_path: Path
) -> None:
    failures = 0
    async with (
        Redis(port=free_port, retry=Retry(NoBackoff(), 0)) as client,
        redis_server(free_port, tmp_path) as first,
        gateway(kernel := replace(world.kernel, redis=client)) as one,
        watching(one.url, kernel.keyring, world.room, world.viewer) as me,
    ):

        async def tell() -> None:
            nonlocal failures
            failures += 1
            await relay.run(kernel.settings, kernel.sessions, RedisBus(client))

        async def announce(text: str) -> None:
            await do(world, rooms.announce, world.guide, world.room, text)

        telling = asyncio.ensure_future(worker._supervised("relay", tell, 0.0))
        await announce("一")
        assert (await me.event(wire.Announced)).text == "一"
        first.kill()
        await first.wait()
        for text in "二三":
            await announce(text)
        await until(lambda: failures > 6)  # by now the worker rests as long as it ever does
        async with redis_server(free_port, tmp_path):
            assert (await me.frame(wire.Welcome)).announcement == "三"
            await announce("四")
            await me.event(wire.Announced, lambda event: event.text == "四")
            assert [event.text for event in me.events if isinstance(event, wire.Announced)] == ["一", "四"]
            await end(telling)
