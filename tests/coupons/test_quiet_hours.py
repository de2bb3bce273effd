"""Coupons given in quiet hours are held until they end, and nothing of them is lost, against a real database."""

import asyncio
from datetime import datetime, time, timedelta
from uuid import UUID

import msgspec
import pytest
from sqlalchemy import text
from world import BRAND, SIGNER_SEED, ZONE, World

from app.worker import run
from coupons import codes, drops, foresight, holding, privacy, reviews, voiding, wallet
from coupons.cards import CouponCard, Issued
from coupons.codes import Signer
from coupons.issuing import Issuer
from kernel.clock import milliseconds, now
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.ids import new_id
from kernel.postgres import transaction


def _clock(offset: timedelta) -> time:
    return (now() + offset).astimezone(ZONE).time().replace(microsecond=0)


async def _night(world: World, *, claims: bool = False) -> datetime:
    """It has been quiet for an hour, and will be for another one; returns until when."""
    begins, ends = _clock(timedelta(hours=-1)), _clock(timedelta(hours=1))
    await world.execute(
        "UPDATE brands SET quiet_from = :begin, quiet_until = :end, quiet_claims = :claims WHERE id = :brand",
        begin=begins, end=ends, claims=claims, brand=BRAND,
    )  # fmt: skip
    return (now() + timedelta(hours=1)).replace(microsecond=0)


async def _push(world: World, stock: int = 10, **campaign: object) -> UUID:
    """A push drop, released and granted."""
    drop = await world.drop(await world.campaign(**campaign), "push", stock)
    await drops.run_push(world.kernel.sessions, drop)
    return drop


async def _claim(issuer: Issuer, world: World, drop: UUID, viewer: Principal) -> CouponCard | str:
    try:
        return await issuer.claim(viewer, world.room, drop, str(new_id()))
    except Refusal as refusal:
        return refusal.code


async def _told(world: World) -> dict[UUID, CouponCard]:
    """Who was told of which coupon."""
    rows = await world.execute("SELECT payload FROM outbox WHERE topic = 'coupons.issued' ORDER BY id")
    grants = [grant for row in rows for grant in msgspec.json.decode(bytes(row.payload), type=Issued).grants]
    assert len({grant.coupon.id for grant in grants}) == len(grants), "told twice"
    return {grant.viewer: grant.coupon for grant in grants}


async def _wallet(world: World, viewer: Principal, at: datetime) -> list[CouponCard]:
    async with world.kernel.sessions() as session:
        usable = [held.card for held in await wallet.held(session, viewer, at)]
        assert [card for card, _ in await wallet.coupons_of(session, viewer, at)] == usable
        return usable


async def test_what_a_push_gives_at_night_comes_in_the_morning_though_the_room_is_over(world: World) -> None:
    until = await _night(world)
    near, far = await world.viewers(1), await world.viewers(1, north_m=5_000)
    drop = await _push(world, valid_days=1)
    assert await world.execute("SELECT state, issued, matched_at IS NOT NULL FROM drops") == [("open", 1, True)]
    assert await _told(world) == {}
    assert await _wallet(world, near[0], now()) == []

    await world.execute("UPDATE rooms SET state = 'ended', ended_at = now()")
    await world.execute("DELETE FROM locations")  # everybody went to bed
    await drops.close_due(world.kernel.sessions, now())
    assert await holding.tell_due(world.kernel.sessions, until - timedelta(minutes=1)) == 0
    morning = until + timedelta(seconds=5)
    assert await holding.tell_due(world.kernel.sessions, morning) == 1
    assert await holding.tell_due(world.kernel.sessions, morning) == 0

    (card,) = await _wallet(world, near[0], morning)
    assert await _told(world) == {near[0].subject: card}
    assert card.drop == drop
    assert card.valid_from is not None
    assert abs(card.valid_from - milliseconds(until)) < 2_000
    # A day of validity is the day after the morning's, not after the evening's.
    begins = datetime.fromtimestamp(card.valid_from / 1000, ZONE)
    day_after = datetime.combine(begins.date() + timedelta(days=2), time(), ZONE)
    assert card.valid_until == milliseconds(day_after)
    assert await _wallet(world, far[0], morning) == []


