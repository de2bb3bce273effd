"""``nearcast up``: the stack, the demo, one screen that says where to click, and an honest summary at the end."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from sqlalchemy import func, select

from app import demo as demo_world
from app.processes import bound, open_kernel
from app.up import Stack, stack
from coupons import ledger
from coupons.tables import Coupon, Redemption
from kernel.clock import now
from kernel.process import Kernel
from kernel.settings import Settings
from kernel.tables import OutboxEvent
from live import listing, streams
from live.media import sign, stream_name

DRAIN_SECONDS = 10
"""How long the summary waits for the relay to tell the last events."""
BEGIN_SECONDS = 60
"""How long the audience may take to say its first line before it is told to stop anyway."""
CLOSING_SECONDS = 120
"""How long it may take for its summary: what it allows itself to begin and to end, and some more."""
STATUS_SECONDS = 5
"""How often a status line is printed where the output is not a terminal."""

console = Console(highlight=False)


class Audience:
    """The simulated audience: a process of its own that reports in JSON lines."""

    def __init__(self) -> None:
        self.latest: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.exit_code: int | None = None
        self._begun = asyncio.Event()

    async def play(self, running: Stack, viewers: int, stopping: asyncio.Event) -> None:
        """Run until ``stopping``, then ask it for its summary."""
        command = [sys.executable, "-m", "app.cli", "demo", "--api", running.api, "--viewers", str(viewers)]
        with (running.settings.state_dir / "log" / "audience.log").open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *bound(command, "INT"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        reading = asyncio.create_task(self._read(process))
        calling = asyncio.create_task(self._call_off(process, stopping))
        await asyncio.wait({reading, calling}, return_when=asyncio.FIRST_COMPLETED)
        calling.cancel()
        try:
            await asyncio.wait_for(reading, CLOSING_SECONDS)
        except TimeoutError:
            process.kill()
        self.exit_code = await process.wait()

    async def _call_off(self, process: asyncio.subprocess.Process, stopping: asyncio.Event) -> None:
        await stopping.wait()
        # Before its first line it does not listen yet: a signal would end it without a summary.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._begun.wait(), BEGIN_SECONDS)
        if process.returncode is None:
            process.send_signal(signal.SIGINT)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.latest = json.loads(line)
            self._begun.set()
            if "problems" in self.latest:
                self.summary = self.latest


def _welcome(running: Stack, world: demo_world.World | None, seconds: float | None) -> None:
    """One screen: where to click, and what is behind it."""
    console.print()
    console.print("[bold]Nearcast[/bold] is up.")
    if world is None:
        pages = [("API", "/docs"), ("pages", "/")]
    else:
        pages = [
            ("viewer   观众", f"/watch?room={world.room}&account=me"),
            ("guide    导购", f"/guide?account={world.guide}&room={world.room}"),
            ("clerk    店员", f"/clerk?account={world.clerk}"),
            ("ops      运营", f"/ops?account={world.ops}"),
            ("REST API", "/docs"),
        ]
    for name, path in pages:
        console.print(f"  {name}  {running.api}{path}", soft_wrap=True)
    console.print(f"  gateways  {'  '.join(running.gateways)}")
    if world is not None and world.refused_lines:
        console.print(
            f"  {world.refused_lines} lines of the stores file were refused; `nearcast stores import` names them"
        )
    console.print(f"  logs      {running.settings.state_dir / 'log'}")
    console.print(f"Ctrl-C stops everything{f', or {seconds:g} s' if seconds else ''}.")
    console.print()


async def _invite(kernel: Kernel, world: demo_world.World) -> None:
    """How to put a real picture into the demo's first room."""
    studio = streams.Studio.from_settings(kernel.settings)
    async with kernel.sessions() as session:
        found = await listing.one(session, demo_world.BRAND, world.room)
    name = stream_name(found.id, found.stream_nonce)
    key = sign(studio.key, name, now() + studio.ttl)
    console.print("A real picture for the viewer page: in OBS, stream to the server")
    console.print(f"  {studio.push_url}", soft_wrap=True)
    console.print("with the stream key")
    console.print(f"  {name}?{key}", soft_wrap=True)
    console.print()


