"""``deploy/nginx.conf``, run by a real nginx in front of a real API and two gateways."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from app.processes import bound, free_port
from app.up import Stack
from live.connection import SILENT_SECONDS

CONFIG = Path(__file__).parents[2] / "deploy" / "nginx.conf"
DEADLINE_SECONDS = 90
pytestmark = pytest.mark.timeout(400)


class Front:
    """nginx, and what is behind it."""

    def __init__(self, url: str, home: Path, process: subprocess.Popen[bytes], stack: Stack) -> None:
        self.url = url
        self._home = home
        self._process = process
        self._stack = stack
        ops = self.sign_in("ops", "ops-01")
        self._ops = {"Authorization": f"Bearer {ops}"}
        self.room = str(httpx.get(f"{url}/v1/rooms?state=live", headers=self._ops).json()["items"][0]["id"])

    def sign_in(self, role: str, account: str) -> str:
        body = {"brand": "demo", "role": role, "account": account}
        return str(httpx.post(f"{self.url}/v1/auth/dev", json=body).raise_for_status().json()["token"])

    @asynccontextmanager
    async def viewer(self, account: str, position: dict[str, Any] | None = None) -> AsyncIterator["Seat"]:
        """Somebody in the room, through nginx."""
        async with connect(f"ws{self.url.removeprefix('http')}/v1/rooms/{self.room}/live") as socket:
            seat = Seat(socket)
            hello = {"t": "hello", "v": 1, "token": self.sign_in("viewer", account)}
            await socket.send(json.dumps(hello | ({"resume": position} if position else {})))
            seat.welcome = await seat.hears("welcome")
            yield seat

    async def announce(self, text: str) -> None:
        async with httpx.AsyncClient(base_url=self.url, headers=self._ops, timeout=60) as client:
            (await client.post(f"/v1/rooms/{self.room}/announce", json={"text": text})).raise_for_status()

    def reload(self) -> None:
        self._process.send_signal(signal.SIGHUP)

    def workers(self) -> set[int]:
        found = subprocess.run(["pgrep", "-P", str(self._process.pid)], capture_output=True, text=True, check=False)
        return {int(pid) for pid in found.stdout.split()}

    def log(self) -> str:
        return (self._home / "nearcast-access.log").read_text()

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


@pytest.fixture(scope="module")
def front(stack: Stack) -> Iterator[Front]:
    server = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert server, "deploy/install.sh test brings nginx"
    home = Path("/tmp") / f"nearcast-nginx-{uuid4().hex[:8]}"
    home.mkdir()
    config, port = CONFIG.read_text(), free_port()
    ports = {"listen 8000;": f"listen 127.0.0.1:{port};", "127.0.0.1:8080": stack.api.removeprefix("http://")}
    for default, gateway in zip(("127.0.0.1:8090", "127.0.0.1:8091"), stack.gateways, strict=True):
        ports[default] = gateway.removeprefix("http://")
    for written, here in ports.items():
        assert config.count(written) == 1, written
        config = config.replace(written, here)
    (home / "nginx.conf").write_text(config)
    if os.geteuid() == 0:
        shutil.chown(home, "nobody")
    process = subprocess.Popen(
        bound([server, "-p", str(home), "-c", "nginx.conf", "-g", "daemon off;"], "TERM"), stderr=subprocess.PIPE
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/openapi.json", process)
        yield Front(f"http://127.0.0.1:{port}", home, process, stack)
    finally:
        process.terminate()
        process.communicate()
        shutil.rmtree(home)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    transport = httpx.HTTPTransport(retries=8)
    with httpx.Client(transport=transport, timeout=DEADLINE_SECONDS) as client:
        answer = client.get(url)
    assert process.poll() is None
    assert answer.status_code == 200


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
    before = front.workers()
    async with front.viewer("front-3") as stays:
        front.reload()
        async with asyncio.timeout(DEADLINE_SECONDS):
            while front.workers() <= before:
                await asyncio.sleep(0.05)
        async with front.viewer("front-4") as comes:
            await front.announce("我们继续")
            assert (await stays.hears("announce"))["text"] == (await comes.hears("announce"))["text"] == "我们继续"


def test_what_is_for_operations_stays_inside_and_no_query_is_logged(front: Front) -> None:
    for path in ("/metrics", "/readyz", "/healthz"):
        assert httpx.get(front.url + path).status_code == 404
    assert httpx.get(f"{front.url}/v1/stores/nearby?lng=121.4737&lat=31.2304&datum=gcj02").status_code == 401
    assert "GET /v1/stores/nearby 401" in front.log()
    assert "121.47" not in front.log()


def test_nginx_is_more_patient_than_a_gateway() -> None:
    for name in ("proxy_read_timeout", "proxy_send_timeout"):
        found = re.search(rf"{name} (\d+)s;", CONFIG.read_text().partition("location ~ ^/v1/rooms")[2])
        assert found
        assert int(found[1]) > SILENT_SECONDS
