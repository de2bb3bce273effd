"""Drops: who may release them, whom they reach, how they end."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from world import World, principal

from coupons import drops, foresight, granting, ledger, push
from coupons.cards import DropView
from coupons.issuing import Issuer
from coupons.reach import Match
from coupons.rules import Limits, held_out
from geo.catchments import Catchments
from kernel.clock import now
from kernel.errors import Refusal
from kernel.identity import Principal, Role
from kernel.ids import new_id
from kernel.postgres import Sessions, transaction
from live import wire


async def _open(world: World, who: Principal, campaign: object, mode: str = "push", **changes: object) -> DropView:
    asked: dict[str, object] = {"stock": 10, "seconds": 60, "delay": 0} | changes
    async with transaction(world.kernel.sessions) as session:
        return await drops.open_drop(session, who, world.room, campaign, mode, **asked)  # type: ignore[arg-type]


async def _told(world: World, topic: str) -> list[bytes]:
    rows = await world.execute("SELECT payload FROM outbox WHERE topic = :topic ORDER BY id", topic=topic)
    return [row[0] for row in rows]


async def _clean(world: World) -> None:
    async with world.kernel.sessions() as session:
        assert (await ledger.audit(session)).findings == []


# ---- opening -------------------------------------------------------------------------------------------------------


async def test_the_rooms_guide_opens_a_drop_and_the_room_is_told(world: World) -> None:
    campaign = await world.campaign()
    drop = await _open(world, world.guide, campaign, "claim", delay=30)
    assert (drop.mode, drop.stock, drop.left, drop.issued, drop.state) == ("claim", 10, 10, 0, "open")
    assert drop.ends_at - drop.opens_at == 60_000
    (payload,) = await _told(world, "coupons.drop_opened")
    card = msgspec.convert(msgspec.json.decode(payload)["drop"], wire.DropCard)
    assert (card.id, card.terms, card.opens_at) == (drop.id, "满100减20", drop.opens_at)
    assert await world.scalar("SELECT room_id FROM outbox") == world.room


async def test_ops_may_open_in_every_room_and_stock_defaults_to_what_is_left(world: World) -> None:
    campaign = await world.campaign(stock=70)
    assert (await _open(world, world.ops, campaign, stock=None)).stock == 70


async def test_nobody_else_may(world: World) -> None:
    campaign = await world.campaign()
    for who, code in (
        (principal(Role.GUIDE, "other"), "forbidden"),
        (principal(Role.VIEWER, "v"), "forbidden"),
        (Principal("other", world.ops.subject, Role.OPS, "x", world.ops.expires_at), "not_found"),  # type: ignore[arg-type]
    ):
        with pytest.raises(Refusal, match=code):
            await _open(world, who, campaign)
    with pytest.raises(Refusal, match="not_found"):
        await _open(world, world.ops, new_id())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("UPDATE rooms SET state = 'ended'", "room_not_live"),
        ("UPDATE rooms SET state = 'scheduled'", "room_not_live"),
        ("UPDATE campaigns SET state = 'draft'", "campaign_state"),
        ("UPDATE campaigns SET claim_until = now()", "ended"),
        ("UPDATE campaigns SET issued = stock", "sold_out"),
        ("UPDATE campaigns SET issued = stock - 9", "invalid"),
    ],
)
async def test_a_drop_needs_a_live_room_and_a_running_campaign_with_stock(world: World, change: str, code: str) -> None:
    campaign = await world.campaign()
    await world.execute(change)
    with pytest.raises(Refusal, match=code):
        await _open(world, world.guide, campaign)
    assert await _told(world, "coupons.drop_opened") == []


# ---- push ----------------------------------------------------------------------------------------------------------


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
    await _clean(world)


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
    await _clean(world)


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
    await _clean(world)


async def test_a_push_goes_in_chunks_and_tells_each_viewer_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "CHUNK", 4)
    drop = await world.drop(await world.campaign(stock=50), "push", stock=50)
    viewers = await world.viewers(10)
    assert await drops.run_push(world.kernel.sessions, drop) == 10
    issued = [msgspec.json.decode(payload) for payload in await _told(world, "coupons.issued")]
    assert [len(event["grants"]) for event in issued] == [4, 4, 2]
    told = [grant["viewer"] for event in issued for grant in event["grants"]]
    assert sorted(told) == sorted(str(v.subject) for v in viewers)
    card = msgspec.convert(issued[0]["grants"][0]["coupon"], wire.CouponCard)
    assert (card.store, card.store_name, card.drop, card.distance_m) == ("S1", "S1店", drop, 500)
    stock = [
        msgspec.json.decode(payload, type=wire.DropStock).left for payload in await _told(world, "coupons.drop_stock")
    ]
    assert stock == [46, 42, 40]
    await _clean(world)


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
    await _clean(world)


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
    await _clean(world)


async def test_a_full_store_sends_its_viewers_on(world: World) -> None:
    await world.store("S2", north_m=300)
    drop = await world.drop(await world.campaign(store_quota=2), "push", stock=50)
    await world.viewers(5)
    assert await drops.run_push(world.kernel.sessions, drop) == 4
    by_store = await world.execute(
        "SELECT s.code, count(*) FROM coupons c JOIN stores s ON s.id = c.store_id GROUP BY 1 ORDER BY 1"
    )
    assert by_store == [("S1", 2), ("S2", 2)]
    await _clean(world)


async def test_who_comes_into_reach_while_it_runs_is_granted(world: World) -> None:
    drop = await world.drop(await world.campaign(), "push", stock=10)
    (viewer,) = await world.viewers(1, north_m=8_000)
    assert await drops.run_push(world.kernel.sessions, drop) == 0
    await world.locate(viewer, 100)
    assert await drops.grant_arrivals(world.kernel.sessions, world.room, [viewer.subject]) == 1
    assert await drops.grant_arrivals(world.kernel.sessions, world.room, [viewer.subject]) == 0
    assert await drops.grant_arrivals(world.kernel.sessions, world.room, []) == 0
    await _clean(world)


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
    await _clean(world)


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
    await _clean(world)


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
    await _clean(world)


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
    await _clean(world)


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


# ---- preview -------------------------------------------------------------------------------------------------------


async def test_a_preview_counts_who_would_get_one_and_why_not_the_others(world: World) -> None:
    await world.store("S2", north_m=2_000)
    campaign = await world.campaign(min_tier=1, radius_m=500)
    await world.viewers(3, tier=1)
    await world.viewers(1, tier=1, north_m=2_010)
    await world.viewers(2, tier=0)
    await world.viewers(1, tier=1, north_m=1_000)
    await world.viewers(1, tier=1, accuracy_m=3_000)
    await world.viewers(1, tier=1, at=now() - timedelta(minutes=11))
    await world.viewers(1, tier=1, north_m=None)
    async with world.kernel.sessions() as session:
        seen = await foresight.preview(session, world.guide, world.room, campaign)
    assert (seen.located, seen.in_range, seen.eligible) == (7, 6, 4)
    assert seen.reasons == {"tier": 2, "out_of_range": 1, "location_uncertain": 1, "location_stale": 1}
    assert [(s.code, s.viewers) for s in seen.stores] == [("S1", 3), ("S2", 1)]
    async with world.kernel.sessions() as session:
        with pytest.raises(Refusal, match="not_found"):
            await foresight.preview(session, world.guide, world.room, new_id())


async def test_a_preview_says_what_a_push_does_where_stores_fill_up(world: World) -> None:
    await world.store("S2", north_m=400)
    await world.store("S3", north_m=2_500)
    campaign = await world.campaign(store_quota=2, stock=5, radius_m=1_000, reserve_percent=20)
    await world.execute(
        "INSERT INTO campaign_stores (campaign_id, store_id, quota, issued) SELECT :c, id, 1, 1 FROM stores"
        " WHERE code = 'S3'",
        c=campaign,
    )
    for north_m in (0, 10, 20, 30, 40, 410, -900, 2_500):
        await world.viewers(1, north_m=north_m)
    async with world.kernel.sessions() as session:
        seen = await foresight.preview(session, world.guide, world.room, campaign)
    assert (seen.located, seen.in_range, seen.eligible) == (8, 8, 4)
    assert seen.reasons == {"sold_out": 4}
    assert await drops.run_push(world.kernel.sessions, await world.drop(campaign, "push", stock=5)) == 4
    gave = await world.execute(
        "SELECT s.code, count(*) FROM coupons c JOIN stores s ON s.id = c.store_id GROUP BY 1 ORDER BY 1"
    )
    assert sorted((one.code, one.viewers) for one in seen.stores) == [tuple(row) for row in gave]


# ---- ending --------------------------------------------------------------------------------------------------------


async def test_a_guide_stops_a_drop_once(world: World) -> None:
    drop = await world.drop(await world.campaign())
    for _ in range(2):
        async with transaction(world.kernel.sessions) as session:
            ended = await drops.end_drop(session, world.guide, drop)
        assert (ended.state, ended.end_reason) == ("ended", "stopped")
    (payload,) = await _told(world, "coupons.drop_ended")
    event = msgspec.json.decode(payload, type=wire.DropEnded)
    assert (event.drop, event.reason) == (drop, "stopped")
    with pytest.raises(Refusal, match="forbidden"):
        async with transaction(world.kernel.sessions) as session:
            await drops.end_drop(session, principal(Role.GUIDE, "other"), drop)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE drops SET ends_at = now() - interval '1 second'", "time"),
        ("UPDATE rooms SET state = 'ended'", "stopped"),
        ("UPDATE campaigns SET state = 'ended'", "stopped"),
        ("UPDATE campaigns SET stock = 0", "sold_out"),
    ],
)
async def test_what_is_over_is_closed_once_whoever_closes_it(world: World, change: str, reason: str) -> None:
    drop = await world.drop(await world.campaign())
    assert await drops.close_due(world.kernel.sessions, now()) == 0
    await world.execute(change)
    closed = await asyncio.gather(*(drops.close_due(world.kernel.sessions, now()) for _ in range(3)))
    assert sum(closed) == 1
    assert await world.execute("SELECT id, state, end_reason FROM drops") == [(drop, "ended", reason)]
    assert len(await _told(world, "coupons.drop_ended")) == 1


async def test_drops_of_a_room_are_listed_newest_first(world: World) -> None:
    campaign = await world.campaign()
    made = [await _open(world, world.guide, campaign, stock=1) for _ in range(3)]
    async with world.kernel.sessions() as session:
        listed = await drops.list_drops(session, world.guide, world.room)
    assert [drop.id for drop in listed] == [drop.id for drop in reversed(made)]
