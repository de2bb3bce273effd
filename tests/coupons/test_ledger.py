"""The audit finds every lie that is planted, and the sweep expires what is over."""

import asyncio
from datetime import timedelta

import pytest
from world import SIGNER_SEED, World

from coupons import drops, ledger, redemption
from coupons.codes import Signer
from coupons.issuing import Issuer
from coupons.ledger import AuditReport
from geo.catchments import Catchments
from kernel.clock import now
from kernel.ids import new_id
from kernel.postgres import transaction


@pytest.fixture
async def evening(world: World) -> World:
    """Five coupons pushed, two claimed, one redeemed, one redeemed and taken back."""
    campaign = await world.campaign(stock=50, store_quota=40)
    await world.viewers(5)
    pushed = await world.drop(campaign, "push", 20)
    assert await drops.run_push(world.kernel.sessions, pushed) == 5
    claimed = await world.drop(campaign, "claim", 20)
    clerk, signer = world.clerk(), Signer(SIGNER_SEED)
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        cards = [await issuer.claim(v, world.room, claimed, "one") for v in await world.viewers(2)]
    async with transaction(world.kernel.sessions) as session:
        for place, card in enumerate(cards):
            presented = redemption.Presented(card.code, None)
            used = await redemption.redeem(session, clerk, presented, 15_000, f"k{place}", signer, now())
        await redemption.reverse(session, clerk, used.id, now())
    return world


async def _audit(world: World) -> AuditReport:
    async with world.kernel.sessions() as session:
        return await ledger.audit(session)


async def test_an_honest_evening_is_clean(evening: World) -> None:
    report = await _audit(evening)
    assert report.findings == [] and report.ok
    assert report.totals == {"issued": 7, "standing": 6, "redeemed": 1, "expired": 0, "voided": 0}


async def test_an_empty_database_is_clean(world: World) -> None:
    report = await _audit(world)
    assert report.ok and report.outbox_waiting is None


async def test_what_the_relay_has_not_told_is_named_apart(evening: World) -> None:
    report = await _audit(evening)
    assert report.ok and report.outbox_waiting is not None
    waiting = await evening.scalar("SELECT count(*) FROM outbox WHERE published_at IS NULL")
    assert report.outbox_waiting.count == waiting > 0
    assert report.outbox_waiting.oldest_seconds is not None and report.outbox_waiting.oldest_seconds >= 0
    await evening.execute("UPDATE outbox SET published_at = now()")
    assert (await _audit(evening)).outbox_waiting is None


_ONE = "(SELECT id FROM coupons WHERE state = 'issued' ORDER BY id LIMIT 1)"
_USED = "(SELECT id FROM coupons WHERE state = 'redeemed')"
_LOOSE = "ALTER TABLE {0} DROP CONSTRAINT {1}"


