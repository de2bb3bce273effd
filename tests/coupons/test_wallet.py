"""The wallet: what can be used, in the order that helps, with a way to the store that leads there."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest
from httpx import AsyncClient
from tills import serving
from world import SIGNER_SEED, World

from coupons import codes, directions, redemption, wallet_routes
from coupons.push import run_push
from geo.datum import convert
from kernel.clock import now
from kernel.identity import Principal
from kernel.postgres import transaction


@pytest.fixture
async def api(world: World) -> AsyncIterator[AsyncClient]:
    async with serving(world.kernel, wallet_routes.router, "http://api/v1/me") as client:
        yield client


async def three(world: World) -> tuple[Principal, list[UUID]]:
    """A viewer with three coupons, of stores 8 km, 5 km and 20 km north, that expire in the order given here."""
    (viewer,) = await world.viewers(1)
    made = []
    for days, north in ((1, 8_000), (2, 5_000), (3, 20_000)):
        store = await world.store(f"N{north}", north)
        campaign = await world.campaign(valid_days=days)
        drop = await world.drop(campaign, "push", 1)
        await run_push(world.kernel.sessions, drop)
        coupon = await world.scalar("SELECT id FROM coupons WHERE drop_id = :drop", drop=drop)
        await world.execute("UPDATE coupons SET store_id = :store WHERE id = :id", store=store, id=coupon)
        made.append(coupon)
    return viewer, made


async def asked(world: World, api: AsyncClient, who: Principal, path: str, **query: Any) -> Any:
    headers = {"Authorization": f"Bearer {world.kernel.keyring.issue(who)}"}
    return await api.get(path, params=query, headers=headers)


async def listed(world: World, api: AsyncClient, who: Principal, **query: Any) -> list[dict[str, Any]]:
    """Every page, two coupons at a time."""
    items: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await asked(world, api, who, "/wallet", limit=2, **query, **cursor)
        assert answer.status_code == 200, answer.text
        items += answer.json()["items"]
        if answer.json()["next"] is None:
            return items
        cursor = {"cursor": answer.json()["next"]}


async def test_what_expires_first_comes_first_and_what_is_over_does_not_come(world: World, api: AsyncClient) -> None:
    viewer, coupons = await three(world)
    assert [each["id"] for each in await listed(world, api, viewer)] == [str(each) for each in coupons]
    await world.execute("UPDATE coupons SET valid_until = now() WHERE id = :id", id=coupons[0])
    (stranger,) = await world.viewers(1)
    assert [each["id"] for each in await listed(world, api, viewer)] == [str(each) for each in coupons[1:]]
    assert await listed(world, api, stranger) == []


@pytest.mark.parametrize("datum", ["gcj02", "wgs84", "bd09"])
async def test_the_nearest_store_comes_first_whatever_frame_the_phone_speaks(
    world: World, api: AsyncClient, datum: Any
) -> None:
    viewer, coupons = await three(world)
    lng, lat = convert(121.47, 31.23, "gcj02", datum)
    found = await listed(world, api, viewer, order="nearest", lng=lng, lat=lat, datum=datum)
    assert [each["id"] for each in found] == [str(coupons[place]) for place in (1, 0, 2)]
    assert [each["away_m"] for each in found] == pytest.approx([5_000, 8_000, 20_000], rel=0.01)
    assert found[0]["walk_minutes"] > 60


@pytest.mark.parametrize(
    "query",
    [
        {"order": "nearest"},
        {"lng": 121, "lat": 31},
        {"lng": 121, "datum": "gcj02"},
        {"lng": 121, "lat": 91, "datum": "gcj02"},
        {"cursor": "bm90aGluZw"},
        {"order": "nearest", "lng": 121, "lat": 31, "datum": "gcj02", "cursor": "bm90aGluZw"},
    ],
)
async def test_half_a_place_and_a_strange_cursor_are_refused(world: World, api: AsyncClient, query: Any) -> None:
    (viewer,) = await world.viewers(1)
    answer = await asked(world, api, viewer, "/wallet", **query)
    assert answer.status_code == 422 and answer.json()["code"] == "invalid"


async def test_a_coupons_history_is_its_owners_to_read(world: World, api: AsyncClient) -> None:
    (viewer, stranger) = await world.viewers(2)
    campaign = await world.campaign()
    await run_push(world.kernel.sessions, await world.drop(campaign, "push", 2))
    mine = "SELECT id, code FROM coupons WHERE viewer_id = :viewer"
    ((coupon, code),) = await world.execute(mine, viewer=viewer.subject)
    async with transaction(world.kernel.sessions) as session:
        presented = redemption.Presented(codes.display(code), None)
        signer = codes.Signer(SIGNER_SEED)
        used = await redemption.redeem(session, world.clerk(), presented, 15_000, "k", signer, now())
        await redemption.reverse(session, world.clerk(), used.id, now())
    steps = (await asked(world, api, viewer, f"/coupons/{coupon}/history")).json()["items"]
    assert [(step["event"], step["discount_fen"]) for step in steps] == [
        ("issued", None),
        ("redeemed", 2000),
        ("reversed", 2000),
    ]
    assert steps == sorted(steps, key=lambda step: step["at"])
    assert (await asked(world, api, stranger, f"/coupons/{coupon}/history")).status_code == 404


def test_each_link_speaks_its_own_frame() -> None:
    way = directions.to_store(121.47, 31.23, "静安寺店; 南门", "南京西路1618号:1")
    lat, lng = map(float, way.geo.removeprefix("geo:").split(","))
    assert convert(lng, lat, "wgs84", "gcj02") == pytest.approx((121.47, 31.23), abs=2e-6)
    assert abs(lng - 121.47) > 0.001
    link = urlsplit(way.tencent)
    assert link.scheme == "https" and link.hostname == "apis.map.qq.com"
    (marker,) = parse_qs(link.query)["marker"]
    assert marker == "coord:31.230000,121.470000;title:静安寺店  南门;addr:南京西路1618号 1"
    assert (way.open_location.longitude, way.open_location.latitude) == (121.47, 31.23)
