"""Coupons under review: filed for doubtful viewers, decided by ops, expired by the worker; never one too many."""

import asyncio
from datetime import timedelta
from uuid import UUID

import msgspec
import pytest
from sqlalchemy import text
from world import World

from coupons import drops, foresight, ledger, reviews, rules
from coupons.cards import CouponCard
from coupons.issuing import Issuer
from kernel.clock import now
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.ids import BrandId, new_id
from kernel.postgres import transaction


async def _claim(issuer: Issuer, world: World, drop: UUID, viewer: Principal, key: str = "k") -> CouponCard | str:
    try:
        return await issuer.claim(viewer, world.room, drop, key)
    except Refusal as refusal:
        return refusal.code


async def _open(world: World) -> list[reviews.Review]:
    async with world.kernel.sessions() as session:
        return await reviews.listed(session, world.ops, settled=False, after=None, limit=50)


async def _approve(world: World, review: UUID, who: Principal | None = None) -> reviews.Review | str:
    try:
        async with transaction(world.kernel.sessions) as session:
            return await reviews.approve(session, who or world.ops, review)
    except Refusal as refusal:
        return refusal.code


async def _decline(world: World, review: UUID) -> reviews.Review | str:
    try:
        async with transaction(world.kernel.sessions) as session:
            return await reviews.decline(session, world.ops, review)
    except Refusal as refusal:
        return refusal.code


async def _notices(world: World) -> list[tuple[UUID, str]]:
    rows = await world.execute("SELECT payload FROM outbox WHERE topic = 'coupons.reviewed' ORDER BY id")
    events = [msgspec.json.decode(bytes(row.payload), type=reviews.Reviewed) for row in rows]
    return [(told.viewer, told.review.state) for event in events for told in event.notices]


async def test_a_review_may_be_allowed_when_the_store_has_gone_home(world: World, issuer: Issuer) -> None:
    await world.execute("UPDATE stores SET opens = '00:00', closes = '00:00'")
    drop = await world.drop(await world.campaign(doubt="review", only_open=True), stock=5)
    (doubtful,) = await world.viewers(1, doubt="frozen+shared")
    assert await _claim(issuer, world, drop, doubtful) == "under_review"
    await world.shut("S1")
    (other,) = await world.viewers(1)
    assert await _claim(issuer, world, drop, other) == "out_of_range"
    (review,) = await _open(world)
    granted = await _approve(world, review.id)
    assert isinstance(granted, reviews.Review)
    assert granted.state == "granted"


async def test_a_doubtful_claim_waits_and_its_retry_finds_what_was_approved(world: World, issuer: Issuer) -> None:
    (honest,), (doubtful,) = await world.viewers(1), await world.viewers(1, doubt="frozen+shared")
    drop = await world.drop(await world.campaign(doubt="review"), stock=5)
    assert isinstance(await _claim(issuer, world, drop, honest), CouponCard)
    assert await _claim(issuer, world, drop, doubtful) == "under_review"
    # A good fix meanwhile, another id, and once more: it stays one review, and a decision is awaited.
    await world.locate(doubtful, 0)
    assert await _claim(issuer, world, drop, doubtful, "another") == "under_review"
    (review,) = await _open(world)
    assert [(sign.sign, sign.strong) for sign in review.signs] == [("frozen", False), ("shared", False)]
    assert (review.viewer, review.store, review.state) == (doubtful.subject, "S1", "open")
    assert await world.scalar("SELECT count(*) FROM coupons") == 1

    granted = await _approve(world, review.id)
    assert isinstance(granted, reviews.Review)
    assert (granted.state, granted.decided_by) == ("granted", world.ops.subject)
    assert await _approve(world, review.id) == granted
    assert await _decline(world, review.id) == "review_settled"
    card = await _claim(issuer, world, drop, doubtful)
    assert isinstance(card, CouponCard)
    assert card.id == granted.coupon
    actors = await world.execute("SELECT actor FROM ledger WHERE transition = 'issue' ORDER BY id")
    assert [row.actor for row in actors] == [None, world.ops.subject]
    assert await _notices(world) == [(doubtful.subject, "open"), (doubtful.subject, "granted")]
    outcomes = await world.execute("SELECT outcome FROM decisions")
    assert [row.outcome for row in outcomes] == ["issued", "issued"]
    async with world.kernel.sessions() as session:
        (mine,) = await reviews.mine(session, doubtful, 10)
    assert (mine.state, mine.coupon, mine.until) == ("granted", card.id, None)


