"""Drops: who may release them, what is foreseen of them, how they end."""

import asyncio
from datetime import timedelta

import msgspec
import pytest
from test_push import told
from world import World, principal

from coupons import drops, foresight
from coupons.cards import DropView
from kernel.clock import now
from kernel.errors import Refusal
from kernel.identity import Principal, Role
from kernel.ids import new_id
from kernel.postgres import transaction
from live import wire


async def _open(world: World, who: Principal, campaign: object, mode: str = "push", **changes: object) -> DropView:
    asked: dict[str, object] = {"stock": 10, "seconds": 60, "delay": 0} | changes
    async with transaction(world.kernel.sessions) as session:
        return await drops.open_drop(session, who, world.room, campaign, mode, **asked)  # type: ignore[arg-type]


# ---- opening -------------------------------------------------------------------------------------------------------


async def test_the_rooms_guide_opens_a_drop_and_the_room_istold(world: World) -> None:
    campaign = await world.campaign()
    drop = await _open(world, world.guide, campaign, "claim", delay=30)
    assert (drop.mode, drop.stock, drop.left, drop.issued, drop.state) == ("claim", 10, 10, 0, "open")
    assert drop.ends_at - drop.opens_at == 60_000
    (payload,) = await told(world, "coupons.drop_opened")
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
    assert await told(world, "coupons.drop_opened") == []


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
    (payload,) = await told(world, "coupons.drop_ended")
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
    assert len(await told(world, "coupons.drop_ended")) == 1


async def test_drops_of_a_room_are_listed_newest_first(world: World) -> None:
    campaign = await world.campaign()
    made = [await _open(world, world.guide, campaign, stock=1) for _ in range(3)]
    async with world.kernel.sessions() as session:
        listed = await drops.list_drops(session, world.guide, world.room)
    assert [drop.id for drop in listed] == [drop.id for drop in reversed(made)]
