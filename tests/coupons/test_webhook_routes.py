"""Where a webhook may point to, and how operations make, see, mend and rotate it."""

from collections.abc import AsyncIterator
from ipaddress import ip_address
from typing import Any
from uuid import UUID

import httpx
import pytest
from crms import HERE, Crm, failing, hook, lines, push, until, working
from httpx import AsyncClient
from tills import serving
from world import World, principal

from coupons import callback, webhook_routes, webhooks
from kernel.errors import Refusal
from kernel.identity import Role

# ---- where it may go -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://crm.example.com/", "https://localhost/", "https://127.0.0.1/", "https://10.0.0.8/x", "https://[::1]/",
        "https://169.254.169.254/latest", "https://[::ffff:10.0.0.1]/", "https://100.64.0.1/", "https://crm/",
        "ftp://crm.example.com/", "https://user:pw@crm.example.com/", "https:///x", "https://crm.example.com/#x", "x",
        "https://0.0.0.0/", "https://[fe80::1]/", "https://[64:ff9b::a00:1]/", "https://224.0.0.1/",
        "https://[2002:7f00:1::]/", "http://127.0.0.1.nip.io/", "https://crm example.com/",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(url: str) -> None:
    with pytest.raises(Refusal) as refused:
        callback.check_url(url, ())
    assert refused.value.code == "invalid"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://crm.example.com:0/", "port"),
        ("https://crm.example.com:99999/", "port"),
        ("http://crm.internal:65536/", "port"),
        ("https://[2400:3200::1]:0/", "port"),
        ("https://crm..example.com/", "name"),
        ("https://.example.com/", "name"),
        ("https://example.com../", "name"),
        (f"https://{'a' * 64}.example.com/", "name"),
        (f"https://{'a.' * 130}com/", "name"),
        ("https://-crm.example.com/", "name"),
        ("https://crm-.example.com/", "name"),
        ("https://1.2.3/", "name"),
        ("https://0x7f.1/", "name"),
        ("https://crm.example.0x1/", "name"),
    ],
)
def test_what_no_call_could_reach_is_refused_with_the_reason(url: str, why: str) -> None:
    with pytest.raises(Refusal) as refused:
        callback.check_url(url, ("crm.internal",))
    assert (refused.value.code, refused.value.fields) == ("invalid", {"field": "url"})
    assert why in refused.value.message


def test_public_addresses_and_trusted_hosts_are_not() -> None:
    callback.check_url("https://crm.example.com:8443/a?b=c", ())
    callback.check_url("https://8.8.8.8/", ())
    for name in (f"{'a' * 63}.example.com", "crm.example.com.", "c-r-m_1.xn--fiqs8s", "例子.中国", "3.example.com"):
        callback.check_url(f"https://{name}:65535/", ())
    callback.check_url("http://crm.internal/", ("crm.internal",))
    assert callback.is_public(ip_address("2400:3200::1")) and callback.is_public(ip_address("::ffff:8.8.8.8"))


