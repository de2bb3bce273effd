"""The API process: health that tells the truth, pages with their headers, refusals in one form."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
import structlog
from fastapi.responses import StreamingResponse
from sqlalchemy import text

from app import api
from app.api import PAGES, create_app
from kernel.errors import Refusal
from kernel.identity import Keyring
from kernel.postgres import create_engine, create_sessions
from kernel.process import Kernel
from kernel.redis import create_client
from live import asyncapi

NOWHERE = {"database_url": "postgresql://nobody@127.0.0.1:1/none", "redis_url": "redis://127.0.0.1:1/0"}


def client_of(kernel: Kernel) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(kernel)), base_url="http://api")


@pytest.fixture
async def client(kernel: Kernel) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(kernel) as client:
        yield client


async def test_ready_while_postgresql_and_redis_answer(client: httpx.AsyncClient) -> None:
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "failing": []})


@pytest.mark.parametrize(("setting", "name"), [("database_url", "postgresql"), ("redis_url", "redis")])
async def test_not_ready_says_what_does_not_answer_and_stays_healthy(kernel: Kernel, setting: str, name: str) -> None:
    settings = kernel.settings.model_copy(update={setting: NOWHERE[setting]})
    engine, redis = create_engine(settings), create_client(settings)
    broken = Kernel(settings, engine, create_sessions(engine), redis, Keyring.from_settings(settings))
    async with client_of(broken) as client:
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["failing"]) == (503, [name])
        assert (await client.get("/healthz")).status_code == 200
    await redis.aclose()
    await engine.dispose()


@pytest.mark.parametrize("path", PAGES)
async def test_pages_allow_scripts_of_this_host_only_and_are_asked_for_again(
    client: httpx.AsyncClient, path: str
) -> None:
    answer = await client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "unsafe-inline" not in answer.headers["content-security-policy"].partition("style-src")[0]
    assert answer.headers["cache-control"] == "no-cache"


async def test_scripts_and_pictures_are_served_and_what_lies_beside_them_is_not(client: httpx.AsyncClient) -> None:
    script = await client.get("/client/nearcast.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert script.headers["cache-control"] == "no-cache"
    for outside in ("/client/../../pyproject.toml", "/pages/%2e%2e/%2e%2e/pyproject.toml", "/art/..%2f..%2fREADME.md"):
        assert (await client.get(outside)).status_code == 404


async def test_the_room_protocol_is_served_for_machines(client: httpx.AsyncClient) -> None:
    answer = await client.get("/asyncapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == json.loads(msgspec.json.encode(asyncapi.document()))
    assert "/asyncapi.json" not in (await client.get("/openapi.json")).json()["paths"]


async def test_metrics_count_requests_by_route_and_not_by_identifier(client: httpx.AsyncClient) -> None:
    room = "01a20311-43f3-75f2-bc53-609617b03bae"
    await client.get(f"/v1/rooms/{room}")
    text = (await client.get("/metrics")).text
    assert 'route="/v1/rooms/{room}",status="401"' in text
    assert room not in text


@pytest.mark.parametrize(("method", "path", "status", "code"), [
    ("GET", "/v1/nothing", 404, "not_found"),
    ("PATCH", "/v1/rooms", 405, "bad_request"),
    ("GET", "/v1/rooms", 401, "token_missing"),
    ("POST", "/v1/auth/dev", 422, "invalid"),
])  # fmt: skip
async def test_every_refusal_is_a_problem_with_a_code(
    client: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code


async def test_a_defect_is_a_problem_that_names_the_request_and_nothing_else(kernel: Kernel) -> None:
    app = create_app(kernel)

    @app.get("/v1/broken")
    async def broken() -> None:
        raise ZeroDivisionError("a secret")

    with structlog.testing.capture_logs() as told:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
            answer = await client.get("/v1/broken", headers={"X-Request-Id": "from-the-proxy-1"})
            assert (await client.get("/healthz")).status_code == 200
            assert 'route="/v1/broken",status="500"' in (await client.get("/metrics")).text
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert answer.headers["x-request-id"] == "from-the-proxy-1"
    assert answer.json() == Refusal("internal", request="from-the-proxy-1").problem()
    [line] = [line for line in told if line["event"] == "request_failed"]
    assert (line["request"], line["log_level"]) == ("from-the-proxy-1", "error")


async def test_an_answer_that_breaks_off_is_not_followed_by_another(kernel: Kernel) -> None:
    app = create_app(kernel)

    async def lines() -> AsyncIterator[bytes]:
        yield b"the first line\n"
        raise ZeroDivisionError

    @app.get("/v1/broken")
    async def broken() -> StreamingResponse:
        return StreamingResponse(lines())

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        with pytest.raises(ZeroDivisionError):
            await client.get("/v1/broken")


async def test_a_question_that_the_database_leaves_open_is_given_up_and_answered(
    kernel: Kernel, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with kernel.sessions() as session, session.begin():
        await session.execute(text("LOCK TABLE brands"))
        monkeypatch.setattr(api, "ANSWER_SECONDS", 0.5)
        answer = await client.get("/v1/brands/acme")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert answer.headers["retry-after"] == "2"
    monkeypatch.setattr(api, "ANSWER_SECONDS", 60.0)
    assert (await client.get("/v1/brands/acme")).status_code == 404
    pool: Any = kernel.engine.pool
    assert pool.checkedout() == 0, "the connection that waited is back, or was hung up"
