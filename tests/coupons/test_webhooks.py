"""A brand's CRM hears of every coupon: once more rather than never, in order, signed, whatever either side suffers."""

import asyncio
import hashlib
import hmac
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from sqlalchemy import text
from world import SIGNER_SEED, World, principal

from coupons import callback, codes, ledger, redemption, webhook_routes, webhooks
from coupons.codes import Signer
from coupons.deliveries import BATCH, Courier, Horizon, retry_delay
from coupons.issuing import Issuer
from coupons.push import run_push
from geo.catchments import Catchments
from kernel.clock import now
from kernel.errors import Refusal
from kernel.http import install_error_handlers
from kernel.identity import Role
from kernel.postgres import transaction

EVERY = ["issued", "redeemed", "reversed", "expired", "voided"]
HERE = ("127.0.0.1",)
SECONDS = 60


class Crm:
    """A real HTTP server. ``answers`` are used up in order, then 200: a status, or None for silence."""

    def __init__(self) -> None:
        self.url = ""
        self.calls: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int | None] = []
        self.headers = ""
        self.more = asyncio.Event()
        self.open = 0
        self.most_open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
                body = await reader.readexactly(int(headers["content-length"]))
                self.open += 1
                self.most_open = max(self.open, self.most_open)
                self.calls.append((headers, body))
                self.more.set()
                status = self.answers.pop(0) if self.answers else 200
                if status is None:
                    await reader.read()  # until the caller hangs up
                self.open -= 1
                writer.write(f"HTTP/1.1 {status} X\r\n{self.headers}Content-Length: 2\r\n\r\nok".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for _, body in self.calls for event in json.loads(body)["events"]]

    @property
    def told(self) -> list[int]:
        return [event["id"] for event in self.events]

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not done():
                self.more.clear()
                await self.more.wait()


@asynccontextmanager
async def listening(port: int = 0) -> AsyncIterator[Crm]:
    crm = Crm()
    server = await asyncio.start_server(crm.serve, "127.0.0.1", port)
    crm.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    try:
        yield crm
    finally:
        server.close()


@pytest.fixture
async def crm() -> AsyncIterator[Crm]:
    async with listening() as running:
        yield running


@asynccontextmanager
async def working(world: World) -> AsyncIterator[Courier]:
    """A courier that is turned again and again, as the worker does it."""
    async with Courier(world.kernel.sessions, HERE) as courier:

        async def turn() -> None:
            while True:
                await courier.turn()
                await asyncio.sleep(0.02)

        turning = asyncio.create_task(turn())
        try:
            yield courier
        finally:
            turning.cancel()
            await asyncio.gather(turning, return_exceptions=True)


async def hook(world: World, url: str, events: list[str] | None = None) -> UUID:
    async with transaction(world.kernel.sessions) as session:
        made = await webhooks.create(session, world.ops, url, events or EVERY, HERE, after=0)  # type: ignore[arg-type]
        return made.id


async def column(world: World, webhook: UUID, name: str) -> Any:
    return await world.scalar(f"SELECT {name} FROM webhooks WHERE id = :id", id=webhook)


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SECONDS):
        while not await look():
            await asyncio.sleep(0.02)


async def lines(world: World) -> list[int]:
    return [row.id for row in await world.execute("SELECT id FROM ledger ORDER BY id")]


async def push(world: World, n: int) -> list[UUID]:
    """``n`` coupons, each to a viewer of its own."""
    campaign = await world.campaign(stock=n)
    await world.viewers(n)
    drop = await world.drop(campaign, "push", n)
    assert await run_push(world.kernel.sessions, drop) == n
    rows = await world.execute("SELECT id FROM coupons WHERE drop_id = :drop ORDER BY id", drop=drop)
    return [row.id for row in rows]


