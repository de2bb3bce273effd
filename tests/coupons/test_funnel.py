"""Figures from the room to the till."""

from world import SIGNER_SEED, World

from coupons import drops, funnel, redemption, visits, wallet
from coupons.codes import Signer
from coupons.rules import Limits, held_out
from kernel.clock import now
from kernel.postgres import transaction


async def test_each_stage_counts_people_and_the_till_counts_money(world: World) -> None:
    campaign = await world.campaign(holdout_percent=30, min_tier=1)
    near = await world.viewers(12, tier=1)
    await world.viewers(2, tier=0)
    await world.viewers(3, tier=1, north_m=9_000)
    await world.viewers(4, tier=1, north_m=None)
    drop = await world.drop(campaign, "push", 50)
    served = [v for v in near if not held_out(Limits(campaign, 1, 1, 30), v.subject)]
    assert len(served) >= 4, "a holdout of 30 % may not take nine of twelve"
    assert await drops.run_push(world.kernel.sessions, drop) == len(served)
    clerk, signer = world.clerk(), Signer(SIGNER_SEED)
    coupons = dict(await world.execute("SELECT viewer_id, id FROM coupons"))
    async with transaction(world.kernel.sessions) as session:
        for viewer in served[:3]:
            assert await wallet.seen(session, viewer.subject, [coupons[viewer.subject]]) == 1
        card = await wallet.coupon_of(session, served[0], coupons[served[0].subject], now())
        await redemption.redeem(session, clerk, redemption.Presented(card.code, None), 12_000, "k", signer, now())
        await visits.record(session, clerk, signer.show_member(served[1].subject, now().timestamp()), signer, now())
    expected = funnel.Stages(
        in_room=21, in_range=14, offered=len(served), held_out=12 - len(served), issued=len(served), seen=3, visited=2,
        redeemed=1, amount_fen=12_000, discount_fen=2_000, coupons=len(served), coupons_redeemed=1,
    )  # fmt: skip
    async with world.kernel.sessions() as session:
        assert await funnel.of_room(session, "acme", world.room) == expected
        for by, spot in (("room", world.room), ("guide", world.guide.subject), ("drop", drop)):
            rows = await funnel.by(session, "acme", by)  # type: ignore[arg-type]
            assert [(row.id, row.stages) for row in rows] == [(spot, expected)]
        (store,) = await funnel.by(session, "acme", "store")
        assert store.id == world.stores["S1"]
        assert store.stages.issued == len(served) and store.stages.in_range == 14
        assert await funnel.by(session, "other", "room") == []


async def test_a_viewer_of_two_drops_is_one_person_with_two_coupons(world: World) -> None:
    campaign = await world.campaign(per_viewer=2)
    await world.viewers(1)
    for _ in range(2):
        await drops.run_push(world.kernel.sessions, await world.drop(campaign, "push"))
    async with world.kernel.sessions() as session:
        stages = await funnel.of_room(session, "acme", world.room)
    assert (stages.in_room, stages.in_range, stages.offered, stages.issued, stages.coupons) == (1, 1, 1, 1, 2)


async def test_the_map_lists_every_store_with_its_coupons(world: World) -> None:
    await world.store("S2", north_m=20_000)
    await world.viewers(2)
    await drops.run_push(world.kernel.sessions, await world.drop(await world.campaign(), "push"))
    async with world.kernel.sessions() as session:
        first = await funnel.stores(session, "acme", None, 1)
        rest = await funnel.stores(session, "acme", first[-1].code, 10)
    assert [(s.code, s.issued, s.redeemed) for s in [*first, *rest]] == [("S1", 2, 0), ("S2", 0, 0)]
    assert abs(first[0].lat - 31.23) < 1e-9 and abs(first[0].lng - 121.47) < 1e-9
