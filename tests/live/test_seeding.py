"""A log that begins anew, with whatever event: the snapshot still has all that the database and the gateways know."""

from uuid import UUID

from hubhouse import House
from roomworld import World, do
from viewers import gateway, principal, telling, turned_away, until, watching

from kernel.clock import milliseconds, now
from kernel.ids import new_id
from live import bans, life, muting, wire
from live.bus import Entry
from live.replica import Facts
from live.wire import Close


def drop(title: str) -> wire.DropCard:
    return wire.DropCard(new_id(), "claim", title, "满30可用", 10, 10, 1_000, 2_000_000_000_000, 3000)


def emptied(house: House) -> dict[str, bytes]:
    """Redis lost everything, and nobody here knows it yet; returns the room's slots of before."""
    return house.bus._rooms.pop(house.room_id).slots


async def test_a_log_that_begins_with_the_rooms_own_state_is_completed_from_the_database(house: House) -> None:
    facts, hello = house.hub._facts, '"大家好"'.encode()

    async def announced(id: UUID) -> Facts:
        known = await facts(id)
        return Facts(known.brand, known.display_rate, known.slots | {"announcement": hello})

    house.hub._facts = announced
    me = await house.enter()
    card = emptied(house)["room"]
    await house.bus.publish(house.room_id, "e", event=b'{"t":"room","room":' + card + b"}", slots={"room": card})
    await until(lambda: len(me.frames) == 2)
    assert isinstance(me.frames[1], wire.Welcome)
    assert me.frames[1].announcement == "大家好", "nobody said it again"


async def test_a_drop_that_only_this_copy_knows_comes_back_though_another_gateway_was_first(house: House) -> None:
    me = await house.enter()
    room = await house.open()
    opened, over = drop("开抢"), drop("抢完")
    for one in (opened, over):
        told = {f"drop:{one.id}": wire.encoder.encode(one)}
        await house.bus.publish(house.room_id, str(one.id), event=wire.encoder.encode(wire.DropOpened(one)), slots=told)
    await until(lambda: room.seq == 2)
    emptied(house)
    other = House()
    other.bus, other.hub._bus, other.room_id = house.bus, house.bus, house.room_id
    await other.open()
    ended = wire.encoder.encode(wire.DropEnded(over.id, "sold_out"))
    await house.bus.publish(house.room_id, "end", event=ended, slots={f"drop:{over.id}": b""})
    await until(lambda: isinstance(me.frames[-1], wire.Welcome) and len(me.frames) > 1)
    assert [one.title for one in me.frames[-1].drops] == ["开抢"]
    assert [one.title for one in (await house.enter()).frames[0].drops] == ["开抢"]


async def test_who_is_kicked_by_the_first_event_of_a_new_log_goes(house: House) -> None:
    me, other = await house.enter(), await house.enter()
    assert me.connection.session is not None
    assert me.connection.session.who is not None
    await house.open()
    emptied(house)
    kicked = wire.encoder.encode(wire.Kicked(me.connection.session.who.subject))
    await house.bus.publish(house.room_id, "kick", event=kicked)
    await until(lambda: me.connection.closing)
    await until(lambda: len(other.frames) == 2)
    assert house.doorman.closes == [Close.KICKED]


async def test_who_came_back_is_not_kicked_again_by_what_is_read_of_the_log(house: House) -> None:
    me = await house.enter()
    assert me.connection.session is not None
    assert me.connection.session.who is not None
    room = await house.open()
    kicked = wire.encoder.encode(wire.Kicked(new_id()))
    await house.bus.publish(house.room_id, "kick", event=kicked)
    mine = wire.encoder.encode(wire.Kicked(me.connection.session.who.subject))
    house.hub.entry(room.id, room.epoch, Entry(room.seq, mine))
    assert not me.connection.closing


async def test_mutes_and_bans_survive_a_redis_whose_log_begins_with_a_pause(world: World) -> None:
    kernel, me, banned = world.kernel, world.viewer, principal("小周")
    async with gateway(kernel) as one, watching(one.url, kernel.keyring, world.room, me) as mine:
        async with telling(kernel):
            await do(world, bans.ban, world.guide, world.room, banned.subject, 3600)
            await do(world, muting.mute, world.guide, world.room, me.subject, 3600, "brand")
            assert (await mine.event(wire.Muted)).viewer == me.subject
        await kernel.redis.flushall()
        await do(world, life.pause, world.guide, world.room)
        async with telling(kernel):
            again = await mine.frame(wire.Welcome)
            assert again.muted_until is not None
            assert again.muted_until > milliseconds(now())
            assert await turned_away(one.url, kernel, world.room, banned) == Close.BANNED