async def use(world: World, coupon: UUID) -> UUID:
    code = await world.scalar("SELECT code FROM coupons WHERE id = :id", id=coupon)
    presented = redemption.Presented(codes.display(code), None)
    async with transaction(world.kernel.sessions) as session:
        used = await redemption.redeem(
            session, world.clerk(), presented, 15_000, f"k-{coupon}", Signer(SIGNER_SEED), now()
        )
    return used.id


# ---- what is told --------------------------------------------------------------------------------------------------


async def test_the_life_of_a_coupon_is_told_in_order_and_signed(world: World, crm: Crm) -> None:
    webhook = await hook(world, crm.url)
    coupon, other = await push(world, 2)
    used = await use(world, coupon)
    async with transaction(world.kernel.sessions) as session:
        await redemption.reverse(session, world.clerk(), used, now())
    await world.execute("UPDATE coupons SET valid_until = now() - interval '1 second' WHERE id = :id", id=other)
    assert await ledger.expire_due(world.kernel.sessions, now()) == 1
    async with working(world):
        await crm.until(lambda: len(crm.told) == 5)
    assert crm.told == await lines(world)
    story = [event["type"] for event in crm.events if event["coupon"] == str(coupon)]
    assert story == ["coupon.issued", "coupon.redeemed", "coupon.reversed"]
    assert [e["type"] for e in crm.events if e["coupon"] == str(other)] == ["coupon.issued", "coupon.expired"]
    redeemed = next(event for event in crm.events if event["type"] == "coupon.redeemed")
    assert redeemed["order"] == {"redemption": str(used), "order_fen": 15_000, "discount_fen": 2000}
    assert redeemed["store"] == "S1" and "code" not in redeemed

    headers, body = crm.calls[0]
    secret, kid = await column(world, webhook, "secret"), await column(world, webhook, "key_id")
    expected = hmac.new(secret.encode(), headers["nearcast-timestamp"].encode() + b"." + body, hashlib.sha256)
    assert headers["nearcast-signature"] == f"{kid}={expected.hexdigest()}"
    assert abs(int(headers["nearcast-timestamp"]) - now().timestamp()) < 300
    assert json.loads(body)["webhook"] == str(webhook)


async def test_the_example_on_the_page_tells_our_calls_from_others(world: World, crm: Crm) -> None:
    page = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
    example: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], example)
    genuine = example["genuine"]
    webhook = await hook(world, crm.url)
    await push(world, 1)
    async with working(world):
        await crm.until(lambda: bool(crm.calls))
    headers, body = crm.calls[0]
    secrets = {await column(world, webhook, "key_id"): await column(world, webhook, "secret")}
    assert genuine(headers, body, secrets)
    assert not genuine(headers, body + b" ", secrets)
    assert not genuine(headers, body, dict.fromkeys(secrets, "guess"))
    old = str(int(headers["nearcast-timestamp"]) - 301)
    resigned = callback.signed_headers(secrets, int(old), body)
    assert not genuine({name.lower(): value for name, value in resigned.items()}, body, secrets)
    assert not genuine(headers | {"nearcast-timestamp": old}, body, secrets)
    assert not genuine({}, body, secrets)


async def test_only_what_was_asked_for_and_only_of_ones_own_brand(world: World, crm: Crm) -> None:
    mine = await hook(world, crm.url, ["redeemed"])
    await world.execute(
        "INSERT INTO webhooks (id, brand_id, url, events, key_id, secret, created_by)"
        " VALUES (gen_random_uuid(), 'other', :url, ARRAY['issued'], 'k', 's', gen_random_uuid())",
        url=crm.url,
    )
    coupon, _ = await push(world, 2)
    await use(world, coupon)
    newest = (await lines(world))[-1]

    async def both_are_there() -> bool:
        return bool(await world.scalar("SELECT min(cursor) FROM webhooks") == newest)

    async with working(world):
        await until(both_are_there)
    assert [event["type"] for event in crm.events] == ["coupon.redeemed"]
    assert json.loads(crm.calls[0][1])["webhook"] == str(mine)


