"""Bodies that are too long, over real connections: refused before they cost anything, and the connection goes on."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from app.api import LARGER
from app.up import Stack
from kernel.bodies import MOST_BYTES

DEADLINE_SECONDS = 240
PIECE = b"x" * 65_536


class Line:
    """One connection to the API, spoken by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def say(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def ask(self, method: str, path: str, *headers: str) -> None:
        await self.say("\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode())

    async def answer(self) -> tuple[int, dict[str, Any]]:
        """The next answer's status and body."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length:")[2].split()[0])
        return int(head.split()[1]), json.loads(await self._reader.readexactly(length))


@asynccontextmanager
async def line(stack: Stack) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(stack.api.rpartition(":")[2]))
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            yield Line(reader, writer)
    finally:
        writer.close()


def token(stack: Stack, role: str, account: str) -> str:
    body = {"brand": "demo", "role": role, "account": account}
    return str(httpx.post(f"{stack.api}/v1/auth/dev", json=body, timeout=60).raise_for_status().json()["token"])


def sent(stack: Stack, path: str, size: int, bearer: str | None = None) -> httpx.Response:
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {bearer}"} if bearer else {})
    method = "PUT" if path == "/v1/ops/words" else "POST"
    return httpx.request(method, f"{stack.api}{path}", content=b" " * size, headers=headers, timeout=60)


async def test_a_body_that_says_it_is_too_long_is_refused_before_it_comes(stack: Stack) -> None:
    async with line(stack) as caller:
        await caller.ask("POST", "/v1/auth/dev", "Content-Type: application/json", "Content-Length: 31000000")
        status, problem = await caller.answer()
        assert (status, problem["code"], problem["most_bytes"]) == (413, "too_large", MOST_BYTES)
        # Who sends it all the same has lost nothing but the time: the connection serves the next request.
        for _ in range(31_000_000 // len(PIECE)):
            await caller.say(PIECE)
        await caller.say(PIECE[: 31_000_000 % len(PIECE)])
        await caller.ask("GET", "/healthz")
        assert await caller.answer() == (200, {"status": "ok"})


async def test_a_body_that_does_not_say_how_long_it_is_is_refused_where_it_passes_the_bound(stack: Stack) -> None:
    async with line(stack) as caller:
        await caller.ask("POST", "/v1/auth/dev", "Content-Type: application/json", "Transfer-Encoding: chunked")
        piece = b"%x\r\n%s\r\n" % (len(PIECE), PIECE)
        await caller.say(piece + piece)
        status, problem = await caller.answer()
        assert (status, problem["code"]) == (413, "too_large")
        for _ in range(100):
            await caller.say(piece)
        await caller.say(b"0\r\n\r\n")
        await caller.ask("GET", "/healthz")
        assert await caller.answer() == (200, {"status": "ok"})


async def test_others_are_served_while_too_much_is_sent(stack: Stack) -> None:
    async def flood() -> tuple[int, dict[str, Any]]:
        async with line(stack) as caller:
            await caller.ask("POST", "/v1/campaigns/import", "Transfer-Encoding: chunked")
            for _ in range(400):
                await caller.say(b"%x\r\n%s\r\n" % (len(PIECE), PIECE))
            return await caller.answer()

    async def asks() -> list[int]:
        async with httpx.AsyncClient(base_url=stack.api, timeout=60) as client:
            return [(await client.get("/v1/brands/demo")).status_code for _ in range(20)]

    *floods, statuses = await asyncio.gather(flood(), flood(), asks())
    assert [(status, problem["code"]) for status, problem in floods] == [(401, "token_missing")] * 2
    assert statuses == [200] * 20


def test_the_bound_is_exact(stack: Stack) -> None:
    assert sent(stack, "/v1/auth/dev", MOST_BYTES).json()["code"] == "invalid"
    assert sent(stack, "/v1/auth/dev", MOST_BYTES + 1).json()["code"] == "too_large"


@pytest.mark.parametrize("path", LARGER)
def test_lists_may_be_longer_if_staff_sends_them(stack: Stack, path: str) -> None:
    ops = token(stack, "ops", "ops-01")
    assert sent(stack, path, MOST_BYTES + 1).json()["code"] == "token_missing"
    assert sent(stack, path, MOST_BYTES + 1, "x").json()["code"] == "token_invalid"
    assert sent(stack, path, MOST_BYTES + 1, token(stack, "viewer", "long-winded")).json()["code"] == "forbidden"
    assert sent(stack, path, LARGER[path], ops).json()["code"] == "invalid"
    refused = sent(stack, path, LARGER[path] + 1, ops)
    assert (refused.status_code, refused.json()["most_bytes"]) == (413, LARGER[path])
    assert refused.headers["x-request-id"]
