"""The rules of brands and campaigns in claims, push drops, previews and at the till, against a real database."""

import asyncio
from datetime import datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy.exc import IntegrityError
from world import World

from coupons import drops, foresight, ledger, redemption
from coupons.cards import CouponCard
from coupons.codes import Signer
from coupons.issuing import Issuer
from geo.catchments import Catchments
from kernel.clock import now
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.ids import new_id
from kernel.postgres import transaction

SHANGHAI = ZoneInfo("Asia/Shanghai")


async def _claim(issuer: Issuer, world: World, drop: UUID, viewer: Principal) -> str:
    """``issued`` or the code of the refusal."""
    try:
        await issuer.claim(viewer, world.room, drop, str(new_id()))
    except Refusal as refusal:
        return refusal.code
    return "issued"


async def _decided(world: World, drop: UUID) -> dict[UUID, str]:
    rows = await world.execute(
        "SELECT viewer_id, coalesce(reason, outcome) FROM decisions WHERE drop_id = :drop", drop=drop
    )
    return dict(rows)


async def _preview(world: World, campaign: UUID) -> foresight.Preview:
    async with world.kernel.sessions() as session:
        return await foresight.preview(session, world.ops, world.room, campaign)


# ---- the brand's cap -----------------------------------------------------------------------------------------------


async def test_the_cap_counts_claims_of_all_campaigns(world: World, issuer: Issuer) -> None:
    await world.execute("UPDATE brands SET cap_coupons = 2, cap_days = 7")
    (viewer,) = await world.viewers(1)
    first, second, third = [await world.drop(await world.campaign(per_viewer=9)) for _ in range(3)]
    assert [await _claim(issuer, world, first, viewer), await _claim(issuer, world, second, viewer)] == ["issued"] * 2
    assert await _claim(issuer, world, third, viewer) == "cap_reached"
    await world.execute("UPDATE coupons SET issued_at = now() - interval '8 days' WHERE drop_id = :d", d=first)
    assert await _claim(issuer, world, third, viewer) == "issued"


async def test_claims_of_two_campaigns_at_once_do_not_pass_the_cap(world: World, issuer: Issuer) -> None:
    await world.execute("UPDATE brands SET cap_coupons = 1, cap_days = 1")
    viewers = await world.viewers(10)
    both = [await world.drop(await world.campaign(per_viewer=3)) for _ in range(2)]
    answers = await asyncio.gather(*(_claim(issuer, world, drop, v) for v in viewers for drop in (*both, both[0])))
    assert sorted(answers) == ["cap_reached"] * 20 + ["issued"] * 10
    assert await world.scalar("SELECT max(n) FROM (SELECT count(*) AS n FROM coupons GROUP BY viewer_id) k") == 1


async def test_batches_of_two_processes_count_each_others_coupons(world: World, issuer: Issuer) -> None:
    await world.execute("UPDATE brands SET cap_coupons = 1, cap_days = 1")
    viewers = await world.viewers(20)
    drop = await world.drop(await world.campaign(per_day=7, per_viewer=2), stock=50)
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as other:
        answers = await asyncio.gather(
            *(_claim(process, world, drop, viewer) for viewer in viewers for process in (issuer, other))
        )
    assert answers.count("issued") == 7
    assert set(answers) == {"issued", "cap_reached", "sold_out_today"}
    assert await world.execute("SELECT issued, day_issued FROM campaigns") == [(7, 7)]
    assert await world.scalar("SELECT count(DISTINCT viewer_id) FROM coupons") == 7


async def test_the_cap_holds_in_a_push_and_the_preview_says_so(world: World, issuer: Issuer) -> None:
    await world.execute("UPDATE brands SET cap_coupons = 1, cap_days = 1")
    had, fresh = await world.viewers(2)
    assert await _claim(issuer, world, await world.drop(await world.campaign()), had) == "issued"
    campaign = await world.campaign()
    seen = await _preview(world, campaign)
    assert (seen.eligible, seen.reasons) == (1, {"cap_reached": 1})
    push = await world.drop(campaign, "push")
    assert await drops.run_push(world.kernel.sessions, push) == 1
    assert await _decided(world, push) == {had.subject: "cap_reached", fresh.subject: "issued"}


# ---- so many a day -------------------------------------------------------------------------------------------------


async def _yesterday(world: World) -> None:
    """Everything that was issued was issued a day ago."""
    await world.execute("UPDATE campaigns SET day = day - 1")
    await world.execute("UPDATE coupons SET issued_at = issued_at - interval '1 day'")


