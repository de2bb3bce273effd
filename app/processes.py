"""What every process of ours does at its beginning and end."""

import asyncio
import os
import pwd
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from prometheus_client import REGISTRY, Gauge

from coupons.issuing import WORKERS
from kernel.identity import Keyring
from kernel.postgres import PROBES, Sessions, create_engine, create_sessions
from kernel.process import Kernel
from kernel.redis import create_client
from kernel.settings import Settings
from kernel.tasks import end

LOOP_LAG = Gauge(
    "nearcast_loop_lag_seconds", "How late the event loop of the API or worker woke last", registry=REGISTRY
)
LOOK_SECONDS = 0.25


@asynccontextmanager
async def open_kernel(settings: Settings) -> AsyncIterator[Kernel]:
    """The process's connections and keys, closed in reverse order."""
    keyring = Keyring.from_settings(settings)
    async with AsyncExitStack() as stack:
        engine = create_engine(settings)
        stack.push_async_callback(engine.dispose)
        client = create_client(settings)
        stack.push_async_callback(client.aclose)
        yield Kernel(settings, engine, create_sessions(engine), client, keyring)


@asynccontextmanager
async def sessions_for_claims(settings: Settings) -> AsyncIterator[Sessions]:
    """Connections for an ``Issuer`` alone: no request keeps them from it, and PostgreSQL plans on them for claims."""
    engine = create_engine(settings, name="nearcast claims", connections=WORKERS, planner=PROBES)
    try:
        yield create_sessions(engine)
    finally:
        await engine.dispose()


@asynccontextmanager
async def watch_loop() -> AsyncIterator[None]:
    """During the block the event loop's lag is measured; gateways do so themselves."""

    async def watch() -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOK_SECONDS
            await asyncio.sleep(LOOK_SECONDS)
            LOOP_LAG.set(max(0.0, loop.time() - due))

    watching = asyncio.create_task(watch(), name="lag")
    try:
        yield
    finally:
        await end(watching)


async def until_stopped(work: Coroutine[Any, Any, None], stop: Callable[[], object]) -> None:
    """Run ``work``; on SIGTERM or SIGINT call ``stop``, which must make ``work`` end."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        await work
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def free_port(preferred: int = 0) -> int:
    """``preferred`` if nobody listens on it on loopback, else a port that is free now."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            # As servers do: connections that are still closing do not keep a port from being listened on again.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise OSError("no free port on 127.0.0.1")


def bound(command: list[str], stop: str, user: pwd.struct_passwd | None = None) -> list[str]:
    """``command`` such that its process gets the signal ``stop`` (``TERM``, …) when ours dies, however it dies.

    As ``user``, where one is given, which needs root. Where there is no setpriv (it is Linux's) the command is left as
    it is: then only an orderly end of ours ends the other.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        if user is not None and os.geteuid() != user.pw_uid:
            raise RuntimeError("setpriv (util-linux) is needed to run a server as another user")
        return command
    # setpriv changes the ids before it sets the death signal; the other way round the kernel would clear it.
    drop = [] if user is None else [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return [setpriv, *drop, f"--pdeathsig={stop}", *command]
