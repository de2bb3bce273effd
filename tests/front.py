"""``deploy/nginx.conf``, run by a real nginx in front of whatever a test has; and a second API to have there."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import monotonic, sleep
from uuid import uuid4

import httpx

from app.processes import bound, free_port
from app.up import Stack

CONFIG = Path(__file__).parents[1] / "deploy" / "nginx.conf"
APIS = ("127.0.0.1:8080", "127.0.0.1:8081")
GATEWAYS = ("127.0.0.1:8090", "127.0.0.1:8091")
DEADLINE_SECONDS = 240


class Nginx:
    """A running nginx."""

    def __init__(self, url: str, home: Path, process: subprocess.Popen[bytes]) -> None:
        self.url = url
        self._home = home
        self._process = process

    def reload(self) -> None:
        self._process.send_signal(signal.SIGHUP)

    def workers(self) -> set[int]:
        found = subprocess.run(["pgrep", "-P", str(self._process.pid)], capture_output=True, text=True, check=False)
        return {int(pid) for pid in found.stdout.split()}

    def log(self, name: str = "access") -> str:
        return (self._home / f"nearcast-{name}.log").read_text()


def configured(listen: str, addresses: Mapping[str, str], tweaks: Mapping[str, str]) -> str:
    """The file with its ports, and what ``tweaks`` name, replaced; each must be there exactly once."""
    config = CONFIG.read_text()
    for written, here in {"listen 8000;": f"listen {listen};", **addresses, **tweaks}.items():
        assert config.count(written) == 1, written
        config = config.replace(written, here)
    return config


@contextmanager
def nginx(apis: Sequence[str], gateways: Sequence[str], tweaks: Mapping[str, str] | None = None) -> Iterator[Nginx]:
    """In front of ``apis`` and ``gateways`` (``host:port``); of those the file has more of, the rest are nobody's."""
    server = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert server, "deploy/install.sh test brings nginx"
    home = Path("/tmp") / f"nearcast-nginx-{uuid4().hex[:8]}"
    home.mkdir()
    port = free_port()
    addresses = {
        written: (list(given) + [f"127.0.0.1:{free_port()}"] * 2)[place]
        for kind, given in ((APIS, apis), (GATEWAYS, gateways))
        for place, written in enumerate(kind)
    }
    (home / "nginx.conf").write_text(configured(f"127.0.0.1:{port}", addresses, tweaks or {}))
    if os.geteuid() == 0:
        shutil.chown(home, "nobody")
    process = subprocess.Popen(
        bound([server, "-p", str(home), "-c", "nginx.conf", "-g", "daemon off;"], "TERM"), stderr=subprocess.PIPE
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(f"{url}/healthz", process)
        yield Nginx(url, home, process)
    finally:
        process.terminate()
        process.communicate()
        shutil.rmtree(home)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    ends = monotonic() + DEADLINE_SECONDS
    while _status(url) != 404:  # for operations, from inside only
        assert process.poll() is None, process.communicate()[1]
        assert monotonic() < ends, "nginx did not start"
        sleep(0.02)


def _status(url: str) -> int:
    try:
        return httpx.get(url).status_code
    except httpx.TransportError:
        return 0


class Api:
    """One more API of a stack, which starts only one."""

    def __init__(self, stack: Stack) -> None:
        self._port = str(free_port())
        self.address = f"127.0.0.1:{self._port}"
        self._stack = stack
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        environment = os.environ | self._stack.settings.environment() | {"NEARCAST_API_PORT": self._port}
        with (self._stack.settings.state_dir / "log" / "another-api.log").open("ab") as log:
            command = bound([sys.executable, "-m", "app.cli", "api"], "KILL")
            self._process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=log, stderr=log)
        await until_ready(f"http://{self.address}")

    async def stop(self) -> int:
        """Ask it to leave; its exit code."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.terminate()
        return await self._process.wait()


async def until_ready(url: str) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS), httpx.AsyncClient(base_url=url) as client:
        while True:
            try:
                if (await client.get("/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            await asyncio.sleep(0.05)


@asynccontextmanager
async def another_api(stack: Stack) -> AsyncIterator[Api]:
    """A ready second API."""
    api = Api(stack)
    await api.start()
    try:
        yield api
    finally:
        await api.stop()
