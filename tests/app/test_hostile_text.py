"""Whatever somebody writes into any text of any published operation is stored as it is or refused: it is never carried
out, and never makes the API fail."""

import ast
import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from sqlalchemy import text
from test_strangers import IMAGE, one_of_everything
from world import World

from coupons import ledger
from kernel.clock import now
from kernel.identity import Role
from kernel.ids import new_id
from kernel.postgres import Table

QUOTES = "'\";--%s{}\\' OR 1;DROP TABLE x"
HOSTILE = {
    "quotes": QUOTES,
    "halves and nothings": "a\x00b\ud800c",
    "directions": "\u202e)(\u2066 \u200f%00\u200b",
    "a statement": "x'); DELETE FROM ledger; --",
    "a function": "'||pg_sleep(9)||'",
    "a placeholder": "$1 :room %(room)s ?",
    "a cast": "1'::int::text--",
    "a pattern": "%_\\%[a-z]*",
    "astral": "\U0001f375\U000e0041\ufdd0\uffff",
    "half a pair": "\udc00",
    "a formula": '=HYPERLINK("http://x","y")',
    "a script": "<script>alert(1)</script>",
    "a path": "../../etc/passwd%2e%2e",
    "long": "界" * 50_000,
}
BESIDES = {"/v1/campaigns": {"gift", "valid_days"}}
"""What an operation needs although its form does not say so."""
SYNC = "POST /v1/till/sync .redemptions[]"
LOOKED_UP = {"POST /v1/auth/dev .store_code", f"{SYNC}.key", f"{SYNC}.qr", f"{SYNC}.order"}
"""Texts that are taken without being kept; of a sync each redemption is refused by itself."""
QUICK = ("quotes", "halves and nothings")


@dataclass(frozen=True)
class Field:
    """A place for text in an operation: ``at`` is `path:name`, `query:name`, `header:name`, or a way into the body."""

    method: str
    path: str
    at: str


