"""Many guides go live at once: real sockets, two gateways, a worker, each a process of its own."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from itertools import count
from time import perf_counter
from uuid import UUID

import pytest
import viewers
from roomworld import World, do
from sqlalchemy import func, insert, select
from swarm import Swarm, allow_sockets
from test_gateway_process import process
from test_life import LOST, row, seen, watch
from viewers import principal, until, watching
from websockets.exceptions import ConnectionClosed

import guides.tables
from kernel.identity import Principal, Role
from kernel.ids import new_id
from kernel.postgres import transaction
from kernel.process import Kernel
from kernel.tables import OutboxEvent
from live import life, rooms, wire
from live.hosts import NOTE_SECONDS
from live.tables import Room


@asynccontextmanager
async def working(kernel: Kernel) -> AsyncIterator[None]:
    """A worker."""
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.cli", "worker",
        env=os.environ | kernel.settings.environment(), stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        assert running.returncode is None, "the worker ended"
        running.terminate()
        await running.wait()


async def scheduled(kernel: Kernel, count: int) -> list[tuple[UUID, Principal]]:
    """Rooms to be, each with a guide of its own."""
    rooms = [(new_id(), principal(f"导购{n}", Role.GUIDE)) for n in range(count)]
    staff = [
        {"id": guide.subject, "brand_id": "acme", "account": guide.name, "name": guide.name, "role": "guide"}
        for _, guide in rooms
    ]
    rows = [{"id": room, "brand_id": "acme", "guide_id": guide.subject, "title": guide.name} for room, guide in rooms]
    async with transaction(kernel.sessions) as session:
        await session.execute(insert(guides.tables.Staff), staff)
        await session.execute(insert(Room), rows)
    return rooms


async def told_by_the_worker(world: World) -> None:
    """Return once the worker tells rooms what is committed: its start is not what is measured."""
    await do(world, rooms.announce, world.guide, world.room, "准备好了吗")
    waiting = select(func.count()).select_from(OutboxEvent).where(OutboxEvent.published_at.is_(None))
    async with asyncio.timeout(viewers.PATIENCE), world.kernel.sessions() as session:
        while await session.scalar(waiting):
            await session.rollback()
            await asyncio.sleep(0.05)


async def insist(guide: viewers.Client, command: type[wire.Start | wire.End]) -> None:
    """Give the command as clients do: again, after a while, when the gateway says that it cannot be done now."""
    for turn in count():
        await guide.send(command(f"{command.__name__}{turn}"))
        ack = await guide.ack(f"{command.__name__}{turn}")
        if ack.ok:
            return
        assert ack.error is not None
        assert ack.error.code in ("unavailable", "busy"), ack
        assert ack.error.retry_after
        await asyncio.sleep(ack.error.retry_after)


def spread(what: str, seconds: list[float]) -> None:
    """Print the median, the 99th percentile and the slowest."""
    ranked = sorted(seconds)
    at = [ranked[len(ranked) // 2], ranked[len(ranked) * 99 // 100], ranked[-1]]
    print(f"{what}: p50 {at[0]:.2f} s, p99 {at[1]:.2f} s, all after {at[2]:.2f} s")


@pytest.mark.parametrize(
    ("many", "each", "crowd"),
    [(40, 0, 0), pytest.param(470, 10, 3000, marks=[pytest.mark.deep, pytest.mark.timeout(900)])],
)
async def test_guides_who_start_at_once_are_all_live_and_seen_by_their_viewers(
    world: World, many: int, each: int, crowd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``many`` rooms with so many light viewers ``each``, one with a ``crowd`` besides; then all guides say a word."""
    monkeypatch.setattr(viewers, "PATIENCE", 300.0)  # all wait for all, on a machine that may be busy with other things
    kernel = world.kernel
    planned = await scheduled(kernel, many)
    door = asyncio.Semaphore(32)  # of this one client; gateways do not need it
    inside, go, over = asyncio.Barrier(many + 1), asyncio.Event(), asyncio.Event()
    began = 0.0

    async def live(room: UUID, guide: Principal, urls: tuple[str, str]) -> tuple[float, float, list[wire.Event]]:
        """How long after its start the guide saw the room live, when its viewer on the other gateway did, and what
        that viewer was told until the end."""
        async with AsyncExitStack() as sockets:
            async with door:
                viewer = await sockets.enter_async_context(watching(urls[0], kernel.keyring, room))
                host = await sockets.enter_async_context(watching(urls[1], kernel.keyring, room, guide))
            assert viewer.frames[0].room.state == "scheduled"
            await inside.wait()
            await go.wait()
            asked = perf_counter()
            await insist(host, wire.Start)
            await host.event(wire.RoomChanged, lambda e: e.room.state == "live")
            mine = perf_counter() - asked
            await viewer.event(wire.RoomChanged, lambda e: e.room.state == "live")
            seen = perf_counter() - began
            await inside.wait()  # all are live together
            await host.send(wire.Announce("hello", str(room)))
            assert (await host.ack("hello")).ok
            await inside.wait()
            await over.wait()
            await insist(host, wire.End)
            await viewer.event(wire.RoomChanged, lambda e: e.room.state == "ended")
            return mine, seen, viewer.certain()

    async with (
        process(kernel) as (_, one),
        process(kernel) as (_, two),
        working(kernel),
        asyncio.timeout(800),
        asyncio.TaskGroup() as group,
    ):
        opening = perf_counter()
        guests = [
            group.create_task(live(room, guide, (one, two) if n % 2 else (two, one)))
            for n, (room, guide) in enumerate(planned)
        ]
        await inside.wait()
        await told_by_the_worker(world)
        print(f"\n{many} rooms opened with {2 * many} sockets in {perf_counter() - opening:.1f} s")
        with closing(Swarm([one, two], planned[0][0])) as swarm:
            allow_sockets(many * (each + 2) + crowd)
            audience = [planned[0][0]] * crowd + [room for room, _ in planned for _ in range(each)]
            for n, room in enumerate(audience):
                swarm.join(kernel.keyring.issue(principal()), n % 2, room=room)
                if n % 50 == 49:
                    await until(lambda: all(viewer.welcomes for viewer in swarm.viewers[-50:]), 300)
            await until(lambda: all(viewer.welcomes for viewer in swarm.viewers), 300)
            began = perf_counter()
            go.set()
            await inside.wait()
            said = perf_counter()
            await inside.wait()
            await until(lambda: all(viewer.told for viewer in swarm.viewers), 300)
            if audience:
                print(f"{len(audience)} viewers heard their guide's word within {perf_counter() - said:.2f} s")
            assert [viewer.told for viewer in swarm.viewers] == [[str(viewer.room)] for viewer in swarm.viewers]
            assert swarm.gone_wrong() == []
            assert sum(viewer.lost for viewer in swarm.viewers) == 0
        async with kernel.sessions() as session:
            states = dict((await session.execute(select(Room.state, func.count()).group_by(Room.state))).all())
            assert states["live"] == many + 1  # and the world's own
        over.set()
    pauses = 0
    for guest in guests:
        told = [event.room for event in guest.result()[2] if isinstance(event, wire.RoomChanged)]
        # A gateway that gets no processor for the whole grace loses its guides for a moment: counted, not judged.
        pauses += sum(room.paused_at is not None for room in told)
        states = [room.state for room in told if room.paused_at is None]
        assert (states[0], states[-1]) == ("live", "ended")
        assert states.count("ended") == 1
    spread(f"{many} started at once, from a guide's start until they see it live", [g.result()[0] for g in guests])
    spread("from the first start until a viewer on the other gateway sees theirs live", [g.result()[1] for g in guests])
    print(f"{pauses} pauses")


