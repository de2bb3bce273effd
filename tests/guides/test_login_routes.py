import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from geoalchemy2 import WKTElement
from httpx import ASGITransport, AsyncClient, Response
from pydantic import SecretStr
from sqlalchemy import func, insert, select
from wechatstub import Stub, wechat

import geo.tables
from guides.routes import router
from guides.tables import Binding, Member, Staff
from kernel.clock import now
from kernel.http import Kernel, install_error_handlers
from kernel.identity import Principal, Role
from kernel.ids import BrandId, new_id
from kernel.postgres import transaction
from kernel.tables import Brand


@pytest.fixture
async def brands(kernel: Kernel) -> None:
    async with transaction(kernel.sessions) as session:
        await session.execute(insert(Brand), [{"id": "acme", "name": "近播咖啡"}, {"id": "other", "name": "Other"}])
        for code in ("S1", "S2"):
            await session.execute(
                insert(geo.tables.Store).values(
                    id=new_id(), brand_id="acme", code=code, name=f"{code}店", banner="Acme", city="上海", address="路",
                    source_lng=121.4, source_lat=31.2, source_datum="gcj02",
                    position=WKTElement("POINT(121.4 31.2)", srid=4326),
                )
            )  # fmt: skip


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    async with wechat() as running:
        yield running


def serve(kernel: Kernel) -> tuple[FastAPI, AsyncClient]:
    app = FastAPI()
    app.state.kernel = kernel
    app.include_router(router)
    install_error_handlers(app)
    return app, AsyncClient(transport=ASGITransport(app, raise_app_exceptions=False), base_url="http://api/v1")


@pytest.fixture
async def api(kernel: Kernel, stub: Stub, brands: None) -> AsyncIterator[AsyncClient]:
    update = {"wechat_base_url": stub.url, "wechat_app_id": "wx1", "wechat_secret": SecretStr("s")}
    app, client = serve(replace(kernel, settings=kernel.settings.model_copy(update=update)))
    async with client, app.router.lifespan_context(app):
        yield client


def bearer(answer: Response) -> dict[str, str]:
    return {"Authorization": f"Bearer {answer.json()['token']}"}


async def dev(api: AsyncClient, role: str, account: str, **more: Any) -> Response:
    return await api.post("/auth/dev", json={"brand": "acme", "role": role, "account": account} | more)


async def count(kernel: Kernel, table: type) -> int:
    async with kernel.sessions() as session:
        return await session.scalar(select(func.count()).select_from(table)) or 0


# ---- WeChat --------------------------------------------------------------------------------------------------------


async def test_a_viewer_signs_in_by_wechat_and_is_the_same_member_again(api: AsyncClient, kernel: Kernel) -> None:
    body = {"brand": "acme", "code": "c", "name": "小林"}
    first = await api.post("/auth/wechat", json=body)
    again = await api.post("/auth/wechat", json={"brand": "acme", "code": "c"})
    assert first.status_code == 200
    assert first.json()["role"] == "viewer"
    assert again.json()["subject"] == first.json()["subject"]
    assert again.json()["name"] == "小林"
    who = kernel.keyring.verify(first.json()["token"], now())
    assert (str(who.subject), who.brand, who.role, who.name) == (first.json()["subject"], "acme", Role.VIEWER, "小林")
    async with kernel.sessions() as session:
        [member] = await session.scalars(select(Member))
    assert "SESSION-KEY" not in repr(vars(member))


async def test_one_openid_is_another_member_in_another_brand(api: AsyncClient) -> None:
    ids = [
        (await api.post("/auth/wechat", json={"brand": brand, "code": "c"})).json()["subject"]
        for brand in ("acme", "other")
    ]
    assert ids[0] != ids[1]


async def test_logins_of_one_new_member_at_once_make_one_member(api: AsyncClient, kernel: Kernel) -> None:
    answers = await asyncio.gather(*(api.post("/auth/wechat", json={"brand": "acme", "code": "c"}) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["subject"] for answer in answers}) == 1
    assert await count(kernel, Member) == 1


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        ({"errcode": 40029}, 401, "login_failed"),
        (b"garbage", 503, "login_unavailable"),
        ({"errcode": 45011}, 429, "too_fast"),
    ],
)
async def test_a_failed_wechat_login_says_why(
    api: AsyncClient, stub: Stub, answer: Any, status: int, code: str
) -> None:
    stub.answers["c"] = answer
    refused = await api.post("/auth/wechat", json={"brand": "acme", "code": "c"})
    assert (refused.status_code, refused.json()["code"]) == (status, code)


