"""``deploy/nginx.conf``, run by a real nginx in front of real APIs and two gateways."""

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

import httpx
import pytest
from front import CONFIG, DEADLINE_SECONDS, Nginx, another_api, nginx
from websockets.asyncio.client import ClientConnection, connect

from app.api import LARGER
from app.up import Stack
from kernel.errors import Refusal
from live.connection import SILENT_SECONDS

pytestmark = pytest.mark.timeout(400)
HASTY = {
    "client_header_timeout 10s;": "client_header_timeout 1s;",
    "client_body_timeout 20s;": "client_body_timeout 1s;",
    "limit_conn sockets 5000;": "limit_conn sockets 3;",
    "limit_req zone=requests burst=400 nodelay;": "limit_req zone=requests burst=10 nodelay;",
    "zone=requests:10m rate=200r/s;": "zone=requests:10m rate=1r/m;",
}
"""Limits and times that one meets within a second."""
UNLIMITED = {"zone=requests:10m rate=200r/s;": "zone=requests:10m rate=100000r/s;"}
"""For who asks as fast as the machine lets them."""


class Front:
    """nginx, and what is behind it."""

    def __init__(self, running: Nginx, stack: Stack) -> None:
        self.nginx = running
        self.url = running.url
        self._stack = stack
        ops = self.sign_in("ops", "ops-01")
        self._ops = {"Authorization": f"Bearer {ops}"}
        self.room = str(httpx.get(f"{stack.api}/v1/rooms?state=live", headers=self._ops).json()["items"][0]["id"])
        self.path = f"/v1/rooms/{self.room}/live"

    def sign_in(self, role: str, account: str) -> str:
        body = {"brand": "demo", "role": role, "account": account}
        return str(httpx.post(f"{self._stack.api}/v1/auth/dev", json=body).raise_for_status().json()["token"])

    @asynccontextmanager
    async def viewer(self, account: str, position: dict[str, Any] | None = None) -> AsyncIterator["Seat"]:
        """Somebody in the room, through nginx."""
        async with connect(f"ws{self.url.removeprefix('http')}{self.path}") as socket:
            seat = Seat(socket)
            hello = {"t": "hello", "v": 1, "token": self.sign_in("viewer", account)}
            await socket.send(json.dumps(hello | ({"resume": position} if position else {})))
            seat.welcome = await seat.hears("welcome")
            yield seat

    async def announce(self, text: str) -> None:
        async with httpx.AsyncClient(base_url=self.url, headers=self._ops, timeout=60) as client:
            (await client.post(f"/v1/rooms/{self.room}/announce", json={"text": text})).raise_for_status()

    def kill(self, gateway: str) -> None:
        process = self._stack.children[gateway].process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)


class Seat:
    """One viewer's socket."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.welcome: dict[str, Any] = {}

    async def hears(self, kind: str) -> dict[str, Any]:
        """The next frame, or event in a batch, of that kind."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                frame: dict[str, Any] = json.loads(await self._socket.recv())
                for told in [frame, *frame.get("e", ())]:
                    if told["t"] == kind:
                        return told
        raise AssertionError  # for the type checker: the loop has no other end


def address(url: str) -> str:
    return url.removeprefix("http://")


@pytest.fixture(scope="module")
def front(stack: Stack) -> Iterator[Front]:
    # The file's second API is nobody's here: every second request is passed on without a word.
    with nginx([address(stack.api)], [address(gateway) for gateway in stack.gateways]) as running:
        yield Front(running, stack)


@pytest.fixture(scope="module")
def hasty(stack: Stack) -> Iterator[Front]:
    with nginx([address(stack.api)], [address(gateway) for gateway in stack.gateways], HASTY) as running:
        yield Front(running, stack)


async def test_sockets_pass_and_a_killed_gateway_is_passed_by(front: Front) -> None:
    async with front.viewer("front-1") as one, front.viewer("front-2") as two:
        await front.announce("今晚八点")
        assert (await one.hears("announce"))["text"] == (await two.hears("announce"))["text"] == "今晚八点"
    position = {"epoch": one.welcome["log"]["epoch"], "seq": one.welcome["log"]["seq"]}
    front.kill("gateway-1")
    for number in range(4):
        async with front.viewer("front-1", position) as back:
            assert back.welcome["recovered"], number
            assert (await back.hears("announce"))["text"] == "今晚八点"


async def test_a_reload_leaves_viewers_where_they_are_and_gives_new_ones_to_new_workers(front: Front) -> None:
    before = front.nginx.workers()
    async with front.viewer("front-3") as stays:
        front.nginx.reload()
        async with asyncio.timeout(DEADLINE_SECONDS):
            while front.nginx.workers() <= before:
                await asyncio.sleep(0.05)
        async with front.viewer("front-4") as comes:
            await front.announce("我们继续")
            assert (await stays.hears("announce"))["text"] == (await comes.hears("announce"))["text"] == "我们继续"