async def _status(latest: dict[str, Any]) -> str:
    shown = [f"{name} {latest[name]:,}" for name in SHOWN if isinstance(latest.get(name), int)]
    return " · ".join(shown) or "the audience is coming in …"


SHOWN = ("online", "comments", "delivered", "coupons_issued", "redeemed")


async def _report(audience: Audience, stopping: asyncio.Event) -> None:
    """A live status line in a terminal, a plain line every few seconds elsewhere."""
    if not console.is_terminal:
        while not stopping.is_set():
            await asyncio.sleep(STATUS_SECONDS)
            console.print(await _status(audience.latest), soft_wrap=True)
        return
    with console.status("starting the audience …") as line:
        while not stopping.is_set():
            line.update(await _status(audience.latest))
            await asyncio.sleep(0.5)


async def _drained(kernel: Kernel) -> bool:
    """Wait until the relay has told everything; False if it has not in time."""
    waiting = select(func.count()).where(OutboxEvent.published_at.is_(None))
    for _ in range(DRAIN_SECONDS * 10):
        async with kernel.sessions() as session:
            if not await session.scalar(waiting):
                return True
        await asyncio.sleep(0.1)
    return False


async def _shed(running: Stack) -> int:
    """Events left out for viewers, as the gateways count them."""
    total = 0.0
    async with httpx.AsyncClient(timeout=5) as client:
        for gateway in running.gateways:
            for line in (await client.get(f"{gateway}/metrics")).text.splitlines():
                if line.startswith("nearcast_gateway_shed_total{"):
                    total += float(line.rsplit(" ", 1)[1])
    return int(total)


async def _summary(kernel: Kernel, audience: Audience, shed: int, since: datetime) -> tuple[dict[str, Any], bool]:
    """The closing line: what the audience saw, what the database holds since ``since``, and the audit's verdict."""
    drained = await _drained(kernel)
    async with kernel.sessions() as session:
        issued = await session.scalar(select(func.count()).where(Coupon.issued_at >= since))
        redeemed = await session.scalar(
            select(func.count()).where(Redemption.at >= since, Redemption.reversed_at.is_(None))
        )
        report = await ledger.audit(session)
    ok = report.ok and drained
    seen = audience.summary
    line: dict[str, Any] = {
        "viewers": seen.get("viewers", 0),
        "comments": seen.get("comments", 0),
        "delivered": seen.get("delivered", 0),
        "shed": shed,
        "coupons_issued": issued,
        "redeemed": redeemed,
        "audit": "ok" if ok else "failed",
    }
    if not ok:
        line["findings"] = [finding.code for finding in report.findings] + ([] if drained else ["outbox_not_drained"])
    if not seen:
        line["problems"] = [{"what": f"the audience ended without a summary (exit code {audience.exit_code})"}]
    elif seen["problems"]:
        line["problems"] = seen["problems"]
    return line, ok


@asynccontextmanager
async def _stop_signals() -> AsyncIterator[asyncio.Event]:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    yield stopping
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.remove_signal_handler(number)


async def run(
    settings: Settings, *, demo: bool, viewers: int, stores: Path | None, seconds: float | None, media: bool = False
) -> int:
    """Run until stopped; returns the exit code: 0 only if the audit holds and the audience saw what it should."""
    if demo:
        settings = settings.model_copy(update={"dev_login": True})
    since = now()
    async with (
        _stop_signals() as stopping,
        stack(settings, media=media) as running,
        open_kernel(running.settings) as kernel,
    ):
        world = await demo_world.load(kernel, stores) if demo else None
        _welcome(running, world, seconds)
        if world is not None and running.settings.stream_push_url:
            await _invite(kernel, world)
        if seconds is not None:
            asyncio.get_running_loop().call_later(seconds, stopping.set)
        if world is None:
            await stopping.wait()
            return 0
        audience = Audience()
        async with asyncio.TaskGroup() as group:
            group.create_task(_report(audience, stopping))
            playing = group.create_task(audience.play(running, viewers, stopping))
            playing.add_done_callback(lambda _: stopping.set())
        shed = await _shed(running)
        line, ok = await _summary(kernel, audience, shed, since)
    sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
    return 0 if ok and audience.exit_code == 0 else 1
