"""Push drops: whom they reach, in which order, and what becomes of everybody else."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from world import World

from coupons import drops, granting, ledger, push
from coupons.issuing import Issuer
from coupons.reach import Match
from coupons.rules import Limits, held_out
from geo.catchments import Catchments
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.ids import new_id
from kernel.postgres import Sessions
from live import wire


async def told(world: World, topic: str) -> list[bytes]:
    rows = await world.execute("SELECT payload FROM outbox WHERE topic = :topic ORDER BY id", topic=topic)
    return [row[0] for row in rows]


async def clean(world: World) -> None:
    async with world.kernel.sessions() as session:
        assert (await ledger.audit(session)).findings == []


async def test_a_push_grants_the_nearest_first_up_to_the_stock(world: World) -> None:
    drop = await world.drop(await world.campaign(), "push", stock=3)
    viewers = [(await world.viewers(1, north_m=200 * (place + 1)))[0] for place in range(5)]
    (far,) = await world.viewers(1, north_m=9_000)
    assert await drops.run_push(world.kernel.sessions, drop) == 3
    got = {row[0] for row in await world.execute("SELECT viewer_id FROM coupons")}
    assert got == {viewer.subject for viewer in viewers[:3]}
    decided = dict(await world.execute("SELECT viewer_id, coalesce(reason, outcome) FROM decisions"))
    assert [decided[v.subject] for v in viewers] == ["issued"] * 3 + ["sold_out"] * 2
    assert far.subject not in decided
    assert await world.execute("SELECT state, end_reason FROM drops") == [("ended", "sold_out")]
    assert await world.scalar("SELECT matched_at FROM drops")
    await clean(world)


async def test_whoever_misses_a_push_is_noted_with_the_reason(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "CHUNK", 2)
    campaign = await world.campaign(store_quota=2, min_tier=1, holdout_percent=50)
    await world.store("S2", north_m=2_000)
    viewers = await world.viewers(30, tier=1)
    near = [viewer for viewer in viewers if not held_out(Limits(campaign, 1, 1, 50), viewer.subject)]
    for viewer in viewers:
        await world.execute(
            "UPDATE locations SET position = ST_Translate(position::geometry, 0, :north)::geography"
            " WHERE viewer_id = :viewer",
            north=(1_500 if viewer is near[-1] else viewers.index(viewer)) / 111_000,
            viewer=viewer.subject,
        )
    (low,) = await world.viewers(1, tier=0, north_m=2_900)
    drop = await world.drop(campaign, "push", stock=3)
    assert await drops.run_push(world.kernel.sessions, drop) == 3
    decided = dict(await world.execute("SELECT viewer_id, coalesce(reason, outcome) FROM decisions"))
    expected = {viewer.subject: "sold_out" if viewer in near else "held_out" for viewer in viewers}
    expected |= {viewer.subject: "issued" for viewer in (*near[:2], near[-1])} | {low.subject: "tier"}
    assert decided == expected
    await clean(world)


async def test_a_push_that_was_sold_out_stays_so_whatever_its_campaign_gets(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "CHUNK", 2)
    end_if_sold_out = push.end_if_sold_out

    async def and_then_more(session: AsyncSession, *asked: Any) -> bool:
        ended = await end_if_sold_out(session, *asked)
        await session.execute(text("UPDATE campaigns SET stock = 20"))
        return ended

    monkeypatch.setattr(push, "end_if_sold_out", and_then_more)
    drop = await world.drop(await world.campaign(stock=2), "push", stock=10)
    await world.viewers(6)
    assert await drops.run_push(world.kernel.sessions, drop) == 2
    assert await world.execute("SELECT state, end_reason, issued FROM drops") == [("ended", "sold_out", 2)]
    assert await world.scalar("SELECT count(*) FROM drop_viewers WHERE reason = 'sold_out'") == 4
    await clean(world)


async def test_a_push_goes_in_chunks_and_tells_each_viewer_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "CHUNK", 4)
    drop = await world.drop(await world.campaign(stock=50), "push", stock=50)
    viewers = await world.viewers(10)
    assert await drops.run_push(world.kernel.sessions, drop) == 10
    issued = [msgspec.json.decode(payload) for payload in await told(world, "coupons.issued")]
    assert [len(event["grants"]) for event in issued] == [4, 4, 2]
    owners = [grant["viewer"] for event in issued for grant in event["grants"]]
    assert sorted(owners) == sorted(str(v.subject) for v in viewers)
    card = msgspec.convert(issued[0]["grants"][0]["coupon"], wire.CouponCard)
    assert (card.store, card.store_name, card.drop, card.distance_m) == ("S1", "S1店", drop, 500)
    stock = [
        msgspec.json.decode(payload, type=wire.DropStock).left for payload in await told(world, "coupons.drop_stock")
    ]
    assert stock == [46, 42, 40]
    await clean(world)


@pytest.mark.parametrize("outcome", ["issued", "refused"])
async def test_what_was_decided_since_the_match_is_not_decided_again(
    world: World, monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    campaign = await world.campaign(per_viewer=5)
    drop = await world.drop(campaign, "push")
    quick, *others = [viewer.subject for viewer in await world.viewers(3)]
    room_matched = push.match

    async def overtaken(*asked: Any, viewers: Sequence[UUID] | None, **more: Any) -> list[Match]:
        found = await room_matched(*asked, viewers=viewers, **more)
        if viewers is None and not await world.scalar("SELECT decided FROM drops"):
            await world.execute("UPDATE campaigns SET min_tier = :tier", tier=3 if outcome == "refused" else 0)
            await drops.grant_arrivals(world.kernel.sessions, world.room, [quick])
            await world.execute("UPDATE campaigns SET min_tier = 0")
        return found

    monkeypatch.setattr(push, "match", overtaken)
    assert await drops.run_push(world.kernel.sessions, drop) == 2
    found = dict(await world.execute("SELECT viewer_id, outcome FROM decisions"))
    assert found == dict.fromkeys(others, "issued") | {quick: outcome}
    assert await world.scalar("SELECT decided FROM drops") == 3
    assert await world.scalar("SELECT count(*) FROM coupons") == 2 + (outcome == "issued")
    await clean(world)


async def test_running_it_again_grants_nobody_twice(world: World) -> None:
    drop = await world.drop(await world.campaign(per_viewer=5), "push", stock=10)
    await world.viewers(3)
    assert await drops.run_push(world.kernel.sessions, drop) == 3
    assert await drops.run_push(world.kernel.sessions, drop) == 0
    assert await world.scalar("SELECT count(*) FROM coupons") == 3


async def test_limit_tier_and_holdout_apply_to_a_push(world: World) -> None:
    campaign = await world.campaign(min_tier=1, holdout_percent=50)
    first = await world.drop(campaign, "push", stock=50)
    plain = await world.viewers(3)
    gold = await world.viewers(10, tier=2)
    limits = Limits(campaign, 1, 1, 50)
    served = {v.subject for v in gold if not held_out(limits, v.subject)}
    assert await drops.run_push(world.kernel.sessions, first) == len(served)
    outcome = "SELECT viewer_id, coalesce(reason, outcome) FROM decisions WHERE drop_id = :drop"
    decided = dict(await world.execute(outcome, drop=first))
    assert {decided[v.subject] for v in plain} == {"tier"}
    assert {v for v in decided if decided[v] == "held_out"} == {v.subject for v in gold} - served
    second = await world.drop(campaign, "push", stock=50)
    assert await drops.run_push(world.kernel.sessions, second) == 0
    decided = dict(await world.execute(outcome, drop=second))
    assert {decided[v] for v in served} <= {"limit_reached"}
    await clean(world)


async def test_a_full_store_sends_its_viewers_on(world: World) -> None:
    await world.store("S2", north_m=300)
    drop = await world.drop(await world.campaign(store_quota=2), "push", stock=50)
    await world.viewers(5)
    assert await drops.run_push(world.kernel.sessions, drop) == 4
    by_store = await world.execute(
        "SELECT s.code, count(*) FROM coupons c JOIN stores s ON s.id = c.store_id GROUP BY 1 ORDER BY 1"
    )
    assert by_store == [("S1", 2), ("S2", 2)]
    await clean(world)


async def test_who_comes_into_reach_while_it_runs_is_granted(world: World) -> None:
    drop = await world.drop(await world.campaign(), "push", stock=10)
    (viewer,) = await world.viewers(1, north_m=8_000)
    assert await drops.run_push(world.kernel.sessions, drop) == 0
    await world.locate(viewer, 100)
    assert await drops.grant_arrivals(world.kernel.sessions, world.room, [viewer.subject]) == 1
    assert await drops.grant_arrivals(world.kernel.sessions, world.room, [viewer.subject]) == 0
    assert await drops.grant_arrivals(world.kernel.sessions, world.room, []) == 0
    await clean(world)


async def test_arrivals_of_all_rooms_are_one_question_and_who_was_decided_about_is_not_matched_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    matched: list[list[object]] = []
    grant = push.grant_arrivals

    async def counted(sessions: Sessions, room: UUID, viewers: Sequence[UUID]) -> int:
        matched.append(sorted(viewers))
        return await grant(sessions, room, viewers)

    monkeypatch.setattr(push, "grant_arrivals", counted)
    near, far = await world.viewers(1), await world.viewers(1, north_m=8_000)
    here = [(world.room, viewer.subject) for viewer in near + far]
    elsewhere = [(new_id(), near[0].subject)]
    sessions = world.kernel.sessions
    assert await push.grant_everywhere(sessions, []) == 0
    assert await push.grant_everywhere(sessions, here + elsewhere) == 0
    assert matched == [], "no drop is open anywhere"
    await world.drop(await world.campaign(), "push")
    assert await push.grant_everywhere(sessions, here + elsewhere) == 1
    assert await push.grant_everywhere(sessions, here + elsewhere) == 0
    assert matched == [sorted(viewer for _, viewer in here), [far[0].subject]]
    await world.locate(far[0], 100)
    assert await push.grant_everywhere(sessions, here) == 1
    assert await push.grant_everywhere(sessions, here) == 0
    assert len(matched) == 3
    await clean(world)


async def test_arrivals_get_nothing_from_claim_drops_and_ended_ones(world: World) -> None:
    campaign = await world.campaign()
    await world.drop(campaign, "claim")
    await world.drop(campaign, "push", opens_in=-100, seconds=50)
    await world.drop(campaign, "push", opens_in=100)
    viewers = await world.viewers(2)
    arrived = [v.subject for v in viewers]
    assert await drops.grant_arrivals(world.kernel.sessions, world.room, arrived) == 0


async def test_two_workers_at_once_share_the_work(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "CHUNK", 5)
    drop = await world.drop(await world.campaign(), "push", stock=35)
    viewers = await world.viewers(40)
    arrived = [v.subject for v in viewers]
    sessions = world.kernel.sessions
    granted = await asyncio.gather(
        drops.run_push(sessions, drop),
        drops.run_push(sessions, drop),
        drops.grant_arrivals(sessions, world.room, arrived),
    )
    assert sum(granted) == 35
    assert await world.scalar("SELECT count(DISTINCT viewer_id) FROM coupons") == 35
    await clean(world)


async def test_push_and_claims_of_one_campaign_share_its_stock(world: World) -> None:
    campaign = await world.campaign(stock=20)
    pushed, claimed = await world.drop(campaign, "push", 20), await world.drop(campaign, "claim", 20)
    await world.viewers(15)
    others = await world.viewers(15)

    async def claim(who: Principal) -> int:
        try:
            await issuer.claim(who, world.room, claimed, "one")
        except Refusal:
            return 0
        return 1

    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        granted = await asyncio.gather(drops.run_push(world.kernel.sessions, pushed), *map(claim, others))
    assert sum(granted) == 20 == await world.scalar("SELECT issued FROM campaigns")
    await clean(world)


async def test_only_what_has_opened_and_was_not_matched_is_due(world: World) -> None:
    campaign = await world.campaign()
    waiting = await world.drop(campaign, "push")
    await world.drop(campaign, "push", opens_in=60)
    await world.drop(campaign, "push", opens_in=-60, seconds=30)
    await world.drop(campaign, "claim")
    async with world.kernel.sessions() as session:
        assert list(await drops.due(session)) == [waiting]
    await drops.run_push(world.kernel.sessions, waiting)
    async with world.kernel.sessions() as session:
        assert list(await drops.due(session)) == []


async def test_a_paused_campaign_holds_its_push_until_it_runs_again(world: World) -> None:
    drop = await world.drop(await world.campaign(), "push")
    viewers = await world.viewers(2)
    await world.execute("UPDATE campaigns SET state = 'paused'")
    assert await drops.run_push(world.kernel.sessions, drop) == 0
    assert await drops.grant_arrivals(world.kernel.sessions, world.room, [v.subject for v in viewers]) == 0
    async with world.kernel.sessions() as session:
        assert list(await drops.due(session)) == []
    await world.execute("UPDATE campaigns SET state = 'running'")
    async with world.kernel.sessions() as session:
        assert list(await drops.due(session)) == [drop]
    assert await drops.run_push(world.kernel.sessions, drop) == 2
    await clean(world)


@pytest.mark.parametrize("piece", [1, 500])
async def test_a_coupon_that_the_constraints_refuse_is_the_only_one_that_is_missing(
    world: World, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(granting, "PIECE", piece)
    campaign = await world.campaign(per_viewer=5)
    (spoilt,) = await world.viewers(1)
    assert await drops.run_push(world.kernel.sessions, await world.drop(campaign, "push", stock=1)) == 1
    await world.execute("UPDATE coupons SET n = 2")  # which is what their next one will be called
    others = {viewer.subject for viewer in await world.viewers(2, north_m=50)}
    drop = await world.drop(campaign, "push")
    assert await drops.run_push(world.kernel.sessions, drop) == 2
    got = await world.execute("SELECT viewer_id FROM coupons WHERE drop_id = :d", d=drop)
    assert {row[0] for row in got} == others
    assert await world.scalar("SELECT issued FROM drops WHERE id = :d", d=drop) == 2
    reasons = await world.execute("SELECT viewer_id, reason FROM decisions WHERE drop_id = :d", d=drop)
    assert dict(reasons) == dict.fromkeys(others) | {spoilt.subject: "limit_reached"}
