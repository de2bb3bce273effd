"""The JavaScript client in Node, as a mini-program would run it, against a gateway in this process."""

import json
from asyncio import subprocess, timeout
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from roomworld import World
from viewers import gateway, until

from kernel.ids import new_id
from live.wire import Close

VIEWER = Path(__file__).parents[1] / "browser" / "viewer.js"


class Viewer:
    """A running client; what it tells comes in order."""

    def __init__(self, process: subprocess.Process) -> None:
        self.process = process

    async def told(self, wanted: str) -> Any:
        """The next thing of this type that the client tells."""
        assert self.process.stdout is not None
        async with timeout(90):
            while line := await self.process.stdout.readline():
                type, value = json.loads(line)
                if type == wanted:
                    return value
        raise AssertionError(f"the client ended and told no {wanted}")

    async def state(self, state: str) -> dict[str, Any]:
        """The next change to ``state``."""
        while (value := await self.told("state"))["state"] != state:
            pass
        return dict(value)


@asynccontextmanager
async def viewing(url: str, room: UUID, token: str, fresh: str = "") -> AsyncIterator[Viewer]:
    options = json.dumps({"room": str(room), "sockets": [url], "token": token, "fresh": fresh})
    process = await subprocess.create_subprocess_exec(
        "node", VIEWER, options, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield Viewer(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.communicate()


async def test_is_told_why_it_may_not_come_in(world: World) -> None:
    keyring = world.kernel.keyring
    async with gateway(world.kernel) as running:
        async with viewing(running.url, world.room, "nonsense") as viewer:
            assert (await viewer.state("closed"))["code"] == Close.TOKEN_INVALID
        async with viewing(running.url, new_id(), keyring.issue(world.viewer)) as viewer:
            assert (await viewer.state("closed"))["code"] == Close.ROOM_UNKNOWN


async def test_renews_its_token_on_the_open_connection(world: World) -> None:
    issue, ends = world.kernel.keyring.issue, world.viewer.expires_at
    fresh = replace(world.viewer, expires_at=ends + timedelta(hours=1))
    async with (
        gateway(world.kernel) as running,
        viewing(running.url, world.room, issue(world.viewer), issue(fresh)) as viewer,
    ):
        await viewer.state("open")
        [connection] = running.connections
        session = connection.session
        assert session is not None
        connection.apply(session.expired(ends.timestamp() - 10))  # as the wheel does when it is time
        assert await viewer.told("asked") == "expiring"
        await until(lambda: session.who is not None and session.who.expires_at > ends)
        assert [*running.connections] == [connection]


async def test_moves_on_when_its_gateway_is_replaced_and_leaves_politely(world: World) -> None:
    async with gateway(world.kernel) as running:
        async with viewing(running.url, world.room, world.kernel.keyring.issue(world.viewer)) as viewer:
            await viewer.state("open")
            [connection] = running.connections
            assert connection.session is not None
            connection.apply(connection.session.end(Close.DRAINING, "this server is being replaced", 0.1))
            assert 100 <= (await viewer.state("waiting"))["delay"] <= 130
            await viewer.state("open")
        assert viewer.process.returncode == 0
        await until(lambda: not running.connections)
