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
