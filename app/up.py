"""The whole of Nearcast on one machine: embedded servers, one API, two gateways, one worker, supervised."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import httpx
import structlog

from app import embedded, migrations
from app.keys import with_keys
from app.media_server import media_server
from app.problems import Problem
from app.processes import bound, free_port
from kernel.postgres import create_engine
from kernel.settings import PREFIX, Settings

START_SECONDS = 90
STOP_SECONDS = 30
"""How long a process may take to end after SIGTERM before it is killed: longer than a gateway may drain."""
GATEWAYS = 2
WELL_SECONDS = 20.0
"""A process that ended after more than this was well before, and waits no longer than after its first end."""

log = structlog.get_logger()


class StartFailed(Problem):
    """A process of ours did not come up; the message ends with the last lines of its log."""


@dataclass(eq=False)
class Child:
    """One supervised process."""

    name: str
    arguments: list[str]
    environment: dict[str, str]
    log: Path
    ready_url: str | None = None
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    stopping: bool = False

    async def start(self) -> None:
        """Start the process; its output is appended to ``log``."""
        with self.log.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                *bound([sys.executable, "-m", "app.cli", *self.arguments], "TERM"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment,
                start_new_session=True,  # a terminal's Ctrl-C is for the supervisor, who stops the others in order
            )

    async def until_ready(self) -> None:
        """Return once ``ready_url`` answers 200. Raises StartFailed."""
        assert self.process is not None
        if self.ready_url is None:
            return
        async with httpx.AsyncClient(timeout=2) as client:
            for _ in range(START_SECONDS * 20):
                if self.process.returncode is not None:
                    break
                try:
                    if (await client.get(self.ready_url)).status_code == 200:
                        return
                except httpx.HTTPError:
                    pass  # not listening yet
                await asyncio.sleep(0.05)
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
        raise StartFailed(f"{self.name} did not become ready; the end of {self.log}:\n{tail}")

    async def keep(self) -> None:
        """Start the process again whenever it ends without being asked to."""
        hasty = 0
        while not self.stopping:
            assert self.process is not None
            began = monotonic()
            code = await self.process.wait()
            if not self.stopping:
                self.restarts += 1
                hasty = 1 if monotonic() - began > WELL_SECONDS else hasty + 1
                log.warning("process_restarted", name=self.name, exit_code=code, log=str(self.log))
                await asyncio.sleep(min(5.0, 0.5 * hasty))
                await self.start()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL for who does not listen."""
        self.stopping = True
        if self.process is None or self.process.returncode is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), STOP_SECONDS)
        except TimeoutError:
            log.warning("process_killed", name=self.name)
            self.process.kill()
            await self.process.wait()


@dataclass(frozen=True, slots=True)
class Stack:
    """A running Nearcast."""

    settings: Settings
    api: str
    gateways: list[str]
    children: dict[str, Child] = field(default_factory=dict)


def _environment(settings: Settings, **more: str) -> dict[str, str]:
    """The environment that gives a child exactly ``settings`` (and ``more``), whatever ours says."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return inherited | settings.environment() | {f"{PREFIX}{name.upper()}": value for name, value in more.items()}


def _children(settings: Settings, api: str, logs: Path) -> tuple[list[Child], list[str]]:
    """The processes of a stack on free ports, the API's at ``api``; the gateways' addresses."""
    api_port, worker_port = api.rpartition(":")[2], str(free_port(settings.worker_port or 0))
    children = [
        Child("worker", ["worker"], _environment(settings, worker_port=worker_port), logs / "worker.log"),
        Child("api", ["api"], _environment(settings, api_port=api_port), logs / "api.log", f"{api}/readyz"),
    ]
    gateways = []
    for number in range(1, GATEWAYS + 1):
        port = free_port()
        gateways.append(f"http://127.0.0.1:{port}")
        environment = _environment(settings, gateway_port=str(port))
        name = f"gateway-{number}"
        children.append(Child(name, ["gateway"], environment, logs / f"{name}.log", f"{gateways[-1]}/readyz"))
    return children, gateways


async def _stop(children: list[Child]) -> None:
    """The gateways, all at once, then the others: until the last socket is closed, what viewers asked for is done."""
    for gateways in (True, False):
        await asyncio.gather(*(child.stop() for child in children if child.name.startswith("gateway") is gateways))


@asynccontextmanager
async def stack(settings: Settings, *, media: bool = False) -> AsyncIterator[Stack]:
    """Start servers, migrate, start and supervise the processes; stop all of them in reverse order on leaving.

    With ``media`` a media server is among them. Raises what ``embedded.servers`` raises, and StartFailed.
    """
    async with AsyncExitStack() as exits:
        settings = await exits.enter_async_context(embedded.servers(with_keys(settings), share=False))
        engine = create_engine(settings)
        exits.push_async_callback(engine.dispose)
        await migrations.upgrade(engine)
        logs = settings.state_dir / "log"
        logs.mkdir(parents=True, exist_ok=True)
        api = f"http://127.0.0.1:{free_port(settings.api_port)}"
        if media:
            settings = await exits.enter_async_context(media_server(settings, api))
        children, gateways = _children(settings, api, logs)
        exits.push_async_callback(_stop, children)
        for child in children:
            await child.start()
        await asyncio.gather(*(child.until_ready() for child in children))
        keepers = [asyncio.create_task(child.keep(), name=f"keep {child.name}") for child in children]
        try:
            yield Stack(settings, api, gateways, {child.name: child for child in children})
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