async def test_a_day_gives_so_many_to_claims_and_the_next_day_again(world: World, issuer: Issuer) -> None:
    drop = await world.drop(await world.campaign(per_day=3), stock=50)
    viewers = await world.viewers(10)
    answers = await asyncio.gather(*(_claim(issuer, world, drop, viewer) for viewer in viewers))
    assert answers == ["issued"] * 3 + ["sold_out_today"] * 7
    assert await world.scalar("SELECT state FROM drops") == "open"
    await _yesterday(world)
    answers = await asyncio.gather(*(_claim(issuer, world, drop, viewer) for viewer in viewers[3:]))
    assert answers == ["issued"] * 3 + ["sold_out_today"] * 4


async def test_a_push_goes_on_when_the_next_day_comes(world: World, issuer: Issuer) -> None:
    campaign = await world.campaign(per_day=2)
    drop = await world.drop(campaign, "push", stock=50)
    await world.viewers(3)
    seen = await _preview(world, campaign)
    assert (seen.eligible, seen.reasons) == (2, {"sold_out_today": 1})
    assert await drops.run_push(world.kernel.sessions, drop) == 2
    assert list((await _decided(world, drop)).values()) == ["issued"] * 2
    async with world.kernel.sessions() as session:
        assert await drops.due(session) == []
    await _yesterday(world)
    async with world.kernel.sessions() as session:
        assert await drops.due(session) == [drop]
    assert await drops.run_push(world.kernel.sessions, drop) == 1


async def test_the_database_itself_refuses_one_more_a_day(world: World) -> None:
    await world.campaign(per_day=2)
    with pytest.raises(IntegrityError, match="ck_campaigns_per_day"):
        await world.execute("UPDATE campaigns SET day_issued = 3")


async def test_a_clock_that_is_behind_does_not_reopen_a_day(world: World, issuer: Issuer) -> None:
    campaign = await world.campaign(per_day=3, day=now().date() + timedelta(days=2), day_issued=0)
    drop = await world.drop(campaign, seconds=300_000)
    (viewer,) = await world.viewers(1)
    assert await _claim(issuer, world, drop, viewer) == "issued"
    assert await world.scalar("SELECT issued_at > now() + interval '1 hour' FROM coupons")


async def test_the_audit_finds_a_day_that_gave_too_many(world: World) -> None:
    drop = await world.drop(await world.campaign(per_day=2), stock=50)
    viewers = await world.viewers(2)
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        for viewer in viewers:
            assert await _claim(issuer, world, drop, viewer) == "issued"
    await world.execute("UPDATE campaigns SET per_day = 1, day_issued = 1")
    async with world.kernel.sessions() as session:
        assert [finding.code for finding in (await ledger.audit(session)).findings] == ["campaign_day"]


# ---- pace and reserve of a push ------------------------------------------------------------------------------------


async def test_a_push_gives_so_many_a_minute(world: World, issuer: Issuer) -> None:
    drop = await world.drop(await world.campaign(per_minute=2), "push", stock=50)
    await world.viewers(3)
    assert await drops.run_push(world.kernel.sessions, drop) == 2
    (late,) = await world.viewers(1, north_m=500)
    assert await drops.grant_arrivals(world.kernel.sessions, world.room, [late.subject]) == 0
    async with world.kernel.sessions() as session:
        assert await drops.due(session) == []
    # A minute later; the coupons are moved along, as the audit looks at when they were issued.
    await world.execute("UPDATE drops SET opens_at = opens_at - interval '1 minute'")
    await world.execute("UPDATE coupons SET issued_at = issued_at - interval '1 minute'")
    async with world.kernel.sessions() as session:
        assert await drops.due(session) == [drop]
    assert await drops.run_push(world.kernel.sessions, drop) == 2
    async with world.kernel.sessions() as session:
        assert await drops.due(session) == []
    assert set((await _decided(world, drop)).values()) == {"issued"}


async def test_whoever_arrives_when_the_minute_is_used_up_waits_for_the_next(world: World, issuer: Issuer) -> None:
    drop = await world.drop(await world.campaign(per_minute=1), "push", stock=50)
    await world.viewers(1)
    assert await drops.run_push(world.kernel.sessions, drop) == 1
    assert await world.scalar("SELECT matched_at IS NOT NULL AND NOT match_again FROM drops")
    (late,) = await world.viewers(1)
    assert await drops.grant_arrivals(world.kernel.sessions, world.room, [late.subject]) == 0
    await world.execute("UPDATE drops SET opens_at = opens_at - interval '1 minute'")
    await world.execute("UPDATE coupons SET issued_at = issued_at - interval '1 minute'")
    async with world.kernel.sessions() as session:
        assert await drops.due(session) == [drop]
    assert await drops.run_push(world.kernel.sessions, drop) == 1
    assert not await world.scalar("SELECT match_again FROM drops")


