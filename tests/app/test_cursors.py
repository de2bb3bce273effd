"""Every list that goes on from a cursor refuses what it did not give out, whatever that decodes to."""

import base64
from itertools import product
from uuid import UUID

import httpx
from test_strangers import one_of_everything
from world import World

FIRST = {
    "before every calendar": '"0001-01-01T00:00:00+14:00"',
    "after every calendar": '"9999-12-31T23:59:59.999999-14:00"',
    "the last year": '"9999-12-31T23:59:59Z"',
    "no time zone": '"2026-11-22T12:00:00"',
    "no such day": '"2026-02-30T00:00:00Z"',
    "a word with a zero byte": r'"S\u00001"',
    "half a character": r'"S\ud8001"',
    "below every number": "-1",
    "far below": str(-(2**63) - 1),
    "past 63 bits": str(2**63),
    "past 64 bits": str(2**64),
    "past every float": "1e999",
    "a number of 300 digits": "9" * 300,
    "not a number": "NaN",
    "nothing": "null",
    "yes": "true",
    "a list": "[]",
}
"""What no list has as the first thing that it is ordered by."""
ID, OTHER = f'"{UUID(int=1)}"', f'"{UUID(int=2)}"'
BEHIND = ((), (ID,), (ID, OTHER), ('"S001"',), (r'"S\u00001"',), ("null",), ("1", "2"))
"""What may stand behind it: in some list the first thing is all that is wrong."""
RAW = ("", "=", "a", "AAAA", "好", "%00", "[1]", "x" * 400, "x" * 501)

PLACE = {"lng": "121.47", "lat": "31.23", "datum": "gcj02"}
ORDERS = {
    "/v1/me/wallet": [{}, {"order": "nearest", **PLACE}],
    "/v1/ops/reviews": [{}, {"state": "settled"}],
    "/v1/stores/nearby": [PLACE],
}
BY_WORD = {"/v1/ops/stores", "/v1/products", "/v1/stores"}
"""Lists for which a moment is a word like any other."""
WORDS = {f"{name} in [{first}]" for name, first in FIRST.items() if first.startswith('"') and "\\" not in first}


def garbage() -> dict[str, str]:
    """Cursors, by what is wrong with them."""
    made = {}
    for (name, first), rest in product(FIRST.items(), BEHIND):
        text = f"[{','.join((first, *rest))}]"
        made[f"{name} in {text}"] = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    return {raw: raw for raw in RAW} | made


async def test_no_list_goes_on_from_what_is_no_cursor_of_its_own(world: World, client: httpx.AsyncClient) -> None:
    described = (await client.get("/openapi.json")).json()["paths"]
    lists = [
        path
        for path, operations in described.items()
        if any(one["name"] == "cursor" for one in operations.get("get", {}).get("parameters", ()))
    ]
    assert len(lists) > 12
    ids = await one_of_everything(world, client)
    [viewer] = await world.viewers(1)
    everybody = [world.kernel.keyring.issue(who) for who in (viewer, world.clerk(), world.guide, world.ops)]
    for path, order in [(one, order) for one in lists for order in ORDERS.get(one, [{}])]:
        url = path.format_map(ids)
        for token in everybody:
            headers = {"authorization": f"Bearer {token}"}
            if (await client.get(url, params=order, headers=headers)).status_code == 200:
                break
        else:
            raise AssertionError(f"nobody may read {path}")
        for what, cursor in garbage().items():
            answer = await client.get(url, params={**order, "cursor": cursor}, headers=headers)
            if path in BY_WORD and what in WORDS:
                assert answer.status_code == 200, (path, what, answer.text)
            else:
                assert answer.status_code == 422, (path, order, what, answer.text)
                assert answer.json()["code"] == "invalid"
