"""Rooms on a Redis Cluster: spread over its nodes, while slots move and nodes die."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from uuid import UUID

import httpx
import msgspec
import pytest
from cluster import Cluster
from redis.asyncio import RedisCluster
from redis.exceptions import RedisError
from roomworld import World, make_world
from sqlalchemy import func, insert, select
from viewers import announced, coupon, gateway, slots, until, watching

from app import relay
from app.api import create_app
from kernel.clock import now
from kernel.ids import new_id
from kernel.outbox import emit
from kernel.postgres import transaction
from kernel.process import Kernel
from kernel.redis import create_client, slot_of
from kernel.settings import Settings
from kernel.tables import OutboxEvent
from live import comments, presence, roster, wire
from live.bus import RedisBus, channel, key
from live.hosting import LiveEvent
from live.tables import Comment, Room

Say = Callable[[str], Awaitable[None]]


@pytest.fixture
async def world(kernel: Kernel, cluster: Cluster) -> AsyncIterator[World]:
    """The world with a kernel whose Redis is the cluster."""
    cluster.restart()  # what a test that failed halfway left lying
    cluster.settle()
    cluster.flush()
    client = create_client(Settings(redis_url=cluster.url))
    yield await make_world(replace(kernel, redis=client))
    await client.aclose()


@pytest.fixture
async def rooms(world: World, cluster: Cluster) -> list[UUID]:
    """A live room on each of the three nodes."""
    found = [cluster.room_on(place) for place in range(3)]
    async with transaction(world.kernel.sessions) as session:
        live = {"brand_id": "acme", "guide_id": world.guide.subject, "title": "房", "state": "live", "live_at": now()}
        await session.execute(insert(Room), [{"id": room, "store_id": None} | live for room in found])
    return found


async def ready(kernel: Kernel) -> int:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(kernel)), base_url="http://api") as client:
        return (await client.get("/readyz")).status_code


async def until_ready(kernel: Kernel, status: int) -> None:
    async with asyncio.timeout(60):
        while await ready(kernel) != status:
            await asyncio.sleep(0.1)


async def insist(bus: RedisBus, room: UUID, id: str, text: str) -> None:
    """Publish as the relay does: again, with the same id, until it is there."""
    async with asyncio.timeout(60):
        while True:
            try:
                await bus.publish(room, id, event=announced(text), slots=slots(text))
            except RedisError:
                await asyncio.sleep(0.1)
            else:
                return


async def announce(kernel: Kernel, room: UUID, text: str) -> None:
    async with transaction(kernel.sessions) as session:
        await emit(session, "live.event", room, LiveEvent(msgspec.Raw(announced(text)), {}))


async def waiting(kernel: Kernel, room: UUID) -> int:
    async with kernel.sessions() as session:
        left = select(func.count()).where(OutboxEvent.published_at.is_(None), OutboxEvent.room_id == room)
        return int(await session.scalar(left) or 0)


async def texts(kernel: Kernel, room: UUID) -> list[str]:
    told = [wire.room_events.decode(entry.event or b"") for entry in await RedisBus(kernel.redis).read(room, 0)]
    return [event.text for event in told if isinstance(event, wire.Announced)]


# ---- all nodes are there -------------------------------------------------------------------------------------------


async def test_rooms_of_every_node_are_resumed_on_the_other_gateway(world: World, rooms: list[UUID]) -> None:
    kernel = world.kernel
    assert isinstance(kernel.redis, RedisCluster)
    bus, mine = RedisBus(kernel.redis), coupon("迟到的券")
    async with gateway(kernel) as one, gateway(kernel) as two:
        for room in rooms:
            async with watching(one.url, kernel.keyring, room, world.viewer) as me:
                await bus.publish(room, "a", event=announced("一"), slots=slots("一"))
                await me.event(wire.Announced)
            await bus.publish(room, "b", private={world.viewer.subject: wire.encoder.encode(mine)})
            await bus.publish(room, "c", event=announced("二"), slots=slots("二"))
            async with watching(two.url, kernel.keyring, room, world.viewer, me.position) as back:
                assert (back.frames[0].recovered, back.frames[0].missed) == (True, 2)
                await back.event(wire.Announced, lambda e: e.text == "二")
                assert back.seq == 3
        assert two.tally.resumes == {"recovered": 3}


async def test_comments_and_counts_of_every_node_reach_both_gateways_and_the_database(
    world: World, rooms: list[UUID]
) -> None:
    kernel = world.kernel
    async with gateway(kernel) as one, gateway(kernel) as two:
        for room in rooms:
            async with (
                watching(one.url, kernel.keyring, room, world.viewer) as me,
                watching(two.url, kernel.keyring, room) as other,
            ):
                await me.send(wire.Comment("c", "在吗"))
                assert (await me.ack("c")).ok
                await other.event(wire.Commented)
                await other.send(wire.Like(3))
                await me.event(wire.CountsChanged, lambda e: e.counts.viewers == 2 and e.counts.likes == 3)
                assert (await presence.figures_of(kernel.redis, rooms))[room].counts == wire.Counts(2, 3, 2)
                async with asyncio.timeout(60):
                    while not (there := await roster.ask(kernel.redis, room)).complete:
                        await asyncio.sleep(0.1)
                assert there.total == 2
        assert {stats.id for stats in await presence.gateways(kernel.redis)} == {one.id, two.id}
        assert set(await presence.figures_of(kernel.redis, rooms)) == set(rooms)
    assert await comments.store_kept(kernel.sessions, kernel.redis, rooms) == 3
    async with kernel.sessions() as session:
        assert set(await session.scalars(select(Comment.room_id))) == set(rooms)


async def test_relay_tells_rooms_of_every_node_in_one_turn(world: World, rooms: list[UUID]) -> None:
    kernel = world.kernel
    for text in ("一", "二"):
        for room in rooms:
            await announce(kernel, room, text)
    assert await relay.turn(kernel.sessions, RedisBus(kernel.redis)) == 6
    for room in rooms:
        assert await texts(kernel, room) == ["一", "二"]


# ---- slots move ----------------------------------------------------------------------------------------------------


async def test_room_whose_slot_moves_is_followed_and_misses_nothing(
    world: World, rooms: list[UUID], cluster: Cluster
) -> None:
    kernel, room = world.kernel, rooms[0]
    bus, (source, target, _) = RedisBus(kernel.redis), cluster.nodes
    slot = slot_of(channel(room))
    async with gateway(kernel) as one, watching(one.url, kernel.keyring, room) as me:
        await bus.publish(room, "a", event=announced("前"))
        await me.event(wire.Announced)
        await asyncio.to_thread(cluster.move_slot, slot, source, target)
        try:
            await insist(bus, room, "b", "后")
            await me.event(wire.Announced, lambda e: e.text == "后")
            await until(lambda: one.ready)
            assert one.bus.losses >= 1
            await insist(bus, room, "c", "又")
            await me.event(wire.Announced, lambda e: e.text == "又")
            assert [e.text for e in me.certain()] == ["前", "后", "又"]
            assert me.epoch == me.frames[0].log.epoch
        finally:
            await asyncio.to_thread(cluster.move_slot, slot, target, source)
        await insist(bus, room, "d", "回")
        await me.event(wire.Announced, lambda e: e.text == "回")


async def test_a_room_is_opened_where_its_slot_went_a_moment_ago(
    world: World, rooms: list[UUID], cluster: Cluster
) -> None:
    kernel, room = world.kernel, rooms[1]
    _, source, target = cluster.nodes
    slot = slot_of(channel(room))
    async with gateway(kernel) as one:
        await asyncio.to_thread(cluster.move_slot, slot, source, target)
        try:
            async with watching(one.url, kernel.keyring, room) as me:
                await insist(RedisBus(kernel.redis), room, "a", "新家")
                await me.event(wire.Announced)
        finally:
            await asyncio.to_thread(cluster.move_slot, slot, target, source)


# ---- nodes die -----------------------------------------------------------------------------------------------------


async def test_node_killed_and_restarted_costs_its_own_rooms_a_pause_and_others_nothing(
    world: World, rooms: list[UUID], cluster: Cluster
) -> None:
    kernel, (away, here, _) = world.kernel, rooms
    bus = RedisBus(kernel.redis)
    async with (
        gateway(kernel) as one,
        watching(one.url, kernel.keyring, away) as lost,
        watching(one.url, kernel.keyring, here) as fine,
    ):
        for room in rooms:
            await bus.publish(room, "a", event=announced("前"))
        await lost.event(wire.Announced)
        assert await ready(kernel) == 200
        cluster.nodes[0].kill()
        await until(lambda: not one.ready)
        await until_ready(kernel, 503)

        # Rooms on the other nodes go on, in both directions, and are counted and kept.
        await fine.send(wire.Comment("c", "还好"))
        assert (await fine.ack("c")).ok
        for n in range(3):
            await announce(kernel, away, f"等{n}")
            await announce(kernel, here, f"说{n}")
        stuck: set[UUID] = set()
        assert await relay.turn(kernel.sessions, bus, stuck) == 6
        assert stuck == {away}
        assert (await waiting(kernel, away), await waiting(kernel, here)) == (3, 0)
        await fine.event(wire.Announced, lambda e: e.text == "说2")
        assert [e.text for e in fine.certain()] == ["前", "说0", "说1", "说2"]
        assert set(await presence.figures_of(kernel.redis, rooms)) == set(rooms) - {away}
        with pytest.raises(RedisError):
            await comments.store_kept(kernel.sessions, kernel.redis, rooms)
        async with kernel.sessions() as session:
            assert list(await session.scalars(select(Comment.room_id))) == [here]

        # A room on the node that is gone refuses what it cannot promise, and its sockets stay.
        await lost.send(wire.Comment("c", "在吗"))
        refused = await lost.ack("c")
        assert refused.error is not None
        assert refused.error.code == "unavailable"

        cluster.restart()
        await asyncio.to_thread(cluster.settle)
        await until(lambda: one.ready)
        await until_ready(kernel, 200)
        async with asyncio.timeout(60):
            while await waiting(kernel, away):
                try:
                    await relay.turn(kernel.sessions, bus)
                except RedisError:
                    await asyncio.sleep(0.1)
        await lost.event(wire.Announced, lambda e: e.text == "等2")
        assert [e.text for e in lost.certain()] == ["前", "等0", "等1", "等2"]
        assert lost.epoch == lost.frames[0].log.epoch  # the log was kept
        await lost.send(wire.Comment("d", "回来了"))
        assert (await lost.ack("d")).ok


LOG_LENGTH = 20


async def emptied(cluster: Cluster, say: Say) -> None:
    await asyncio.to_thread(cluster.flush)


async def restarted(cluster: Cluster, say: Say) -> None:
    cluster.nodes[1].kill()
    cluster.restart()
    await asyncio.to_thread(cluster.settle)


async def trimmed(cluster: Cluster, say: Say) -> None:
    for n in range(2 * LOG_LENGTH):
        await say(f"多{n}")


async def taken_over(cluster: Cluster, say: Say) -> None:
    cluster.ensure_replica()
    await asyncio.to_thread(cluster.await_replica)
    cluster.replicated.kill()


@pytest.mark.parametrize(
    ("break_it", "place", "same_log", "recovers"),
    [
        (emptied, 2, False, False),
        (restarted, 1, True, True),
        (trimmed, 2, True, False),
        pytest.param(taken_over, 0, True, True, marks=pytest.mark.deep),
    ],
)
async def test_whoever_comes_back_was_told_everything_or_begins_anew(
    world: World, rooms: list[UUID], cluster: Cluster, break_it: Callable[[Cluster, Say], Awaitable[None]], place: int,
    same_log: bool, recovers: bool,
) -> None:  # fmt: skip
    """As ``test_resume`` has it on one node; here the room's own node breaks."""
    settings = world.kernel.settings.model_copy(update={"room_log_length": LOG_LENGTH})
    kernel, room = replace(world.kernel, settings=settings), rooms[place]
    bus = RedisBus(kernel.redis, log_length=LOG_LENGTH)

    async def say(text: str) -> None:
        await insist(bus, room, text, text)

    async with gateway(kernel) as one, gateway(kernel) as two:
        async with watching(one.url, kernel.keyring, room) as stayed:
            async with watching(two.url, kernel.keyring, room, world.viewer) as me:
                await say("前")
                await me.event(wire.Announced)
            await say("后")
            await stayed.event(wire.Announced, lambda e: e.text == "后")
            await break_it(cluster, say)
            await say("新")
            if same_log:
                await stayed.event(wire.Announced, lambda e: e.text == "新")
                more = [f"多{n}" for n in range(2 * LOG_LENGTH)] if break_it is trimmed else []
                assert [e.text for e in stayed.certain()] == ["前", "后", *more, "新"]
            else:
                assert (await stayed.frame(wire.Welcome)).announcement == "新"
            await until(lambda: one.ready and two.ready)
            truth = await bus.head(room)
            await until(lambda: (known := two.hub.get(room)) is not None and (known.epoch, known.seq) == truth)
        async with watching(two.url, kernel.keyring, room, world.viewer, me.position) as back:
            welcome = back.frames[0]
            assert (welcome.recovered, welcome.missed) == ((True, 2) if recovers else (False, 0))
            assert (welcome.log.epoch == me.epoch) is same_log
            assert welcome.announcement == "新"
            await say("末")
            await back.event(wire.Announced, lambda e: e.text == "末")
            assert [e.text for e in back.certain()] == (["后", "新", "末"] if recovers else ["末"])