async def test_a_coupon_that_is_held_is_nowhere_to_be_seen_by_its_owner(world: World) -> None:
    until = await _night(world)
    (viewer,) = await world.viewers(1)
    await _push(world)
    coupon = await world.scalar("SELECT id FROM coupons")
    signer = Signer(SIGNER_SEED)
    async with world.kernel.sessions() as session:
        for look in (
            wallet.coupon_of(session, viewer, coupon, now()),
            wallet.coupon_qr(session, viewer, coupon, signer, now()),
            wallet.wechat_card(session, viewer, coupon, None, now()),
            wallet.history(session, viewer, coupon, now()),
        ):
            with pytest.raises(Refusal) as refused:
                await look
            assert refused.value.code == "not_found"
        assert (await wallet.coupon_of(session, viewer, coupon, until + timedelta(seconds=5))).id == coupon


async def test_what_is_held_is_taken_from_the_stock_and_nobody_else_gets_it(world: World, issuer: Issuer) -> None:
    until = await _night(world)
    near, late = [(await world.viewers(1, north_m=metres))[0] for metres in (0, 100)]
    campaign = await world.campaign(stock=1)
    push, claim = await world.drop(campaign, "push", 1), await world.drop(campaign, stock=1)
    assert await drops.run_push(world.kernel.sessions, push) == 1
    assert await _claim(issuer, world, claim, late) == "sold_out"
    # The one who has it does not know yet, and hears of it when asking for another.
    assert await _claim(issuer, world, claim, near) == "quiet_hours"
    await holding.tell_due(world.kernel.sessions, until + timedelta(seconds=5))
    assert await _claim(issuer, world, claim, near) == "limit_reached"


async def test_who_has_one_that_is_held_hears_so_when_claiming_of_an_open_drop(world: World, issuer: Issuer) -> None:
    await _night(world)
    (viewer,) = await world.viewers(1)
    campaign = await world.campaign()
    await drops.run_push(world.kernel.sessions, await world.drop(campaign, "push"))
    assert await _claim(issuer, world, await world.drop(campaign), viewer) == "quiet_hours"


async def test_whoever_comes_near_at_night_gets_theirs_in_the_morning_as_well(world: World) -> None:
    drop = await _push(world)  # by day, and nobody was there
    until = await _night(world)
    (viewer,) = await world.viewers(1)
    assert await drops.grant_arrivals(world.kernel.sessions, world.room, [viewer.subject]) == 1
    assert await _told(world) == {}
    await holding.tell_due(world.kernel.sessions, until + timedelta(seconds=5))
    assert {card.drop for card in (await _told(world)).values()} == {drop}


async def test_two_workers_tell_each_owner_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "CHUNK", 7)
    until = await _night(world)
    viewers = await world.viewers(40)
    await _push(world, stock=100, per_viewer=2)
    await _push(world, stock=100)  # another drop: two for each of them

    async def work() -> int:
        told = 0
        while some := await holding.tell_due(world.kernel.sessions, until + timedelta(seconds=5)):
            told += some
        return told

    assert sum(await asyncio.gather(work(), work())) == 80
    assert (await _told(world)).keys() == {viewer.subject for viewer in viewers}


async def test_a_coupon_that_ended_at_night_is_spoken_of_to_nobody(world: World) -> None:
    until = await _night(world)
    voided, erased, kept = await world.viewers(3)
    await _push(world)
    code = await world.scalar("SELECT code FROM coupons WHERE viewer_id = :v", v=voided.subject)
    async with transaction(world.kernel.sessions) as session:
        await voiding.void(session, world.ops, codes.display(code), now())
        await privacy.erase(session, erased.subject, new_id(), now())
    await holding.tell_due(world.kernel.sessions, until + timedelta(seconds=5))
    assert (await _told(world)).keys() == {kept.subject}
    assert await world.scalar("SELECT count(*) FROM coupons WHERE held_until IS NOT NULL") == 0


async def test_a_push_released_at_night_opens_at_once_and_says_until_when_it_holds(world: World) -> None:
    until = await _night(world)
    async with transaction(world.kernel.sessions) as session:
        push, claim = [
            await drops.open_drop(session, world.guide, world.room, await world.campaign(), mode, 1, 300, 0)
            for mode in ("push", "claim")
        ]
    assert push.ends_at - push.opens_at == claim.ends_at - claim.opens_at == 300_000
    assert push.opens_at - claim.opens_at < 60_000
    assert push.held_until is not None
    assert abs(push.held_until - milliseconds(until)) < 2_000
    assert claim.held_until is None
    async with world.kernel.sessions() as session:
        listed = await drops.list_drops(session, world.guide, world.room)
        assert {view.id: view.held_until for view in listed} == {push.id: push.held_until, claim.id: None}
        seen = await foresight.preview(session, world.guide, world.room, push.campaign)
    assert seen.held_until == push.held_until