def test_what_is_for_operations_stays_inside_and_no_query_is_logged(front: Front) -> None:
    for path in ("/metrics", "/readyz", "/healthz"):
        assert httpx.get(front.url + path).status_code == 404
    assert httpx.get(f"{front.url}/v1/stores/nearby?lng=121.4737&lat=31.2304&datum=gcj02").status_code == 401
    ends = monotonic() + DEADLINE_SECONDS  # nginx writes the line when the answer is on its way
    while "GET /v1/stores/nearby 401" not in front.nginx.log():
        assert monotonic() < ends
        sleep(0.05)
    assert "121.47" not in front.nginx.log()


def test_nginx_is_more_patient_than_a_gateway() -> None:
    for name in ("proxy_read_timeout", "proxy_send_timeout"):
        found = re.search(rf"{name} (\d+)s;", CONFIG.read_text().partition("location ~ ^/v1/rooms")[2])
        assert found
        assert int(found[1]) > SILENT_SECONDS


class Asking(Thread):
    """Somebody who asks nginx again and again, in turn to read and to write, and keeps every status."""

    def __init__(self, front: Front) -> None:
        super().__init__()
        self._front = front
        self._token = front.sign_in("viewer", "asking")
        self.enough = Event()
        self.statuses: list[int] = []

    def run(self) -> None:
        headers = {"Authorization": f"Bearer {self._token}"}
        with httpx.Client(base_url=self._front.url, headers=headers, timeout=DEADLINE_SECONDS) as client:
            while not self.enough.is_set():
                for answer in (
                    client.get("/v1/brands/demo"),
                    client.put(f"/v1/rooms/{self._front.room}/reminder", headers={"Idempotency-Key": str(uuid4())}),
                ):
                    self.statuses.append(answer.status_code)


@contextmanager
def asking(front: Front, people: int) -> Iterator[list[Asking]]:
    everybody = [Asking(front) for _ in range(people)]
    for one in everybody:
        one.start()
    try:
        yield everybody
    finally:
        for one in everybody:
            one.enough.set()
        for one in everybody:
            one.join()


@pytest.mark.deep
async def test_an_api_that_is_replaced_costs_no_request(stack: Stack) -> None:
    async with another_api(stack) as second:
        apis = [second.address, address(stack.api)]
        with nginx(apis, [address(gateway) for gateway in stack.gateways], UNLIMITED) as running:
            front = Front(running, stack)
            with asking(front, 4) as people:
                async with asyncio.timeout(DEADLINE_SECONDS):
                    while any(len(one.statuses) < 20 for one in people):
                        await asyncio.sleep(0.02)
                    assert await second.stop() == 0
                    counts = [len(one.statuses) for one in people]
                    while any(len(one.statuses) < count + 20 for one, count in zip(people, counts, strict=True)):
                        await asyncio.sleep(0.02)
            for one in people:
                assert set(one.statuses[::2]) == {200}, one.statuses
                assert max(one.statuses[1::2]) < 500, one.statuses
            assert f"{second.address} 200" in running.log()


def test_nginx_lets_through_what_the_api_takes_and_refuses_more_in_the_same_words(front: Front) -> None:
    most = max(LARGER.values())
    sent = [httpx.post(f"{front.url}/v1/campaigns/import", content=b" " * size) for size in (most, most + 1)]
    assert [answer.status_code for answer in sent] == [401, 413]
    assert sent[1].headers["content-type"] == "application/problem+json"
    assert sent[1].json() == Refusal("too_large", most_bytes=most).problem()


# ---- limits and slow clients ---------------------------------------------------------------------------------------


async def test_who_speaks_too_slowly_is_hung_up_on(hasty: Front) -> None:
    async def answered(sent: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(hasty.url.rpartition(":")[2]))
        writer.write(sent)
        try:
            return await reader.readline()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    post = b"POST /v1/auth/dev HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    async with asyncio.timeout(DEADLINE_SECONDS):
        said = await asyncio.gather(answered(b""), answered(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "), answered(post))
    assert all(line == b"" or b" 408 " in line for line in said), said


def test_a_flood_from_one_address_is_stopped_and_told_so(hasty: Front) -> None:
    with httpx.Client(base_url=hasty.url) as client:
        statuses = [client.get("/v1/stores/nearby?lng=121.4737&lat=31.2304&datum=gcj02").status_code for _ in range(30)]
    assert set(statuses) == {401, 429}
    assert statuses.count(401) <= 11  # one, and the burst
    # nginx tells of a limited request with its whole line: that must not be where places are kept.
    assert "121.47" not in hasty.nginx.log() + hasty.nginx.log("error")


async def test_sockets_of_one_address_are_limited_and_room_is_made_when_one_goes(hasty: Front) -> None:
    headers = (
        f"GET {hasty.path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()

    async def opened() -> tuple[int, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(hasty.url.rpartition(":")[2]))
        writer.write(headers)
        return int((await reader.readline()).split()[1]), writer

    async with asyncio.timeout(DEADLINE_SECONDS):
        sockets = [await opened() for _ in range(4)]
        assert [status for status, _ in sockets] == [101, 101, 101, 429]
        sockets[0][1].close()
        while (again := await opened())[0] == 429:
            again[1].close()
        assert again[0] == 101
        for _, writer in (*sockets, again):
            writer.close()
