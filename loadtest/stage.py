"""Where a load test plays: a private stack that is started for it, or a deployment that runs already."""

import base64
import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx

from loadtest.bench.house import BRAND, House
from loadtest.bench.machine import CannotMeasure
from loadtest.swarm.plan import RoomPlan

SPOT = (121.4463, 31.2237)
"""GCJ-02, in a street of Shanghai: where the viewers of a test are, and its store."""
STORE = "LOAD-1"
GATEWAYS = 2
READY_SECONDS = 60
CALLERS = 16
"""Requests under way while people sign in."""
CONSENT = "load test"
CAMPAIGN = {
    "title": "满60减15", "kind": "amount", "amount_fen": 1500, "threshold_fen": 6000, "stock": 1_000_000,
    "per_viewer": 100, "radius_m": 3000, "valid_days": 7,
}  # fmt: skip


class Refused(CannotMeasure):
    """The deployment said no; the message says to what, and what it said."""


class Deployment:
    """A running API, by its address."""

    def __init__(self, url: str, brand: str) -> None:
        self.url = url.rstrip("/")
        self.brand = brand
        self._client = httpx.Client(base_url=self.url, timeout=30)

    def ask(self, method: str, path: str, token: str = "", body: object = None) -> Any:
        """The answer's JSON. Raises Refused."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            answer = self._client.request(method, path, json=body, headers=headers)
        except httpx.HTTPError as error:
            raise Refused(f"{method} {self.url}{path}: {type(error).__name__}: {error}") from error
        if answer.status_code >= 400:
            raise Refused(f"{method} {self.url}{path}: {answer.status_code} {answer.text[:200]}")
        return answer.json() if answer.content else None

    def sign_in(self, role: str, account: str, **more: object) -> str:
        """A token by development login. Raises Refused where that is off: tests with tokens of ``nearcast token``."""
        body = {"brand": self.brand, "role": role, "account": account, **more}
        return str(self.ask("POST", "/v1/auth/dev", body=body)["token"])

    def members(self, count: int, located: float) -> list[str]:
        """So many viewers, new to the brand; the first of them (share ``located``) agree to be located."""
        batch = uuid4().hex[:8]

        def one(number: int) -> str:
            token = self.sign_in("viewer", f"load-{batch}-{number}")
            if number < count * located:
                self.ask("PUT", "/v1/me/consents/location", token, {"version": CONSENT})
            return token

        with ThreadPoolExecutor(CALLERS) as callers:
            return list(callers.map(one, range(count)))

    def rooms(self, sizes: list[int]) -> list[RoomPlan]:
        """New rooms with guides of their own, products, a store near by and a campaign."""
        ops = self.sign_in("ops", "load-ops")
        store = {"code": STORE, "name": "压测店", "brand": "压测", "city": "上海市", "address": "路1号",
                 "lng": SPOT[0], "lat": SPOT[1], "datum": "gcj02"}  # fmt: skip
        self.ask("POST", "/v1/stores", ops, store)
        campaign = self.ask("POST", "/v1/campaigns", ops, CAMPAIGN)["id"]
        self.ask("POST", f"/v1/campaigns/{campaign}/run", ops)
        shelf = []
        for number in range(3):
            product = {
                "sku": f"LOAD-{number}",
                "title": f"压测商品{number}",
                "image": "/art/latte.svg",
                "price_fen": 2900,
            }
            shelf.append(self.ask("POST", "/v1/products", ops, product)["id"])

        def one(place: tuple[int, int]) -> RoomPlan:
            number, viewers = place
            guide = self.sign_in("guide", f"load-guide-{number}")
            room = self.ask("POST", "/v1/rooms", guide, {"title": f"压测 {number}", "products": shelf})["id"]
            return RoomPlan(room, viewers, guide, shelf, campaign, SPOT)

        with ThreadPoolExecutor(CALLERS) as callers:
            return list(callers.map(one, enumerate(sizes)))

    def existing(self, room: str, viewers: int, token: str, guide: str = "") -> RoomPlan:
        """A room that is there already; ``guide`` is the token of its guide, if that is ours to play."""
        page = self.ask("GET", f"/v1/rooms/{room}", token)
        return RoomPlan(page["id"], viewers, guide, [product["id"] for product in page["shelf"]])

    def sockets(self, room: str, token: str, at_least: int = 1) -> list[str]:
        """The addresses that ``room`` names, once there are so many. Raises Refused."""
        ends = time.monotonic() + READY_SECONDS
        while True:
            found: list[str] = self.ask("GET", f"/v1/rooms/{room}", token)["sockets"]
            if len(found) >= at_least:
                return found
            if time.monotonic() > ends:
                raise Refused(f"{len(found)} gateways after {READY_SECONDS} s; {at_least} were expected")
            time.sleep(0.2)

    def close(self) -> None:
        """Drop the connections."""
        self._client.close()


@cache
def cores_for() -> tuple[frozenset[int], frozenset[int]]:
    """Cores of the servers, and the generator's own; the same one where there is only one. Found once, as ``cores``."""
    allowed = sorted(os.sched_getaffinity(0))
    return frozenset(allowed[:-1] or allowed), frozenset(allowed[-1:])


