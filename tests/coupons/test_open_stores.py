"""The nearest open store gives the coupon: a temporary closing counts at once, opening hours where the campaign says so
(docs/decisions/0015 and 0036)."""

from datetime import date, datetime, time, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from world import ZONE, World

from coupons import drops, foresight
from coupons.issuing import Issuer
from geo import stores
from geo.catchments import Catchments
from geo.hours import standing
from geo.matching import WITHIN_HOURS
from kernel.clock import now
from kernel.errors import Refusal
from kernel.postgres import transaction
from kernel.process import Kernel


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
    await world.shut("S1")
    await world.viewers(1)
    assert await drops.run_push(world.kernel.sessions, await world.drop(await world.campaign(), "push")) == 1
    drop = await world.drop(await world.campaign())
    (viewer,) = await world.viewers(1)
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        assert (await issuer.claim(viewer, world.room, drop, "one")).store == "S1"


@pytest.mark.parametrize("quota", [None, 5])
async def test_where_the_campaign_says_so_the_nearest_store_within_its_hours_gives(
    world: World, quota: int | None
) -> None:
    await world.store("S2", 800)
    (viewer,) = await world.viewers(1)
    terms: dict[str, Any] = {"only_open": True, "store_quota": quota, "per_viewer": 9}
    campaign = await world.campaign(**terms)
    drop = await world.drop(campaign)
    sessions = world.kernel.sessions
    async with Catchments(sessions) as catchments, Issuer(sessions, catchments) as issuer:
        assert (await issuer.claim(viewer, world.room, drop, "one")).store == "S1"
        await world.shut("S1")
        assert (await issuer.claim(viewer, world.room, drop, "two")).store == "S2"
        async with sessions() as session:
            foreseen = await foresight.preview(session, world.guide, world.room, await world.campaign(**terms))
        assert [store.code for store in foreseen.stores] == ["S2"]
        assert await drops.run_push(sessions, await world.drop(await world.campaign(**terms), "push")) == 1
        pushed = "SELECT s.code FROM coupons c JOIN stores s ON s.id = c.store_id WHERE c.claim_key IS NULL"
        assert await world.execute(pushed) == [("S2",)]
        await world.shut("S2")
        with pytest.raises(Refusal, match="out_of_range"):
            await issuer.claim(viewer, world.room, drop, "three")
        assert await drops.run_push(sessions, await world.drop(await world.campaign(**terms), "push")) == 0
        await world.execute("UPDATE stores SET opens = NULL, closes = NULL WHERE code = 'S1'")
        assert (await issuer.claim(viewer, world.room, drop, "four")).store == "S1"


_CLOCKS = st.times().map(lambda clock: clock.replace(microsecond=0))
_ASKED = text(
    f"""
    SELECT {WITHIN_HOURS.format(store="s", clock="CAST(:clock AS time)")}
    FROM (SELECT CAST(:opens AS time) AS opens, CAST(:closes AS time) AS closes) AS s
    """
)


@given(st.none() | _CLOCKS, st.none() | _CLOCKS, _CLOCKS, st.sampled_from(["clock", "opens", "closes"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_hours_mean_the_same_to_the_database_as_to_whoever_shows_them(
    kernel: Kernel, opens: time | None, closes: time | None, clock: time, edge: str
) -> None:
    clock = {"opens": opens, "closes": closes}.get(edge) or clock
    async with kernel.sessions() as session:
        within = await session.scalar(_ASKED, {"opens": opens, "closes": closes, "clock": clock})
    shown = standing(opens, closes, None, datetime.combine(date(2026, 6, 18), clock, ZONE), ZONE)
    assert within is (shown.state != "closed")
