"""Roster, kicks and bans over REST."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from httpx import ASGITransport, AsyncClient, Response
from redis.exceptions import ConnectionError as RedisConnectionError
from roomworld import World
from viewers import gateway, watching

from app.api import create_app
from kernel.ids import new_id
from live import roster, wire


class Caller:
    """The API as each of the world's people sees it."""

    def __init__(self, world: World, client: AsyncClient) -> None:
        self._world = world
        self._client = client

    async def __call__(self, who: str, method: str, path: str, body: Any = None) -> Response:
        token = self._world.kernel.keyring.issue(getattr(self._world, who))
        signed = {"Authorization": f"Bearer {token}"}
        return await self._client.request(method, f"/v1{path}", json=body, headers=signed)


@pytest.fixture
async def api(world: World) -> AsyncIterator[Caller]:
    transport = ASGITransport(create_app(world.kernel), raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://api") as client:
        yield Caller(world, client)


async def told(world: World, room: UUID | None = None) -> list[Any]:
    return [event for event, _ in await world.events(room)]


async def test_a_guide_kicks(world: World, api: Caller) -> None:
    path, body = f"/rooms/{world.room}/kick", {"viewer": str(world.viewer.subject)}
    assert (await api("guide", "POST", path, body)).status_code == 204
    assert await told(world) == [wire.Kicked(world.viewer.subject)]
    assert (await api("viewer", "POST", path, body)).status_code == 403
    assert (await api("other_guide", "POST", path, body)).status_code == 403
    assert (await api("stranger", "POST", path, body)).status_code == 404
    refused = await api("ops", "POST", path, {"viewer": str(world.guide.subject)})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid")


async def test_a_guide_bans_and_ops_lists_and_lifts(world: World, api: Caller) -> None:
    viewer, path = str(world.viewer.subject), f"/rooms/{world.room}/ban"
    assert (await api("guide", "POST", path, {"viewer": viewer, "seconds": 60})).status_code == 204
    assert await told(world, world.planned) == []
    assert (await api("guide", "POST", path, {"viewer": viewer, "seconds": 90, "scope": "brand"})).status_code == 204
    assert len(await told(world, world.planned)) == 1
    first = (await api("ops", "GET", "/ops/bans?limit=1")).json()
    rest = (await api("ops", "GET", f"/ops/bans?limit=1&cursor={first['next']}")).json()
    listed = [(item["viewer"], item["name"], item["scope"], item["room"]) for item in first["items"] + rest["items"]]
    assert listed == [(viewer, "小林", "brand", None), (viewer, "小林", "room", str(world.room))]
    assert (await api("ops", "GET", "/ops/mutes")).json()["items"] == []
    assert (await api("ops", "POST", "/ops/bans", {"viewer": viewer, "seconds": 0})).status_code == 204
    assert [item["scope"] for item in (await api("ops", "GET", "/ops/bans")).json()["items"]] == ["room"]
    assert (await api("stranger", "GET", "/ops/bans")).json()["items"] == []
    for method, body in (("GET", None), ("POST", {"viewer": viewer, "seconds": 5})):
        assert (await api("guide", method, "/ops/bans", body)).status_code == 403
    for body in ({"viewer": viewer}, {"viewer": viewer, "seconds": -1}, {"viewer": viewer, "seconds": 10**10}):
        assert (await api("guide", "POST", path, body)).status_code == 422


async def test_the_roster_is_for_the_rooms_guide_and_ops(world: World, api: Caller) -> None:
    path = f"/rooms/{world.room}/roster"
    assert (await api("guide", "GET", path)).json() == {"total": 0, "complete": True, "viewers": []}
    async with gateway(world.kernel) as one, watching(one.url, world.kernel.keyring, world.room, world.viewer):
        answer: Any = {}
        while not answer.get("viewers"):  # each asks the gateways and waits for them
            answer = (await api("ops", "GET", path)).json()
        me = {"id": str(world.viewer.subject), "name": "小林", "tier": 0}
        assert answer == {"total": 1, "complete": True, "viewers": [me]}
    for who, status in (("viewer", 403), ("other_guide", 403), ("stranger", 404)):
        assert (await api(who, "GET", path)).status_code == status
    assert (await api("ops", "GET", f"/rooms/{new_id()}/roster")).status_code == 404


async def test_without_redis_there_is_no_roster(world: World, api: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any) -> None:
        raise RedisConnectionError

    monkeypatch.setattr(roster, "ask", away)
    answer = await api("guide", "GET", f"/rooms/{world.room}/roster")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
