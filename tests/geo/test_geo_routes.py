"""REST of ``geo``: stores, nearby, consent; and what it refuses without falling over."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from geo_places import Keep, store
from sqlalchemy import select

from geo import routes, store_file
from geo.catchments import Catchments
from geo.locations import Locations
from geo.tables import Location
from kernel.clock import now
from kernel.errors import Refusal
from kernel.http import Kernel, install_error_handlers
from kernel.identity import Principal, Role
from kernel.ids import BrandId, new_id

Members = Callable[..., Awaitable[list[UUID]]]
GIVEN = {
    "code": "SH-1",
    "name": "静安寺店",
    "brand": "岚汀茶室",
    "city": "上海市",
    "address": "南京西路1618号",
    "lng": 121.45,
    "lat": 31.23,
    "datum": "wgs84",
}


@pytest.fixture
async def rest(kernel: Kernel, brand: str) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.state.kernel = kernel
    install_error_handlers(app)
    app.include_router(routes.router)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://nearcast") as client:
        yield client


@pytest.fixture
def as_(kernel: Kernel) -> Callable[..., dict[str, str]]:
    def headers(role: str, subject: UUID | None = None, brand: str = "tea") -> dict[str, str]:
        ends = now() + timedelta(hours=1)
        token = kernel.keyring.issue(Principal(BrandId(brand), subject or new_id(), Role(role), "somebody", ends))
        return {"Authorization": f"Bearer {token}"}

    return headers


As = Callable[..., dict[str, str]]


async def test_a_store_given_over_rest_is_listed_and_updated_by_code(rest: httpx.AsyncClient, as_: As) -> None:
    made = await rest.post("/v1/stores", json=GIVEN | {"opens": "09:00", "closes": "21:30"}, headers=as_("ops"))
    assert made.status_code == 200, made.text
    assert (made.json()["banner"], made.json()["trade_area_mended"]) == ("岚汀茶室", None)
    assert made.json()["opens"] == "09:00:00"
    again = await rest.post("/v1/stores", json=GIVEN | {"name": "New", "radius_m": 900}, headers=as_("ops"))
    assert again.json()["id"] == made.json()["id"]
    listed = (await rest.get("/v1/stores", headers=as_("viewer"))).json()
    assert listed["next"] is None
    (item,) = listed["items"]
    assert (item["name"], item["radius_m"], item["opens"]) == ("New", 900, None)
    assert (item["lng"], item["lat"], item["datum"]) == (121.45, 31.23, "wgs84")
    assert item["canonical"]["lng"] == pytest.approx(121.4546, abs=0.001)


async def test_what_was_mended_in_a_trade_area_is_told(rest: httpx.AsyncClient, as_: As) -> None:
    ring = [[121.44, 31.22], [121.46, 31.22], [121.46, 31.24], [121.44, 31.24]]
    given = GIVEN | {"trade_area": {"type": "Polygon", "coordinates": [ring]}}
    made = await rest.post("/v1/stores", json=given, headers=as_("ops"))
    assert (made.status_code, made.json()["trade_area_mended"]) == (200, "open ring closed")
    (near,) = (await rest.get("/v1/stores/nearby?lng=121.45&lat=31.23&datum=wgs84", headers=as_("viewer"))).json()[
        "items"
    ]
    again = await rest.post("/v1/stores", json=GIVEN, headers=as_("ops"))
    assert [one["has_trade_area"] for one in (made.json(), near, again.json())] == [True, True, False]


async def test_the_same_idempotency_key_is_answered_the_same(rest: httpx.AsyncClient, as_: As) -> None:
    headers = as_("ops") | {"Idempotency-Key": "k1"}
    first = await rest.post("/v1/stores", json=GIVEN, headers=headers)
    assert (await rest.post("/v1/stores", json=GIVEN, headers=headers)).json() == first.json()
    other = await rest.post("/v1/stores", json=GIVEN | {"name": "x"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("9:30", "09:30:00"),
        ("09:30", "09:30:00"),
        ("09:30:00", "09:30:00"),
        ("24:00", "00:00:00"),
        ("0930", None),
        ("24:30", None),
        ("09:30Z", None),
        ("09:30+08:00", None),
        ("９:30", None),
        ("", None),
        (34_200, None),
        ("34200", None),
    ],
)
async def test_hours_are_written_over_rest_as_in_a_file_of_stores(
    rest: httpx.AsyncClient, as_: As, tmp_path: Path, written: Any, kept: str | None
) -> None:
    given = GIVEN | {"opens": written, "closes": "22:00"}
    answer = await rest.post("/v1/stores", json=given, headers=as_("ops"))
    if kept is None:
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), answer.text
        assert "opens" in answer.text
    else:
        assert (answer.status_code, answer.json()["opens"]) == (200, kept), answer.text
    path = tmp_path / "stores.csv"
    path.write_text(f"{','.join(given)}\n{','.join(map(str, given.values()))}\n")
    [line] = store_file.read(path, store_file.examine(path))
    if written != "":  # in a file a field that is left out
        assert isinstance(line, store_file.StoreLine) == (kept is not None)


@pytest.mark.parametrize("wrong", ['"121.45"', "true", "NaN", "Infinity", "-Infinity", "1e999", "null", "[121.45]"])
@pytest.mark.parametrize("name", ["lng", "lat"])
async def test_coordinates_of_a_store_are_finite_numbers(
    rest: httpx.AsyncClient, as_: As, name: str, wrong: str
) -> None:
    body = json.dumps({**GIVEN, name: "here"}).replace('"here"', wrong)
    headers = as_("ops") | {"Content-Type": "application/json"}
    answer = await rest.post("/v1/stores", content=body, headers=headers)
    assert (answer.status_code, answer.json()["errors"][0]["at"]) == (422, f"body.{name}")


@pytest.mark.parametrize("depth", [300, 900, 20_000])
async def test_a_trade_area_of_brackets_in_brackets_is_refused(rest: httpx.AsyncClient, as_: As, depth: int) -> None:
    area = f'{{"type": "Polygon", "coordinates": {"[" * depth}{"]" * depth}}}'
    body = json.dumps(GIVEN)[:-1] + f', "trade_area": {area}}}'
    answer = await rest.post("/v1/stores", content=body, headers=as_("ops") | {"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"lng": 39.47, "lat": 75.99}, "lng"),
        ({"lng": 0, "lat": 0}, "lng"),
        ({"opens": "09:00"}, "closes"),
        ({"closes": "21:00"}, "opens"),
        ({"trade_area": {"type": "Point", "coordinates": [121.45, 31.22]}}, "trade_area"),
    ],
    ids=["swapped", "nowhere", "no end", "no beginning", "a point"],
)
async def test_a_store_that_is_refused_says_which_field_is_wrong(
    rest: httpx.AsyncClient, as_: As, wrong: dict[str, Any], field: str
) -> None:
    answer = await rest.post("/v1/stores", json=GIVEN | wrong, headers=as_("ops"))
    assert (answer.status_code, answer.json()["code"], answer.json().get("field")) == (422, "invalid", field)


async def test_a_reason_that_asks_ends_in_its_question_mark(rest: httpx.AsyncClient, as_: As) -> None:
    far = {"type": "Polygon", "coordinates": [[[121.7, 31.2], [121.71, 31.2], [121.71, 31.21], [121.7, 31.2]]]}
    asked = await rest.post("/v1/stores", json=GIVEN | {"trade_area": far}, headers=as_("ops"))
    assert asked.json()["detail"].endswith("or in another datum?")
    told = await rest.post("/v1/stores", json=GIVEN | {"opens": "9"}, headers=as_("ops"))
    assert told.json()["detail"].endswith("such as 09:30.")


BAD_STORES: list[dict[str, Any]] = [
    {"lng": 31.23, "lat": 121.45},
    {"lng": 39.9, "lat": 76.1},
    {"lat": 90.5},
    {"datum": "utm"},
    {"name": "a\x00b"},
    {"name": ""},
    {"code": "x" * 65},
    {"radius_m": 10},
    {"opens": "09:00"},
    {"trade_area": {"type": "Point", "coordinates": [121, 31]}},
    {"trade_area": {"type": "Polygon", "coordinates": [[[1, 1], [2, 2], [3, 1]]]}},
]


async def test_a_store_that_is_none_is_invalid(rest: httpx.AsyncClient, as_: As) -> None:
    for bad in BAD_STORES:
        answer = await rest.post("/v1/stores", json=GIVEN | bad, headers=as_("ops"))
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), (bad, answer.text)


GARBAGE = [
    b'{"code":"\\ud800","name":"n","brand":"b","city":"c","address":"a","lng":121,"lat":31,"datum":"gcj02"}',
    b'{"code":"A","name":"n","brand":"b","city":"c","address":"a","lng":NaN,"lat":31,"datum":"gcj02"}',
    b'{"code":"A","name":"n","brand":"b","city":"c","address":"a","lng":1e999,"lat":31,"datum":"gcj02"}',
    b'{"code":"A","name":"n","brand":"b","city":"c","address":"a","lng":1e-320,"lat":31,"datum":"gcj02"}',
    b"\xff\xfe",
    b"null",
]


async def test_garbage_is_refused_and_not_a_failure(rest: httpx.AsyncClient, as_: As) -> None:
    headers = as_("ops") | {"Content-Type": "application/json"}
    for body in GARBAGE:
        answer = await rest.post("/v1/stores", content=body, headers=headers)
        assert answer.status_code in (400, 422), (body, answer.text)
        assert answer.json()["code"] in ("invalid", "bad_request")


BAD_POSITIONS = [
    "lng=nan&lat=31&datum=gcj02",
    "lng=inf&lat=31&datum=gcj02",
    "lng=121&lat=91&datum=gcj02",
    "lng=121&lat=31",
    "lng=121&lat=31&datum=utm",
    "lng=121&lat=31&datum=gcj02&limit=0",
    "lat=31&datum=gcj02",
    "lng=1&lat=31&datum=gcj02&cursor=WyJBIl0",
    "lng=1&lat=31&datum=gcj02&cursor=W251bGwsIkEiXQ",
    "lng=1&lat=31&datum=gcj02&cursor=WzEsIlx1MDAwMCJd",
]


async def test_nearby_without_a_usable_position_is_invalid(rest: httpx.AsyncClient, as_: As) -> None:
    for query in BAD_POSITIONS:
        answer = await rest.get(f"/v1/stores/nearby?{query}", headers=as_("viewer"))
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), query
        assert "121" not in answer.text, "a refusal does not repeat where somebody is"


BAD_FILTERS = ["city=%00", "city=", "cursor=%00", "cursor=!!", "cursor=WyJcdTAwMDAiXQ", "limit=501"]


async def test_a_list_refuses_filters_that_mean_nothing(rest: httpx.AsyncClient, as_: As) -> None:
    for query in BAD_FILTERS:
        answer = await rest.get(f"/v1/stores?{query}", headers=as_("viewer"))
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), (query, answer.text)


async def test_pages_follow_each_other_and_a_city_narrows(rest: httpx.AsyncClient, as_: As, keep_stores: Keep) -> None:
    await keep_stores([store(f"S{i}", 121.4, 31.2) for i in range(5)])
    seen, cursor = [], None
    while True:
        params = {"limit": 2, "city": "上海市"} | ({"cursor": cursor} if cursor else {})
        page = (await rest.get("/v1/stores", params=params, headers=as_("guide"))).json()
        seen += [item["code"] for item in page["items"]]
        if (cursor := page["next"]) is None:
            break
    assert seen == ["S0", "S1", "S2", "S3", "S4"]
    elsewhere = await rest.get("/v1/stores", params={"city": "北京市"}, headers=as_("guide"))
    assert elsewhere.json() == {"items": [], "next": None}
    foreign = await rest.get("/v1/stores", headers=as_("guide", brand="other"))
    assert foreign.json()["items"] == []


async def test_nearby_tells_distance_and_walk(rest: httpx.AsyncClient, as_: As, keep_stores: Keep) -> None:
    await keep_stores([store("far", 121.48, 31.23), store("near", 121.471, 31.23)])
    answer = await rest.get("/v1/stores/nearby?lng=121.47&lat=31.23&datum=gcj02", headers=as_("viewer"))
    assert [(i["code"], i["distance_m"], i["walk_minutes"]) for i in answer.json()["items"]] == [
        ("near", 95, 2),
        ("far", 953, 17),
    ]


async def test_consent_is_given_read_and_withdrawn_with_its_fixes(
    rest: httpx.AsyncClient, as_: As, kernel: Kernel, make_members: Members
) -> None:
    (viewer,) = await make_members(1, consent=False)
    me = as_("viewer", viewer)
    path = "/v1/me/consents/location"
    assert (await rest.get(path, headers=me)).json()["code"] == "not_found"
    given = await rest.put(path, json={"version": "2026-11"}, headers=me)
    assert given.status_code == 200
    assert (await rest.get(path, headers=me)).json() == given.json()
    async with Catchments(kernel.sessions) as catchments, Locations(kernel.sessions, catchments) as desk:
        await desk.locate("tea", viewer, UUID(int=1), 121.4737, 31.2304, "gcj02", 20.0, now())
        assert (await rest.delete(path, headers=me)).status_code == 204
        async with kernel.engine.connect() as connection:
            assert (await connection.exec_driver_sql("SELECT count(*) FROM locations")).scalar() == 0
    assert (await rest.get(path, headers=me)).status_code == 404
    assert (await rest.delete(path, headers=me)).status_code == 204, "again is no error"


async def test_a_new_text_asks_everybody_again_and_forgets_what_the_old_one_allowed(
    rest: httpx.AsyncClient, as_: As, kernel: Kernel, make_members: Members
) -> None:
    former, current = await make_members(2, consent=False)
    path, ops = "/v1/me/consents/location", as_("ops")
    assert (await rest.get("/v1/consents/location", headers=as_("viewer", former))).json() == {"version": None}
    for viewer, version in ((former, "2025"), (current, "2026")):
        answer = await rest.put(path, json={"version": version}, headers=as_("viewer", viewer))
        assert answer.status_code == 200, "any, as long as the brand names none"

    async def located(viewer: UUID) -> str:
        try:
            await desk.locate("tea", viewer, UUID(int=1), 121.4737, 31.2304, "gcj02", 20.0, now())
        except Refusal as refusal:
            return refusal.code
        return "ok"

    async def kept() -> set[UUID]:
        async with kernel.sessions() as session:
            return set(await session.scalars(select(Location.viewer_id)))

    async with Catchments(kernel.sessions) as catchments, Locations(kernel.sessions, catchments) as desk:
        assert [await located(viewer) for viewer in (former, current)] == ["ok", "ok"]
        in_force = await rest.put("/v1/ops/consents/location", json={"version": "2026"}, headers=ops)
        assert in_force.json() == {"version": "2026"}
        assert await kept() == {current}
        assert [await located(viewer) for viewer in (former, current)] == ["consent_missing", "ok"]

        me = as_("viewer", former)
        assert (await rest.get("/v1/consents/location", headers=me)).json() == {"version": "2026"}
        assert (await rest.get(path, headers=me)).json()["code"] == "not_found"
        refused = await rest.put(path, json={"version": "2025"}, headers=me)
        assert (refused.status_code, refused.json()["code"], refused.json()["version"]) == (
            409, "consent_outdated", "2026"
        )  # fmt: skip
        assert (await rest.put(path, json={"version": "2026"}, headers=me)).status_code == 200
        assert await located(former) == "ok"

        await rest.put("/v1/ops/consents/location", json={"version": None}, headers=ops)
        assert (await rest.put(path, json={"version": "2025"}, headers=me)).status_code == 200
    for role in ("viewer", "guide", "clerk"):
        answer = await rest.put("/v1/ops/consents/location", json={"version": "1"}, headers=as_(role))
        assert answer.json()["code"] == "forbidden"
    assert (await rest.put("/v1/ops/consents/location", json={}, headers=ops)).json()["code"] == "invalid"


BAD_VERSIONS: list[object] = ["", "  ", "x" * 41, "a\x00", None, 3]


async def test_a_consent_without_a_version_is_invalid(rest: httpx.AsyncClient, as_: As, make_members: Members) -> None:
    (viewer,) = await make_members(1, consent=False)
    for version in BAD_VERSIONS:
        answer = await rest.put("/v1/me/consents/location", json={"version": version}, headers=as_("viewer", viewer))
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), version


async def test_roles_are_kept_apart(rest: httpx.AsyncClient, as_: As) -> None:
    assert (await rest.post("/v1/stores", json=GIVEN, headers=as_("guide"))).json()["code"] == "forbidden"
    for role in ("guide", "clerk", "ops"):
        answer = await rest.put("/v1/me/consents/location", json={"version": "1"}, headers=as_(role))
        assert answer.json()["code"] == "forbidden"
    assert (await rest.get("/v1/stores")).json()["code"] == "token_missing"
    nobody = await rest.put("/v1/me/consents/location", json={"version": "1"}, headers=as_("viewer"))
    assert nobody.json()["code"] == "not_found"
    no_brand = await rest.post("/v1/stores", json=GIVEN, headers=as_("ops", brand="ghost"))
    assert no_brand.json()["code"] == "not_found"


async def test_openapi_shows_an_example_and_every_refusal() -> None:
    app = FastAPI()
    app.include_router(routes.router)
    document = app.openapi()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], path
            assert "401" in operation["responses"], (path, method)
    schemas = document["components"]["schemas"]
    for name in ("StoreView", "NearbyStore", "StoreGiven", "Consent"):
        assert schemas[name]["examples"], name


async def test_nearby_tells_whether_a_store_is_open_by_the_brands_clock(
    rest: httpx.AsyncClient, as_: As, keep_stores: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    day: dict[str, Any] = {"opens": time(9), "closes": time(22)}
    night: dict[str, Any] = {"opens": time(18), "closes": time(2)}
    lines = [store(code, 121.47 + i / 1000, 31.23) for i, code in enumerate(["day", "night", "untold", "ill"])]
    hours = [day, night, {}, day]
    await keep_stores([replace(line, **told) for line, told in zip(lines, hours, strict=True)])
    # 01:30 in Shanghai, where the brand is.
    monkeypatch.setattr(routes, "now", lambda: datetime(2026, 11, 22, 17, 30, tzinfo=UTC))
    closing = await rest.put("/v1/stores/ill/closing", json={"until": "2026-11-22T20:00:00+00:00"}, headers=as_("ops"))
    assert closing.status_code == 204, closing.text

    async def stands() -> list[tuple[str, str, str | None]]:
        answer = await rest.get("/v1/stores/nearby?lng=121.47&lat=31.23&datum=gcj02", headers=as_("viewer"))
        return [(i["code"], i["state"], i["state_until"]) for i in answer.json()["items"]]

    morning = "2026-11-23T01:00:00Z"
    assert await stands() == [
        ("day", "closed", morning),
        ("night", "open", "2026-11-22T18:00:00Z"),
        ("untold", "unknown", None),
        ("ill", "closed_for_now", morning),
    ]
    assert (await rest.delete("/v1/stores/ill/closing", headers=as_("ops"))).status_code == 204
    assert (await stands())[3] == ("ill", "closed", morning)


async def test_a_closing_is_for_ops_for_a_store_that_exists_and_for_a_time_that_makes_sense(
    rest: httpx.AsyncClient, as_: As, keep_stores: Keep
) -> None:
    await keep_stores([store("A", 121.47, 31.23), store("B/1", 121.47, 31.23)])
    cases = [
        ("viewer", "A", "2027-01-01T00:00:00Z", 403),
        ("ops", "B", "2027-01-01T00:00:00Z", 404),
        ("ops", "A", "2027-01-01T00:00:00", 422),
        ("ops", "A", "9999-12-31T23:59:59-12:00", 422),
        ("ops", "A", "0001-01-01T00:00:00+12:00", 204),
        ("ops", "B/1", "0001-01-01T00:00:00+12:00", 204),
    ]
    for role, code, until, status in cases:
        answer = await rest.put(f"/v1/stores/{quote(code, '')}/closing", json={"until": until}, headers=as_(role))
        assert answer.status_code == status, (until, answer.text)
    item, _ = (await rest.get("/v1/stores", headers=as_("viewer"))).json()["items"]
    assert item["closed_until"] is None, "what is over already is no closing"


async def test_pages_of_nearby_follow_each_other_also_among_stores_of_one_house(
    rest: httpx.AsyncClient, as_: As, keep_stores: Keep
) -> None:
    spots = {
        "east": (121.4801, 31.23),
        "north": (121.47, 31.2386),
        "mall-1": (121.47, 31.24),
        "mall-2": (121.47, 31.24),
    }
    await keep_stores([store(code, *spot) for code, spot in spots.items()])
    everything = "/v1/stores/nearby?lng=121.47&lat=31.23&datum=gcj02"
    at_once = (await rest.get(everything, headers=as_("viewer"))).json()
    assert at_once["next"] is None
    codes, cursor = [], ""
    while cursor is not None:
        page = (
            await rest.get(f"{everything}&limit=1&cursor={cursor}".removesuffix("&cursor="), headers=as_("viewer"))
        ).json()
        codes += [item["code"] for item in page["items"]]
        cursor = page["next"]
    assert codes == [item["code"] for item in at_once["items"]] == ["north", "east", "mall-1", "mall-2"]


async def test_ops_read_who_is_doubted_and_why_and_nothing_of_where(
    kernel: Kernel, rest: httpx.AsyncClient, as_: As, make_members: Members
) -> None:
    viewers = await make_members(2)
    at = now()
    async with Catchments(kernel.sessions) as catchments, Locations(kernel.sessions, catchments) as desk:
        for place, viewer in enumerate(viewers):
            for second, lng in enumerate((121.4711, 121.9711)):
                then = at + timedelta(seconds=10 * place + second)
                await desk.locate("tea", viewer, UUID(int=1), lng, 31.2304, "gcj02", 10.0, then)
    assert (await rest.get("/v1/ops/doubts", headers=as_("guide"))).status_code == 403
    foreign = await rest.get("/v1/ops/doubts", headers=as_("ops", brand="other"))
    assert foreign.json() == {"items": [], "next": None}
    first = (await rest.get("/v1/ops/doubts?limit=1", headers=as_("ops"))).json()
    rest_of_it = (await rest.get(f"/v1/ops/doubts?cursor={first['next']}", headers=as_("ops"))).json()
    assert rest_of_it["next"] is None
    items = first["items"] + rest_of_it["items"]
    assert [item["viewer"] for item in items] == [str(viewers[1]), str(viewers[0])]
    for item in items:
        assert item["room"] == str(UUID(int=1))
        assert [(sign["sign"], sign["strong"]) for sign in item["signs"]] == [("jumped", True)]
        assert "121." not in str(item)
    bad = await rest.get("/v1/ops/doubts?cursor=WzFd", headers=as_("ops"))
    assert (bad.status_code, bad.json()["code"]) == (422, "invalid")


@pytest.mark.parametrize("odd", ['"\\ud800"', '"\\u0000"', "NaN", "1e999", "-Infinity", "true", '"121.45"', "9" * 400])
async def test_a_trade_area_may_hold_any_json_and_is_refused_or_read(
    rest: httpx.AsyncClient, as_: As, odd: str
) -> None:
    ring = "[[121.44, 31.22], [121.46, 31.22], [121.46, 31.24], [121.44, 31.24]]"
    area = '{"type": "Polygon", "coordinates": [%s]}'
    for trade_area, status in (
        (area % ring.replace("121.44", odd, 1), 422),
        (area % odd, 422),
        (area.replace('"Polygon"', odd) % ring, 422),
        (f'{{"type": "Feature", "properties": {{"code": {odd}}}, "geometry": {area % ring}}}', 200),
    ):
        body = json.dumps(GIVEN)[:-1] + f', "trade_area": {trade_area}}}'
        headers = as_("ops") | {"Content-Type": "application/json"}
        assert (await rest.post("/v1/stores", content=body, headers=headers)).status_code == status, trade_area
