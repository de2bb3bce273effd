"""Several drops at once in one room, a pause between batches, and a budget that is edited while it is claimed."""

import asyncio
from itertools import pairwise
from uuid import UUID

import msgspec
from world import World

from coupons import campaigns, drops
from coupons.cards import CouponCard
from coupons.issuing import Issuer
from coupons.siblings import Siblings
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.postgres import transaction


async def _claim(issuer: Issuer, world: World, drop: UUID, viewer: Principal) -> CouponCard | str:
    try:
        return await issuer.claim(viewer, world.room, drop, "k")
    except Refusal as refusal:
        return refusal.code


async def _move(world: World, campaign: UUID, action: str) -> None:
    async with transaction(world.kernel.sessions) as session:
        await campaigns.move(session, world.ops, campaign, action)


async def test_drops_of_one_room_go_on_beside_each_other(world: World, issuer: Issuer) -> None:
    viewers = await world.viewers(4)
    one, two = await world.campaign(title="甲"), await world.campaign(title="乙")
    first, second = await world.drop(one, stock=2), await world.drop(two, stock=9)
    third = await world.drop(await world.campaign(title="丙"), "push", 9)
    fourth = await world.drop(await world.campaign(title="丁"), "push", 9)
    asked = [(drop, viewer) for viewer in viewers for drop in (first, second)]
    *answers, pushed, more = await asyncio.gather(
        *(_claim(issuer, world, drop, viewer) for drop, viewer in asked),
        drops.run_push(world.kernel.sessions, third),
        drops.run_push(world.kernel.sessions, fourth),
    )
    assert (pushed, more) == (4, 4)
    of_first = [answer for (drop, _), answer in zip(asked, answers, strict=True) if drop == first]
    of_second = [answer for (drop, _), answer in zip(asked, answers, strict=True) if drop == second]
    assert sum(isinstance(answer, CouponCard) and answer.title == "甲" for answer in of_first) == 2
    assert of_first.count("sold_out") == 2
    assert all(isinstance(answer, CouponCard) and answer.title == "乙" for answer in of_second)
    # One that ends takes no other with it, and whoever comes later gets of every push.
    async with transaction(world.kernel.sessions) as session:
        await drops.end_drop(session, world.guide, second)
    (late,) = await world.viewers(1)
    assert await drops.grant_arrivals(world.kernel.sessions, world.room, [late.subject]) == 2
    assert await _claim(issuer, world, second, late) == "ended"
    open_ones = await world.scalar("SELECT count(*) FROM drops WHERE state = 'open'")
    assert open_ones == 2


async def test_a_pause_counts_from_the_next_batch_on(world: World, issuer: Issuer) -> None:
    viewers = await world.viewers(30)
    campaign = await world.campaign()
    drop = await world.drop(campaign, stock=100)
    early = await asyncio.gather(*(_claim(issuer, world, drop, viewer) for viewer in viewers[:10]))
    assert all(isinstance(answer, CouponCard) for answer in early)
    await _move(world, campaign, "pause")
    paused = await asyncio.gather(*(_claim(issuer, world, drop, viewer) for viewer in viewers[10:20]))
    assert paused == ["campaign_state"] * 10
    assert await world.scalar("SELECT issued FROM campaigns") == 10
    await _move(world, campaign, "run")
    again = await asyncio.gather(*(_claim(issuer, world, drop, viewer) for viewer in viewers[20:]))
    assert all(isinstance(answer, CouponCard) for answer in again)


async def test_of_two_who_lower_a_budget_under_claims_one_does_and_no_coupon_is_too_many(
    world: World, issuer: Issuer
) -> None:
    viewers = await world.viewers(40)
    campaign = await world.campaign(stock=40)
    drop = await world.drop(campaign, stock=40)

    async def lower(target: int) -> str:
        try:
            async with transaction(world.kernel.sessions) as session:
                await campaigns.change_stock(session, world.ops, campaign, 40, target)
        except Refusal as refusal:
            return refusal.code
        return "lowered"

    async def claims(some: list[Principal]) -> list[CouponCard | str]:
        return [await _claim(issuer, world, drop, viewer) for viewer in some]

    half, edits, rest = await asyncio.gather(
        claims(viewers[:5]), asyncio.gather(lower(20), lower(25)), claims(viewers[5:10])
    )
    assert sorted(edits) == ["budget_conflict", "lowered"]
    more = await asyncio.gather(*(_claim(issuer, world, drop, viewer) for viewer in viewers[10:]))
    granted = sum(isinstance(answer, CouponCard) for answer in (*half, *rest, *more))
    assert (
        granted == await world.scalar("SELECT stock FROM campaigns") == await world.scalar("SELECT issued FROM drops")
    )
    assert set(more) & {"sold_out"}


async def test_what_is_said_to_be_left_is_what_drop_and_campaign_have_left(world: World, issuer: Issuer) -> None:
    viewers = await world.viewers(3)
    campaign = await world.campaign(stock=40)
    wide, narrow = await world.drop(campaign, stock=40), await world.drop(campaign, stock=5)
    for viewer in viewers:
        await _claim(issuer, world, wide, viewer)

    async def left() -> dict[UUID, int]:
        async with world.kernel.sessions() as session:
            return {drop.id: drop.left for drop in await drops.list_drops(session, world.guide, world.room)}

    async def told(*edits: int) -> list[tuple[UUID, int]]:
        await world.execute("DELETE FROM outbox")
        for current, target in pairwise(edits):
            async with transaction(world.kernel.sessions) as session:
                await campaigns.change_stock(session, world.ops, campaign, current, target)
        rows = await world.execute("SELECT convert_from(payload, 'UTF8') FROM outbox ORDER BY id")
        events = [msgspec.json.decode(row[0]) for row in rows]
        return [(UUID(event["drop"]), event["left"]) for event in events]

    assert await left() == {wide: 37, narrow: 5}
    assert await told(40, 10, 9) == [(wide, 7), (wide, 6)], "the other drop has as many as before"
    assert await left() == {wide: 6, narrow: 5}
    assert sorted(await told(9, 5)) == sorted([(wide, 2), (narrow, 2)])
    assert await left() == {wide: 2, narrow: 2}
    assert sorted(await told(5, 50)) == sorted([(wide, 37), (narrow, 5)])


async def test_drops_of_one_campaign_hear_what_the_others_leave_them(world: World, issuer: Issuer) -> None:
    viewers = await world.viewers(3)
    campaign = await world.campaign(stock=40)
    giving, waiting = await world.drop(campaign, stock=40), await world.drop(campaign, stock=39)
    await world.drop(await world.campaign(stock=3), stock=9)
    await world.drop(campaign, stock=5)
    siblings = Siblings()

    async def told() -> list[tuple[UUID, int]]:
        await world.execute("DELETE FROM outbox")
        await siblings.tell(world.kernel.sessions)
        rows = await world.execute("SELECT convert_from(payload, 'UTF8') FROM outbox ORDER BY id")
        events = [msgspec.json.decode(row[0]) for row in rows]
        return [(UUID(event["drop"]), event["left"]) for event in events]

    assert await told() == [], "each has as many left as it says"
    for viewer in viewers[:2]:
        await _claim(issuer, world, giving, viewer)
    assert await told() == [(waiting, 38)], "that of another campaign is alone, the narrow one has fewer than that"
    assert await told() == []
    await _claim(issuer, world, giving, viewers[2])
    assert await told() == [(waiting, 37)]
    await world.execute("UPDATE drops SET state = 'ended' WHERE id <> :waiting", waiting=waiting)
    assert await told() == []