async def test_many_events_go_in_batches_and_one_call_at_a_time(world: World, crm: Crm) -> None:
    await hook(world, crm.url)
    await push(world, BATCH + 50)
    async with working(world):
        await crm.until(lambda: len(crm.told) >= BATCH + 50)
    assert crm.told == await lines(world)
    assert len(crm.calls) == 2 and crm.most_open == 1


@pytest.mark.parametrize("slow_is_first", [True, False], ids=["older transaction", "younger transaction"])
async def test_a_line_that_commits_behind_others_is_not_skipped(world: World, crm: Crm, slow_is_first: bool) -> None:
    """The lower identifier belongs to a transaction that commits later: nothing may be told beyond it before."""
    await hook(world, crm.url)
    coupons = await push(world, 2)
    line = text("INSERT INTO ledger (coupon_id, transition) VALUES (:id, 'redeem') RETURNING id")
    lock = text("SELECT id FROM coupons WHERE id = :id FOR UPDATE")
    async with working(world):
        await crm.until(lambda: len(crm.told) == 2)
        async with transaction(world.kernel.sessions) as slow:
            async with transaction(world.kernel.sessions) as quick:
                both = [(slow, coupons[0]), (quick, coupons[1])]
                for session, coupon in both if slow_is_first else reversed(both):
                    await session.execute(lock, {"id": coupon})  # here each gets its transaction number
                lower, higher = [await session.scalar(line, {"id": coupon}) for session, coupon in both]
                assert lower < higher
            newcomer = Horizon()
            for _ in range(5):
                assert await newcomer.advance(world.kernel.sessions) == 0
            assert crm.told[2:] == []
        await crm.until(lambda: len(crm.told) == 4)
    assert crm.told[2:] == [lower, higher]


async def test_the_horizon_follows_the_ledger_while_others_only_read(world: World) -> None:
    horizon = Horizon()
    async with world.kernel.sessions() as reader:
        await reader.execute(text("SELECT 1 FROM ledger"))
        await push(world, 3)
        assert await horizon.advance(world.kernel.sessions) == (await lines(world))[-1]


# ---- what can go wrong ---------------------------------------------------------------------------------------------


async def soon(world: World) -> None:
    """Let the next try come now."""
    await world.execute("UPDATE webhooks SET due_at = now()")


async def test_a_failed_call_is_made_again_with_the_same_events(world: World, crm: Crm) -> None:
    webhook = await hook(world, crm.url)
    crm.answers = [500, 302, 400]
    await push(world, 3)
    async with working(world):
        for call in range(1, 4):

            async def failed(call: int = call) -> bool:
                return bool(await column(world, webhook, "failures") == call)

            await until(failed)
            assert await column(world, webhook, "due_at") > await column(world, webhook, "failing_since")
            await soon(world)
        await until(lambda: _settled(world, webhook))
    assert len(crm.calls) == 4 and len({body for _, body in crm.calls}) == 1
    assert await column(world, webhook, "cursor") == (await lines(world))[-1]
    assert await column(world, webhook, "failing_since") is None


async def _settled(world: World, webhook: UUID) -> bool:
    return bool(await column(world, webhook, "delivered_at IS NOT NULL AND failures = 0 AND last_error IS NULL"))


async def test_one_that_is_gone_is_paused_at_once_and_one_that_fails_for_days_too(world: World, crm: Crm) -> None:
    gone = await hook(world, crm.url)
    crm.answers = [410]
    await push(world, 1)
    async with working(world):
        await until(lambda: _paused(world, gone))
        assert await column(world, gone, "pause_reason") == "gone"
        assert await column(world, gone, "last_status") == 410
        await world.execute("DELETE FROM webhooks")
        tired = await hook(world, crm.url)
        crm.answers = [503, 503]
        await until(lambda: _failing(world, tired))
        assert await column(world, tired, "state") == "active"
        await world.execute("UPDATE webhooks SET failing_since = now() - interval '80 hours', due_at = now()")
        await until(lambda: _paused(world, tired))
        assert await column(world, tired, "pause_reason") == "failing"
        assert await column(world, tired, "cursor") == 0
        async with transaction(world.kernel.sessions) as session:
            await webhooks.resume(session, world.ops, tired)
        await until(lambda: _settled(world, tired))


