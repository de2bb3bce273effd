"""The gateway: one process of the room service. Sockets in front, the bus, PostgreSQL and Redis behind."""

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog

from kernel import garbage
from kernel.process import Kernel
from live.bus import Bus
from live.connection import Connection
from live.desk import Gateway
from live.ports import Checker, Issuer, Locator

DESCRIPTORS_WANTED = 65_536
BACKLOG = 4096

log = structlog.get_logger()


def raise_descriptor_limit() -> int:
    """Allow this process as many sockets as the system lets it have; returns how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 1 << 20)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError) as error:
            log.warning("descriptor_limit_kept", limit=soft, error=str(error))
    if soft < DESCRIPTORS_WANTED:
        log.warning(
            "descriptor_limit_low", limit=soft, wanted=DESCRIPTORS_WANTED,
            what_to_do="raise it with `ulimit -Hn` or LimitNOFILE=; each viewer needs one",
        )  # fmt: skip
    return soft


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _unexpected(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A callback of one socket broke: asyncio closes that socket; here it is told."""
    log.error("callback_failed", what=context.get("message"), exc_info=context.get("exception"))


@asynccontextmanager
async def serving(
    kernel: Kernel,
    bus: Bus,
    locator: Locator,
    issuer: Issuer,
    *,
    host: str,
    port: int,
    public_url: str | None = None,
    checker: Checker | None = None,
) -> AsyncIterator[tuple[Gateway, asyncio.Task[None]]]:
    """A gateway that listens, and the task of its background work; closed without pacing if it was not drained.

    ``port`` 0 takes a free one. Raises OSError when the address is taken by a stranger.
    """
    raise_descriptor_limit()
    listener = _listener(host, port)
    url = public_url or f"ws://{host}:{listener.getsockname()[1]}"
    gateway = Gateway(kernel, bus, locator, issuer, url, checker)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(gateway), sock=listener, backlog=BACKLOG)
    gateway.listener = server
    background = asyncio.ensure_future(gateway.run())
    try:
        yield gateway, background
    finally:
        server.close()
        if not gateway.draining:
            await gateway.drain(0.5)
        background.cancel()
        await asyncio.wait({background})
        await server.wait_closed()


async def serve(
    kernel: Kernel,
    bus: Bus,
    locator: Locator,
    issuer: Issuer,
    *,
    host: str,
    port: int,
    public_url: str | None = None,
    checker: Checker | None = None,
    ready: Callable[[Gateway], object] = lambda _: None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until ``stop`` is set (then drain) or until cancelled. A defect in the background work is raised.

    ``ready`` is called once viewers can come in.
    """
    stop = stop or asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(_unexpected)
    async with serving(kernel, bus, locator, issuer, host=host, port=port, public_url=public_url, checker=checker) as (
        gateway,
        background,
    ):
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not bus.healthy and not stop.is_set() and not background.done():
                await asyncio.wait({background, stopping}, timeout=0.02)
            garbage.settle()
            log.info("gateway_ready", id=gateway.id, url=gateway.url)
            ready(gateway)
            await asyncio.wait({background, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if background.done():
                background.result()
            await gateway.drain()
        finally:
            stopping.cancel()
