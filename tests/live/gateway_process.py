"""A gateway as a process of its own, for tests that kill it.

Run as a script, with ``NEARCAST_…`` set, this is that process: it prints its URL as its first line. The locator and the
issuer are those of ``viewers``.
"""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop
from viewers import Coupons, Nearby

from app.processes import bound
from kernel.identity import Keyring
from kernel.postgres import create_engine, create_sessions
from kernel.process import Kernel
from kernel.redis import create_client
from kernel.settings import Settings
from live import wire
from live.bus import RedisBus
from live.gateway import serve


@asynccontextmanager
async def process(kernel: Kernel, port: int = 0) -> AsyncIterator[tuple[Process, str]]:
    """A gateway in a process of its own, and its URL."""
    settings = kernel.settings
    keys = {kid: key.get_secret_value() for kid, key in settings.token_keys.items()}
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "NEARCAST_DATABASE_URL": str(settings.database_url),
        "NEARCAST_REDIS_URL": str(settings.redis_url),
        "NEARCAST_GATEWAY_PORT": str(port),
        "NEARCAST_ROOM_LOG_LENGTH": str(settings.room_log_length),
        "NEARCAST_TOKEN_KEYS": wire.encoder.encode(keys).decode(),
    }
    command = bound([sys.executable, __file__], "KILL")  # a test that is killed leaves no gateway behind
    running = await asyncio.create_subprocess_exec(*command, stdout=PIPE, env=environment)
    try:
        assert running.stdout is not None
        async with asyncio.timeout(60):
            while not (line := await running.stdout.readline()).startswith(b"ws://"):
                assert line, "the gateway ended before it was ready"
        yield running, line.decode().strip()
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


async def main() -> None:
    settings = Settings()
    engine, client = create_engine(settings), create_client(settings)
    kernel = Kernel(settings, engine, create_sessions(engine), client, Keyring.from_settings(settings))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    bus = RedisBus(client, log_length=settings.room_log_length)
    await serve(
        kernel, bus, Nearby(), Coupons(), host="127.0.0.1", port=settings.gateway_port,
        ready=lambda gateway: print(gateway.url, flush=True), stop=stop,
    )  # fmt: skip
    await client.aclose()
    await engine.dispose()


if __name__ == "__main__":
    uvloop.run(main())
