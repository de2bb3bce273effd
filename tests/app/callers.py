"""Somebody who asks the API of a running stack."""

from typing import Any
from uuid import uuid4

import httpx


class Somebody:
    """Signed in; answers are given back whatever they say."""

    def __init__(self, api: str, role: str, account: str) -> None:
        self._api = api
        body = {"brand": "demo", "role": role, "account": account}
        self.token = str(httpx.post(f"{api}/v1/auth/dev", json=body, timeout=60).raise_for_status().json()["token"])
        self._headers = {"Authorization": f"Bearer {self.token}"}

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self._api + path, headers=self._headers, timeout=60)

    def put(self, path: str, body: Any) -> httpx.Response:
        return httpx.put(self._api + path, headers=self._headers, json=body, timeout=60)

    def post(self, path: str, body: Any) -> Any:
        headers = {**self._headers, "Idempotency-Key": str(uuid4())}
        return httpx.post(self._api + path, headers=headers, json=body, timeout=60).raise_for_status().json()


def first_store(ops: Somebody) -> dict[str, Any]:
    store: dict[str, Any] = ops.get("/v1/stores?limit=1").raise_for_status().json()["items"][0]
    return store
