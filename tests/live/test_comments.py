import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from roomworld import World, do, held
from sqlalchemy import select
from sqlalchemy import update as change
from viewers import PATIENCE, principal, watching

from kernel.clock import milliseconds, now
from kernel.errors import Refusal
from kernel.ids import new_id
from kernel.postgres import transaction
from live import attendance, comments, muting, reports, rooms, wire
from live.attendance import Attended
from live.bus import Kept, RedisBus, key
from live.gateway import Gateway
from live.tables import Comment, Reported, Room


def kept(text: str = "好看", **other: Any) -> Kept:
    values = {
        "id": new_id(),
        "author": new_id(),
        "name": "小林",
        "role": "viewer",
        "text": text,
        "at": 1_781_784_067_123,
    }
    return Kept(**(values | other))


async def leave(world: World, *rows: Kept | bytes, room: UUID | None = None) -> None:
    """Hand comments in as a gateway does."""
    bus = RedisBus(world.kernel.redis)
    encoded = [row if isinstance(row, bytes) else msgspec.json.encode(row) for row in rows]
    await bus.cast(room or world.room, [], keep=encoded)


async def drain(world: World) -> int:
    return await comments.store_kept(world.kernel.sessions, world.kernel.redis, [world.room, world.planned])


async def stored(world: World) -> list[Comment]:
    async with world.kernel.sessions() as session:
        return list(await session.scalars(select(Comment).order_by(Comment.at, Comment.id)))


async def listed(world: World) -> list[Comment]:
    async with world.kernel.sessions() as session:
        return await comments.said(session, world.room, None, 100)


async def test_what_gateways_left_is_stored_and_then_forgotten_by_redis(world: World) -> None:
    said = kept("这款多少钱？")
    await leave(world, said, kept())
    await leave(world, kept(), room=world.planned)
    assert await drain(world) == 3
    assert await drain(world) == 0
    assert await world.kernel.redis.xlen(key(world.room, "kept")) == 0
    [row] = [row for row in await stored(world) if row.id == said.id]
    assert (row.room_id, row.author_id, row.author_name, row.author_role, row.text, row.at, row.deleted_at) == (
        world.room, said.author, "小林", "viewer", "这款多少钱？",
        datetime.fromtimestamp(1_781_784_067, UTC) + timedelta(milliseconds=123), None,
    )  # fmt: skip


async def test_more_than_one_batch_is_drained_in_one_go(world: World) -> None:
    await leave(world, *(kept(str(n)) for n in range(comments.BATCH + 3)))
    assert await drain(world) == comments.BATCH + 3
    assert len(await stored(world)) == comments.BATCH + 3


async def test_a_batch_that_is_stored_twice_is_stored_once(world: World) -> None:
    said = [kept(str(n)) for n in range(5)]
    await leave(world, *said)
    await drain(world)
    await leave(world, *said, said[0])  # as after a crash between commit and trim
    await drain(world)
    assert len(await stored(world)) == 5


async def test_two_workers_at_once_store_each_comment_once(world: World) -> None:
    await leave(world, *(kept(str(n)) for n in range(700)))
    await asyncio.gather(*(drain(world) for _ in range(3)))
    assert len(await stored(world)) == 700
    assert await world.kernel.redis.xlen(key(world.room, "kept")) == 0


async def test_nothing_is_trimmed_before_the_commit(world: World) -> None:
    await leave(world, kept())
    async with world.kernel.engine.begin() as connection:
        await connection.exec_driver_sql("LOCK TABLE comments")
        draining = asyncio.create_task(drain(world))
        await world.somebody_waits()
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining
    assert await world.kernel.redis.xlen(key(world.room, "kept")) == 1
    assert await drain(world) == 1


async def test_what_cannot_be_read_or_stored_does_not_hold_up_the_rest(world: World) -> None:
    odd = [kept("a\0b", name="\0"), kept(at=10**18), kept(at=-5)]
    await leave(world, b"garbage", b'{"id": 1}', *odd, kept("last"))
    assert await drain(world) == 4
    assert sorted(row.text for row in await stored(world)) == ["ab", "last", "好看", "好看"]


async def test_comments_on_a_room_that_is_gone_are_dropped(world: World) -> None:
    gone = new_id()
    await leave(world, kept(), room=gone)
    await comments.store_kept(world.kernel.sessions, world.kernel.redis, [gone])
    assert await stored(world) == []


async def test_the_worker_looks_at_rooms_live_or_ended_a_while_ago(world: World) -> None:
    assert await do(world, comments.rooms_to_drain, now()) == [world.room]
    await do(world, rooms.end, world.guide, world.room)
    assert await do(world, comments.rooms_to_drain, now()) == [world.room]
    assert await do(world, comments.rooms_to_drain, now() + timedelta(minutes=61)) == []
    async with transaction(world.kernel.sessions) as session:
        await session.execute(change(Room).values(state="scheduled"))
    assert await do(world, comments.rooms_to_drain, now() + timedelta(minutes=61)) == []