async def test_nothing_is_given_at_night_that_would_be_over_in_the_morning(world: World, issuer: Issuer) -> None:
    await _night(world, claims=True)
    (viewer,) = await world.viewers(1)
    campaign = await world.campaign(valid_until=now() + timedelta(minutes=30))
    with pytest.raises(Refusal) as refused:
        async with transaction(world.kernel.sessions) as session:
            await drops.open_drop(session, world.guide, world.room, campaign, "push", 1, 300, 0)
    assert refused.value.code == "ended"
    assert await drops.run_push(world.kernel.sessions, await world.drop(campaign, "push")) == 0
    assert await _claim(issuer, world, await world.drop(campaign), viewer) == "ended"
    await world.execute("UPDATE brands SET quiet_claims = false")
    assert isinstance(await _claim(issuer, world, await world.drop(campaign), viewer), CouponCard)


async def test_claims_are_answered_at_night_and_hold_at_once_unless_the_brand_says_otherwise(
    world: World, issuer: Issuer
) -> None:
    await _night(world)
    first, second = await world.viewers(2)
    drop = await world.drop(await world.campaign())
    at_once = await _claim(issuer, world, drop, first)
    until = await _night(world, claims=True)
    later = await _claim(issuer, world, drop, second)
    assert isinstance(at_once, CouponCard)
    assert isinstance(later, CouponCard)
    assert at_once.valid_from is not None
    assert at_once.valid_from <= milliseconds(now())
    assert later.valid_from is not None
    assert abs(later.valid_from - milliseconds(until)) < 2_000
    assert await _wallet(world, second, now()) == [later]
    assert await _told(world) == {first.subject: at_once, second.subject: later}


async def test_a_review_of_the_night_waits_for_the_morning_and_says_nothing_before(world: World) -> None:
    until = await _night(world)
    (viewer,) = await world.viewers(1, doubt="jumped")
    await _push(world, doubt="review")
    async with world.kernel.sessions() as session:
        (review,) = await reviews.listed(session, world.ops, settled=False, after=None, limit=9)
    assert review.expires_at - until > timedelta(minutes=119)
    async with transaction(world.kernel.sessions) as session:
        granted = await reviews.approve(session, world.ops, review.id)
    assert granted.coupon is not None
    notices = "SELECT payload FROM outbox WHERE topic = 'coupons.reviewed'"
    assert await world.execute(notices) == []
    async with world.kernel.sessions() as session:
        (mine,) = await reviews.mine(session, viewer, 9)
    assert (mine.state, mine.coupon) == ("open", None)

    await holding.tell_due(world.kernel.sessions, until + timedelta(seconds=5))
    assert (await _told(world))[viewer.subject].id == granted.coupon
    ((payload,),) = await world.execute(notices)
    (told,) = msgspec.json.decode(bytes(payload), type=reviews.Reviewed).notices
    assert (told.viewer, told.review.state, told.review.coupon) == (viewer.subject, "granted", granted.coupon)
    async with world.kernel.sessions() as session:
        (mine,) = await reviews.mine(session, viewer, 9)
    assert (mine.state, mine.coupon) == ("granted", granted.coupon)


async def test_a_running_worker_holds_and_tells(world: World) -> None:
    await _night(world)
    (viewer,) = await world.viewers(1)
    drop = await world.drop(await world.campaign(), "push")
    stopping = asyncio.Event()
    working = asyncio.create_task(run(world.kernel, stopping))
    try:
        async with asyncio.timeout(60):
            while not await world.scalar("SELECT count(*) FROM coupons WHERE drop_id = :drop", drop=drop):
                await asyncio.sleep(0.05)
            assert await _told(world) == {}
            async with transaction(world.kernel.sessions) as session:  # the morning has come
                await session.execute(text("UPDATE coupons SET held_until = now()"))
            while not await _told(world):
                await asyncio.sleep(0.05)
        assert (await _told(world)).keys() == {viewer.subject}
    finally:
        stopping.set()
        await working
