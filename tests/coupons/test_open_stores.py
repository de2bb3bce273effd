"""The nearest open store gives the coupon: a temporary closing counts at once, opening hours do not
(docs/decisions/0015)."""

from datetime import time, timedelta

from world import World

from coupons import drops
from coupons.issuing import Issuer
from geo import stores
from geo.catchments import Catchments
from kernel.clock import now
from kernel.postgres import transaction


async def _close(world: World, code: str, hours: float) -> None:
    async with transaction(world.kernel.sessions) as session:
        await stores.close_until(session, "acme", code, now() + timedelta(hours=hours))


async def test_a_push_drop_passes_over_a_closed_store_and_reaches_the_next(world: World) -> None:
    await world.store("S2", 800)
    viewers = await world.viewers(3)
    await _close(world, "S1", 2)
    assert await drops.run_push(world.kernel.sessions, await world.drop(await world.campaign(), "push")) == 3
    assert await world.execute("SELECT DISTINCT store_id FROM coupons") == [(world.stores["S2"],)]
    await _close(world, "S1", -1)
    assert await drops.run_push(world.kernel.sessions, await world.drop(await world.campaign(), "push")) == 3
    assert await world.scalar("SELECT count(*) FROM coupons WHERE store_id = :s", s=world.stores["S1"]) == 3
    assert len(viewers) == 3


async def test_a_closing_counts_for_claims_before_the_catchments_in_memory_know_of_it(world: World) -> None:
    await world.store("S2", 800)
    drop = await world.drop(await world.campaign(per_viewer=5))
    (viewer,) = await world.viewers(1)
    catchments = Catchments(world.kernel.sessions)
    async with Issuer(world.kernel.sessions, catchments) as issuer:
        assert (await issuer.claim(viewer, world.room, drop, "one")).store == "S1"
        before = await catchments.of("acme")
        await _close(world, "S1", 2)
        assert (await issuer.claim(viewer, world.room, drop, "two")).store == "S2"
        assert await catchments.of("acme") is before, "nothing has reloaded them"
        assert await catchments.refresh() == ["acme"]
        assert (await issuer.claim(viewer, world.room, drop, "three")).store == "S2"
        await _close(world, "S1", -1)
        assert await catchments.refresh() == ["acme"]
        assert (await issuer.claim(viewer, world.room, drop, "four")).store == "S1"


async def test_a_store_outside_its_hours_gives_coupons_for_a_later_visit(world: World) -> None:
    midnight = time()
    shut = {"opens": midnight, "closes": time(0, 0, 1)}
    if now().hour == 16:  # midnight in Shanghai, where the brand is
        shut = {"opens": time(12), "closes": time(13)}
    await world.execute("UPDATE stores SET opens = :opens, closes = :closes", **shut)
    await world.viewers(1)
    assert await drops.run_push(world.kernel.sessions, await world.drop(await world.campaign(), "push")) == 1
    drop = await world.drop(await world.campaign())
    (viewer,) = await world.viewers(1)
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        assert (await issuer.claim(viewer, world.room, drop, "one")).store == "S1"