async def test_a_slow_wechat_does_not_hold_database_connections(api: AsyncClient, kernel: Kernel, stub: Stub) -> None:
    stub.answers["slow"] = None
    waiting = [
        asyncio.create_task(api.post("/auth/wechat", json={"brand": "acme", "code": "slow"}))
        for _ in range(kernel.settings.database_pool + 2)
    ]
    await stub.asked_times(len(waiting))
    assert (await api.get("/brands/acme")).status_code == 200
    assert not any(login.done() for login in waiting)
    assert {answer.json()["code"] for answer in await asyncio.gather(*waiting)} == {"login_unavailable"}


async def test_an_unknown_brand_is_not_found(api: AsyncClient) -> None:
    assert (await api.post("/auth/wechat", json={"brand": "nobody", "code": "c"})).json()["code"] == "not_found"
    assert (await api.post("/auth/dev", json={"brand": "nobody", "role": "viewer", "account": "a"})).status_code == 404
    assert (await api.get("/brands/nobody")).status_code == 404
    assert (await api.get("/brands/acme")).json() == {"id": "acme", "name": "近播咖啡"}


# ---- development ---------------------------------------------------------------------------------------------------


async def test_dev_login_is_not_there_unless_allowed(kernel: Kernel, brands: None) -> None:
    strict = replace(kernel, settings=kernel.settings.model_copy(update={"dev_login": False}))
    _, client = serve(strict)
    async with client:
        refused = await dev(client, "viewer", "a")
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
    assert await count(kernel, Member) == 0


async def test_dev_viewers_are_found_again_and_take_over_what_is_told(api: AsyncClient) -> None:
    first = (await dev(api, "viewer", "v1")).json()
    second = (await dev(api, "viewer", "v1", name="小林", tier=2)).json()
    third = await dev(api, "viewer", "v1")
    assert first["name"] == "v1"
    assert first["subject"] == second["subject"] == third.json()["subject"]
    me = (await api.get("/me", headers=bearer(third))).json()
    assert (me["name"], me["tier"], me["store"], me["stores"], me["guide"]) == ("小林", 2, None, [], None)


@pytest.mark.parametrize("role", ["viewer", "guide", "clerk", "ops"])
async def test_dev_logins_of_one_account_at_once_make_one_person(api: AsyncClient, kernel: Kernel, role: str) -> None:
    answers = await asyncio.gather(*(dev(api, role, "x", store_code="S1") for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["subject"] for answer in answers}) == 1
    assert await count(kernel, Member) + await count(kernel, Staff) == 1


async def test_a_clerk_stands_at_one_till(api: AsyncClient, kernel: Kernel) -> None:
    assert (await dev(api, "clerk", "c1")).json()["code"] == "invalid"
    assert (await dev(api, "clerk", "c1", store_code="S9")).json()["code"] == "not_found"
    await dev(api, "clerk", "c1", store_code="S1")
    answer = await dev(api, "clerk", "c1")
    me = (await api.get("/me", headers=bearer(answer))).json()
    assert me["store"]["code"] == "S1"
    assert kernel.keyring.verify(answer.json()["token"], now()).store is not None
    moved = await dev(api, "clerk", "c1", store_code="S2")
    assert (await api.get("/me", headers=bearer(moved))).json()["store"]["code"] == "S2"


async def test_a_guide_serves_the_stores_they_signed_in_for(api: AsyncClient) -> None:
    for code in ("S2", "S1", "S1"):
        answer = await dev(api, "guide", "g1", name="阿May", store_code=code)
    me = (await api.get("/me", headers=bearer(answer))).json()
    assert [store["code"] for store in me["stores"]] == ["S1", "S2"]
    assert (me["role"], me["name"]) == ("guide", "阿May")


async def test_an_account_has_one_role(api: AsyncClient) -> None:
    await dev(api, "guide", "g1")
    assert (await dev(api, "ops", "g1")).json()["code"] == "forbidden"
    assert (await dev(api, "viewer", "g1")).status_code == 200  # members are not accounts


