"""Kicks and bans, from the rows to sockets on several gateways."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import msgspec
import pytest
from roomworld import World, do, held, refused, snapshot
from sqlalchemy import update
from viewers import Client, Nearby, announced, closed, gateway, principal, telling, turned_away, until, watching
from websockets.asyncio.client import connect

from kernel.clock import milliseconds, now
from kernel.identity import Principal
from kernel.ids import new_id
from kernel.postgres import transaction
from live import bans, rooms, sanctions, wire
from live.bus import RedisBus
from live.gateway import Gateway
from live.tables import Ban
from live.wire import Close


async def holding(world: World, room: UUID | None = None) -> dict[UUID, Any]:
    return await held(world, bans.BAN, room or world.room)


# ---- use cases -----------------------------------------------------------------------------------------------------


async def test_a_kick_is_told_and_leaves_nothing_behind(world: World) -> None:
    await do(world, bans.kick, world.guide, world.room, world.viewer.subject)
    assert await world.events() == [(wire.Kicked(world.viewer.subject), {})]
    assert await holding(world) == {}


@pytest.mark.parametrize("seconds", [90, 7 * 86_400, sanctions.MAX_SECONDS])
async def test_a_ban_of_the_room_is_told_to_that_room_alone(world: World, seconds: int) -> None:
    viewer, before = world.viewer.subject, milliseconds(now())
    await do(world, bans.ban, world.guide, world.room, viewer, seconds)
    [(event, slots)] = await world.events()
    assert isinstance(event, wire.Banned)
    assert event.viewer == viewer
    assert event.until is not None
    assert before + seconds * 1000 <= event.until <= milliseconds(now()) + seconds * 1000
    assert slots == {f"ban:{viewer}": str(event.until).encode()}
    assert (await snapshot(world, world.room))[f"ban:{viewer}"] == str(event.until).encode()
    assert await world.events(world.planned) == []
    await do(world, bans.ban, world.guide, world.room, viewer, 0)
    assert (await world.events())[1] == (wire.Banned(viewer, None), {f"ban:{viewer}": b""})
    assert f"ban:{viewer}" not in await snapshot(world, world.room)


async def test_a_brands_ban_reaches_every_room_and_those_to_come(world: World) -> None:
    viewer = world.viewer.subject
    await do(world, bans.ban, world.guide, world.room, viewer, 3600, "brand")
    for room in (world.room, world.planned):
        assert [type(event) for event, _ in await world.events(room)] == [wire.Banned]
    later = await do(world, rooms.create, world.other_guide, "周末")
    assert int((await snapshot(world, later))[f"ban:{viewer}"]) > milliseconds(now())
    await do(world, bans.ban_brand, world.ops, viewer, 0)
    assert await holding(world, later) == {}


async def test_a_room_that_is_being_made_meanwhile_is_told_too(world: World) -> None:
    async with transaction(world.kernel.sessions) as session:
        made = await rooms.create(session, world.guide, "临时")
        banning = asyncio.create_task(do(world, bans.ban_brand, world.ops, world.viewer.subject, 60))
        await world.somebody_waits()
    await banning
    assert [event.viewer for event, _ in await world.events(made)] == [world.viewer.subject]


async def test_the_later_of_two_bans_holds_and_a_mute_is_another_matter(world: World) -> None:
    viewer = world.viewer.subject
    await do(world, rooms.mute, world.guide, world.room, viewer, 60)
    await do(world, bans.ban_brand, world.ops, viewer, 86_400)
    await do(world, bans.ban, world.guide, world.room, viewer, 60)
    long = (await holding(world))[viewer]
    await do(world, bans.ban_brand, world.ops, viewer, 0)
    short = (await holding(world))[viewer]
    assert (long - short).total_seconds() > 80_000
    told = [event.until for event, _ in await world.events() if isinstance(event, wire.Banned)]
    assert told == [milliseconds(long), milliseconds(long), milliseconds(short)]
    await do(world, bans.ban, world.guide, world.room, viewer, 0)
    assert await holding(world) == {}
    assert f"mute:{viewer}" in await snapshot(world, world.room)


async def test_only_staff_sends_away_and_nobody_sends_staff_away(world: World) -> None:
    viewer, room = world.viewer.subject, world.room
    assert await refused(world, bans.kick, world.viewer, room, viewer) == "forbidden"
    assert await refused(world, bans.kick, world.other_guide, room, viewer) == "forbidden"
    assert await refused(world, bans.kick, world.stranger, room, viewer) == "not_found"
    assert await refused(world, bans.ban, world.other_guide, room, viewer, 60, "brand") == "forbidden"
    assert await refused(world, bans.ban_brand, world.guide, viewer, 60) == "forbidden"
    assert await refused(world, bans.ban, world.guide, room, viewer, sanctions.MAX_SECONDS + 1) == "invalid"
    for staff in (world.guide, world.other_guide, world.ops):
        assert await refused(world, bans.kick, world.guide, room, staff.subject) == "invalid"
        assert await refused(world, bans.ban, world.guide, room, staff.subject, 60) == "invalid"
        assert await refused(world, bans.ban, world.guide, room, staff.subject, 60, "brand") == "invalid"
        assert await refused(world, bans.ban_brand, world.ops, staff.subject, 60) == "invalid"
    assert await world.events() == []
    await do(world, rooms.end, world.guide, room)
    assert await refused(world, bans.kick, world.guide, room, viewer) == "room_ended"
    assert await refused(world, bans.ban, world.guide, room, viewer, 60) == "room_ended"


# ---- on gateways ---------------------------------------------------------------------------------------------------


async def test_a_kick_closes_the_viewers_sockets_on_all_gateways_and_they_may_be_back(
    world: World, two: tuple[Gateway, Gateway]
) -> None:
    keyring, room = world.kernel.keyring, world.room
    async with AsyncExitStack() as stack:

        async def enter(place: int, who: Principal, resume: wire.Position | None = None) -> Client:
            return await stack.enter_async_context(watching(two[place].url, keyring, room, who, resume))

        guide, neighbour = await enter(0, world.guide), await enter(1, principal("小周"))
        mine = [await enter(place, world.viewer) for place in (0, 0, 1)]
        elsewhere = await stack.enter_async_context(watching(two[1].url, keyring, world.planned, world.viewer))
        await guide.send(wire.Kick("k", world.viewer.subject))
        assert (await guide.ack("k")).ok
        assert [await closed(client) for client in mine] == [Close.KICKED] * 3
        for other in (guide, neighbour):
            assert (await other.event(wire.Kicked)).viewer == world.viewer.subject
        # Who comes back is told of the kick, and not kicked again; nor are others, nor are other rooms.
        for place in (0, 1):
            again = await enter(place, world.viewer, mine[0].position)
            assert again.frames[0].recovered
            assert (await again.event(wire.Kicked)).viewer == world.viewer.subject
            await again.send(wire.Ping())
            await again.frame(wire.Pong)
        for other in (neighbour, elsewhere):
            await other.send(wire.Ping())
            await other.frame(wire.Pong)
        assert sum(one.tally.closes["kicked"] for one in two) == 3


async def test_a_ban_holds_on_all_gateways_until_it_is_lifted(world: World, two: tuple[Gateway, Gateway]) -> None:
    kernel, me = world.kernel, world.viewer
    async with (
        watching(two[0].url, kernel.keyring, world.room, world.guide) as guide,
        watching(two[0].url, kernel.keyring, world.room, me) as here,
        watching(two[1].url, kernel.keyring, world.room, me) as there,
    ):
        await guide.send(wire.Ban("b", me.subject, 3600))
        assert (await guide.ack("b")).ok
        assert [await closed(here), await closed(there)] == [Close.BANNED, Close.BANNED]
        for one in two:
            assert await turned_away(one.url, kernel, world.room, me) == Close.BANNED
        async with watching(two[0].url, kernel.keyring, world.planned, me):
            pass  # another room is another matter
        await guide.send(wire.Ban("l", me.subject, 0))
        assert (await guide.ack("l")).ok
        await guide.event(wire.Banned, lambda event: event.until is None)
        await until(lambda: not any(one.hub.rooms[world.room].bans for one in two))
        for one in two:
            async with watching(one.url, kernel.keyring, world.room, me):
                pass


async def test_a_brands_ban_reaches_all_rooms_and_those_that_open_later(
    world: World, two: tuple[Gateway, Gateway]
) -> None:
    kernel, me = world.kernel, world.viewer
    async with (
        watching(two[0].url, kernel.keyring, world.room, me) as live,
        watching(two[1].url, kernel.keyring, world.planned, me) as planned,
        watching(two[1].url, kernel.keyring, world.planned) as neighbour,
    ):
        await do(world, bans.ban_brand, world.ops, me.subject, 3600)
        assert [await closed(live), await closed(planned)] == [Close.BANNED, Close.BANNED]
        await neighbour.event(wire.Banned)
        later = await do(world, rooms.create, world.guide, "周末")
        for one in two:
            assert await turned_away(one.url, kernel, later, me) == Close.BANNED
            assert await turned_away(one.url, kernel, world.room, me) == Close.BANNED


async def test_who_keeps_coming_while_the_ban_is_told_is_out_in_the_end(
    world: World, two: tuple[Gateway, Gateway]
) -> None:
    kernel, me, visits = world.kernel, world.viewer, 0

    async def come_and_go(url: str) -> None:
        nonlocal visits
        while True:
            async with connect(f"{url}/v1/rooms/{world.room}/live", close_timeout=1) as socket:
                client = Client(socket)
                await client.send(wire.Hello(kernel.keyring.issue(me)))
                frame = await client.next()
                if isinstance(frame, wire.Bye):
                    assert frame.code == Close.BANNED
                    return
                visits += 1

    async def come_and_stay(url: str) -> None:
        async with watching(url, kernel.keyring, world.room, me) as client:
            assert await closed(client) == Close.BANNED

    async with asyncio.TaskGroup() as group, watching(two[0].url, kernel.keyring, world.room):
        for one in two:
            group.create_task(come_and_stay(one.url))
            for _ in range(2):
                group.create_task(come_and_go(one.url))
        await until(lambda: visits > 8)
        await do(world, bans.ban, world.guide, world.room, me.subject, 3600)
    assert not any(me.subject in one.hub.rooms[world.room].audience.people for one in two)


async def test_a_ban_that_has_run_out_lets_in(world: World) -> None:
    kernel, me = world.kernel, world.viewer
    async with gateway(kernel) as one, watching(one.url, kernel.keyring, world.room):
        one.hub.rooms[world.room].bans[me.subject] = milliseconds(now()) - 1
        async with watching(one.url, kernel.keyring, world.room, me):
            pass
    async with transaction(kernel.sessions) as session:
        await bans.ban(session, world.guide, world.planned, me.subject, 60)
        await session.execute(update(Ban).values(until=now()))
    async with gateway(kernel) as one, watching(one.url, kernel.keyring, world.planned, me):
        pass


async def test_a_ban_survives_an_emptied_redis_and_a_missed_one_closes_what_is_open(world: World) -> None:
    kernel, me, other = world.kernel, world.viewer, principal("小周")
    async with (
        gateway(kernel) as one,
        watching(one.url, kernel.keyring, world.room, world.guide) as guide,
        watching(one.url, kernel.keyring, world.room, me) as mine,
        watching(one.url, kernel.keyring, world.room, other) as theirs,
    ):
        # Never told: the relay has not run when the log is lost. The rows tell the fresh snapshot.
        await do(world, bans.ban, world.guide, world.room, me.subject, 3600)
        await kernel.redis.flushall()
        await kernel.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        assert await closed(mine) == Close.BANNED
        assert await turned_away(one.url, kernel, world.room, me) == Close.BANNED
        await guide.frame(wire.Welcome)
        await theirs.frame(wire.Welcome)
        await theirs.send(wire.Ping())
        await theirs.frame(wire.Pong)


class Ears(RedisBus):
    """A bus that can be made not to hear numbered events."""

    lost: list[bytes] | None = None

    def _heard(self, name: bytes, message: bytes) -> None:
        if self.lost is not None and message.startswith(b"e "):
            self.lost.append(message)
        else:
            super()._heard(name, message)


async def test_a_kick_missed_by_a_gateway_is_made_up_for(world: World) -> None:
    kernel, bus, ears = world.kernel, RedisBus(world.kernel.redis), Ears(world.kernel.redis)
    async with gateway(kernel, ears) as one, watching(one.url, kernel.keyring, world.room, world.viewer) as me:
        ears.lost = []
        await bus.publish(world.room, "k", event=wire.encoder.encode(wire.Kicked(world.viewer.subject)))
        await until(lambda: ears.lost)
        ears.lost = None
        await bus.publish(world.room, "a", event=announced("后来"))
        assert await closed(me) == Close.KICKED
        assert one.tally.gaps == 1


async def test_the_location_of_who_is_banned_ends_at_once(world: World) -> None:
    kernel, locator = world.kernel, Nearby()
    async with (
        gateway(kernel, locator=locator) as one,
        telling(kernel),
        watching(one.url, kernel.keyring, world.room, world.viewer) as me,
    ):
        await do(world, bans.ban, world.guide, world.room, world.viewer.subject, 60)
        assert await closed(me) == Close.BANNED
        await until(lambda: locator.forgotten == [(world.room, [world.viewer.subject])], 10)


def test_a_command_without_scope_means_the_room() -> None:
    told = msgspec.json.encode({"t": "ban", "id": "1", "viewer": new_id(), "seconds": 5})
    command = wire.client_frames.decode(told)
    assert isinstance(command, wire.Ban)
    assert command.scope == "room"