async def _paused(world: World, webhook: UUID) -> bool:
    return bool(await column(world, webhook, "state") == "paused")


async def _failing(world: World, webhook: UUID) -> bool:
    return bool(await column(world, webhook, "failures"))


async def test_one_that_is_down_or_silent_delays_nobody(world: World, crm: Crm) -> None:
    async with listening() as silent:
        silent.answers = [None] * 9
        mute = await hook(world, silent.url)
        down = await hook(world, "http://127.0.0.1:9/hook")
        await hook(world, crm.url)
        await push(world, 1)
        async with working(world):
            await silent.until(lambda: bool(silent.calls))
            await until(lambda: _failing(world, down))
            # While the silent one keeps its caller, ten more coupons reach the others.
            for told in range(2, 12):
                await push(world, 1)
                await crm.until(lambda told=told: len(crm.told) == told)  # type: ignore[misc]
            assert await column(world, mute, "failures") == 0 and silent.open == 1
        assert await column(world, down, "last_error") == "connection"


async def test_one_that_restarts_hears_what_it_missed(world: World) -> None:
    async with listening() as before:
        webhook = await hook(world, before.url)
        await push(world, 1)
        async with working(world):
            await until(lambda: _settled(world, webhook))
    await push(world, 2)
    async with working(world):
        await until(lambda: _failing(world, webhook))
        async with listening(httpx.URL(before.url).port or 0) as after:
            await soon(world)
            await after.until(lambda: len(after.told) == 2)
            await until(lambda: _settled(world, webhook))
    assert before.told + after.told == await lines(world)


async def test_a_call_takes_a_bounded_time(crm: Crm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback, "CALL_SECONDS", 0.2)
    crm.answers = [None]
    with callback.Network(HERE, 1) as network:
        async with callback.Caller(crm.url, network) as caller:
            assert await caller.post(b"{}", {}) == callback.Answer(None, "timeout")


async def test_a_receiver_may_ask_for_time(world: World, crm: Crm) -> None:
    webhook = await hook(world, crm.url)
    crm.answers, crm.headers = [429], "Retry-After: 1800\r\n"
    await push(world, 1)
    async with working(world):
        await until(lambda: _failing(world, webhook))
    assert await column(world, webhook, "due_at > now() + interval '25 minutes'")


def test_waits_double_are_jittered_and_end_at_ten_minutes() -> None:
    for failures, most in ((1, 1), (2, 2), (5, 16), (30, 600)):
        waits = {retry_delay(failures, None).total_seconds() for _ in range(50)}
        assert most / 2 <= min(waits) and max(waits) <= most and len(waits) > 1
    assert retry_delay(1, 10**6) == timedelta(hours=1)


async def test_two_couriers_never_call_one_webhook_at_once(world: World, crm: Crm) -> None:
    await hook(world, crm.url)
    async with working(world), working(world):
        for _ in range(10):
            await push(world, 3)
        await crm.until(lambda: len(crm.told) >= 30)
    assert crm.most_open == 1
    assert crm.told == await lines(world)


async def test_a_worker_killed_between_sending_and_saving_sends_again(world: World, crm: Crm) -> None:
    webhook = await hook(world, crm.url)
    crm.answers = [None]
    await push(world, 2)
    settings = world.kernel.settings.model_copy(update={"webhook_hosts": HERE})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.cli", "worker",
        env=os.environ | settings.environment() | {"NEARCAST_WEBHOOK_HOSTS": json.dumps(HERE)},
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await crm.until(lambda: bool(crm.calls))
    finally:
        process.kill()
        await process.wait()
    assert await column(world, webhook, "cursor") == 0
    assert await column(world, webhook, "taken_until > now()"), "nobody else may call before the lease is over"
    async with Courier(world.kernel.sessions, HERE) as courier:
        assert [await courier.turn() for _ in range(5)] == [0] * 5
        await world.execute("UPDATE webhooks SET taken_until = now()")
        assert await courier.turn() == 1
        await until(lambda: _settled(world, webhook))
    assert crm.calls[0][1] == crm.calls[1][1] and len(crm.calls) == 2