class Description:
    """The published description, as places for text and as requests that hold one text."""

    def __init__(self, described: dict[str, Any], ids: dict[str, str]) -> None:
        self._paths = described["paths"]
        self._schemas = described["components"]["schemas"]
        self._ids = ids
        later = (now() + timedelta(days=3)).isoformat()
        self._known: dict[str, Any] = ids | {
            "lng": 121.47, "lat": 31.23, "datum": "gcj02", "image": IMAGE, "url": "https://crm.example.com/x",
            "events": ["issued"], "until": later, "scheduled_at": later, "role": "viewer", "mode": "claim",
            "at": now().isoformat(), "by": "room", "kind": "gift", "gift": "一杯茶", "products": [ids["product"]],
            "account": "someone",
        }  # fmt: skip

    def fields(self) -> Iterator[Field]:
        for path, operations in self._paths.items():
            for method, operation in operations.items():
                for one in operation.get("parameters", ()):
                    if any(True for _ in self._texts(one["schema"], "")):
                        yield Field(method.upper(), path, f"{one['in']}:{one['name']}")
                if (schema := self._body(operation)) is not None:
                    for at in dict.fromkeys(self._texts(schema, "")):
                        yield Field(method.upper(), path, at)

    def _body(self, operation: dict[str, Any]) -> dict[str, Any] | None:
        schema: dict[str, Any] | None
        schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
        return schema

    def _whole(self, schema: dict[str, Any]) -> list[dict[str, Any]]:
        """``schema`` without references: what it may be."""
        if "$ref" in schema:
            return self._whole(self._schemas[schema["$ref"].rpartition("/")[2]])
        several = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
        return [form for one in several for form in self._whole(one)] if several else [schema]

    def _texts(self, schema: dict[str, Any], at: str) -> Iterator[str]:
        for form in self._whole(schema):
            if form.get("type") == "string":
                yield at
            elif form.get("type") == "array":
                yield from self._texts(form["items"], f"{at}[]")
            for name, one in form.get("properties", {}).items():
                yield from self._texts(one, f"{at}.{name}")

    def request(self, field: Field, hostile: str) -> dict[str, Any]:
        """Arguments of ``httpx`` for the operation, right in everything but that ``field`` says ``hostile``."""
        raw = quote(hostile.encode(errors="surrogatepass")[:5_000], safe="")
        # What would otherwise be the same thing again, and replace what was written before.
        self._known |= {
            "sku": str(new_id()),
            "code": str(new_id()) if field.path == "/v1/stores" else self._ids["code"],
        }
        self._known["room"] = self._ids["planned" if field.method == "PATCH" else "room"]
        operation = self._paths[field.path][field.method.lower()]
        path, query = field.path, {}
        headers: dict[str, Any] = {"content-type": "application/json", "idempotency-key": str(new_id())}
        for one in operation.get("parameters", ()):
            name, place = one["name"], one["in"]
            targeted = field.at == f"{place}:{name}"
            if place == "path":
                path = path.replace(f"{{{name}}}", raw if targeted else str(self._known[name]))
            elif place == "query" and (targeted or one.get("required")):
                query[name] = raw if targeted else str(self._known[name])
            elif place == "header" and targeted:
                # What a server would let through: no bytes that end a header.
                headers[name.lower()] = "".join(c if c >= " " else "?" for c in hostile).encode(errors="replace")[:190]
        schema = self._body(operation)
        body = None if schema is None else json.dumps(self._value(schema, "", "", field, hostile))
        link = path + ("?" + "&".join(f"{name}={value}" for name, value in query.items()) if query else "")
        return {"method": field.method, "url": link, "headers": headers, "content": body}

    def _value(self, schema: dict[str, Any], name: str, at: str, field: Field, hostile: str) -> Any:
        path, target = field.path, field.at
        if at == target and name:
            return hostile
        forms = self._whole(schema)
        if name in self._known and not target.startswith((f"{at}[", f"{at}.")):
            return self._known[name]
        form = next((one for one in forms if target.startswith(f"{at}[") and one.get("type") == "array"), forms[0])
        match form.get("type"):
            case "object":
                required = {*form.get("required", ()), *(BESIDES.get(path, ()) if not at else ())}
                return {
                    key: self._value(one, key, f"{at}.{key}", field, hostile)
                    for key, one in form.get("properties", {}).items()
                    if key in required or target == f"{at}.{key}" or target.startswith((f"{at}.{key}.", f"{at}.{key}["))
                }
            case "array":
                return [hostile if target == f"{at}[]" else self._value(form["items"], "", f"{at}[]", field, hostile)]
            case "string":
                return form.get("enum", ["好"])[0]
            case "boolean":
                return True
            case _:
                return max(1, form.get("minimum", 1))


async def texts(world: World) -> set[str]:
    """Every text in every row of every table."""
    found: set[str] = set()

    def gather(value: Any) -> None:
        if isinstance(value, str):
            found.add(value)
        elif isinstance(value, dict | list):
            for one in value.values() if isinstance(value, dict) else value:
                gather(one)

    async with world.kernel.sessions() as session:
        for name in Table.metadata.tables:
            for row in await session.scalars(text(f"SELECT to_jsonb(one) FROM {name} AS one")):
                gather(row)
    return found


async def shape(world: World) -> list[Any]:
    statement = "SELECT table_name, count(*) FROM information_schema.columns WHERE table_schema = 'public' GROUP BY 1"
    return sorted(tuple(row) for row in await world.execute(statement))


EXPORTS = {
    "/v1/ops/conversion": [f"by={by}&format=csv" for by in ("room", "store", "guide", "drop")],
    "/v1/till/closing": ["store=S1&format=csv"],
}


