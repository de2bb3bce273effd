"""A gateway as a process of its own, for tests that kill it: run it with ``NEARCAST_…`` set.

Prints its URL as its first line. The locator and the issuer are those of ``viewers``.
"""

import asyncio
import signal

import uvloop
from viewers import Coupons, Nearby

from kernel.http import Kernel
from kernel.identity import Keyring
from kernel.postgres import create_engine, create_sessions
from kernel.redis import create_client
from kernel.settings import Settings
from live.bus import RedisBus
from live.gateway import serve


async def main() -> None:
    settings = Settings()
    engine, client = create_engine(settings), create_client(settings)
    kernel = Kernel(settings, engine, create_sessions(engine), client, Keyring.from_settings(settings))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await serve(
        kernel, RedisBus(client), Nearby(), Coupons(), host="127.0.0.1", port=settings.gateway_port,
        ready=lambda gateway: print(gateway.url, flush=True), stop=stop,
    )  # fmt: skip
    await client.aclose()
    await engine.dispose()


if __name__ == "__main__":
    uvloop.run(main())
