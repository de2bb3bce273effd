"""Claims have connections of their own to PostgreSQL."""

import httpx
from world import World

from coupons.issuing import WORKERS
from kernel.postgres import PROBES


async def test_the_api_claims_on_connections_that_are_planned_for_it(client: httpx.AsyncClient, world: World) -> None:
    drop = await world.drop(await world.campaign())
    for viewer in await world.viewers(WORKERS + 1):
        headers = {"Authorization": f"Bearer {world.kernel.keyring.issue(viewer)}", "Idempotency-Key": "one"}
        assert (await client.post(f"/v1/drops/{drop}/claims", headers=headers)).status_code in (200, 201)
    theirs = await world.execute("SELECT query FROM pg_stat_activity WHERE application_name = 'nearcast claims'")
    assert 0 < len(theirs) <= WORKERS
    assert any("coupons" in query for (query,) in theirs)


async def test_what_is_planned_for_claims_is_a_setting_of_this_postgresql(world: World) -> None:
    """A name that a later version drops would keep every claim from connecting."""
    known = await world.execute("SELECT name FROM pg_settings WHERE name = ANY(:names)", names=list(PROBES))
    assert {name for (name,) in known} == set(PROBES)
