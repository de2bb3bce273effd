"""From the API's address to a full house, and out again."""

import asyncio
import json
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any
from uuid import UUID

import httpx

from app.audience.crowd import Crowd
from app.audience.evening import Evening
from app.audience.finale import OPS, finale, progress, summary
from app.audience.host import Host
from app.audience.rest import Account, Refused, Rest
from app.audience.stage import Campaign, Scene, Stage
from app.audience.tally import Tally
from app.audience.till import Tills
from app.audience.town import Shop, Town

BRAND = "demo"
MAIN_TITLE = "今晚上新 · 附近门店送券"
SIDE_GUIDES = range(2, 8)
"""Guides who may have a side room."""
PAGE = 100
START_SECONDS = 60
"""By then stores and rooms are known and the guides are in their rooms, or something is wrong."""


async def run(api: str, viewers: int, seconds: float | None, *, seed: int = 7) -> int:
    """Play an evening until ``seconds`` have passed, or SIGINT or SIGTERM; prints JSON lines, the last a summary.

    Returns the exit code: 0 if every outcome was as it should be, 1 if there were problems.
    """
    _allow_sockets(viewers)
    rest = Rest(api, BRAND)
    stopping = asyncio.Event()
    tally = Tally()
    shed: int | None = None
    try:
        with _stopped_by_signals(stopping):
            _print({"second": 0})  # from here on a signal ends it as it should
            async with asyncio.TaskGroup() as group:
                stage = Stage(rest, tally, Random(seed), group)  # noqa: S311 - nothing here is a secret
                try:
                    async with asyncio.timeout(START_SECONDS):
                        evening = await _prepare(stage, viewers)
                except (Refused, httpx.TransportError, TimeoutError) as error:
                    tally.problem("the evening could not begin", str(error) or type(error).__name__)
                    stage.over = True
                    stage.dismiss()
                else:
                    shed = await _perform(evening, seconds, stopping)
    finally:
        await rest.close()
    closing = summary(tally, shed)
    _print(closing)
    return 1 if closing["problems"] else 0


async def _perform(evening: Evening, seconds: float | None, stopping: asyncio.Event) -> int | None:
    """The evening from first to last; how many events the gateways left out meanwhile, None if they do not say."""
    before = await _shed(evening)
    await _play(evening, seconds, stopping)
    await finale(evening)
    after = await _shed(evening)
    await _go_home(evening)
    if before is None or after is None:
        return None
    return sum(shed - before.get(gateway, 0) for gateway, shed in after.items())


def _print(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _allow_sockets(viewers: int) -> None:
    """Every viewer is a socket; the usual limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = viewers + 500
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


@contextmanager
def _stopped_by_signals(stopping: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    yield
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.remove_signal_handler(number)


# ---- before --------------------------------------------------------------------------------------------------------


async def _prepare(stage: Stage, viewers: int) -> Evening:
    """Learn what there is, and seat the guides."""
    rest = stage.rest
    ops = await rest.sign_in("ops", OPS)
    guide = await rest.sign_in("guide", "guide-01")
    items = await rest.every("/v1/stores", ops.token, limit=PAGE)
    me = await rest.call("GET", "/v1/me", guide.token)
    own = {store["code"] for store in me["stores"]}
    stage.chance.shuffle(items)
    items.sort(key=lambda item: item["code"] not in own)  # the main guide's own customers live around their store
    town = Town([Shop.from_item(item) for item in items], stage.chance)
    campaigns = [
        Campaign.from_item(item)
        for item in await rest.every("/v1/campaigns", guide.token, limit=PAGE)
        if item["state"] == "running" and item.get("valid_until") is None
    ]
    main = Host(stage, await _main_scene(stage, guide), "guide-01", guide)
    sides = await _sides(stage)
    for host in (main, *sides):
        await host.connect()
        await host.here.wait()
    scenes = [host.scene for host in (main, *sides)]
    evening = Evening(stage, main, sides, ops, campaigns, Crowd(stage, town, scenes, viewers), Tills(stage, town))
    for viewer in evening.crowd.viewers:
        viewer.on_coupon = evening.coupon_for
    return evening


async def _open_rooms(stage: Stage, account: Account) -> list[dict[str, Any]]:
    """The guide's rooms that have not ended, the newest first."""
    found: list[dict[str, Any]] = []
    for state in ("scheduled", "live"):
        found += await stage.rest.every("/v1/rooms", account.token, state=state, limit=PAGE)
    own = [room for room in found if room["guide"]["id"] == str(account.subject)]
    return sorted(own, key=lambda room: room["id"], reverse=True)


async def _scene(stage: Stage, account: Account, room: str) -> Scene:
    page = await stage.rest.call("GET", f"/v1/rooms/{room}", account.token)
    if not page["sockets"]:
        raise Refused(f"GET /v1/rooms/{room}", 503, {"code": "no_gateway"})
    return Scene(UUID(page["id"]), page["title"], page["sockets"], [UUID(product["id"]) for product in page["shelf"]])


async def _main_scene(stage: Stage, guide: Account) -> Scene:
    """The main guide's room; a new one with everything on its shelf where the last one has ended."""
    rooms = await _open_rooms(stage, guide)
    if rooms:
        return await _scene(stage, guide, rooms[0]["id"])
    products = await stage.rest.every("/v1/products", guide.token, limit=PAGE)
    body = {"title": MAIN_TITLE, "products": [product["id"] for product in products if not product["sold_out"]]}
    made = await stage.rest.call("POST", "/v1/rooms", guide.token, body)
    return await _scene(stage, guide, made["id"])


async def _sides(stage: Stage) -> list[Host]:
    """The guides whose rooms are live already."""
    found = await asyncio.gather(*(_side(stage, f"guide-{number:02d}") for number in SIDE_GUIDES))
    return [host for host in found if host is not None]


async def _side(stage: Stage, name: str) -> Host | None:
    account = await stage.rest.sign_in("guide", name)
    live = [room for room in await _open_rooms(stage, account) if room["state"] == "live"]
    return Host(stage, await _scene(stage, account, live[0]["id"]), name, account) if live else None


# ---- in between ----------------------------------------------------------------------------------------------------


async def _play(evening: Evening, seconds: float | None, stopping: asyncio.Event) -> None:
    """Everybody acts until it is time."""
    acts = [evening.crowd.come(), evening.crowd.live(), evening.tills.work(), evening.main_show(), _report(evening)]
    acts += [evening.side_show(number) for number in range(len(evening.sides))]
    tasks = [evening.stage.spawn(act) for act in acts]
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        pass
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _report(evening: Evening) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        await asyncio.sleep(1)
        _print(progress(evening, loop.time() - began))


# ---- after ---------------------------------------------------------------------------------------------------------


async def _shed(evening: Evening) -> dict[str, int] | None:
    """What each gateway has left out so far; None if that cannot be learnt."""
    rest = evening.stage.rest

    async def ask() -> Any:
        ops = await rest.sign_in("ops", OPS)
        return await rest.call("GET", "/v1/ops/gateways", ops.token)

    page = await evening.stage.tried("gateways", ask())
    return None if page is None else {gateway["id"]: gateway["shed"] for gateway in page["items"]}


async def _go_home(evening: Evening) -> None:
    """Close every line, and forget what was still planned."""
    stage = evening.stage
    stage.over = True
    evening.crowd.leave()
    for host in (evening.main, *evening.sides):
        host.leave()
    await asyncio.sleep(0.3)  # for the goodbyes to be said
    for seat in (evening.main, *evening.sides, *evening.crowd.viewers):
        seat.vanish()
    stage.dismiss()
