"""``resume`` is all or nothing: each certain event once and in order, or a fresh start, whatever breaks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gateway_process import process
from redis.asyncio import Redis
from redis.exceptions import RedisError
from redis_process import redis_server
from roomworld import World
from swarm import Swarm, allow_sockets
from viewers import PATIENCE, Client, announced, coupon, gateway, principal, slots, until, watching
from websockets.exceptions import ConnectionClosed

from kernel.ids import new_id
from kernel.process import Kernel
from live import wire
from live.bus import RedisBus
from live.gateway import Gateway
from live.tables import Room

LOG_LENGTH = 20


@dataclass
class Scene:
    """A Redis that keeps its log in a file, a gateway that is a process of its own, and one that is here."""

    kernel: Kernel
    world: World
    bus: RedisBus
    port: int
    folder: Path
    stack: AsyncExitStack
    redis: asyncio.subprocess.Process
    one: asyncio.subprocess.Process
    first: str
    two: Gateway

    async def publish(self, text: str) -> None:
        """As the relay does: again, with the same id, until it is there."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await self.bus.publish(self.world.room, f"e{text}", event=announced(text), slots=slots(text))
                except RedisError:
                    await asyncio.sleep(0.05)
                else:
                    return

    async def grant(self, card: wire.CouponCard) -> None:
        private = {self.world.viewer.subject: wire.encoder.encode(card)}
        await self.bus.publish(self.world.room, str(card.id), private=private)

    async def restart_redis(self, folder: Path) -> None:
        self.redis.kill()
        await self.redis.wait()
        self.redis = await self.stack.enter_async_context(redis_server(self.port, folder, keeps=True))


@pytest.fixture
async def scene(world: World, free_port: int, tmp_path: Path) -> AsyncIterator[Scene]:
    (kept := tmp_path / "kept").mkdir()
    changed = {"redis_url": f"redis://127.0.0.1:{free_port}/0", "room_log_length": LOG_LENGTH}
    settings = world.kernel.settings.model_copy(update=changed)
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(redis_server(free_port, kept, keeps=True))
        client = await stack.enter_async_context(Redis(port=free_port))
        kernel = replace(world.kernel, settings=settings, redis=client)
        bus = RedisBus(client, log_length=LOG_LENGTH)
        one, first = await stack.enter_async_context(process(kernel))
        two = await stack.enter_async_context(gateway(kernel))
        yield Scene(kernel, world, bus, free_port, tmp_path, stack, redis, one, first, two)


async def other_gateway(scene: Scene, me: Client) -> None:
    await me.socket.close()


async def killed_gateway(scene: Scene, me: Client) -> None:
    scene.one.kill()
    with pytest.raises(ConnectionClosed):
        while True:
            await me.next()


async def redis_restarted_with_its_log(scene: Scene, me: Client) -> None:
    await me.socket.close()
    await scene.restart_redis(scene.folder / "kept")


async def redis_restarted_with_nothing(scene: Scene, me: Client) -> None:
    await me.socket.close()
    (empty := scene.folder / "empty").mkdir()
    await scene.restart_redis(empty)


async def redis_emptied(scene: Scene, me: Client) -> None:
    await me.socket.close()
    await scene.kernel.redis.flushall()


async def log_trimmed(scene: Scene, me: Client) -> None:
    await me.socket.close()
    for n in range(2 * LOG_LENGTH):
        await scene.publish(f"more {n}")


Fault = Callable[[Scene, Client], Awaitable[None]]
FAULTS: list[tuple[Fault, bool, bool]] = [
    # What breaks, whether the log is the same afterwards, and whether it still holds all that was missed.
    (other_gateway, True, True),
    (killed_gateway, True, True),
    (redis_restarted_with_its_log, True, True),
    (redis_restarted_with_nothing, False, False),
    (redis_emptied, False, False),
    (log_trimmed, True, False),
]