async def test_a_reserve_is_for_those_who_come_later(world: World, issuer: Issuer) -> None:
    drop = await world.drop(await world.campaign(reserve_percent=50), "push", stock=4)
    there = await world.viewers(3)
    assert await drops.run_push(world.kernel.sessions, drop) == 2
    assert sorted((await _decided(world, drop)).values()) == ["issued", "issued", "sold_out"]
    arrived = [v.subject for v in there + await world.viewers(3)]
    assert await drops.grant_arrivals(world.kernel.sessions, world.room, arrived) == 2
    assert sorted((await _decided(world, drop)).values()) == ["issued"] * 4 + ["sold_out"] * 2
    assert await world.execute("SELECT state, end_reason FROM drops") == [("ended", "sold_out")]


# ---- who it is for, and doubt --------------------------------------------------------------------------------------


async def test_segments_follow_what_was_redeemed_here(world: World, issuer: Issuer, signer: Signer) -> None:
    new, once, vip = [(await world.viewers(1, tier=tier))[0] for tier in (0, 0, 3)]
    card = await issuer.claim(once, world.room, await world.drop(await world.campaign()), "k")
    async with transaction(world.kernel.sessions) as session:
        shown = redemption.Presented(card.code, None)
        await redemption.redeem(session, world.clerk(), shown, 10_000, "till", signer, now())
    campaign = await world.campaign(segments=["once", "vip"])
    drop = await world.drop(campaign)
    answers = [await _claim(issuer, world, drop, viewer) for viewer in (new, once, vip)]
    assert answers == ["segment", "issued", "issued"]
    others = await world.campaign(segments=["new"])
    seen = await _preview(world, others)
    assert (seen.eligible, seen.reasons) == (2, {"segment": 1})
    push = await world.drop(others, "push")
    assert await drops.run_push(world.kernel.sessions, push) == 2
    assert (await _decided(world, push))[once.subject] == "segment"


async def test_doubt_is_refused_and_noted_where_the_campaign_says_so(world: World, issuer: Issuer) -> None:
    (honest,), (jumped,) = await world.viewers(1), await world.viewers(1, doubt="jumped")
    campaign = await world.campaign(doubt="refuse")
    drop = await world.drop(campaign)
    assert [await _claim(issuer, world, drop, viewer) for viewer in (honest, jumped)] == ["issued", "suspect"]
    assert await _decided(world, drop) == {honest.subject: "issued", jumped.subject: "suspect"}
    assert (await _preview(world, campaign)).reasons == {"limit_reached": 1, "suspect": 1}
    push = await world.drop(await world.campaign(doubt="refuse"), "push")
    assert await drops.run_push(world.kernel.sessions, push) == 1
    assert (await _decided(world, push))[jumped.subject] == "suspect"
    assert await _claim(issuer, world, await world.drop(await world.campaign()), jumped) == "issued"


# ---- amounts by distance, and hours at the till ----------------------------------------------------------------------


async def test_the_nearer_viewer_gets_more_and_the_till_knows(world: World, issuer: Issuer, signer: Signer) -> None:
    tiers = [{"within_m": 500, "amount_fen": 5000}, {"within_m": 1000, "amount_fen": 3000}]
    campaign = await world.campaign(distance_tiers=tiers)
    near, middle, far = [(await world.viewers(1, north_m=metres))[0] for metres in (100, 800, 2000)]
    drop = await world.drop(campaign)
    cards = [await issuer.claim(viewer, world.room, drop, "k") for viewer in (near, middle, far)]
    assert [card.terms for card in cards] == ["满100减50", "满100减30", "满100减20"]
    assert (await issuer.claim(near, world.room, drop, "k")).terms == "满100减50"
    assert await world.execute("SELECT amount_fen FROM coupons ORDER BY distance_band_m") == [(5000,), (3000,), (None,)]
    shown = [redemption.Presented(card.code, None) for card in cards]
    async with transaction(world.kernel.sessions) as session:
        looked = await redemption.look(session, world.clerk(), shown[1], 10_000, signer, now())
        used = await redemption.redeem(session, world.clerk(), shown[0], 10_000, "till", signer, now())
    assert (looked.terms, looked.discount_fen) == ("满100减30", 3000)
    assert (used.terms, used.discount_fen) == ("满100减50", 5000)
    await world.execute("UPDATE coupons SET amount_fen = 9999 WHERE amount_fen = 3000")
    async with world.kernel.sessions() as session:
        assert [finding.code for finding in (await ledger.audit(session)).findings] == ["coupon_amount"]
    await world.execute("UPDATE coupons SET amount_fen = 3000 WHERE amount_fen = 9999")