async def test_a_claim_retried_after_the_drop_hears_what_it_heard_while_its_review_is_open(
    world: World, issuer: Issuer
) -> None:
    (doubtful,), (stranger,) = await world.viewers(1, doubt="jumped"), await world.viewers(1)
    drop = await world.drop(await world.campaign(doubt="review"))
    assert await _claim(issuer, world, drop, doubtful) == "under_review"
    over = {
        "UPDATE campaigns SET state = 'paused'": "campaign_state",
        "UPDATE drops SET ends_at = now()": "ended",
        "UPDATE drops SET state = 'ended', end_reason = 'sold_out'": "sold_out",
        "UPDATE drops SET end_reason = 'stopped'": "ended",
    }
    for change, refused in over.items():
        await world.execute(change)
        assert await _claim(issuer, world, drop, stranger) == refused
        assert await _claim(issuer, world, drop, doubtful) == "under_review", refused
    await world.execute("UPDATE campaigns SET state = 'running'")
    (review,) = await _open(world)
    granted = await _approve(world, review.id)
    assert isinstance(granted, reviews.Review)
    card = await _claim(issuer, world, drop, doubtful)
    assert isinstance(card, CouponCard)
    assert card.id == granted.coupon


async def test_a_claim_retried_after_the_drop_hears_that_it_was_declined(world: World, issuer: Issuer) -> None:
    (doubtful,) = await world.viewers(1, doubt="jumped")
    drop = await world.drop(await world.campaign(doubt="review"))
    assert await _claim(issuer, world, drop, doubtful) == "under_review"
    async with transaction(world.kernel.sessions) as session:
        await drops.end_drop(session, world.ops, drop)
    (review,) = await _open(world)
    await _decline(world, review.id)
    assert await _claim(issuer, world, drop, doubtful) == "suspect"


async def test_what_is_declined_stays_so_whatever_the_viewer_sends(world: World, issuer: Issuer) -> None:
    (doubtful,) = await world.viewers(1, doubt="jumped")
    drop = await world.drop(await world.campaign(doubt="review"))
    assert await _claim(issuer, world, drop, doubtful) == "under_review"
    (review,) = await _open(world)
    declined = await _decline(world, review.id)
    assert isinstance(declined, reviews.Review)
    assert await _decline(world, review.id) == declined
    assert await _approve(world, review.id) == "review_settled"
    await world.locate(doubtful, 0)
    assert await _claim(issuer, world, drop, doubtful, "again") == "suspect"
    assert await _notices(world) == [(doubtful.subject, "open"), (doubtful.subject, "declined")]
    assert await world.scalar("SELECT reason FROM drop_viewers") == "suspect"
    assert await _open(world) == []
    # Another drop is another matter.
    assert isinstance(
        await _claim(issuer, world, await world.drop(await world.campaign(doubt="review")), doubtful), CouponCard
    )


async def test_a_push_and_late_arrivals_are_reviewed_alike_and_the_preview_says_so(
    world: World, issuer: Issuer
) -> None:
    await world.viewers(2)
    (doubtful,) = await world.viewers(1, doubt="jumped")
    campaign = await world.campaign(doubt="review", store_quota=4)
    async with world.kernel.sessions() as session:
        seen = await foresight.preview(session, world.ops, world.room, campaign)
    assert (seen.eligible, seen.reasons) == (2, {"under_review": 1})
    drop = await world.drop(campaign, "push", stock=4)
    assert await drops.run_push(world.kernel.sessions, drop) == 2
    (late,) = await world.viewers(1, doubt="jumped")
    assert await drops.grant_arrivals(world.kernel.sessions, world.room, [late.subject]) == 0
    assert await drops.run_push(world.kernel.sessions, drop) == 0  # decided about: not matched again
    waiting = await _open(world)
    assert [review.viewer for review in waiting] == [doubtful.subject, late.subject]
    # Also after the drop: whoever was in time is not late because ops are.
    async with transaction(world.kernel.sessions) as session:
        await drops.end_drop(session, world.ops, drop)
    for review in waiting:
        assert isinstance(await _approve(world, review.id), reviews.Review)
    assert await world.scalar("SELECT issued FROM drops WHERE id = :drop", drop=drop) == 4


async def test_a_review_holds_no_stock_and_approval_never_gives_one_too_many(world: World, issuer: Issuer) -> None:
    doubtful = await world.viewers(3, doubt="jumped")
    drop = await world.drop(await world.campaign(doubt="review", stock=2), stock=2)
    answers = await asyncio.gather(*(_claim(issuer, world, drop, viewer) for viewer in doubtful))
    assert answers == ["under_review"] * 3
    (honest,) = await world.viewers(1)
    assert isinstance(await _claim(issuer, world, drop, honest), CouponCard)
    decided = await asyncio.gather(*(_approve(world, review.id) for review in await _open(world)))
    assert sorted(one.state if isinstance(one, reviews.Review) else one for one in decided) == [
        "granted", "sold_out", "sold_out"
    ]  # fmt: skip
    assert await world.scalar("SELECT end_reason FROM drops") == "sold_out"
    assert [review.state for review in await _open(world)] == ["open", "open"]


