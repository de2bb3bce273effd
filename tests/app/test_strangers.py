"""Whoever has no token, a forged one, or another brand's gets nothing of a brand and changes nothing in it.

Asked of every operation that the API publishes, with the brand's real ids in path and body, so that only the check of
who asks stands between.
"""

import base64
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import jwt
import pytest
from sqlalchemy import text
from world import World

from app.api import create_app
from kernel.clock import now
from kernel.identity import Principal, Role
from kernel.ids import BrandId, new_id
from kernel.postgres import Table

OPEN = {
    "POST /v1/auth/wechat", "POST /v1/auth/dev", "GET /v1/brands/{brand}", "GET /v1/coupon-key", "GET /v1/till/keys",
    "POST /v1/streams/publish", "POST /v1/streams/unpublish",
}  # fmt: skip
"""Operations without a token: signing in, what is public, and callbacks that are signed in their own way."""
IMAGE = "https://img.example.com/t1.svg"
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Api:
    """The published operations, called with one brand's ids."""

    def __init__(self, client: httpx.AsyncClient, described: dict[str, Any], ids: dict[str, str]) -> None:
        self._client = client
        self._described = described
        self.ids = ids

    def operations(self) -> Iterator[tuple[str, str]]:
        for path, operations in self._described["paths"].items():
            for method in operations:
                if f"{method.upper()} {path}" not in OPEN:
                    yield method.upper(), path

    async def call(self, method: str, path: str, token: str | None) -> httpx.Response:
        """The operation with ids wherever its path or its body asks for one."""
        ids = self.ids
        filled = re.sub(r"\{(\w+)\}", lambda name: ids[name[1]], path)
        query = {"lng": "121.47", "lat": "31.23", "datum": "wgs84"} if path.endswith("nearby") else {}
        headers = {"Idempotency-Key": str(new_id())} | ({} if token is None else {"Authorization": f"Bearer {token}"})
        body = self._body(method, path)
        return await self._client.request(method, filled, params=query, headers=headers, json=body)

    def _body(self, method: str, path: str) -> dict[str, Any] | None:
        content = self._described["paths"][path][method.lower()].get("requestBody", {}).get("content", {})
        if not content:
            return None
        schema = content["application/json"]["schema"]
        wanted = self._described["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], {})
        body = {name: BODY[name](self.ids) for name in wanted.get("properties", {}) if name in BODY}
        return {"code": self.ids["code"]} if "redemptions" in path else body


BODY: dict[str, Callable[[dict[str, str]], Any]] = {
    "viewer": lambda ids: ids["viewer"],
    "product": lambda ids: ids["product"],
    "products": lambda ids: [ids["product"]],
    "campaign": lambda ids: ids["campaign"],
    "comment": lambda ids: ids["comment"],
    "guide": lambda ids: ids["guide"],
    "member": lambda ids: ids["viewer"],
    "mode": lambda _: "claim",
    "stock": lambda _: 5,
    "expected": lambda _: 100,
    "seconds": lambda _: 60,
    "reason": lambda _: "spam",
    "verdict": lambda _: "delete",
    "muted": lambda _: True,
    "allowed": lambda _: True,
    "text": lambda _: "别人的话",
    "title": lambda _: "别人的标题",
    "words": lambda _: ["词"],
    "after": lambda _: 0,
}


@pytest.fixture
async def api(world: World) -> AsyncIterator[Api]:
    """The whole API on a brand that has one of everything."""
    app = create_app(world.kernel)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://api", timeout=60) as client,
    ):
        yield Api(client, app.openapi(), await one_of_everything(world, client))


async def one_of_everything(world: World, client: httpx.AsyncClient) -> dict[str, str]:
    [viewer] = await world.viewers(1)
    campaign = await world.campaign()
    drop = await world.drop(campaign)

    async def done(who: Principal, method: str, path: str, body: Any = None) -> Any:
        token = world.kernel.keyring.issue(who)
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": str(new_id())}
        answer = await client.request(method, f"/v1{path}", json=body, headers=headers)
        assert answer.status_code in (200, 201), (path, answer.text)
        return answer.json()

    coupon = await done(viewer, "POST", f"/drops/{drop}/claims")
    qr = await done(viewer, "GET", f"/me/coupons/{coupon['id']}/qr")
    redeemed = await done(world.clerk(), "POST", "/redemptions", {"code": coupon["code"]})
    product = await done(
        world.ops, "POST", "/products", {"title": "白茶", "price_fen": 9900, "sku": "T1", "image": IMAGE}
    )
    webhook = await done(world.ops, "POST", "/ops/webhooks", {"url": "https://crm.example.com/x", "events": ["issued"]})
    review = await world.review(UUID(coupon["id"]))
    comment = new_id()
    await world.execute(
        "INSERT INTO comments (id, room_id, author_id, author_name, author_role, text, at)"
        " VALUES (:id, :room, :viewer, 'v', 'viewer', '好茶', now())",
        id=comment, room=world.room, viewer=viewer.subject,
    )  # fmt: skip
    return {
        "brand": world.ops.brand, "room": str(world.room), "viewer": str(viewer.subject),
        "guide": str(world.guide.subject), "campaign": str(campaign), "drop": str(drop),
        "coupon": coupon["id"], "code": coupon["code"], "qr": str(qr),
        "redemption_id": redeemed["id"], "product": product["id"], "webhook": webhook["webhook"]["id"],
        "comment": str(comment), "store_code": "S1", "review": str(review),
    }  # fmt: skip