@pytest.mark.parametrize(("break_it", "same_log", "recovers"), FAULTS, ids=[fault.__name__ for fault, _, _ in FAULTS])
async def test_whoever_comes_back_was_told_everything_once_or_begins_anew(
    scene: Scene, break_it: Fault, same_log: bool, recovers: bool
) -> None:
    kernel, room, who = scene.kernel, scene.world.room, scene.world.viewer
    before, after = coupon("先"), coupon("后")
    async with watching(scene.two.url, kernel.keyring, room) as stayed:
        async with watching(scene.first, kernel.keyring, room, who) as me:
            await scene.publish("1")
            await scene.grant(before)
            await scene.publish("2")
            await me.event(wire.Announced, lambda e: e.text == "2")
            assert [e.text for e in me.certain()] == ["1", "2"]
            assert [f.coupon for f in me.frames if isinstance(f, wire.CouponGranted)] == [before]
            await scene.publish("3")
            if not same_log:  # what Redis has not handed to a gateway yet is gone with its log
                await stayed.event(wire.Announced, lambda e: e.text == "3")
            await break_it(scene, me)
        # The one who stayed heard "3" before anything is said on the log of later.
        await stayed.event(wire.Announced, lambda e: e.text == "3")
        heard = me.certain()
        await scene.publish("4")
        await scene.grant(after)
        await scene.publish("5")
        if not same_log:
            await stayed.frame(wire.Welcome)
        await until(lambda: scene.two.ready)

        # Who stayed connected missed nothing either, or was told to begin anew by a second welcome.
        if same_log:
            await stayed.event(wire.Announced, lambda e: e.text == "5")
            told = [e.text for e in stayed.certain()]
            more = [f"more {n}" for n in range(2 * LOG_LENGTH)] if break_it is log_trimmed else []
            assert told == ["1", "2", "3", *more, "4", "5"]
            assert len([f for f in stayed.frames if isinstance(f, wire.Welcome)]) == 1
        truth = await scene.bus.snapshot(room)
        async with asyncio.timeout(PATIENCE):
            while (known := scene.two.hub.get(room)) is None or (known.epoch, known.seq) != (truth.epoch, truth.seq):
                await asyncio.sleep(0.01)

        async with watching(scene.two.url, kernel.keyring, room, who, me.position) as back:
            welcome = back.frames[0]
            assert welcome.recovered is recovers
            assert (welcome.log.epoch == me.epoch) is same_log
            # The snapshot is the truth in every case.
            assert (welcome.log.epoch, welcome.log.seq) == (truth.epoch, truth.seq)
            assert welcome.announcement == msgspec.json.decode(truth.slots["announcement"]) == "5"
            assert welcome.room.title == "新品"
            assert welcome.pin is None
            assert after in welcome.coupons
            await scene.publish("end")
            await back.event(wire.Announced, lambda e: e.text == "end")
            granted = [f.coupon for f in back.frames if isinstance(f, wire.CouponGranted)]
            texts = [e.text for e in heard] + [e.text for e in back.certain()]
            if recovers:
                assert texts == ["1", "2", "3", "4", "5", "end"]
                assert granted == [after]
            else:
                assert (welcome.missed, granted) == (0, [])
                assert [e.text for e in back.certain()] == ["end"]


# ---- many at once --------------------------------------------------------------------------------------------------


async def reads(kernel: Kernel) -> int:
    """How often Redis read a room's log, its recent comments or its head, since it was started."""
    stats: Any = await kernel.redis.info("commandstats")
    return sum(
        stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("xrange", "xrevrange", "lrange", "hmget")
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize("viewers", [100, pytest.param(1500, marks=pytest.mark.deep)])
async def test_resumes_cost_redis_reads_for_each_room_not_for_each_viewer(world: World, viewers: int) -> None:
    kernel, bus = world.kernel, RedisBus(world.kernel.redis)
    rooms = [world.room, *(new_id() for _ in range(2))]
    async with kernel.sessions() as session, session.begin():
        for room in rooms[1:]:
            live = {"brand_id": "acme", "guide_id": world.guide.subject, "store_id": None, "title": "房"}
            session.add(Room(id=room, state="live", **live))
    allow_sockets(2 * len(rooms) * viewers)
    for room in rooms:
        for n in range(1, 6):
            await bus.publish(room, str(n), event=announced(str(n)), slots=slots(str(n)))
    epochs = [(await bus.head(room))[0] for room in rooms]
    async with gateway(kernel) as one:
        before = await reads(kernel)
        swarms = [Swarm([one.url], room) for room in rooms]
        try:
            for n in range(viewers):
                for swarm, epoch in zip(swarms, epochs, strict=True):
                    swarm.join(kernel.keyring.issue(principal()), resume=wire.Position(epoch, n % 5))
            everybody = [viewer for swarm in swarms for viewer in swarm.viewers]
            await until(lambda: all(viewer.told[-1:] == ["5"] for viewer in everybody), 600)
            for place, viewer in enumerate(everybody):
                assert viewer.told == [str(n) for n in range(1 + place % viewers % 5, 6)]
                assert [recovered for _, _, recovered in viewer.welcomes] == [True]
            assert one.tally.resumes == {"recovered": viewers * len(rooms)}
            assert await reads(kernel) - before <= 4 * len(rooms)
        finally:
            for swarm in swarms:
                swarm.close()