async def test_the_worker_looks_at_scheduled_rooms_in_which_somebody_waits(world: World) -> None:
    at = now()
    early = [Attended(world.planned, world.viewer.subject, at, at)]
    await do(world, attendance.attend, early)
    assert set(await do(world, comments.rooms_to_drain, at)) == {world.room, world.planned}
    assert await do(world, comments.rooms_to_drain, at + timedelta(minutes=61)) == [world.room]
    await do(world, rooms.start, world.guide, world.planned)
    assert set(await do(world, comments.rooms_to_drain, at + timedelta(minutes=61))) == {world.room, world.planned}


async def test_what_is_said_before_the_show_is_kept_and_can_be_reported(
    world: World, two: tuple[Gateway, Gateway]
) -> None:
    kernel = world.kernel
    async with watching(two[0].url, kernel.keyring, world.planned, world.viewer) as me:
        await me.send(wire.Comment("1", "几点开始"))
        assert (await me.ack("1")).ok

        async def swept() -> bool:
            waiting = await do(world, comments.rooms_to_drain, now())
            await comments.store_kept(kernel.sessions, kernel.redis, waiting)
            return bool(await stored(world))

        async with asyncio.timeout(PATIENCE):
            while not await swept():
                await asyncio.sleep(0.1)
    [said] = await stored(world)
    assert (said.room_id, said.text) == (world.planned, "几点开始")
    await do(world, reports.report, principal("小周"), world.planned, said.id, "spam")
    async with kernel.sessions() as session:
        assert (await session.scalars(select(Reported.comment_id))).all() == [said.id]


async def test_comments_are_listed_newest_first_from_any_position(world: World) -> None:
    said = [kept(str(n), at=1_781_784_067_000 + n // 2) for n in range(6)]
    await leave(world, *said)
    await drain(world)
    everything = await listed(world)
    assert [row.id for row in everything] == sorted((s.id for s in said), reverse=True)
    async with world.kernel.sessions() as session:
        rest = await comments.said(session, world.room, (everything[2].at, everything[2].id), 2)
    assert [row.id for row in rest] == [row.id for row in everything[3:5]]


async def test_deleting_marks_the_row_and_tells_the_room_once(world: World) -> None:
    said = kept()
    await leave(world, said)
    await drain(world)
    await do(world, rooms.delete_comment, world.guide, world.room, said.id)
    await do(world, rooms.delete_comment, world.ops, world.room, said.id)
    assert [event for event, _ in await world.events()] == [wire.Deleted(said.id)]
    [row] = await stored(world)
    assert row.deleted_by == world.guide.subject
    assert row.text == "好看"


async def test_a_comment_taken_down_before_it_was_stored_stays_down_and_on_record(world: World) -> None:
    said = kept("骂人的话")
    await do(world, rooms.delete_comment, world.guide, world.room, said.id)
    assert await listed(world) == []
    await leave(world, said)
    await drain(world)
    await leave(world, kept("别的话", id=said.id))  # whoever comes later does not overwrite it
    await drain(world)
    [row] = await listed(world)
    assert (row.text, row.author_id, row.at.year) == ("骂人的话", said.author, 2026)
    assert row.deleted_at is not None
    assert len(await world.events()) == 1


async def test_a_comment_of_another_room_is_not_found(world: World) -> None:
    said = kept()
    await leave(world, said)
    await drain(world)
    with pytest.raises(Refusal) as refused:
        await do(world, rooms.delete_comment, world.guide, world.planned, said.id)
    assert refused.value.code == "not_found"


async def test_a_mute_is_told_kept_replaced_and_lifted(world: World) -> None:
    viewer = world.viewer.subject
    before = milliseconds(now())
    await do(world, rooms.mute, world.guide, world.room, viewer, 60)
    await do(world, rooms.mute, world.guide, world.room, viewer, 10)
    await do(world, rooms.mute, world.guide, world.room, viewer, 0)
    await do(world, rooms.mute, world.guide, world.room, viewer, 0)
    told = await world.events()
    untils = [event.until for event, _ in told]
    assert untils[0] >= before + 60_000
    assert before + 10_000 <= untils[1] < untils[0]
    assert untils[2:] == [None]
    assert [slots for _, slots in told] == [
        {f"mute:{viewer}": str(untils[0]).encode()},
        {f"mute:{viewer}": str(untils[1]).encode()},
        {f"mute:{viewer}": b""},
    ]


async def test_a_mute_that_is_over_is_not_in_the_snapshot(world: World) -> None:
    await do(world, rooms.mute, world.guide, world.room, world.viewer.subject, 60)
    assert len(await held(world, muting.MUTE, world.room)) == 1
    assert await held(world, muting.MUTE, world.room, now() + timedelta(seconds=61)) == {}


async def test_the_rooms_guide_cannot_be_muted(world: World) -> None:
    with pytest.raises(Refusal) as refused:
        await do(world, rooms.mute, world.ops, world.room, world.guide.subject, 60)
    assert refused.value.code == "invalid"
