"""Gateways as processes: killed, drained, and sharing a port."""

import asyncio
import signal
from contextlib import AsyncExitStack

import pytest
from gateway_process import process
from roomworld import World
from viewers import announced, last_words, watching
from websockets.exceptions import ConnectionClosed

from live import presence, wire
from live.bus import RedisBus, key
from live.pulse import BEAT_SECONDS
from live.wire import Close


async def test_viewers_of_a_killed_gateway_lose_nothing_and_leave_the_count(world: World) -> None:
    kernel = world.kernel
    bus = RedisBus(kernel.redis)
    async with process(kernel) as (one, first), process(kernel) as (_, second):
        async with watching(second, kernel.keyring, world.room) as witness:
            async with watching(first, kernel.keyring, world.room, world.viewer) as me:
                await witness.event(wire.CountsChanged, lambda e: e.counts.viewers == 2)
                await bus.publish(world.room, "a", event=announced("一"))
                await me.event(wire.Announced)
                one.kill()
                with pytest.raises(ConnectionClosed):
                    while True:
                        await me.next()
            # What the dead gateway said last has its end written beside it.
            seconds, _ = await kernel.redis.time()
            said = await kernel.redis.hgetall(key(world.room, "presence"))
            ends = [int(figure.split()[1]) for who, figure in said.items() if who != b"told"]
            assert len(ends) == 2
            assert all(end <= (seconds + 1 + presence.HOLD_SECONDS) * 1000 for end in ends)
            await bus.publish(world.room, "b", event=announced("二"))
            async with watching(second, kernel.keyring, world.room, world.viewer, me.position) as back:
                assert (back.frames[0].recovered, back.frames[0].missed) == (True, 1)
                assert (await back.event(wire.Announced)).text == "二"
            witness.events.clear()
            await witness.event(wire.CountsChanged, lambda e: e.counts.viewers == 1)
        listed = {stats.url for stats in await presence.gateways(kernel.redis)}
        assert second in listed


def test_viewers_of_a_dead_gateway_are_counted_for_fifteen_seconds_at_most() -> None:
    # The figure expires; the survivors look again when they renew theirs, at the next beat.
    assert presence.HOLD_SECONDS + presence.RENEW_SECONDS + BEAT_SECONDS < 15


async def test_terminated_gateway_says_goodbye_and_exits_cleanly(world: World) -> None:
    kernel = world.kernel
    async with process(kernel) as (one, url), watching(url, kernel.keyring, world.room) as me:
        one.send_signal(signal.SIGTERM)
        bye, code = await last_words(me.socket)
        assert bye is not None
        assert (bye.code, code) == (Close.DRAINING, Close.DRAINING)
        async with asyncio.timeout(60):
            assert await one.wait() == 0


async def test_gateways_share_a_port(world: World, free_port: int) -> None:
    kernel = world.kernel
    async with process(kernel, free_port) as (_, url), process(kernel, free_port) as (_, same), AsyncExitStack() as all:
        assert url == same
        for _ in range(16):
            await all.enter_async_context(watching(url, kernel.keyring, world.room))

        async def spread() -> list[int]:
            return [stats.viewers for stats in await presence.gateways(kernel.redis)]

        counts: list[int] = []
        async with asyncio.timeout(60):
            while sum(counts) != 16:
                counts = await spread()
                await asyncio.sleep(0.1)
        assert len([count for count in counts if count]) == 2


async def test_gateway_bears_a_redis_that_hangs(world: World) -> None:
    """For a while Redis answers nobody: sockets are served, and what was said meanwhile is not lost."""
    kernel = world.kernel
    async with process(kernel) as (_, url), watching(url, kernel.keyring, world.room) as me:
        await kernel.redis.execute_command("CLIENT", "PAUSE", "1500", "ALL")
        await me.send(wire.Comment("1", "在吗"))
        await me.send(wire.Ping())
        assert isinstance(await me.next(), wire.Pong | wire.Batch)
        assert (await me.ack("1")).ok
