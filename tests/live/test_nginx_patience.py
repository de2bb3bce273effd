"""A viewer who says nothing in a room where nothing happens stays, through nginx, because gateways ping."""

import asyncio

import pytest
from front import DEADLINE_SECONDS, nginx
from roomworld import make_world
from viewers import announced, gateway, watching
from websockets.exceptions import ConnectionClosed

from kernel.process import Kernel
from kernel.tasks import end
from live import wire
from live.bus import RedisBus
from live.connection import PING_SECONDS

PATIENCE_SECONDS = 4
HURRIED = {
    "proxy_read_timeout 90s;": f"proxy_read_timeout {PATIENCE_SECONDS}s;",
    "proxy_send_timeout 90s;": f"proxy_send_timeout {PATIENCE_SECONDS}s;",
}
pytestmark = pytest.mark.timeout(400)


@pytest.mark.deep
async def test_a_quiet_viewer_stays_as_long_as_there_are_pings(kernel: Kernel) -> None:
    world = await make_world(kernel)
    async with gateway(kernel) as one:

        async def hasten() -> None:
            """The gateway's own wheel, turned by hand: a ping interval passes in half a second."""
            while True:
                one.wheel.turn(one.wheel.now + PING_SECONDS)
                await asyncio.sleep(0.5)

        with nginx([], [one.url.removeprefix("ws://")], HURRIED) as running:
            url = running.url.replace("http", "ws")
            async with watching(url, kernel.keyring, world.room, world.viewer) as me:
                hurrying = asyncio.ensure_future(hasten())
                await asyncio.sleep(2.5 * PATIENCE_SECONDS)  # nothing to wait for: that nothing happens is the point
                await end(hurrying)
                await RedisBus(kernel.redis).publish(world.room, "a", event=announced("还在吗"))
                await me.event(wire.Announced)
                # And without them nginx does lose its patience, so it was the pings.
                async with asyncio.timeout(DEADLINE_SECONDS):
                    with pytest.raises(ConnectionClosed):
                        while True:
                            await me.next()