class PrivateStack(House):
    """``nearcast up`` in a folder of its own, on all cores but the generator's; forgotten when it ends."""

    def __init__(self, folder: Path, sizes: list[int], located: float) -> None:
        super().__init__(scratch=folder)
        self.folder = folder
        self.server_core, self.generator_core = cores_for()
        self.other_core = self.server_core
        self._sizes = sizes
        self._located = located
        self.rooms: list[RoomPlan] = []
        self.viewer_tokens: list[str] = []

    @property
    def url(self) -> str:
        """The API's address."""
        return f"http://127.0.0.1:{self._port}"

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        data = self.folder / "data"
        if data.is_symlink():
            shutil.rmtree(data.readlink(), ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _furnish(self) -> None:
        """The brand, its people and rooms straight into the tables: thousands would take minutes to sign in."""
        await super()._furnish()
        guides = self.tokens(len(self._sizes), "guide")
        self.viewer_tokens = self.tokens(sum(self._sizes))
        connection = await asyncpg.connect(self._environment["NEARCAST_DATABASE_URL"])
        try:
            await self._fill(connection, guides)
        finally:
            await connection.close()

    async def _fill(self, connection: Any, guides: list[str]) -> None:
        lng, lat = SPOT
        await connection.execute(
            "INSERT INTO stores (id, brand_id, code, name, banner, city, address, source_lng, source_lat, source_datum,"
            " position) VALUES ($1, $2, $3, '压测店', '压测', '上海市', '路1号', $4::float8, $5::float8, 'gcj02',"
            " ST_SetSRID(ST_MakePoint($4::float8, $5::float8), 4326)::geography)",
            uuid4(), BRAND, STORE, lng, lat,
        )  # fmt: skip
        campaign = uuid4()
        await connection.execute(
            "INSERT INTO campaigns (id, brand_id, title, kind, amount_fen, threshold_fen, stock, per_viewer,"
            " valid_days, state) VALUES ($1, $2, '满60减15', 'amount', 1500, 6000, 1000000, 100, 7, 'running')",
            campaign, BRAND,
        )  # fmt: skip
        viewers = [subject(token) for token in self.viewer_tokens]
        await connection.executemany(
            "INSERT INTO members (id, brand_id, openid, name) VALUES ($1, $2, $3, $4)",
            [(viewer, BRAND, f"load:{viewer}", f"观众{number}") for number, viewer in enumerate(viewers)],
        )
        await connection.executemany(
            "INSERT INTO location_consents (viewer_id, version, given_at) VALUES ($1, $2, now())",
            [(viewer, CONSENT) for viewer in viewers],
        )
        self.rooms = []
        for number, (viewers_here, token) in enumerate(zip(self._sizes, guides, strict=True)):
            room = uuid4()
            await connection.execute(
                "INSERT INTO staff (id, brand_id, account, name, role) VALUES ($1, $2, $3, $3, 'guide')",
                subject(token), BRAND, f"load-guide-{number}",
            )  # fmt: skip
            await connection.execute(
                "INSERT INTO rooms (id, brand_id, guide_id, title) VALUES ($1, $2, $3, $4)",
                room, BRAND, subject(token), f"压测 {number}",
            )  # fmt: skip
            await connection.executemany(
                "INSERT INTO shelf_items (room_id, product_id, place) VALUES ($1, $2, $3)",
                [(room, UUID(product), place) for place, product in enumerate(self._shelf)],
            )
            self.rooms.append(RoomPlan(str(room), viewers_here, token, self._shelf, str(campaign), SPOT))


def subject(token: str) -> UUID:
    """Whose token it is; not verified, it is ours."""
    payload = token.split(".")[1]
    return UUID(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"])


def read_tokens(path: Path, wanted: int) -> list[str]:
    """The tokens of a file, one a line, as ``nearcast token`` prints them. Raises CannotMeasure."""
    tokens = path.read_text().split()
    if len(tokens) < wanted:
        raise CannotMeasure(f"{path} has {len(tokens)} tokens; {wanted} viewers need one each")
    return tokens[:wanted]
