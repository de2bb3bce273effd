import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import pytest
from fastapi import FastAPI, HTTPException, Query
from httpx import ASGITransport, AsyncClient
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import insert, select, text

from kernel.clock import now
from kernel.errors import Refusal
from kernel.http import (
    Anyone,
    ClerkOrOps,
    Guide,
    InKernel,
    InOnce,
    InSession,
    Kernel,
    decode_cursor,
    encode_cursor,
    install_error_handlers,
    refusals,
    same_brand,
)
from kernel.identity import Principal, Role
from kernel.ids import BrandId, new_id
from kernel.postgres import create_engine, create_sessions, transaction
from kernel.tables import Brand, IdempotencyKey


class Thing(BaseModel):
    name: str
    made: int = 0


class Bench:
    """A small application with one route for each thing the edge does."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.made = 0
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.app = FastAPI()
        self.app.state.kernel = kernel
        install_error_handlers(self.app)
        self._routes()
        transport = ASGITransport(self.app, raise_app_exceptions=False)
        self.client = AsyncClient(transport=transport, base_url="http://api")

    def _routes(self) -> None:
        app = self.app

        @app.post("/things")
        async def make(body: Thing, session: InSession, once: InOnce) -> Thing:
            async def work() -> Thing:
                self.made += 1
                made = self.made
                await session.execute(insert(Brand).values(id=f"b{made}", name=body.name))
                self.entered.set()
                await self.go_on.wait()
                if body.name == "refuse":
                    raise Refusal("busy", retry_after=3)
                return Thing(name=body.name, made=made)

            return await once(Thing, work)

        @app.get("/anyone")
        async def anyone(who: Anyone) -> dict[str, str]:
            return {"subject": str(who.subject)}

        @app.get("/guide")
        async def guide(who: Guide) -> dict[str, str]:
            return {"role": who.role}

        @app.get("/till")
        async def till(who: ClerkOrOps) -> dict[str, str]:
            return {"role": who.role}

        @app.get("/number")
        async def number(lng: Annotated[float, Query(ge=-180, le=180)]) -> float:
            return lng

        @app.post("/map")
        async def free_map(body: dict[str, Annotated[int, Field(ge=0)]]) -> int:
            return len(body)

        @app.get("/sql")
        async def sql(session: InSession, query: str) -> None:
            await session.execute(text(query))

        @app.get("/raise/{what}")
        async def fail(what: str, _: InKernel) -> None:
            raise {
                "refusal": Refusal("already_redeemed", store=UUID(int=1), redeemed_at=datetime(2026, 1, 1, tzinfo=UTC)),
                "redis": RedisConnectionError("down"),
                "os": ConnectionRefusedError("down"),
                "teapot": HTTPException(418, "short \ud800 and stout", {"X-Tea": "green"}),
                "defect": ZeroDivisionError("secret"),
            }[what]


@pytest.fixture
async def bench(kernel: Kernel) -> AsyncIterator[Bench]:
    made = Bench(kernel)
    async with made.client:
        yield made


def headers(kernel: Kernel, role: Role = Role.VIEWER, subject: UUID | None = None, **more: str) -> dict[str, str]:
    who = Principal(BrandId("acme"), subject or UUID(int=1), role, "x", now() + timedelta(hours=1))
    return {"Authorization": f"Bearer {kernel.keyring.issue(who)}"} | more


# ---- refusals ------------------------------------------------------------------------------------------------------


async def test_a_refusal_leaves_as_problem_json_with_its_fields(bench: Bench) -> None:
    answer = await bench.client.get("/raise/refusal")
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "/docs/errors#already_redeemed",
        "title": "This coupon was already used.",
        "status": 409,
        "detail": "This coupon was already used.",
        "code": "already_redeemed",
        "store": str(UUID(int=1)),
        "redeemed_at": "2026-01-01T00:00:00Z",
    }


async def test_what_the_framework_refuses_has_the_same_form(bench: Bench) -> None:
    for method, path, status, code in (
        ("GET", "/nowhere", 404, "not_found"),
        ("DELETE", "/anyone", 405, "bad_request"),
        ("GET", "/raise/teapot", 418, "bad_request"),
        ("GET", "/number?lng=a", 422, "invalid"),
        ("GET", "/anyone", 401, "token_missing"),
    ):
        answer = await bench.client.request(method, path)
        assert (answer.status_code, answer.json()["status"], answer.json()["code"]) == (status, status, code)
        assert answer.headers["content-type"] == "application/problem+json"
    assert (await bench.client.get("/raise/teapot")).headers["x-tea"] == "green"
    assert (await bench.client.delete("/anyone")).headers["allow"] == "GET"
    assert (await bench.client.get("/anyone")).headers["www-authenticate"] == "Bearer"


async def test_an_invalid_value_is_named_by_place_but_never_repeated(bench: Bench) -> None:
    answer = await bench.client.get("/number?lng=121.4737")
    assert answer.status_code == 200
    answer = await bench.client.get("/number?lng=1121.4737")
    assert answer.json()["errors"][0]["at"] == "query.lng"
    assert "1121" not in answer.text


async def test_names_that_cannot_be_encoded_do_not_break_the_refusal(bench: Bench) -> None:
    answer = await bench.client.post("/map", content=b'{"\\ud800": -1}', headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


@pytest.mark.parametrize("what", ["redis", "os"])
async def test_a_server_behind_us_that_is_away_is_unavailable(bench: Bench, what: str) -> None:
    answer = await bench.client.get(f"/raise/{what}")
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "unavailable", "2")


async def test_a_defect_is_a_500_that_says_nothing(bench: Bench) -> None:
    answer = await bench.client.get("/raise/defect")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert (await bench.client.get("/sql", params={"query": "SELECT nonsense"})).status_code == 500


async def test_a_database_that_is_not_there_is_unavailable(kernel: Kernel, free_port: int) -> None:
    nowhere = kernel.settings.model_copy(update={"database_url": f"postgresql://x:y@127.0.0.1:{free_port}/z"})
    engine = create_engine(nowhere)
    bench = Bench(replace(kernel, settings=nowhere, engine=engine, sessions=create_sessions(engine)))
    async with bench.client:
        answer = await bench.client.get("/sql", params={"query": "SELECT 1"})
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    await engine.dispose()


async def test_a_connection_that_is_cut_is_unavailable_and_the_next_request_is_served(bench: Bench) -> None:
    cut = "SELECT pg_terminate_backend(pg_backend_pid())"
    answer = await bench.client.get("/sql", params={"query": cut})
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert (await bench.client.get("/sql", params={"query": "SELECT 1"})).status_code == 200


async def test_losing_a_race_in_the_database_is_busy_not_a_defect(bench: Bench) -> None:
    lost = "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = 'deadlock_detected'; END $$"
    answer = await bench.client.get("/sql", params={"query": lost})
    assert (answer.status_code, answer.json()["code"]) == (503, "busy")


async def test_a_pool_that_stays_empty_is_busy(kernel: Kernel) -> None:
    engine = create_engine(kernel.settings.model_copy(update={"database_pool": 1}))
    engine.pool._timeout = 0.05  # type: ignore[attr-defined]
    bench = Bench(replace(kernel, engine=engine, sessions=create_sessions(engine)))
    async with bench.client, engine.connect():
        answer = await bench.client.get("/sql", params={"query": "SELECT 1"})
    assert (answer.status_code, answer.json()["code"]) == (503, "busy")
    await engine.dispose()


# ---- who -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", list(Role))
async def test_routes_are_open_to_their_roles_only(bench: Bench, role: Role) -> None:
    signed = headers(bench.kernel, role)
    assert (await bench.client.get("/anyone", headers=signed)).status_code == 200
    assert (await bench.client.get("/guide", headers=signed)).status_code == (200 if role is Role.GUIDE else 403)
    till = await bench.client.get("/till", headers=signed)
    assert till.status_code == (200 if role in (Role.CLERK, Role.OPS) else 403)
    if till.status_code == 403:
        assert till.json()["code"] == "forbidden"


async def test_bad_credentials_are_refused_with_a_code(bench: Bench) -> None:
    who = Principal(BrandId("acme"), UUID(int=1), Role.VIEWER, "x", now() - timedelta(seconds=1))
    expired = f"Bearer {bench.kernel.keyring.issue(who)}"
    for value, code in (
        ("Bearer x", "token_invalid"),
        ("Basic eDp5", "token_missing"),
        ("Bearer", "token_missing"),
        (expired, "token_expired"),
    ):
        answer = await bench.client.get("/anyone", headers={"Authorization": value})
        assert (answer.status_code, answer.json()["code"]) == (401, code)


def test_what_belongs_to_another_brand_is_not_found() -> None:
    who = Principal(BrandId("acme"), UUID(int=1), Role.OPS, "x", now())
    same_brand(who, "acme", "x")
    with pytest.raises(Refusal) as refused:
        same_brand(who, "other", UUID(int=2))
    assert refused.value.code == "not_found"


# ---- once ----------------------------------------------------------------------------------------------------------


async def keys(kernel: Kernel) -> int:
    async with kernel.sessions() as session:
        return len((await session.scalars(select(IdempotencyKey))).all())


async def test_the_same_key_gets_the_same_answer_and_the_work_is_done_once(bench: Bench) -> None:
    signed = headers(bench.kernel, **{"Idempotency-Key": "k"})
    answers = [await bench.client.post("/things", json={"name": "a"}, headers=signed) for _ in range(3)]
    assert [answer.json() for answer in answers] == [{"name": "a", "made": 1}] * 3
    assert bench.made == 1


async def test_without_a_key_the_work_is_done_each_time(bench: Bench) -> None:
    for made in (1, 2):
        answer = await bench.client.post("/things", json={"name": "a"}, headers=headers(bench.kernel))
        assert answer.json()["made"] == made
    assert await keys(bench.kernel) == 0


async def test_a_key_belongs_to_one_request_of_one_caller(bench: Bench) -> None:
    key = {"Idempotency-Key": "k"}
    await bench.client.post("/things", json={"name": "a"}, headers=headers(bench.kernel, **key))
    other = await bench.client.post("/things", json={"name": "b"}, headers=headers(bench.kernel, **key))
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    somebody = headers(bench.kernel, subject=new_id(), **key)
    assert (await bench.client.post("/things", json={"name": "b"}, headers=somebody)).json()["made"] == 2


async def test_a_refused_request_leaves_neither_work_nor_key(bench: Bench) -> None:
    signed = headers(bench.kernel, **{"Idempotency-Key": "k"})
    answer = await bench.client.post("/things", json={"name": "refuse"}, headers=signed)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
    assert await keys(bench.kernel) == 0
    async with bench.kernel.sessions() as session:
        assert (await session.scalars(select(Brand))).all() == []
    assert (await bench.client.post("/things", json={"name": "ok"}, headers=signed)).json()["made"] == 2


@pytest.mark.parametrize(("name", "made"), [("a", 1), ("refuse", 4)])
async def test_the_same_key_at_once_is_worked_on_by_one_at_a_time(bench: Bench, name: str, made: int) -> None:
    bench.go_on.clear()
    signed = headers(bench.kernel, **{"Idempotency-Key": "k"})
    calls = [asyncio.create_task(bench.client.post("/things", json={"name": name}, headers=signed)) for _ in range(4)]
    await bench.entered.wait()
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    async with asyncio.timeout(60), bench.kernel.engine.connect() as connection:
        while await connection.scalar(waiting) != 3:
            await connection.rollback()  # the view is frozen within a transaction
            await asyncio.sleep(0.01)
    assert bench.made == 1
    bench.go_on.set()
    answers = await asyncio.gather(*calls)
    assert bench.made == made
    assert len({answer.text for answer in answers}) == 1
    assert {answer.status_code for answer in answers} == ({200} if name == "a" else {503})


@pytest.mark.parametrize("key", ["k" * 201, "a\x01b"])
async def test_an_odd_key_is_invalid(bench: Bench, key: str) -> None:
    signed = headers(bench.kernel) | {"Idempotency-Key": key}
    answer = await bench.client.post("/things", json={"name": "a"}, headers=signed)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


async def test_the_transaction_is_committed_before_the_answer(bench: Bench) -> None:
    await bench.client.post("/things", json={"name": "kept"}, headers=headers(bench.kernel))
    async with transaction(bench.kernel.sessions) as session:
        assert await session.scalar(select(Brand.name)) == "kept"


# ---- cursors -------------------------------------------------------------------------------------------------------


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8")), st.integers(-(2**63), 2**63 - 1), st.uuids())
def test_a_cursor_comes_back_as_it_went(words: str, number: int, identifier: UUID) -> None:
    cursor = encode_cursor(words, number, identifier)
    assert cursor.isascii()
    assert decode_cursor(cursor, tuple[str, int, UUID]) == (words, number, identifier)


@given(st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_anything_else_is_refused_as_invalid(cursor: str) -> None:
    try:
        decode_cursor(cursor, tuple[UUID])
    except Refusal as refused:
        assert refused.code == "invalid"
    else:
        raise AssertionError("that was no cursor")


def test_a_cursor_of_another_list_is_invalid() -> None:
    with pytest.raises(Refusal):
        decode_cursor(encode_cursor("a"), tuple[int])


# ---- OpenAPI -------------------------------------------------------------------------------------------------------


def test_refusals_are_grouped_by_status_with_an_example() -> None:
    documented: dict[Any, Any] = refusals("not_found", "forbidden", "muted")
    assert sorted(documented) == [403, 404]
    assert documented[403]["description"] == "`forbidden`, `muted`"
    assert documented[403]["content"]["application/problem+json"]["example"]["code"] == "forbidden"
    json.dumps({status: answer["content"] for status, answer in documented.items()})