async def test_guide_whose_gateway_is_killed_keeps_the_room_on_another(world: World) -> None:
    """The worker's clock is not waited for: what it would do is asked, and time is moved in the room's row."""
    kernel = world.kernel

    async def noted(after: object = None) -> object:
        async with asyncio.timeout(60):
            while (at := (await row(world)).guide_seen_at) == after:
                await asyncio.sleep(0.05)
        return at

    async with (
        process(kernel) as (one, first),
        process(kernel) as (_, second),
        working(kernel),
        watching(second, kernel.keyring, world.room, world.viewer) as me,
    ):
        async with watching(first, kernel.keyring, world.room, world.guide) as guide:
            came, left = await noted(), perf_counter()
            one.kill()
            with pytest.raises(ConnectionClosed):
                while True:
                    await guide.next()
        async with watching(second, kernel.keyring, world.room, world.guide, guide.position) as back:
            assert back.frames[0].recovered
            await noted(came)
            away = perf_counter() - left
            lost, _ = await watch(world)
            await back.send(wire.Announce("a", "还在"))
            await me.event(wire.Announced)
            told = [type(event) for event in me.certain()]
            # On a machine so slow that the guide was away for longer, a pause would be right.
            assert (lost, told) == (0, [wire.Announced]) or away > life.GRACE_SECONDS - NOTE_SECONDS

            # Longer away than the grace: paused, and on again by the next note of the gateway that has the guide.
            paused = asyncio.create_task(me.event(wire.RoomChanged, lambda e: e.room.paused_at is not None))
            while not paused.done():
                await seen(world, LOST)
                await watch(world)
                await asyncio.sleep(0.2)
            await paused
            await me.event(wire.RoomChanged, lambda e: e.room.paused_at is None)


@pytest.mark.deep
async def test_guide_is_missed_after_the_grace_and_not_before(world: World) -> None:
    """In real time, with a real worker."""
    kernel = world.kernel
    async with process(kernel) as (one, first), process(kernel) as (two, second), working(kernel):
        async with watching(second, kernel.keyring, world.room, world.viewer) as me:
            async with watching(first, kernel.keyring, world.room, world.guide):
                await asyncio.sleep(17)  # the worker has looked for as long as its grace
                one.kill()
            async with watching(second, kernel.keyring, world.room, world.guide) as guide:
                await asyncio.sleep(17)
                await guide.send(wire.Announce("a", "还在"))
                await me.event(wire.Announced)
                assert [type(event) for event in me.certain()] == [wire.Announced]
            await me.event(wire.RoomChanged, lambda e: e.room.paused_at is not None)
            async with watching(second, kernel.keyring, world.room, world.guide):
                await me.event(wire.RoomChanged, lambda e: e.room.paused_at is None)
        assert two.returncode is None