async def test_a_courier_told_to_stop_leaves_its_webhooks_to_others(world: World, crm: Crm) -> None:
    webhook = await hook(world, crm.url)
    crm.answers = [None]
    await push(world, 1)
    async with working(world):
        await crm.until(lambda: bool(crm.calls))
    assert await column(world, webhook, "taken_by IS NULL AND cursor = 0")


async def test_a_webhook_sent_back_meanwhile_is_not_moved_by_the_old_call(world: World, crm: Crm) -> None:
    webhook = await hook(world, crm.url)
    await push(world, 3)
    first, *_ = before = await lines(world)
    async with working(world):
        await until(lambda: _settled(world, webhook))
        async with transaction(world.kernel.sessions) as session:
            await webhooks.replay(session, world.ops, webhook, first)
        await crm.until(lambda: len(crm.told) == 5)
    assert crm.told == [*before, *before[1:]]


# ---- where it may go -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://crm.example.com/", "https://localhost/", "https://127.0.0.1/", "https://10.0.0.8/x", "https://[::1]/",
        "https://169.254.169.254/latest", "https://[::ffff:10.0.0.1]/", "https://100.64.0.1/", "https://crm/",
        "ftp://crm.example.com/", "https://user:pw@crm.example.com/", "https:///x", "https://crm.example.com/#x", "x",
        "https://0.0.0.0/", "https://[fe80::1]/", "https://[64:ff9b::a00:1]/", "https://224.0.0.1/",
        "https://[2002:7f00:1::]/", "http://127.0.0.1.nip.io/",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(url: str) -> None:
    with pytest.raises(Refusal) as refused:
        callback.check_url(url, ())
    assert refused.value.code == "invalid"


def test_public_addresses_and_trusted_hosts_are_not() -> None:
    callback.check_url("https://crm.example.com:8443/a?b=c", ())
    callback.check_url("https://8.8.8.8/", ())
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
    app = FastAPI()
    app.state.kernel = world.kernel
    install_error_handlers(app)
    app.include_router(webhook_routes.router)
    token = world.kernel.keyring.issue(world.ops)
    headers = {"Authorization": f"Bearer {token}"}
    async with AsyncClient(transport=ASGITransport(app), base_url="http://api/v1/ops", headers=headers) as client:
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
        await until(lambda: _failing(world, UUID(identity)))
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


async def test_a_new_webhook_begins_with_the_last_minute(world: World) -> None:
    await push(world, 3)
    await world.execute("UPDATE ledger SET at = now() - interval '2 minutes' WHERE id < (SELECT max(id) FROM ledger)")
    async with transaction(world.kernel.sessions) as session:
        made = await webhooks.create(session, world.ops, "https://crm.example.com/", ["issued"], ())
    assert made.cursor == (await lines(world))[-2]


async def test_claims_under_load_are_told_each_and_in_order(world: World, crm: Crm) -> None:
    """Several transactions write at once while the courier reads: whatever their order of commits, none is skipped."""
    await hook(world, crm.url)
    campaigns = [await world.campaign(stock=500) for _ in range(4)]
    open_drops = [await world.drop(campaign, "claim", 500) for campaign in campaigns]
    viewers = await world.viewers(60)
    async with working(world), Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        await asyncio.gather(*(issuer.claim(v, world.room, drop, "one") for v in viewers for drop in open_drops))
        await crm.until(lambda: len(crm.told) >= 240)
    assert crm.told == await lines(world)