async def test_a_name_that_leads_inside_is_not_called(crm: Crm, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name was fine when it was set up; its owner points it at our own network later."""
    port = httpx.URL(crm.url).port
    monkeypatch.setattr(
        callback.socket,
        "getaddrinfo",
        lambda *_, **__: [(2, 1, 6, "", ("8.8.8.8", port)), (2, 1, 6, "", (*HERE, port))],
    )
    with callback.Network((), 1) as network:
        async with callback.Caller(f"https://crm.example.com:{port}/", network) as caller:
            assert await caller.post(b"{}", {}) == callback.Answer(None, "address")
    assert crm.calls == []


# ---- for ops -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def api(world: World) -> AsyncIterator[AsyncClient]:
    async with serving(world.kernel, webhook_routes.router, "http://api/v1/ops", world.ops) as client:
        yield client


async def test_a_secret_is_shown_once_and_rotates_with_an_overlap(world: World, api: AsyncClient, crm: Crm) -> None:
    body = {"url": "https://crm.example.com/hook", "events": ["issued"]}
    made = await api.post("/webhooks", json=body, headers={"Idempotency-Key": "one"})
    assert made.status_code == 201, made.text
    again = await api.post("/webhooks", json=body, headers={"Idempotency-Key": "one"})
    assert again.json() == made.json()
    identity, first = made.json()["webhook"]["id"], made.json()
    for shown in (await api.get("/webhooks"), await api.get(f"/webhooks/{identity}")):
        assert shown.status_code == 200 and first["secret"] not in shown.text

    await world.execute("UPDATE webhooks SET url = :url", url=crm.url)
    second = (await api.post(f"/webhooks/{identity}/rotate", json={"overlap_seconds": 60})).json()
    assert second["secret"] != first["secret"] and second["webhook"]["old_key_id"] == first["key_id"]
    await push(world, 1)
    async with working(world):
        await crm.until(lambda: len(crm.calls) == 1)
        await world.execute("UPDATE webhooks SET old_until = now()")
        await push(world, 1)
        await crm.until(lambda: len(crm.calls) == 2)
    headers, sent = crm.calls[0]
    signed = dict(each.split("=") for each in headers["nearcast-signature"].split(", "))
    at = int(headers["nearcast-timestamp"])
    assert signed == {each["key_id"]: callback.signature(each["secret"], at, sent) for each in (first, second)}
    assert crm.calls[1][0]["nearcast-signature"].startswith(f"{second['key_id']}=")
    assert "," not in crm.calls[1][0]["nearcast-signature"]


async def test_ops_see_what_is_wrong_and_can_mend_it(world: World, api: AsyncClient, crm: Crm) -> None:
    identity = str(await hook(world, crm.url))
    crm.answers = [500]
    await push(world, 2)
    async with working(world):
        await until(lambda: failing(world, UUID(identity)))
    (shown,) = (await api.get("/webhooks")).json()["items"]
    assert (shown["state"], shown["failures"], shown["last_status"], shown["last_error"]) == (
        "failing",
        1,
        500,
        "status",
    )
    assert shown["next_try_at"] and shown["waiting_since"] and shown["cursor"] == 0
    paused = (await api.post(f"/webhooks/{identity}/pause")).json()
    assert (paused["state"], paused["pause_reason"]) == ("paused", "ops")
    changed = await api.patch(f"/webhooks/{identity}", json={"events": ["redeemed", "issued"]})
    assert changed.json()["events"] == ["issued", "redeemed"]
    newest = (await lines(world))[-1]
    assert (await api.post(f"/webhooks/{identity}/replay", json={"after": newest + 1})).status_code == 422
    sent = (await api.post(f"/webhooks/{identity}/replay", json={"after": newest})).json()
    assert sent["cursor"] == newest and sent["waiting_since"] is None and sent["state"] == "paused"
    assert (await api.post(f"/webhooks/{identity}/resume")).json()["state"] == "active"
    assert (await api.delete(f"/webhooks/{identity}")).status_code == 204
    assert (await api.get(f"/webhooks/{identity}")).status_code == 404


async def test_who_may_not_and_what_may_not(world: World, api: AsyncClient) -> None:
    identity = await hook(world, "http://127.0.0.1:9/")
    inside = await api.post("/webhooks", json={"url": "https://169.254.169.254/", "events": ["issued"]})
    assert inside.status_code == 422 and inside.json()["field"] == "url"
    assert (await api.patch(f"/webhooks/{identity}", json={"url": "http://crm.example.com/"})).status_code == 422
    for _ in range(webhooks.MAX_WEBHOOKS - 1):
        assert (await api.post("/webhooks", json={"url": "https://crm.example.com/"})).status_code == 201
    full = await api.post("/webhooks", json={"url": "https://crm.example.com/"})
    assert full.json()["code"] == "webhooks_full"
    clerk = world.kernel.keyring.issue(world.clerk())
    refused = await api.get("/webhooks", headers={"Authorization": f"Bearer {clerk}"})
    assert refused.status_code == 403
    stranger = principal(Role.OPS, "elsewhere")
    elsewhere = world.kernel.keyring.issue(type(stranger)(**{**_fields(stranger), "brand": "other"}))
    for method, path in (("GET", ""), ("POST", "/pause"), ("DELETE", "")):
        answer = await api.request(
            method, f"/webhooks/{identity}{path}", headers={"Authorization": f"Bearer {elsewhere}"}
        )
        assert answer.status_code == 404


def _fields(who: Any) -> dict[str, Any]:
    return {name: getattr(who, name) for name in ("brand", "subject", "role", "name", "expires_at", "store", "tier")}
