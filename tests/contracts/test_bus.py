"""What every bus promises, whichever is behind it."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
from cluster import Cluster
from redis import Redis

from kernel import tasks
from kernel.ids import new_id
from kernel.redis import create_client
from kernel.settings import Settings
from kernel.tasks import end
from live.bus import RECENT, Bus, Entry, RedisBus
from live.memory_bus import MemoryBus

LOG_LENGTH = 5


class Ear:
    """A receiver that writes down what it hears."""

    def __init__(self) -> None:
        self.entries: list[tuple[UUID, str, Entry]] = []
        self.casts: list[tuple[UUID, list[bytes]]] = []
        self.restorations = 0
        self.restored_rooms: set[UUID] = set()

    def entry(self, room: UUID, epoch: str, entry: Entry) -> None:
        self.entries.append((room, epoch, entry))

    def cast(self, room: UUID, events: Sequence[bytes], at: float) -> None:
        self.casts.append((room, list(events)))

    async def restored(self, rooms: Collection[UUID]) -> None:
        self.restorations += 1
        self.restored_rooms |= set(rooms)

    async def heard(self, entries: int = 0, casts: int = 0) -> None:
        async with asyncio.timeout(60):
            while len(self.entries) < entries or len(self.casts) < casts:
                await asyncio.sleep(0.01)


@pytest.fixture(params=["memory", "redis", "cluster"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    if request.param == "memory":
        yield MemoryBus(log_length=LOG_LENGTH)
        return
    if request.param == "cluster":
        client = create_client(Settings(redis_url=request.getfixturevalue("cluster").url))
    else:
        client = create_client(request.getfixturevalue("running"))
    yield RedisBus(client, log_length=LOG_LENGTH)
    await client.aclose()


@asynccontextmanager
async def listening(bus: Bus) -> AsyncIterator[Ear]:
    ear = Ear()
    running = asyncio.ensure_future(bus.run(ear))
    async with asyncio.timeout(60):
        while not bus.healthy:
            await asyncio.sleep(0.01)
    yield ear
    await end(running)


async def test_published_events_are_numbered_from_one_and_heard_in_order(bus: Bus) -> None:
    room, viewer = new_id(), new_id()
    async with listening(bus) as ear:
        await bus.subscribe(room)
        assert await bus.publish(room, "a", event=b"1", slots={"pin": b"p"}) == 1
        assert await bus.publish(room, "b", private={viewer: b"2"}) == 2
        assert await bus.publish(new_id(), "c", event=b"elsewhere") == 1
        assert await bus.publish(room, "d", event=b"3") == 3
        await ear.heard(entries=3)
        assert [(entry.seq, entry.event, entry.private, dict(entry.slots)) for _, _, entry in ear.entries] == [
            (1, b"1", None, {"pin": b"p"}), (2, None, {viewer: b"2"}, {}), (3, b"3", None, {}),
        ]  # fmt: skip
        assert {(who, epoch) for who, epoch, _ in ear.entries} == {(room, (await bus.head(room))[0])}


async def test_same_event_is_published_once(bus: Bus) -> None:
    room = new_id()
    assert await bus.publish(room, "a", event=b"1") == 1
    assert await bus.publish(room, "a", event=b"1") is None
    assert [entry.seq for entry in await bus.read(room, 0)] == [1]


async def test_snapshot_is_positioned_at_its_last_event(bus: Bus) -> None:
    room = new_id()
    await bus.publish(room, "a", event=b"1", slots={"pin": b"one", "drop:x": b"open"})
    await bus.publish(room, "b", event=b"2", slots={"pin": b"two", "drop:x": b""})
    snapshot = await bus.snapshot(room)
    assert (snapshot.seq, snapshot.slots) == (2, {"pin": b"two", "drop:x": b""})
    assert [entry.event for entry in snapshot.entries] == [b"1", b"2"]
    assert await bus.head(room) == (snapshot.epoch, 2)


async def test_room_without_events_has_an_epoch_once_it_was_looked_at(bus: Bus) -> None:
    room = new_id()
    first = await bus.snapshot(room)
    assert (first.seq, first.slots, first.entries) == (0, {}, [])
    await bus.publish(room, "a", event=b"1")
    assert (await bus.snapshot(room)).epoch == first.epoch != ""


async def test_log_keeps_its_newest_entries(bus: Bus) -> None:
    room = new_id()
    for n in range(8):
        await bus.publish(room, f"{n}", event=b"%d" % n)
    assert [entry.seq for entry in await bus.read(room, 0)] == [4, 5, 6, 7, 8]
    assert [entry.seq for entry in await bus.read(room, 6)] == [7, 8]
    assert await bus.read(room, 8) == []


async def test_seed_fills_only_what_is_unknown(bus: Bus) -> None:
    room = new_id()
    await bus.publish(room, "a", event=b"1", slots={"pin": b""})
    await bus.seed(room, {"pin": b"old", "room": b"card"})
    assert (await bus.snapshot(room)).slots == {"pin": b"", "room": b"card"}


async def test_cast_is_heard_and_not_numbered(bus: Bus) -> None:
    room = new_id()
    async with listening(bus) as ear:
        await bus.subscribe(room)
        await bus.cast(room, [b'{"t":"join"}', b'{"t":"comment","id":1}'], keep=[b"row"])
        await ear.heard(casts=1)
        assert ear.casts == [(room, [b'{"t":"join"}', b'{"t":"comment","id":1}'])]
    snapshot = await bus.snapshot(room)
    assert (snapshot.seq, snapshot.entries, snapshot.recent) == (0, [], [b'{"t":"comment","id":1}'])


async def test_recent_comments_are_the_newest_oldest_first(bus: Bus) -> None:
    room = new_id()
    said = [b'{"t":"comment","id":%d}' % n for n in range(RECENT + 7)]
    await bus.cast(room, said[:20])
    await bus.cast(room, said[20:])
    assert (await bus.snapshot(room)).recent == said[-RECENT:]


async def test_unsubscribed_room_is_heard_no_longer(bus: Bus) -> None:
    room, other = new_id(), new_id()
    async with listening(bus) as ear:
        await bus.subscribe(room)
        await bus.subscribe(other)
        await bus.unsubscribe(room)
        await bus.cast(room, [b"unheard"])
        await bus.cast(other, [b"heard"])
        await ear.heard(casts=1)
        assert ear.casts == [(other, [b"heard"])]


async def test_epoch_is_renewed_by_the_first_who_asks(bus: Bus) -> None:
    room = new_id()
    old = (await bus.snapshot(room)).epoch
    new = await bus.renew(room, old)
    assert new != old
    assert await bus.renew(room, old) == new
    assert (await bus.head(room))[0] == new


@pytest.mark.parametrize("behind", ["redis", "cluster"])
async def test_bus_that_is_told_to_end_again_and_again_hangs_up_all_the_same(
    behind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it happens where a machine is so slow that hanging up takes long."""
    monkeypatch.setattr(tasks, "AGAIN_SECONDS", 0.0)
    running: Settings = request.getfixturevalue("running")
    if behind == "cluster":
        cluster: Cluster = request.getfixturevalue("cluster")
        client, nodes = create_client(Settings(redis_url=cluster.url)), [node.client for node in cluster.nodes]
    else:
        client, nodes = create_client(running), [Redis.from_url(running.redis_url or "")]

    def subscribed() -> int:
        return sum(len(node.client_list(_type="pubsub")) for node in nodes)

    before = subscribed()
    for _ in range(5):
        async with listening(RedisBus(client)):
            assert subscribed() > before
        async with asyncio.timeout(60):
            while subscribed() > before:
                await asyncio.sleep(0.01)
    await client.aclose()
    if behind == "redis":
        nodes[0].close()


@pytest.mark.parametrize("behind", ["redis", "cluster"])
async def test_lost_subscription_comes_back_with_all_rooms(behind: str, request: pytest.FixtureRequest) -> None:
    if behind == "cluster":
        cluster: Cluster = request.getfixturevalue("cluster")
        client = create_client(Settings(redis_url=cluster.url))
        rooms = [cluster.room_on(place) for place in (0, 0, 1, 2)]
        cut = cluster.cut_subscriptions
    else:
        running: Settings = request.getfixturevalue("running")
        client = create_client(running)
        rooms = [new_id() for _ in range(3)]

        def cut() -> None:
            with Redis.from_url(running.redis_url or "") as one:
                one.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    bus = RedisBus(client)
    async with listening(bus) as ear:
        for room in rooms:
            await bus.subscribe(room)
        cut()
        async with asyncio.timeout(60):
            while ear.restored_rooms != set(rooms) or not bus.healthy:
                await asyncio.sleep(0.01)
        assert bus.losses == (3 if behind == "cluster" else 1)
        for room in rooms:
            await bus.publish(room, "a", event=b"1")
        await ear.heard(entries=len(rooms))
    assert not bus.healthy
    await client.aclose()