@pytest.mark.parametrize(
    ("lies", "found"),
    [
        (["UPDATE campaigns SET issued = issued - 1"], {"campaign_issued"}),
        ([_LOOSE.format("campaigns", "ck_campaigns_stock"), "UPDATE campaigns SET stock = 6"], {"campaign_stock"}),
        (["UPDATE drops SET issued = issued + 1 WHERE mode = 'push'"], {"drop_issued"}),
        (
            [_LOOSE.format("drops", "ck_drops_stock"), "UPDATE drops SET stock = 4 WHERE mode = 'push'"],
            {"drop_stock"},
        ),
        (["UPDATE campaign_stores SET issued = issued + 1"], {"store_issued"}),
        (["DELETE FROM campaign_stores"], {"store_issued"}),
        (
            [_LOOSE.format("campaign_stores", "ck_campaign_stores_quota"), "UPDATE campaign_stores SET quota = 1"],
            {"store_quota"},
        ),
        ([f"UPDATE coupons SET n = 2 WHERE id = {_ONE}"], {"viewer_limit"}),
        (["UPDATE coupons SET room_id = :other"], {"coupon_parents"}),
        ([f"UPDATE coupons SET code = 'O' || substr(code, 2) WHERE id = {_ONE}"], {"coupon_code"}),
        (
            [
                "UPDATE coupons SET claim_key = 'x', viewer_id = :other, n = k.n FROM"
                " (SELECT id, row_number() OVER () AS n FROM coupons WHERE claim_key IS NULL LIMIT 2) k"
                " WHERE coupons.id = k.id"
            ],
            {"claim_twice", "viewer_limit", "drop_viewers"},
        ),
        ([f"DELETE FROM ledger WHERE coupon_id = {_ONE}"], {"ledger_state"}),
        ([f"INSERT INTO ledger (coupon_id, transition) VALUES ({_ONE}, 'issue')"], {"ledger_order"}),
        (
            [f"INSERT INTO ledger (coupon_id, transition) VALUES ({_ONE}, 'expire')"],
            {"ledger_state"},
        ),
        (
            [f"INSERT INTO ledger (coupon_id, transition) VALUES ({_ONE}, 'expire'), ({_ONE}, 'redeem')"],
            {"ledger_order", "ledger_state", "ledger_redemptions"},
        ),
        ([f"UPDATE coupons SET state = 'expired' WHERE id = {_ONE}"], {"ledger_state"}),
        (
            [f"UPDATE coupons SET state = 'issued', redeemed_at = NULL WHERE id = {_USED}"],
            {"ledger_state", "redeemed_once"},
        ),
        (["DELETE FROM redemptions WHERE reversed_at IS NULL"], {"ledger_redemptions", "redeemed_once"}),
        (["UPDATE redemptions SET reversed_at = NULL"], {"ledger_redemptions", "redeemed_once"}),
        (
            [
                "DROP INDEX uq_redemptions_standing",
                "INSERT INTO redemptions (id, coupon_id, store_id, clerk_id, key, at)"
                " SELECT :other, coupon_id, store_id, clerk_id, 'again', at FROM redemptions WHERE reversed_at IS NULL",
            ],
            {"ledger_redemptions", "redeemed_once"},
        ),
        (["UPDATE coupons SET store_id = :store", "UPDATE campaign_stores SET store_id = :store"], {"redeemed_store"}),
        (["DELETE FROM drop_viewers"], {"drop_viewers"}),
        (
            ["INSERT INTO drop_viewers (drop_id, viewer_id, outcome) SELECT id, :other, 'issued' FROM drops"],
            {"drop_viewers"},
        ),
    ],
)
async def test_a_planted_lie_is_found(evening: World, lies: list[str], found: set[str]) -> None:
    other = new_id()
    named = {"store": await evening.store("S9"), "other": other}
    await evening.execute(
        "INSERT INTO rooms (id, brand_id, guide_id, title) VALUES (:id, 'acme', :guide, '另')",
        id=other,
        guide=evening.guide.subject,
    )
    for lie in lies:
        await evening.execute(lie, **{name: value for name, value in named.items() if f":{name}" in lie})
    report = await _audit(evening)
    assert {finding.code for finding in report.findings} == found
    assert not report.ok
    assert all(finding.count and finding.examples for finding in report.findings)


async def test_coupons_expire_in_chunks_and_never_twice(evening: World) -> None:
    sessions = evening.kernel.sessions
    assert await ledger.expire_due(sessions, now()) == 0
    later = now() + timedelta(days=30)
    both = await asyncio.gather(*(ledger.expire_due(sessions, later, 2) for _ in range(2)))
    assert sum(both) == 4
    assert await ledger.expire_due(sessions, later, 10) == 2
    assert await ledger.expire_due(sessions, later, 10) == 0
    report = await _audit(evening)
    assert report.findings == []
    assert report.totals["expired"] == 6 and report.totals["redeemed"] == 1


async def test_the_audit_is_clean_at_any_moment_while_coupons_are_claimed(world: World) -> None:
    drop = await world.drop(await world.campaign(), stock=60)
    viewers = await world.viewers(60)
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        claims = asyncio.gather(*(issuer.claim(v, world.room, drop, "one") for v in viewers))
        while not claims.done():
            assert (await _audit(world)).findings == []
        await claims
    assert (await _audit(world)).totals["issued"] == 60