async def test_a_push_gives_amounts_by_distance(world: World) -> None:
    campaign = await world.campaign(distance_tiers=[{"within_m": 500, "amount_fen": 5000}])
    await world.viewers(1, north_m=100)
    await world.viewers(1, north_m=900)
    assert await drops.run_push(world.kernel.sessions, await world.drop(campaign, "push")) == 2
    assert await world.execute("SELECT amount_fen FROM coupons ORDER BY distance_band_m") == [(5000,), (None,)]


async def test_a_till_takes_it_in_its_hours_only(world: World, issuer: Issuer, signer: Signer) -> None:
    (viewer,) = await world.viewers(1)
    noon = datetime.now(SHANGHAI).replace(hour=12, minute=0, second=0, microsecond=0) + timedelta(days=1)
    campaign = await world.campaign(usable_from=noon.replace(hour=11).time(), usable_until=noon.replace(hour=14).time())
    card: CouponCard = await issuer.claim(viewer, world.room, await world.drop(campaign), "k")
    assert card.terms == "满100减20 限11:00–14:00"
    shown = redemption.Presented(card.code, None)
    async with transaction(world.kernel.sessions) as session:
        for attempt in (redemption.look, redemption.redeem):
            key = ("till",) if attempt is redemption.redeem else ()
            with pytest.raises(Refusal, match="outside_hours") as refused:
                await attempt(session, world.clerk(), shown, 10_000, *key, signer, noon.replace(hour=14))
            assert refused.value.fields == {"usable_from": "11:00", "usable_until": "14:00"}
        assert (await redemption.redeem(session, world.clerk(), shown, 10_000, "till", signer, noon)).discount_fen
        with pytest.raises(Refusal, match="already_redeemed"):
            await redemption.redeem(session, world.clerk(), shown, 10_000, "b", signer, noon.replace(hour=20))


# ---- the guide's drops -----------------------------------------------------------------------------------------------


async def test_a_guide_may_release_so_many_drops_a_day(world: World) -> None:
    await world.execute("UPDATE brands SET guide_drops_a_day = 2")
    campaign = await world.campaign()

    async def release(who: Principal) -> str:
        try:
            async with transaction(world.kernel.sessions) as session:
                await drops.open_drop(session, who, world.room, campaign, "claim", 1, 60, 0)
        except Refusal as refusal:
            return refusal.code
        return "released"

    answers = await asyncio.gather(*(release(world.guide) for _ in range(4)))
    assert sorted(answers) == ["drop_limit"] * 2 + ["released"] * 2
    assert await release(world.ops) == "released"
    await world.execute("UPDATE drops SET created_at = created_at - interval '1 day'")
    assert await release(world.guide) == "released"


async def test_a_guides_day_begins_at_the_brands_midnight(world: World) -> None:
    await world.execute("UPDATE brands SET guide_drops_a_day = 1")
    before = await world.drop(await world.campaign())
    midnight = now().astimezone(SHANGHAI).replace(hour=0, minute=0, second=0, microsecond=0)

    async def release_after(former: timedelta) -> str:
        created = "UPDATE drops SET created_at = :at WHERE id = :id"
        await world.execute(created, at=midnight + former, id=before)
        async with transaction(world.kernel.sessions) as session:
            try:
                await drops.open_drop(session, world.guide, world.room, await world.campaign(), "claim", 1, 60, 0)
            except Refusal as refusal:
                return refusal.code
            await session.rollback()
        return "released"

    assert await release_after(timedelta(0)) == "drop_limit"
    assert await release_after(-timedelta(seconds=1)) == "released"


async def test_drops_of_several_campaigns_at_once_are_no_way_round_it(world: World) -> None:
    """A drop locks its campaign: only those of several campaigns run side by side."""
    await world.execute("UPDATE brands SET guide_drops_a_day = 1")
    campaigns = [await world.campaign() for _ in range(4)]

    async def release(campaign: UUID) -> str:
        async with transaction(world.kernel.sessions) as session:
            try:
                await drops.open_drop(session, world.guide, world.room, campaign, "claim", 1, 60, 0)
            except Refusal as refusal:
                return refusal.code
            await asyncio.sleep(0.05)  # the others look meanwhile, if they can
        return "released"

    answers = await asyncio.gather(*map(release, campaigns))
    assert sorted(answers) == ["drop_limit"] * 3 + ["released"]