async def test_replica_takes_over_from_its_master_and_no_certain_event_is_missed(
    world: World, rooms: list[UUID], cluster: Cluster
) -> None:
    """Afterwards the first slots live on the node that was a replica."""
    kernel, room = world.kernel, rooms[0]
    bus = RedisBus(kernel.redis)
    cluster.ensure_replica()
    master = cluster.replicated
    async with gateway(kernel) as one, watching(one.url, kernel.keyring, room) as me:
        await bus.publish(room, "a", event=announced("前"))
        await me.event(wire.Announced)
        await asyncio.to_thread(cluster.await_replica)
        master.kill()
        await until(lambda: not one.bus.healthy)
        await insist(bus, room, "b", "后")
        await me.event(wire.Announced, lambda e: e.text == "后")
        await until(lambda: one.ready)
        assert [e.text for e in me.certain()] == ["前", "后"]
        assert me.epoch == me.frames[0].log.epoch


@pytest.mark.deep
async def test_master_that_hangs_is_left_for_its_replica(world: World, rooms: list[UUID], cluster: Cluster) -> None:
    """Its connections stay open: only the other nodes know that it is master no longer."""
    kernel, room = world.kernel, rooms[0]
    bus = RedisBus(kernel.redis)
    cluster.ensure_replica()
    master = cluster.replicated
    async with gateway(kernel) as one, watching(one.url, kernel.keyring, room) as me:
        await bus.publish(room, "a", event=announced("前"))
        await me.event(wire.Announced)
        await asyncio.to_thread(cluster.await_replica)
        master.send(signal.SIGSTOP)
        try:
            await insist(bus, room, "b", "后")
            await me.event(wire.Announced, lambda e: e.text == "后")
            await until(lambda: one.ready)
        finally:
            master.send(signal.SIGCONT)
        assert [e.text for e in me.certain()] == ["前", "后"]


def test_kept_rows_and_logs_of_a_room_share_its_slot() -> None:
    room = new_id()
    names = ("meta", "log", "slots", "recent", "kept", "presence", "roster", "uniques", "event:x", "channel")
    assert len({slot_of(key(room, name)) for name in names}) == 1