# ---- tokens and bindings -------------------------------------------------------------------------------------------


async def test_a_refreshed_token_says_how_things_are_now(api: AsyncClient, kernel: Kernel) -> None:
    old = await dev(api, "viewer", "v1")
    await dev(api, "viewer", "v1", name="新名", tier=3)
    new = await api.post("/auth/refresh", headers=bearer(old))
    who = kernel.keyring.verify(new.json()["token"], now())
    assert (who.name, who.tier, str(who.subject)) == ("新名", 3, old.json()["subject"])
    assert who.expires_at > now() + timedelta(seconds=kernel.settings.token_ttl_seconds - 60)


@pytest.mark.parametrize("role", list(Role))
async def test_an_account_that_is_gone_gets_no_new_token(api: AsyncClient, kernel: Kernel, role: Role) -> None:
    ghost = Principal(BrandId("acme"), new_id(), role, "ghost", now() + timedelta(hours=1))
    headers = {"Authorization": f"Bearer {kernel.keyring.issue(ghost)}"}
    assert (await api.post("/auth/refresh", headers=headers)).json()["code"] == "token_invalid"
    assert (await api.get("/me", headers=headers)).status_code == 404


async def test_the_newest_binding_wins(api: AsyncClient, kernel: Kernel) -> None:
    first, second = (await dev(api, "guide", "g1")).json(), (await dev(api, "guide", "g2", name="阿Jun")).json()
    viewer = await dev(api, "viewer", "v1")
    for guide in (first, second):
        answer = await api.put("/me/guide", json={"guide": guide["subject"]}, headers=bearer(viewer))
        assert answer.json() == {"id": guide["subject"], "name": guide["name"]}
    assert (await api.get("/me", headers=bearer(viewer))).json()["guide"] == {"id": second["subject"], "name": "阿Jun"}
    assert await count(kernel, Binding) == 1


async def test_a_binding_needs_a_guide_of_the_same_brand_and_a_viewer(api: AsyncClient) -> None:
    viewer, clerk = await dev(api, "viewer", "v1"), await dev(api, "clerk", "c1", store_code="S1")
    elsewhere = (await api.post("/auth/dev", json={"brand": "other", "role": "guide", "account": "g"})).json()
    for guide in (elsewhere["subject"], clerk.json()["subject"], str(new_id())):
        refused = await api.put("/me/guide", json={"guide": guide}, headers=bearer(viewer))
        assert refused.json()["code"] == "not_found"
    guide = await dev(api, "guide", "g1")
    body = {"guide": guide.json()["subject"]}
    assert (await api.put("/me/guide", json=body, headers=bearer(guide))).json()["code"] == "forbidden"
    assert (await api.put("/me/guide", json=body)).json()["code"] == "token_missing"


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/auth/dev", {"brand": "acme", "role": "viewer", "account": "a\0"}),
        ("/auth/dev", {"brand": "acme\0", "role": "viewer", "account": "a"}),
        ("/auth/dev", {"brand": "acme", "role": "king", "account": "a"}),
        ("/auth/dev", {"brand": "acme", "role": "viewer", "account": "a", "tier": 4}),
        ("/auth/dev", {"brand": "acme", "role": "viewer", "account": "a", "name": "x" * 101}),
        ("/auth/dev", {"brand": "acme", "role": "viewer", "account": "\u200b" * 65}),
        ("/auth/dev", None),
        ("/auth/wechat", {"brand": "acme", "code": ""}),
        ("/auth/wechat", {"brand": "acme", "code": "a b"}),
        ("/auth/wechat", {"brand": "acme", "code": "a" * 257}),
        ("/auth/wechat", {"brand": "acme", "code": "a", "name": "a\0"}),
    ],
)
async def test_bad_input_is_refused_as_invalid(api: AsyncClient, stub: Stub, path: str, body: Any) -> None:
    answer = await api.post(path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert stub.asked == []


async def test_a_brand_in_an_address_may_be_anything(api: AsyncClient) -> None:
    assert (await api.get("/brands/a%00b")).json()["code"] == "invalid"
    assert (await api.get("/brands/%ff%fe")).json()["code"] == "not_found"
    assert (await api.get(f"/brands/{'x' * 65}")).json()["code"] == "invalid"
