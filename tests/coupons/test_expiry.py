"""Coupons that expire unused may be given again: exactly those, and never more than the stock."""

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest
from world import World

from coupons import campaigns, ledger
from coupons.issuing import Issuer
from coupons.push import run_push
from geo.catchments import Catchments
from kernel.clock import now
from kernel.errors import Refusal
from kernel.postgres import transaction


async def audited(world: World) -> set[str]:
    async with world.kernel.sessions() as session:
        return {finding.code for finding in (await ledger.audit(session)).findings}


async def make_due(world: World, campaign: UUID, n: int | None = None) -> None:
    """The oldest ``n`` issued coupons of a campaign are over, and no till can tell any more that it used one."""
    await world.execute(
        "UPDATE coupons SET valid_until = now() - interval '25 hours' WHERE id IN"
        " (SELECT id FROM coupons WHERE campaign_id = :campaign AND state = 'issued' ORDER BY id LIMIT :n)",
        campaign=campaign,
        n=n,
    )


async def counters(world: World, campaign: UUID) -> list[tuple[int, int, int]]:
    """Stock, issued, returned of the campaign; then quota, issued, returned of its stores."""
    rows = await world.execute("SELECT stock, issued, returned FROM campaigns WHERE id = :id", id=campaign)
    rows += await world.execute(
        "SELECT quota, issued, returned FROM campaign_stores WHERE campaign_id = :id ORDER BY store_id", id=campaign
    )
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("returns", [True, False])
async def test_what_expired_can_be_given_again_if_the_campaign_says_so(world: World, returns: bool) -> None:
    campaign = await world.campaign(stock=3, store_quota=3, return_expired=returns)
    await world.viewers(3)
    assert await run_push(world.kernel.sessions, await world.drop(campaign, "push", 3)) == 3
    assert await counters(world, campaign) == [(3, 3, 0), (3, 3, 0)]
    await make_due(world, campaign, 2)
    assert await ledger.expire_due(world.kernel.sessions, now()) == 2
    assert await counters(world, campaign) == [(5, 3, 2) if returns else (3, 3, 0)] * 2
    assert await audited(world) == set()

    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        drop = await world.drop(campaign, "claim", 3)
        said = await asyncio.gather(
            *(issuer.claim(v, world.room, drop, "late") for v in await world.viewers(4)), return_exceptions=True
        )
    refusals = [each.code for each in said if isinstance(each, Refusal)]
    assert len(refusals) == (2 if returns else 4) and set(refusals) <= {"sold_out", "out_of_range"}
    assert await audited(world) == set()
    assert await counters(world, campaign) == [(5, 5, 2) if returns else (3, 3, 0)] * 2


async def test_sweeps_and_claims_of_the_same_campaigns_do_not_block_each_other(world: World) -> None:
    """Two sweeps over two campaigns while both are claimed: nobody waits in a circle, and the books agree."""
    both = [await world.campaign(stock=60, store_quota=60, return_expired=True) for _ in range(2)]
    await world.viewers(40)
    for campaign in both:
        await run_push(world.kernel.sessions, await world.drop(campaign, "push", 40))
        await make_due(world, campaign)
    drops = [await world.drop(campaign, "claim", 60) for campaign in both]
    viewers = await world.viewers(30)

    async def sweep() -> int:
        swept = 0
        while done := await ledger.expire_due(world.kernel.sessions, now(), 7):
            swept += done
        return swept

    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        one, two, *cards = await asyncio.gather(
            sweep(), sweep(), *(issuer.claim(v, world.room, drop, "k") for v in viewers for drop in drops),
            return_exceptions=True,
        )  # fmt: skip
    assert isinstance(one, int) and isinstance(two, int) and one + two == 80
    assert {each.code for each in cards if isinstance(each, Refusal)} <= {"sold_out"}
    assert not [each for each in cards if isinstance(each, Exception) and not isinstance(each, Refusal)]
    for campaign in both:
        (stock, issued, returned), *_ = await counters(world, campaign)
        assert (stock, returned) == (100, 40) and issued <= stock
    assert await audited(world) == set()


async def test_a_budget_that_changed_through_expiry_is_told_to_whoever_edits_it(world: World) -> None:
    campaign = await world.campaign(stock=10, return_expired=True)
    await world.viewers(1)
    await run_push(world.kernel.sessions, await world.drop(campaign, "push", 5))
    await make_due(world, campaign)
    await ledger.expire_due(world.kernel.sessions, now() + timedelta(seconds=1))
    with pytest.raises(Refusal) as refused:
        async with transaction(world.kernel.sessions) as session:
            await campaigns.change_stock(session, world.ops, campaign, 10, 20)
    assert refused.value.code == "budget_conflict" and refused.value.fields["stock"] == 11


async def test_what_a_till_may_still_tell_of_is_not_given_again(world: World) -> None:
    campaign, kept = await world.campaign(return_expired=True), await world.campaign()
    await world.viewers(1)
    for each in (campaign, kept):
        await run_push(world.kernel.sessions, await world.drop(each, "push", 1))
    await world.execute("UPDATE coupons SET valid_until = now() - interval '23 hours'")
    assert await ledger.expire_due(world.kernel.sessions, now()) == 1
    assert (await counters(world, campaign))[0][2] == 0
    assert await ledger.expire_due(world.kernel.sessions, now() + timedelta(hours=2)) == 1
    assert (await counters(world, campaign))[0][2] == 1
    assert await audited(world) == set()


@pytest.mark.parametrize("table", ["campaigns", "campaign_stores"])
async def test_a_counter_of_returns_that_lies_is_found(world: World, table: str) -> None:
    campaign = await world.campaign(return_expired=True, store_quota=5)
    await world.viewers(2)
    await run_push(world.kernel.sessions, await world.drop(campaign, "push", 5))
    await make_due(world, campaign, 1)
    await ledger.expire_due(world.kernel.sessions, now())
    assert await audited(world) == set()
    await world.execute(f"UPDATE {table} SET returned = 0")
    assert await audited(world) == {"campaign_returned" if table == "campaigns" else "store_returned"}
