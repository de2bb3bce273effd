"""A private Nearcast to measure: servers, API and worker on one core, gateways on the other, started as users do.

Nothing of the environment's own Nearcast is touched: the stores are embedded ones under ``.nearcast/bench``.
"""

import asyncio
import base64
import json
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Mapping, Set
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import asyncpg
import httpx

from loadtest.bench.machine import SCRATCH, CannotMeasure, cores, move, process, python

BRAND = "bench"
START_SECONDS = 300
PRODUCTS = 2


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Room:
    """A live room, commanded over REST by its guide."""

    def __init__(self, house: "House", id: str, shelf: list[str]) -> None:
        self._house = house
        self.id = id
        self.shelf = shelf

    def command(self, what: str, body: object) -> None:
        """``POST /v1/rooms/{room}/{what}``."""
        self._house.ask("POST", f"/v1/rooms/{self.id}/{what}", body)

    def announce(self, text: str) -> None:
        """A certain event for everybody."""
        self.command("announce", {"text": text})


class Gateway:
    """A gateway process."""

    def __init__(self, child: "subprocess.Popen[bytes]", port: int) -> None:
        self.pid = child.pid
        self.port = port

    def figures(self) -> dict[str, float]:
        """``/metrics``, by name with labels."""
        lines = httpx.get(f"http://127.0.0.1:{self.port}/metrics", timeout=10).text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def shed(self) -> int:
        """Events left out so far, comments and for slow viewers; arrivals are always sampled."""
        return int(sum(v for n, v in self.figures().items() if "shed_total{" in n and '"join"' not in n))


class House:
    """``nearcast up`` beside our own gateways. A context manager; on leaving everything is stopped.

    ``stores`` are the settings (``NEARCAST_…``) of running servers to use instead of embedded ones; for tests.
    """

    def __init__(self, stores: Mapping[str, str] | None = None, scratch: Path = SCRATCH) -> None:
        self.server_core: int | Set[int]
        self.other_core: int | Set[int]
        """Where everything else runs: `nearcast up`, and whoever measures."""
        self.server_core, self.other_core = cores()
        self._all_cores = frozenset(cores())
        self._scratch = scratch
        self._exits = ExitStack()
        self._port = free_port()
        clean = {name: value for name, value in os.environ.items() if not name.startswith("NEARCAST_")}
        self._environment = clean | {
            "NEARCAST_STATE_DIR": str(scratch),
            "NEARCAST_API_PORT": str(self._port),
            "NEARCAST_DEV_LOGIN": "true",
            "NEARCAST_TOKEN_KEYS": json.dumps({"bench": secrets.token_urlsafe(32)}),
            "NEARCAST_COUPON_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
            **(stores or {}),
        }  # fmt: skip
        self._client: httpx.Client

    def __enter__(self) -> Self:
        try:
            self._client = self._exits.enter_context(
                httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=30)
            )
            # On all cores it starts in half the time; nothing is measured yet.
            self.up = self._exits.enter_context(self._nearcast("up", self._all_cores))
            self._wait(f"http://127.0.0.1:{self._port}/readyz", self.up, "up")
            move(self.up.pid, self.other_core)
            self._find_servers()
            asyncio.run(self._furnish())
            body = {"brand": BRAND, "role": "guide", "account": "bench-guide"}
            token = self.ask("POST", "/v1/auth/dev", body)["token"]
            self._client.headers["Authorization"] = f"Bearer {token}"
            self.guide_token: str = token
        except BaseException:
            self._exits.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    # ---- processes -------------------------------------------------------------------------------------------------

    def _nearcast(self, verb: str, core: int | Set[int], **more: str) -> Any:
        environment = self._environment | more
        return process(
            python("-m", "app.cli", verb),
            core,
            environment=environment,
            log=self._scratch / "log" / f"bench-{verb}.log",
        )

    def _wait(self, url: str, child: "subprocess.Popen[bytes]", what: str) -> None:
        ends = time.monotonic() + START_SECONDS
        while time.monotonic() < ends:
            if child.poll() is not None:
                break
            try:
                if httpx.get(url, timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                pass  # not listening yet
            time.sleep(0.05)
        tail = (self._scratch / "log" / f"bench-{what}.log").read_text(errors="replace").splitlines()[-8:]
        raise CannotMeasure("\n".join([f"`nearcast {what}` did not become ready; its log ends:", *tail]))

    def _find_servers(self) -> None:
        record = self._scratch / "servers.json"
        if record.exists():
            found = json.loads(record.read_text())
            self._environment |= {
                "NEARCAST_DATABASE_URL": found["database_url"], "NEARCAST_REDIS_URL": found["redis_url"],
            }  # fmt: skip

    @property
    def database_url(self) -> str:
        """Where its PostgreSQL is."""
        return self._environment["NEARCAST_DATABASE_URL"]

    @property
    def redis_url(self) -> str:
        """Where its Redis is."""
        return self._environment["NEARCAST_REDIS_URL"]

    def gateway(self) -> Gateway:
        """A gateway of its own on the server's core; stopped with the house."""
        port = free_port()
        child = self._exits.enter_context(
            self._nearcast("gateway", self.server_core, NEARCAST_GATEWAY_PORT=str(port), NEARCAST_LOG_LEVEL="WARNING")
        )
        self._wait(f"http://127.0.0.1:{port}/readyz", child, "gateway")
        return Gateway(child, port)

    # ---- what is measured with -------------------------------------------------------------------------------------

    def tokens(self, count: int, role: str = "viewer") -> list[str]:
        """So many tokens, each of somebody else, from ``nearcast token``."""
        command = python("-m", "app.cli", "token", "--role", role, "--brand", BRAND, "--count", str(count))
        done = subprocess.run(command, env=self._environment, capture_output=True, check=True)  # noqa: S603
        return done.stdout.decode().split()

    async def _furnish(self) -> None:
        """What has no route: a brand and two products."""
        connection = await asyncpg.connect(self._environment["NEARCAST_DATABASE_URL"])
        try:
            await connection.execute(
                "INSERT INTO brands (id, name) VALUES ($1, 'Bench') ON CONFLICT (id) DO NOTHING", BRAND
            )
            for number in range(PRODUCTS):
                await connection.execute(
                    "INSERT INTO products (id, brand_id, sku, title, image, price_fen)"
                    " VALUES ($1, $2, $3, '桂花拿铁', '/art/latte.svg', 2900) ON CONFLICT DO NOTHING",
                    uuid4(), BRAND, f"BENCH-{number}",
                )  # fmt: skip
            rows = await connection.fetch("SELECT id FROM products WHERE brand_id = $1 ORDER BY sku", BRAND)
            self._shelf = [str(row["id"]) for row in rows]
        finally:
            await connection.close()

    def room(self, display_rate: int = 30) -> Room:
        """A new live room that shows at most ``display_rate`` comments a second."""
        made = self.ask("POST", "/v1/rooms", {"title": "bench", "products": self._shelf, "display_rate": display_rate})
        room = Room(self, made["id"], self._shelf)
        room.command("start", None)
        return room

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """The answer's JSON. Raises CannotMeasure when refused."""
        answer = self._client.request(method, path, json=body)
        if answer.status_code >= 400:
            raise CannotMeasure(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
        return answer.json() if answer.content else None