async def test_no_cell_of_any_export_is_a_formula(world: World, client: httpx.AsyncClient) -> None:
    described = (await client.get("/openapi.json")).json()["paths"]
    made = {
        path for path, of in described.items() if "text/csv" in json.dumps([one["responses"] for one in of.values()])
    }
    assert made == set(EXPORTS), "another one is to be tried here"
    evil = "=cmd|' /C calc'!A0"
    await one_of_everything(world, client)
    for table, column in (("rooms", "title"), ("stores", "name"), ("staff", "name"), ("campaigns", "title")):
        await world.execute(f"UPDATE {table} SET {column} = :evil", evil=evil)
    await world.execute("UPDATE redemptions SET order_ref = '+1'")
    token = world.kernel.keyring.issue(world.ops)
    for path, queries in EXPORTS.items():
        for query in queries:
            answer = await client.get(f"{path}?{query}", headers={"authorization": f"Bearer {token}"})
            cells = [cell for row in csv.reader(io.StringIO(answer.raise_for_status().text[1:])) for cell in row]
            assert f"'{evil}" in cells, (path, query)
            assert not [cell for cell in cells if cell.lstrip(" ").startswith(("=", "+", "@", "\t", "＝"))], (
                path,
                query,
            )


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kinds", [QUICK, pytest.param(tuple(HOSTILE), marks=pytest.mark.deep)], ids=["quick", "all"])
async def test_no_text_is_carried_out_or_makes_the_api_fail(
    world: World, client: httpx.AsyncClient, kinds: tuple[str, ...]
) -> None:
    described = (await client.get("/openapi.json")).json()
    tokens = await staff(world)
    ids = await one_of_everything(world, client)
    planned = await client.post("/v1/rooms", json={"title": "明天"}, headers={"authorization": f"Bearer {tokens[2]}"})
    description = Description(described, ids | {"planned": planned.raise_for_status().json()["id"], "qr": qr_of(ids)})
    before = await shape(world)
    roles: dict[tuple[str, str], list[str]] = {}
    outcomes: Counter[str] = Counter()
    accepted: dict[str, Field] = {}
    for field in description.fields():
        for place, kind in enumerate(kinds):
            # Each differs from all others, so that it is known whose text was stored.
            hostile = HOSTILE[kind] + f"~{len(outcomes)}{place}{sum(outcomes.values())}"
            asked = description.request(field, hostile)
            for token in roles.get((field.method, field.path), tokens):
                asked["headers"]["authorization"] = f"Bearer {token}"
                answer = await client.request(**asked)
                if answer.status_code != 403:
                    roles[field.method, field.path] = [token]
                    break
            assert answer.status_code != 401, field
            assert answer.status_code < 500 or answer.json()["code"] == "login_unavailable", (field, kind, answer.text)
            outcomes["accepted" if answer.is_success else "refused"] += 1
            if answer.is_success and field.method != "GET" and field.at.startswith("."):
                accepted[hostile] = field
    assert await shape(world) == before
    async with world.kernel.sessions() as session:
        assert (await ledger.audit(session)).ok
    kept = await texts(world)
    stored = {field for hostile, field in accepted.items() if hostile in kept}
    # Of several texts in one field the last may have replaced the others.
    assert {
        f"{field.method} {field.path} {field.at}" for field in accepted.values() if field not in stored
    } == LOOKED_UP
    assert outcomes["refused"] > 50
    assert len(stored) >= 18, "hardly any text came as far as the database"


def qr_of(ids: dict[str, str]) -> str:
    """What the QR code says, of which ``one_of_everything`` keeps the whole answer."""
    payload: str = ast.literal_eval(ids["qr"])["payload"]
    return payload


async def staff(world: World) -> list[str]:
    """A token of each role, the least powerful first."""
    [viewer] = await world.viewers(1)
    people = {Role.VIEWER: viewer, Role.CLERK: world.clerk(), Role.GUIDE: world.guide, Role.OPS: world.ops}
    return [world.kernel.keyring.issue(who) for who in people.values()]
