"""Viewers who do not read: they cost a constant, delay nobody, and miss nothing once they read again."""

import asyncio

import pytest
from roomworld import World, make_world
from swarm import Swarm
from viewers import announced, gateway, principal, until, watching

from kernel.process import Kernel
from live import wire
from live.bus import RedisBus
from live.connection import HARD_LIMIT

TEXT = "满" * 3000
STUCK = 3


@pytest.fixture
async def world(kernel: Kernel) -> World:
    return await make_world(kernel)


async def test_viewers_who_stop_reading_are_bounded_closed_and_come_back_whole(world: World) -> None:
    kernel, bus, texts = world.kernel, RedisBus(world.kernel.redis), list[str]()
    async with gateway(kernel) as one, watching(one.url, kernel.keyring, world.room) as good:
        swarm = Swarm([one.url], world.room)
        try:
            stuck = [swarm.join(kernel.keyring.issue(principal())) for _ in range(STUCK)]
            await until(lambda: all(viewer.welcomes for viewer in stuck))
            for viewer in stuck:
                assert viewer.transport is not None
                viewer.transport.pause_reading()
            largest = 0
            while one.tally.closes["slow"] < STUCK:
                assert len(texts) < 5000, "what waits for the stuck viewers grows without bound"
                texts.append(f"{len(texts)} {TEXT}")
                await bus.publish(world.room, texts[-1][:8], event=announced(texts[-1]))
                # Told while the others are stuck, one tick for each event.
                want = len(texts)
                await good.event(wire.Announced, lambda _, want=want: good.seq == want)
                good.events.clear()
                waiting = [connection.transport.get_write_buffer_size() for connection in one.connections]
                largest = max([largest, *waiting])
            frame = len(announced(texts[-1])) + 100
            assert largest + frame >= HARD_LIMIT
            assert largest <= HARD_LIMIT + 2 * frame
            assert one.hub.rooms[world.room].audience.size == 1

            for viewer in stuck:
                if viewer.transport is not None:
                    viewer.transport.resume_reading()
            await until(lambda: all(viewer.told[-1:] == texts[-1:] for viewer in stuck))
            assert swarm.gone_wrong() == []
            for viewer in stuck:
                assert viewer.told == texts
                first, *later = [recovered for _, _, recovered in viewer.welcomes]
                assert not first
                assert later
                assert all(later)
        finally:
            swarm.close()


async def test_a_socket_that_reads_nothing_at_all_is_cut_off_in_the_end(world: World) -> None:
    """Not even the close: the gateway must not wait for an answer that never comes."""
    kernel, bus = world.kernel, RedisBus(world.kernel.redis)
    async with gateway(kernel) as one:
        swarm = Swarm([one.url], world.room)
        try:
            dead = swarm.join(kernel.keyring.issue(principal()))
            await until(lambda: dead.welcomes)
            assert dead.transport is not None
            dead.transport.pause_reading()
            told = 0
            while not one.tally.closes["slow"]:
                await bus.publish(world.room, f"e{told}", event=announced(TEXT * 4))
                told += 1
                await asyncio.sleep(0)
            await until(lambda: not one.connections)
        finally:
            swarm.close()