ASKED_AGAIN = {
    "UPDATE campaigns SET state = 'paused'": "campaign_state",
    "UPDATE campaigns SET valid_until = now()": "ended",
    "UPDATE campaigns SET per_day = 1, day_issued = 1, day = CAST(now() AT TIME ZONE 'Asia/Shanghai' AS date)": (
        "sold_out_today"
    ),
    "UPDATE campaigns SET min_tier = 2": "tier",
    "UPDATE stores SET closed_until = now() + interval '1 day'": "out_of_range",
    "INSERT INTO campaign_stores (campaign_id, store_id, quota) SELECT c.id, s.id, 0 FROM campaigns c, stores s": (
        "sold_out"
    ),
    "UPDATE reviews SET expires_at = now()": "review_settled",
}


async def test_approval_asks_again_what_a_claim_would_be_asked(world: World, issuer: Issuer) -> None:
    (doubtful,) = await world.viewers(1, doubt="jumped")
    await _claim(issuer, world, await world.drop(await world.campaign(doubt="review")), doubtful)
    (review,) = await _open(world)
    stranger = Principal(BrandId("other"), new_id(), world.ops.role, "x", now())
    assert await _approve(world, review.id, stranger) == "not_found"
    for change, refused in ASKED_AGAIN.items():
        async with world.kernel.sessions() as session:  # never committed
            await session.execute(text(change))
            with pytest.raises(Refusal, match=refused):
                await reviews.approve(session, world.ops, review.id)
    assert await world.scalar("SELECT state FROM reviews") == "open"
    assert isinstance(await _approve(world, review.id), reviews.Review)


async def test_two_who_decide_at_once_and_two_sweeps_settle_it_once(world: World, issuer: Issuer) -> None:
    doubtful = await world.viewers(4, doubt="jumped")
    drop = await world.drop(await world.campaign(doubt="review"))
    for viewer in doubtful:
        await _claim(issuer, world, drop, viewer)
    first, *rest = await _open(world)
    both = await asyncio.gather(_approve(world, first.id), _decline(world, first.id))
    assert sum(isinstance(one, reviews.Review) for one in both) == 1
    assert "review_settled" in both
    late = now() + rules.REVIEWABLE + timedelta(seconds=1)
    assert sum(await asyncio.gather(*(reviews.expire_due(world.kernel.sessions, late) for _ in range(2)))) == 3
    assert [state for _, state in await _notices(world)].count("expired") == 3
    assert [await _decline(world, review.id) for review in rest] == ["review_settled"] * 3
    async with world.kernel.sessions() as session:
        settled = await reviews.listed(session, world.ops, settled=True, after=None, limit=50)
    assert len(settled) == 4


async def test_the_holdout_is_not_put_under_review(world: World, issuer: Issuer) -> None:
    campaign = await world.campaign(doubt="review", holdout_percent=50)
    viewers = await world.viewers(12, doubt="jumped")
    drop = await world.drop(campaign, stock=20)
    limits = rules.Limits(campaign, 1, 0, 50)
    for viewer in viewers:
        expected = "held_out" if rules.held_out(limits, viewer.subject) else "under_review"
        assert await _claim(issuer, world, drop, viewer) == expected


def test_a_blurred_distance_has_the_same_band_and_amount() -> None:
    tiers = [(300, 5000), (1200, 3000), (60_000, 100)]
    for metres in (0.0, 299.9, 300.0, 300.1, 500.0, 1199.0, 1201.0, 49_000.0, 60_000.5, 99_999.0, 250_000.0):
        blurred = rules.blurred(metres, tiers)
        assert len(set(rules.distance_bands([blurred, metres]))) == 1
        assert rules.amount_at(blurred, tiers, None) == rules.amount_at(metres, tiers, None)
    assert rules.blurred(120, []) == 500


LIES = {
    "UPDATE ledger SET actor = NULL": "review_granted",
    "UPDATE reviews SET coupon_id = drop_id": "review_granted",
    "UPDATE reviews SET state = 'declined', coupon_id = NULL": "review_passed_by",
    "UPDATE reviews SET signs = ARRAY['frozen']": "review_signs",
}


async def test_the_audit_finds_a_coupon_that_nobody_granted(world: World, issuer: Issuer) -> None:
    (doubtful,) = await world.viewers(1, doubt="jumped")
    await _claim(issuer, world, await world.drop(await world.campaign(doubt="review")), doubtful)
    (review,) = await _open(world)
    await _approve(world, review.id)
    for lie, found in LIES.items():
        async with world.kernel.sessions() as session:  # never committed
            await session.execute(text(lie))
            assert {finding.code for finding in (await ledger.audit(session)).findings} == {found}
