import asyncio
from collections.abc import AsyncIterator
from time import time
from typing import Any
from uuid import UUID

import msgspec
import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient, Response
from roomworld import World

from kernel.http import Kernel, install_error_handlers
from kernel.ids import new_id
from kernel.redis import create_client
from live import comments, presence, views, wire
from live.bus import Kept, RedisBus
from live.presence import GatewayStats, register
from live.routes import router


class Caller:
    """The API as each of the world's people sees it."""

    def __init__(self, world: World, client: AsyncClient) -> None:
        self._world = world
        self._client = client

    async def __call__(self, who: str, method: str, path: str, body: Any = None, **headers: str) -> Response:
        token = self._world.kernel.keyring.issue(getattr(self._world, who))
        signed = {"Authorization": f"Bearer {token}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        return await self._client.request(method, f"/v1{path}", json=body, headers=signed)


def serve(kernel: Kernel) -> AsyncClient:
    app = FastAPI()
    app.state.kernel = kernel
    app.include_router(router)
    install_error_handlers(app)
    return AsyncClient(transport=ASGITransport(app, raise_app_exceptions=False), base_url="http://api")


@pytest.fixture
async def api(world: World) -> AsyncIterator[Caller]:
    async with serve(world.kernel) as client:
        yield Caller(world, client)


def stats(name: str, viewers: int, *, ready: bool = True) -> GatewayStats:
    return GatewayStats(
        id=name, url=f"ws://{name}", viewers=viewers, rooms=1, frames=2, events=3, shed=0, joins=5, delay_ms_p50=1.5,
        delay_ms_p99=2.5, at=time(), ready=ready,
    )  # fmt: skip


async def test_rooms_are_listed_newest_first_in_pages_and_by_state(world: World, api: Caller) -> None:
    made = []
    for title in ("一", "二", "三"):
        made.append((await api("guide", "POST", "/rooms", {"title": title})).json()["id"])
    first = (await api("viewer", "GET", "/rooms?limit=2")).json()
    assert [room["id"] for room in first["items"]] == made[:0:-1]
    rest = (await api("viewer", "GET", f"/rooms?cursor={first['next']}&limit=100")).json()
    assert [room["id"] for room in rest["items"]] == [made[0], str(world.planned), str(world.room)]
    assert rest["next"] is None
    [live] = (await api("viewer", "GET", "/rooms?state=live")).json()["items"]
    assert live["guide"] == {"id": str(world.guide.subject), "name": "阿May"}
    assert live["store"] == {"id": str(world.store), "code": "S1", "name": "静安寺店"}
    assert live["live_at"].endswith("Z")
    assert (await api("stranger", "GET", "/rooms")).json()["items"] == []


async def test_a_rooms_page_says_where_to_connect_and_what_is_shown(world: World, api: Caller) -> None:
    for gateway in (stats("busy", 9), stats("idle", 1), stats("draining", 0, ready=False)):
        await register(world.kernel.redis, gateway)
    await presence.beat(world.kernel.redis, world.room, "busy", 7, 3, [])
    assert (
        await api("guide", "POST", f"/rooms/{world.room}/pin", {"product": str(world.latte), "ttl": 60})
    ).status_code == 204
    assert (await api("guide", "POST", f"/rooms/{world.room}/announce", {"text": "八点半"})).status_code == 204
    page = (await api("viewer", "GET", f"/rooms/{world.room}")).json()
    assert page["sockets"] == ["ws://idle", "ws://busy"]
    assert page["viewers"] == 7
    assert page["announcement"] == "八点半"
    assert [product["title"] for product in page["shelf"]] == ["latte", "mocha", "sold_out"]
    assert page["pin"]["product"] == page["shelf"][0]
    assert page["pin"]["until"] == page["pin"]["at"] + 60_000
    assert (await api("stranger", "GET", f"/rooms/{world.room}")).json()["code"] == "not_found"
    assert (await api("viewer", "GET", f"/rooms/{new_id()}")).status_code == 404
    assert (await api("viewer", "GET", "/rooms/1")).json()["code"] == "invalid"


async def test_rooms_can_be_looked_at_while_redis_is_away(world: World, free_port: int) -> None:
    nowhere = world.kernel.settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{free_port}"})
    client = create_client(nowhere)
    cut = Kernel(nowhere, world.kernel.engine, world.kernel.sessions, client, world.kernel.keyring)
    async with serve(cut) as http:
        api = Caller(world, http)
        assert [room["viewers"] for room in (await api("viewer", "GET", "/rooms")).json()["items"]] == [0, 0]
        assert (await api("viewer", "GET", f"/rooms/{world.room}")).json()["sockets"] == []
        assert (await api("ops", "GET", "/ops/rooms")).status_code == 200
        refused = await api("ops", "GET", "/ops/gateways")
        assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (
            503,
            "unavailable",
            "2",
        )
    await client.aclose()


async def test_a_retried_creation_makes_one_room(world: World, api: Caller) -> None:
    body = {
        "title": "周末",
        "store_code": "S1",
        "scheduled_at": "2026-06-18T20:00:00+08:00",
        "display_rate": 60,
        "products": [str(world.mocha)],
    }
    answers = [await api("guide", "POST", "/rooms", body, Idempotency_Key="k1") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    assert answers[0].json()["scheduled_at"] == "2026-06-18T12:00:00Z"
    assert answers[0].json()["display_rate"] == 60
    assert len((await api("guide", "GET", "/rooms?state=scheduled")).json()["items"]) == 2
    other = await api("guide", "POST", "/rooms", body | {"title": "别的"}, Idempotency_Key="k1")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


async def test_a_guide_runs_a_room_from_start_to_end(world: World, api: Caller) -> None:
    room = f"/rooms/{world.planned}"
    steps: list[tuple[str, str, Any]] = [
        ("PUT", "/shelf", {"products": [str(world.latte), str(world.mocha)]}),
        ("POST", "/start", None),
        ("POST", "/pin", {"product": str(world.mocha)}),
        ("POST", "/unpin", None),
        ("POST", "/announce", {"text": "八点半抢券"}),
        ("POST", "/slow", {"seconds": 10}),
        ("POST", "/display", {"rate": 60}),
        ("POST", "/mute", {"viewer": str(world.viewer.subject), "seconds": 60}),
        ("POST", "/hush", {"on": True, "allow": [str(world.viewer.subject)]}),
        ("DELETE", f"/comments/{new_id()}", None),
        ("POST", "/end", None),
    ]
    for method, path, body in steps:
        answer = await api("guide", method, room + path, body)
        assert (answer.status_code, answer.content) == (204, b""), path
    told = [type(event).__name__ for event, _ in await world.events(world.planned)]
    first = ["RoomChanged", "Pinned", "Unpinned", "Announced", "RoomChanged", "RoomChanged", "Muted"]
    assert told == [*first, "RoomChanged", "Deleted", "RoomChanged"]
    assert (await api("guide", "POST", f"{room}/start")).json()["code"] == "room_ended"


@pytest.mark.parametrize(
    ("who", "status", "code"),
    [("viewer", 403, "forbidden"), ("other_guide", 403, "forbidden"), ("stranger", 404, "not_found")],
)
async def test_commands_are_refused_to_everybody_else(
    world: World, api: Caller, who: str, status: int, code: str
) -> None:
    for path, body in (("start", None), ("pin", {"product": str(world.latte)}), ("announce", {"text": "x"})):
        answer = await api(who, "POST", f"/rooms/{world.room}/{path}", body)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.headers["content-type"] == "application/problem+json"
    for path in ("comments", "chapters"):
        assert (await api(who, "GET", f"/rooms/{world.room}/{path}")).status_code == status


async def test_kept_comments_are_paged_newest_first(world: World, api: Caller) -> None:
    rows = [
        Kept(
            id=new_id(),
            author=world.viewer.subject,
            name="小林",
            role="viewer",
            text=str(n),
            at=1_781_784_067_000 + n // 2,
        )
        for n in range(5)
    ]
    await RedisBus(world.kernel.redis).cast(world.room, [], keep=[msgspec.json.encode(row) for row in rows])
    await comments.store_kept(world.kernel.sessions, world.kernel.redis, [world.room])
    await api("guide", "DELETE", f"/rooms/{world.room}/comments/{rows[3].id}")
    seen, cursor = [], ""
    while True:
        page = (await api("guide", "GET", f"/rooms/{world.room}/comments?limit=2{cursor}")).json()
        seen += page["items"]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert [item["text"] for item in seen] == ["4", "3", "2", "1", "0"]
    assert [item["deleted_at"] is None for item in seen] == [True, False, True, True, True]
    assert seen[0]["author"] == {"id": str(world.viewer.subject), "name": "小林"}


async def test_chapters_are_the_pin_marks_in_order(world: World, api: Caller) -> None:
    for product in (world.latte, world.mocha):
        await api("guide", "POST", f"/rooms/{world.room}/pin", {"product": str(product)})
    page = (await api("guide", "GET", f"/rooms/{world.room}/chapters?limit=1")).json()
    assert [mark["product"]["title"] for mark in page["items"]] == ["latte"]
    assert page["items"][0]["unpinned_at"] is not None
    page = (await api("ops", "GET", f"/rooms/{world.room}/chapters?cursor={page['next']}")).json()
    assert [(mark["product"]["title"], mark["unpinned_at"], mark["taps"]) for mark in page["items"]] == [
        ("mocha", None, 0)
    ]


async def test_products_are_saved_by_sku_listed_and_sold_out(world: World, api: Caller) -> None:
    body = {"sku": "NEW-1", "title": "桂花拿铁", "image": "/art/a.svg", "price_fen": 2900, "list_price_fen": 3600}
    made = (await api("guide", "POST", "/products", body)).json()
    changed = (await api("ops", "POST", "/products", body | {"price_fen": 2500, "list_price_fen": None})).json()
    assert changed == made | {"price_fen": 2500, "list_price_fen": None}
    page = (await api("guide", "GET", "/products?limit=3")).json()
    rest = (await api("guide", "GET", f"/products?cursor={page['next']}")).json()
    assert [item["sku"] for item in page["items"] + rest["items"]] == [
        "NEW-1",
        "latte",
        "mocha",
        "sold_out",
        "unshelved",
    ]
    sold = await api("guide", "PATCH", f"/products/{made['id']}", {"sold_out": True})
    assert sold.json() == changed | {"sold_out": True}
    assert (await api("stranger", "PATCH", f"/products/{made['id']}", {"sold_out": True})).status_code == 404
    assert (await api("viewer", "POST", "/products", body)).status_code == 403


async def test_ops_sees_figures_of_rooms_and_gateways(world: World, api: Caller) -> None:
    await presence.beat(world.kernel.redis, world.room, "g1", 2, 11, [new_id(), new_id(), new_id()])
    await register(world.kernel.redis, stats("g1", 2))
    row = Kept(id=new_id(), author=new_id(), name="a", role="viewer", text="b", at=1_781_784_067_000)
    await RedisBus(world.kernel.redis).cast(world.room, [], keep=[msgspec.json.encode(row)])
    await comments.store_kept(world.kernel.sessions, world.kernel.redis, [world.room])
    [live] = (await api("ops", "GET", "/ops/rooms?state=live")).json()["items"]
    assert {name: live[name] for name in ("viewers", "uniques", "likes", "comments")} == {
        "viewers": 2, "uniques": 3, "likes": 11, "comments": 1,
    }  # fmt: skip
    assert live["room"]["id"] == str(world.room)
    [gateway] = (await api("ops", "GET", "/ops/gateways")).json()["items"]
    assert (gateway["id"], gateway["delay_ms_p99"], gateway["ready"]) == ("g1", 2.5, True)
    assert gateway["at"].endswith("Z")
    for path in ("/ops/rooms", "/ops/gateways"):
        assert (await api("guide", "GET", path)).status_code == 403


async def test_ops_mutes_in_all_rooms_lists_and_lifts(world: World, api: Caller) -> None:
    viewer = str(world.viewer.subject)
    room = f"/rooms/{world.room}/mute"
    assert (await api("guide", "POST", room, {"viewer": viewer, "seconds": 60})).status_code == 204
    assert (await api("guide", "POST", room, {"viewer": viewer, "seconds": 90, "scope": "brand"})).status_code == 204
    first = (await api("ops", "GET", "/ops/mutes?limit=1")).json()
    rest = (await api("ops", "GET", f"/ops/mutes?limit=1&cursor={first['next']}")).json()
    listed = [(item["viewer"], item["name"], item["scope"], item["room"]) for item in first["items"] + rest["items"]]
    assert listed == [(viewer, "小林", "brand", None), (viewer, "小林", "room", str(world.room))]
    assert (await api("ops", "POST", "/ops/mutes", {"viewer": viewer, "seconds": 0})).status_code == 204
    assert [item["scope"] for item in (await api("ops", "GET", "/ops/mutes")).json()["items"]] == ["room"]
    assert (await api("stranger", "GET", "/ops/mutes")).json()["items"] == []
    assert (await api("guide", "GET", "/ops/mutes")).status_code == 403
    assert (await api("guide", "POST", "/ops/mutes", {"viewer": viewer, "seconds": 5})).status_code == 403


async def test_reported_comments_are_listed_in_pages_and_decided(world: World, api: Caller) -> None:
    rows = [Kept(new_id(), new_id(), "路人", "viewer", str(n), 1_781_784_067_000) for n in range(3)]
    await RedisBus(world.kernel.redis).cast(world.room, [], keep=[msgspec.json.encode(row) for row in rows])
    await comments.store_kept(world.kernel.sessions, world.kernel.redis, [world.room])
    for row in rows:
        body = {"comment": str(row.id), "reason": "spam"}
        assert (await api("viewer", "POST", f"/rooms/{world.room}/reports", body)).status_code == 204
    first = (await api("ops", "GET", "/ops/reports?limit=2")).json()
    rest = (await api("ops", "GET", f"/ops/reports?limit=2&cursor={first['next']}")).json()
    items = first["items"] + rest["items"]
    assert [item["comment"]["text"] for item in items] == ["2", "1", "0"]
    assert (items[0]["reports"], items[0]["reasons"], items[0]["room"]) == (1, {"spam": 1}, str(world.room))
    for row, verdict in zip(rows, ("delete", "keep"), strict=False):
        answer = await api("ops", "POST", f"/ops/reports/{row.id}/resolve", {"verdict": verdict})
        assert answer.status_code == 204
    assert [item["comment"]["text"] for item in (await api("ops", "GET", "/ops/reports")).json()["items"]] == ["2"]
    decided = (await api("ops", "GET", "/ops/reports?state=resolved")).json()["items"]
    assert [(item["verdict"], item["comment"]["deleted_at"] is None) for item in decided] == [
        ("keep", True),
        ("delete", False),
    ]
    again = await api("ops", "POST", f"/ops/reports/{rows[0].id}/resolve", {"verdict": "keep"})
    assert (again.status_code, again.json()["code"]) == (409, "already_resolved")
    assert (await api("guide", "POST", f"/rooms/{world.room}/reports", body)).status_code == 403
    assert (await api("guide", "GET", "/ops/reports")).status_code == 403
    assert (await api("stranger", "GET", "/ops/reports")).json()["items"] == []


async def test_ops_keeps_the_brands_words(world: World, api: Caller) -> None:
    assert (await api("ops", "GET", "/ops/words")).json() == {"own": False, "words": [], "changed_at": None}
    made = await api("ops", "PUT", "/ops/words", {"words": ["竞品", "加微信"]})
    assert made.json()["words"] == ["竞品", "加微信"]
    assert (await api("ops", "GET", "/ops/words")).json() == made.json()
    assert (await api("stranger", "GET", "/ops/words")).json()["own"] is False
    assert (await api("ops", "DELETE", "/ops/words")).status_code == 204
    assert (await api("ops", "GET", "/ops/words")).json()["own"] is False
    for method, body in (("GET", None), ("PUT", {"words": []}), ("DELETE", None)):
        assert (await api("guide", method, "/ops/words", body)).status_code == 403


BAD: list[tuple[str, str, str, Any]] = [
    ("guide", "POST", "/rooms", {"title": "a\0b"}),
    ("guide", "POST", "/rooms", {"title": "x" * 101}),
    ("guide", "POST", "/rooms", {"title": "  "}),
    ("guide", "POST", "/rooms", {"title": "x", "scheduled_at": "0001-01-01T00:00:00+14:00"}),
    ("guide", "POST", "/rooms", {"title": "x", "scheduled_at": "2026-01-01T00:00:00"}),
    ("guide", "POST", "/rooms", {"title": "x", "store_code": "\0"}),
    ("guide", "POST", "/rooms", {"title": "x", "products": [str(new_id())] * 201}),
    ("guide", "POST", "/products", {"sku": "a", "title": "t", "image": "i", "price_fen": 10**30}),
    ("guide", "POST", "/products", {"sku": "a", "title": "t", "image": "i\0", "price_fen": 1}),
    ("guide", "POST", "/products", {"sku": "a", "title": "t", "image": "i", "price_fen": -1}),
    ("guide", "GET", "/products?cursor=%00", None),
    ("guide", "GET", "/products?cursor=WyJhXHUwMDAwIl0", None),  # ["a\u0000"]
    ("viewer", "GET", "/rooms?cursor=bm8", None),
    ("viewer", "GET", "/rooms?limit=0", None),
    ("viewer", "GET", "/rooms?limit=99999999999999999999", None),
    ("viewer", "GET", "/rooms?state=%00", None),
    ("guide", "GET", "/rooms/{room}/comments?cursor=WzFlMzAsIngiXQ", None),
    ("guide", "GET", "/rooms/{room}/chapters?cursor=WzFlMzBd", None),
    ("guide", "GET", "/rooms/{room}/chapters?cursor=WzE4NDQ2NzQ0MDczNzA5NTUxNjE2XQ", None),
    ("guide", "POST", "/rooms/{room}/slow", {"seconds": 10**20}),
    ("guide", "POST", "/rooms/{room}/slow", {"seconds": 1.5}),
    ("guide", "POST", "/rooms/{room}/display", {"rate": 0}),
    ("guide", "POST", "/rooms/{room}/display", {"rate": 1001}),
    ("guide", "POST", "/rooms", {"title": "新品", "display_rate": 0}),
    ("guide", "POST", "/rooms/{room}/mute", {"viewer": str(new_id()), "seconds": 10**12}),
    ("guide", "POST", "/rooms/{room}/mute", {"viewer": str(new_id()), "seconds": 1, "scope": "world"}),
    ("ops", "POST", "/ops/mutes", {"viewer": str(new_id()), "seconds": -1}),
    ("ops", "GET", "/ops/mutes?cursor=WzFd", None),
    ("guide", "POST", "/rooms/{room}/hush", {"on": True, "allow": [str(new_id())] * 51}),
    ("guide", "POST", "/rooms/{room}/hush", {"allow": []}),
    ("viewer", "POST", "/rooms/{room}/reports", {"comment": str(new_id()), "reason": "boring"}),
    ("ops", "POST", "/ops/reports/{room}/resolve", {"verdict": "perhaps"}),
    ("ops", "GET", "/ops/reports?cursor=bm8", None),
    ("ops", "PUT", "/ops/words", {"words": ["!?"]}),
    ("ops", "PUT", "/ops/words", {"words": ["a\0b"]}),
    ("ops", "PUT", "/ops/words", {"words": ["x" * 51]}),
    ("guide", "POST", "/rooms/{room}/announce", {"text": "x" * 1001}),
    ("guide", "POST", "/rooms/{room}/pin", {"product": "nonsense"}),
    ("guide", "POST", "/rooms/{room}/pin", ["list"]),
]


@pytest.mark.parametrize(("who", "method", "path", "body"), BAD)
async def test_bad_input_is_refused_as_invalid(
    world: World, api: Caller, who: str, method: str, path: str, body: Any
) -> None:
    answer = await api(who, method, path.replace("{room}", str(world.room)), body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b'{"title": "\\ud800"}', 422, "invalid"),
        (b"{", 422, "invalid"),
        (b"[1e999]", 422, "invalid"),
        (b"\xff", 400, "bad_request"),
        (b'{"title": ' + b"9" * 5000 + b"}", 400, "bad_request"),  # more digits than Python reads
    ],
    ids=["surrogate", "cut", "infinite", "encoding", "digits"],
)
async def test_bodies_that_are_no_proper_json_are_refused(world: World, raw: bytes, status: int, code: str) -> None:
    token = world.kernel.keyring.issue(world.guide)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    async with serve(world.kernel) as client:
        answer = await client.post("/v1/rooms", content=raw, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_an_announcement_with_control_characters_is_cleaned(world: World, api: Caller) -> None:
    assert (await api("guide", "POST", f"/rooms/{world.room}/announce", {"text": "a\0b"})).status_code == 204
    assert (await world.events())[0][0].text == "a b"


async def test_commands_at_once_over_rest_leave_one_pin(world: World, api: Caller) -> None:
    path = f"/rooms/{world.room}/pin"
    wanted: list[UUID] = [world.latte, world.mocha] * 5
    answers = await asyncio.gather(*(api("guide", "POST", path, {"product": str(product)}) for product in wanted))
    assert {answer.status_code for answer in answers} == {204}
    page = (await api("guide", "GET", f"/rooms/{world.room}/chapters")).json()["items"]
    assert len([mark for mark in page if mark["unpinned_at"] is None]) == 1


def test_cards_have_the_fields_of_the_wire() -> None:
    assert set(views.ProductCard.model_fields) == set(wire.ProductCard.__struct_fields__)
    assert set(views.Pin.model_fields) == set(wire.PinState.__struct_fields__)
    assert set(views.GatewayFigures.model_fields) == set(GatewayStats.__struct_fields__)


def test_every_route_is_described(kernel_free_app: FastAPI) -> None:
    document = kernel_free_app.openapi()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert operation["description"], (method, path)
            refused = [answer for status, answer in operation["responses"].items() if int(status) >= 400]
            assert refused, (method, path)
            assert all("application/problem+json" in answer["content"] for answer in refused), (method, path)


@pytest.fixture
def kernel_free_app() -> FastAPI:
    app = FastAPI()
    app.include_router(router)
    return app
