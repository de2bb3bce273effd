"""What a body says is taken literally: no field that is none, no text or truth for a number, no number for a truth."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
from world import World

NOT_OURS = {"/v1/streams/publish", "/v1/streams/unpublish"}
"""Said by media servers, in their own words."""
WRONG: dict[str, list[Any]] = {
    "integer": ["5", "１２", "1_000", "+5", "", True, 5.0, 5.5],
    "number": ["121.47", True, "NaN"],
    "boolean": ["true", "yes", 1, 0],
}


class Bodies:
    """The bodies that the API publishes."""

    def __init__(self, described: dict[str, Any]) -> None:
        self._paths = described["paths"]
        self._schemas = described["components"]["schemas"]

    def operations(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for path, operations in self._paths.items():
            for method, operation in operations.items():
                if "requestBody" in operation and path not in NOT_OURS:
                    yield method.upper(), path, operation["requestBody"]["content"]["application/json"]["schema"]

    def forms(self, schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """``schema`` without references: what it may be."""
        if "$ref" in schema:
            schema = self._schemas[schema["$ref"].rpartition("/")[2]]
        if "anyOf" not in schema:
            yield schema
        for one in schema.get("anyOf", ()):
            yield from self.forms(one)

    def places(self, schema: dict[str, Any], at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
        """Each place in a body, the kind of what stands there, and of objects that a list holds the first."""
        for form in self.forms(schema):
            yield at, form.get("type", "")
            if form.get("type") == "array":
                yield from self.places(form["items"], (*at, "0"))
            for name, one in form.get("properties", {}).items():
                yield from self.places(one, (*at, name))


def holding(at: tuple[str, ...], value: Any) -> Any:
    """A body that has ``value`` there and nothing else."""
    for name in reversed(at):
        value = [value] if name == "0" else {name: value}
    return value


async def test_every_body_is_taken_literally(world: World, client: httpx.AsyncClient) -> None:
    [viewer] = await world.viewers(1)
    everybody = [world.kernel.keyring.issue(who) for who in (viewer, world.clerk(), world.guide, world.ops)]
    bodies = Bodies((await client.get("/openapi.json")).json())
    tried = dict.fromkeys(("object", *WRONG), 0)

    async def refused(method: str, path: str, body: Any) -> list[str]:
        """The places that are refused, by whoever may ask at all."""
        url = path
        for name in ("room", "drop", "coupon", "campaign", "review", "product", "webhook", "comment", "redemption_id"):
            url = url.replace(f"{{{name}}}", str(UUID(int=1)))
        content = json.dumps(body)
        for token in everybody:
            headers = {"authorization": f"Bearer {token}", "idempotency-key": "k", "content-type": "application/json"}
            answer = await client.request(method, url, content=content, headers=headers)
            if answer.status_code not in (401, 403):
                break
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), (method, path, body, answer.text)
        return [error["at"] for error in answer.json().get("errors", ())]

    for method, path, schema in bodies.operations():
        for at, kind in bodies.places(schema):
            wrong: list[tuple[tuple[str, ...], Any]] = [(at, value) for value in WRONG.get(kind, ())]
            if kind == "object" and (not at or at[-1] == "0") and at != ("campaigns", "0"):
                wrong.append(((*at, "raduis"), 3000))
            for place, value in wrong:
                assert ".".join(("body", *place)) in await refused(method, path, holding(place, value)), (path, place)
                tried[kind] += 1
    assert all(n > 5 for n in tried.values()), tried
