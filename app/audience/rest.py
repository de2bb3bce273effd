"""REST as the audience uses it: JSON in and out, refusals as exceptions, and patience while a process restarts."""

import asyncio
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx

TIMEOUT_SECONDS = 15
PATIENCE = (0.2, 0.5, 1.0, 2.0, 4.0)
"""Pauses before tries again when the service is busy or gone, in seconds."""


class Refused(Exception):
    """A refusal: its stable ``code``, the HTTP status, and the rest of the problem document."""

    def __init__(self, tried: str, status: int, problem: dict[str, Any]) -> None:
        self.code: str = problem.get("code", f"http_{status}")
        self.status = status
        self.fields = problem
        super().__init__(f"{tried}: {self.code}")


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who signed in."""

    subject: UUID
    name: str
    token: str


class Rest:
    """One HTTP client for everybody: connections are few, tokens are many."""

    def __init__(self, api: str, brand: str, connections: int = 24) -> None:
        self.brand = brand
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._client = httpx.AsyncClient(base_url=api, timeout=TIMEOUT_SECONDS, limits=limits)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def call(
        self,
        method: str,
        path: str,
        token: str | None = None,
        body: dict[str, Any] | None = None,
        *,
        key: str | None = None,
        **query: Any,
    ) -> Any:
        """The answer's JSON, None for 204. Raises Refused, or httpx.TransportError when nobody answers for long.

        Every creating request carries an ``Idempotency-Key`` (``key``, or a fresh one), so trying again is safe.
        """
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        if method == "POST":
            headers["Idempotency-Key"] = key or str(uuid4())
        for pause in (*PATIENCE, None):
            try:
                response = await self._client.request(method, path, headers=headers, json=body, params=query or None)
            except httpx.TransportError:
                if pause is None:
                    raise
                await asyncio.sleep(pause)
                continue
            if response.status_code == 503 and pause is not None:
                await asyncio.sleep(pause)
                continue
            break
        if response.is_success:
            return response.json() if response.content else None
        problem = response.headers.get("content-type", "").startswith("application/problem+json")
        raise Refused(f"{method} {path}", response.status_code, response.json() if problem else {})

    async def every(self, path: str, token: str, **query: Any) -> list[Any]:
        """All items of a paged list."""
        items: list[Any] = []
        cursor: str | None = None
        while True:
            more: dict[str, Any] = query if cursor is None else query | {"cursor": cursor}
            page = await self.call("GET", path, token, **more)
            items += page["items"]
            cursor = page["next"]
            if cursor is None:
                return items

    async def sign_in(self, role: str, account: str, **more: Any) -> Account:
        """Sign in by development login; ``more`` are ``name``, ``tier``, ``store_code``."""
        body = {"brand": self.brand, "role": role, "account": account, **more}
        answer = await self.call("POST", "/v1/auth/dev", body=body)
        return Account(UUID(answer["subject"]), answer["name"], answer["token"])
