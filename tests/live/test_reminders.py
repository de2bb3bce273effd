"""Reminders: who gets one, when, and that it is one."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from uuid import UUID

import pytest
from roomworld import World, do, refused
from sqlalchemy import select, text, update
from viewers import principal

from kernel.clock import now
from kernel.identity import Principal
from kernel.postgres import transaction
from live import reminders, rooms
from live.ports import Outcome, Reminder
from live.tables import Reminder as Row
from live.tables import Room

MINUTE = timedelta(minutes=1)


class Post:
    """A messenger that remembers what it sent; ``answer`` says what becomes of each."""

    def __init__(self) -> None:
        self.sent: list[Reminder] = []
        self.answer: Callable[[Reminder], Outcome | None] = lambda _: "sent"

    async def remind(self, reminders: Sequence[Reminder]) -> AsyncIterator[tuple[Reminder, Outcome]]:
        for told in reminders:
            self.sent.append(told)
            if (outcome := self.answer(told)) is not None:
                yield told, outcome

    @property
    def viewers(self) -> list[UUID]:
        return [told.viewer for told in self.sent]


async def plan(world: World, ahead: timedelta) -> None:
    await do(world, rooms.reschedule, world.guide, world.planned, {"scheduled_at": now() + ahead})


async def subscribe(world: World, *who: Principal, ago: timedelta = timedelta(hours=1)) -> None:
    """``who`` subscribed so long ago."""
    for viewer in who:
        await do(world, reminders.subscribe, viewer, world.planned)
    async with transaction(world.kernel.sessions) as session:
        at = text("now() - CAST(:ago AS interval)").bindparams(ago=ago)
        await session.execute(
            update(Row).where(Row.viewer_id.in_([viewer.subject for viewer in who])).values(at=at, attempts=0)
        )


async def send(world: World, post: Post) -> int:
    return await reminders.send_due(world.kernel.sessions, post)


async def forget_lease(world: World) -> None:
    async with transaction(world.kernel.sessions) as session:
        await session.execute(update(Row).values(taken_until=now() - MINUTE))


async def outcomes(world: World) -> dict[UUID, str | None]:
    async with world.kernel.sessions() as session:
        return {viewer: outcome for viewer, outcome in await session.execute(select(Row.viewer_id, Row.outcome))}


async def test_viewers_subscribe_to_scheduled_rooms_of_their_brand_once(world: World) -> None:
    for _ in range(2):
        await do(world, reminders.subscribe, world.viewer, world.planned)
    assert await do(world, reminders.subscribed, world.viewer, world.planned)
    assert len(await outcomes(world)) == 1
    assert await refused(world, reminders.subscribe, world.viewer, world.room) == "room_state"
    assert await refused(world, reminders.subscribe, world.guide, world.planned) == "forbidden"
    assert await refused(world, reminders.subscribe, principal(brand="other"), world.planned) == "not_found"
    for _ in range(2):
        await do(world, reminders.unsubscribe, world.viewer, world.planned)
    assert not await do(world, reminders.subscribed, world.viewer, world.planned)
    await do(world, rooms.end, world.guide, world.planned)
    assert await refused(world, reminders.subscribe, world.viewer, world.planned) == "room_ended"


async def test_each_subscriber_gets_one_reminder_five_minutes_before(world: World) -> None:
    post, other = Post(), principal("小周")
    await subscribe(world, world.viewer, other)
    await plan(world, 6 * MINUTE)
    assert await send(world, post) == 0
    await plan(world, 4 * MINUTE)
    assert await send(world, post) == 2
    assert sorted(post.viewers) == sorted([world.viewer.subject, other.subject])
    [told, _] = post.sent
    assert (told.room, told.title, told.guide, told.live, told.zone) == (
        world.planned, "明天", "阿May", False, "Asia/Shanghai",
    )  # fmt: skip
    await plan(world, 3 * MINUTE)
    assert await send(world, post) == 0
    await do(world, rooms.start, world.guide, world.planned)
    assert await send(world, post) == 0
    assert await do(world, reminders.subscribed, world.viewer, world.planned)


async def test_a_guide_who_starts_earlier_reminds_at_the_start(world: World) -> None:
    post = Post()
    await plan(world, 60 * MINUTE)
    await subscribe(world, world.viewer)
    assert await send(world, post) == 0
    await do(world, rooms.start, world.guide, world.planned)
    assert await send(world, post) == 1
    assert post.sent[0].live
    assert await send(world, post) == 0


async def test_who_subscribes_in_the_last_minutes_hears_of_the_start_only(world: World) -> None:
    post = Post()
    await plan(world, 2 * MINUTE)
    await subscribe(world, world.viewer, ago=MINUTE)
    assert await send(world, post) == 0
    await do(world, rooms.start, world.guide, world.planned)
    assert await send(world, post) == 1


async def test_rooms_that_are_over_or_long_on_remind_nobody(world: World) -> None:
    post = Post()
    await subscribe(world, world.viewer)
    await plan(world, 4 * MINUTE)
    async with transaction(world.kernel.sessions) as session:
        await session.execute(
            update(Room).where(Room.id == world.planned).values(state="live", live_at=now() - timedelta(hours=1))
        )
    assert await send(world, post) == 0
    await do(world, rooms.end, world.guide, world.planned)
    assert await send(world, post) == 0
    assert post.sent == []


async def test_a_scheduled_room_that_is_called_off_reminds_nobody(world: World) -> None:
    post = Post()
    await subscribe(world, world.viewer)
    await plan(world, 4 * MINUTE)
    await do(world, rooms.end, world.guide, world.planned)
    assert await send(world, post) == 0


@pytest.mark.parametrize("outcome", ["refused", "unknown", "failed"])
async def test_a_reminder_that_cannot_be_sent_is_recorded_and_not_tried_again(world: World, outcome: Outcome) -> None:
    post = Post()
    post.answer = lambda _: outcome
    await subscribe(world, world.viewer)
    await plan(world, 4 * MINUTE)
    assert await send(world, post) == 1
    await forget_lease(world)
    assert await send(world, post) == 0
    assert await outcomes(world) == {world.viewer.subject: outcome}


async def test_one_that_did_not_go_out_waits_and_costs_no_attempt(world: World) -> None:
    post = Post()
    post.answer = lambda _: "later"
    await subscribe(world, world.viewer)
    await plan(world, 4 * MINUTE)
    for turn in range(reminders.MAX_ATTEMPTS + 2):
        assert await send(world, post) == 0
        assert await send(world, post) == 0  # not yet
        assert len(post.sent) == turn + 1
        await forget_lease(world)
    post.answer = lambda _: "sent"
    assert await send(world, post) == 1


async def test_one_that_may_have_gone_out_is_sent_three_times_at_most(world: World) -> None:
    post = Post()
    post.answer = lambda _: None
    await subscribe(world, world.viewer)
    await plan(world, 4 * MINUTE)
    for _ in range(reminders.MAX_ATTEMPTS + 2):
        await send(world, post)
        await send(world, post)  # the lease holds
        await forget_lease(world)
    assert len(post.sent) == reminders.MAX_ATTEMPTS


async def test_a_worker_that_dies_while_sending_leaves_it_to_another(world: World) -> None:
    post = Post()
    await subscribe(world, world.viewer)
    await plan(world, 4 * MINUTE)
    assert len(await do(world, reminders.take)) == 1  # and it dies here
    assert await send(world, post) == 0
    await forget_lease(world)
    assert await send(world, post) == 1
    assert await outcomes(world) == {world.viewer.subject: "sent"}


async def test_workers_at_once_send_each_reminder_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reminders, "BATCH", 5)
    post = Post()
    await subscribe(world, *(principal(f"v{n}") for n in range(23)))
    await plan(world, 4 * MINUTE)
    assert sum(await asyncio.gather(*(send(world, post) for _ in range(4)))) == 23
    assert len(set(post.viewers)) == len(post.viewers) == 23


async def test_a_reminder_that_is_on_its_way_is_not_taken_back(world: World) -> None:
    await subscribe(world, world.viewer)
    await plan(world, 4 * MINUTE)
    [told] = await do(world, reminders.take)
    await do(world, reminders.unsubscribe, world.viewer, world.planned)
    await do(world, reminders.subscribe, world.viewer, world.planned)
    await do(world, reminders.settle, [(told, "sent")])
    post = Post()
    assert await send(world, post) == 0