async def rows(world: World) -> dict[str, set[str]]:
    """Every row of every table, as text."""
    kept = {}
    async with world.kernel.sessions() as session:
        for name in Table.metadata.tables:
            kept[name] = set((await session.scalars(text(f"SELECT one::text FROM {name} AS one"))).all())
    return kept


def other(role: Role, store: UUID | None) -> Principal:
    return Principal(BrandId("other"), new_id(), role, "外人", now() + timedelta(hours=1), store=store)


async def test_another_brands_token_sees_and_changes_nothing(world: World, api: Api) -> None:
    before = await rows(world)
    ours = {one for name in before for row in before[name] for one in _ID.findall(row)}
    sent = set(api.ids.values())
    told = 0
    for role in Role:
        # A clerk of another brand even claims to stand at our till.
        token = world.kernel.keyring.issue(other(role, world.stores["S1"] if role is Role.CLERK else None))
        for method, path in api.operations():
            answer = await api.call(method, path, token)
            assert answer.status_code < 500, (role, method, path, answer.text)
            leaked = {one for one in _ID.findall(answer.text) if one in ours} - sent
            assert not leaked, (role, method, path, answer.text)
            if "{" in path:
                assert answer.status_code >= 400, (role, method, path, answer.text)
            told += 1
    assert told > 4 * 80
    after = await rows(world)
    for name, kept in before.items():
        assert kept <= after[name], name


def unsigned(claims: dict[str, Any]) -> str:
    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none', 'typ': 'JWT', 'kid': 'checkout'})}.{part(claims)}."


async def test_without_a_token_or_with_a_forged_one_nothing_answers(world: World, api: Api) -> None:
    good = world.kernel.keyring.issue(world.ops)
    claims = jwt.decode(good, options={"verify_signature": False})
    [(kid, key)] = world.kernel.settings.token_keys.items()
    header = {"kid": kid}
    forged = {
        "none at all": None,
        "no token": "x",
        "alg none": unsigned(claims),
        "another key": jwt.encode(claims, "k" * 40, algorithm="HS256", headers=header),
        "an unknown kid": jwt.encode(claims, key.get_secret_value(), algorithm="HS256", headers={"kid": "else"}),
        "another algorithm": jwt.encode(claims, key.get_secret_value() * 2, algorithm="HS512", headers=header),
        "changed claims": ".".join([*good.split(".")[:1], unsigned(claims | {"brand": "other"}).split(".")[1],
                                    good.split(".")[2]]),
        "no end": jwt.encode({**claims, "exp": None}, key.get_secret_value(), algorithm="HS256", headers=header),
        "expired": world.kernel.keyring.issue(
            Principal(world.ops.brand, world.ops.subject, Role.OPS, "运营", now() - timedelta(seconds=1))
        ),
    }  # fmt: skip
    before = await rows(world)
    for name, token in forged.items():
        for method, path in api.operations():
            answer = await api.call(method, path, token)
            assert answer.status_code == 401, (name, method, path, answer.text)
            assert answer.json()["code"] in ("token_missing", "token_invalid", "token_expired"), (name, path)
    assert await rows(world) == before


async def test_a_viewer_of_the_same_brand_can_do_nothing_that_is_for_staff(world: World, api: Api) -> None:
    [stranger] = await world.viewers(1)
    token = world.kernel.keyring.issue(stranger)
    before = await rows(world)
    for method, path in api.operations():
        mine = path.startswith("/v1/me") or path in ("/v1/drops/{drop}/claims", "/v1/auth/refresh")
        if f"{method} {path}" == "DELETE /v1/me":
            continue  # they would be nobody's from then on
        may = mine or (path.endswith(("/reminder", "/reports")) and "/ops/" not in path)
        answer = await api.call(method, path, token)
        assert answer.status_code < 500
        if (method != "GET" and not may) or "/ops/" in path or "/till/" in path:
            assert answer.status_code in (403, 404), (method, path, answer.text)
        if "{coupon}" in path:
            assert answer.json()["code"] == "not_found", (method, path, answer.text)
    after = await rows(world)
    # What is the stranger's own they may change; and what a claim of theirs leaves is counted in the drop and campaign.
    for name in before.keys() - {"drops", "campaigns"}:
        assert {one for one in before[name] if str(stranger.subject) not in one} <= after[name], name
