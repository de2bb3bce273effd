"""Coming in: real gateways on real sockets, with real PostgreSQL and Redis behind them."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from uuid import UUID

import httpx
import pytest
from roomworld import World
from viewers import (
    PATIENCE,
    UNHURRIED,
    Client,
    gateway,
    last_words,
    principal,
    watching,
)
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from kernel.ids import new_id
from live import wire
from live.wire import Close


async def http(url: str, path: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        return await client.get(url.replace("ws://", "http://") + path)


async def test_welcome_shows_the_room_as_it_is(world: World) -> None:
    async with gateway(world.kernel) as one, watching(one.url, world.kernel.keyring, world.room, world.viewer) as me:
        welcome = me.frames[0]
        assert welcome.you == wire.Person(world.viewer.subject, world.viewer.name)
        assert (welcome.room.title, welcome.room.state, welcome.room.guide.name) == ("新品", "live", "阿May")
        assert (welcome.recovered, welcome.missed, welcome.log.seq) == (False, 0, 0)


async def test_pages_are_answered_on_the_same_port(world: World) -> None:
    async with gateway(world.kernel) as one, watching(one.url, world.kernel.keyring, world.room):
        assert (await http(one.url, "/healthz")).status_code == 200
        assert (await http(one.url, "/readyz")).status_code == 200
        metrics = (await http(one.url, "/metrics")).text
        assert "nearcast_gateway_viewers 1.0" in metrics
        assert "nearcast_gateway_joins_total 1.0" in metrics
        assert (await http(one.url, "/nothing")).status_code == 404


@pytest.mark.parametrize(
    ("token", "room", "code"),
    [
        ("garbage", None, Close.TOKEN_INVALID),
        ("expired", None, Close.TOKEN_EXPIRED),
        ("good", new_id(), Close.ROOM_UNKNOWN),
        ("other brand", None, Close.ROOM_UNKNOWN),
    ],
)
async def test_who_may_not_come_in_is_told_why(world: World, token: str, room: UUID | None, code: Close) -> None:
    issue = world.kernel.keyring.issue
    tokens = {
        "garbage": "x.y.z",
        "expired": issue(principal(seconds=-5)),
        "good": issue(principal()),
        "other brand": issue(principal(brand="other")),
    }
    async with (
        gateway(world.kernel) as one,
        connect(f"{one.url}/v1/rooms/{room or world.room}/live", **UNHURRIED) as socket,
    ):
        await Client(socket).send(wire.Hello(tokens[token]))
        bye, closed = await last_words(socket)
    assert bye is not None
    assert (bye.code, closed) == (code, code)


async def test_foreign_page_may_not_open_a_socket(world: World) -> None:
    settings = world.kernel.settings.model_copy(update={"allowed_origins": ("https://shop.example",)})
    async with gateway(replace(world.kernel, settings=settings)) as one:
        url = f"{one.url}/v1/rooms/{world.room}/live"
        with pytest.raises(InvalidStatus) as refused:
            await connect(url, origin="https://evil.example", **UNHURRIED)  # type: ignore[arg-type]
        assert refused.value.response.status_code == 403
        async with connect(url, origin="https://shop.example", **UNHURRIED), connect(url, **UNHURRIED):  # type: ignore[arg-type]
            pass


async def test_token_that_ends_closes_the_open_socket(world: World) -> None:
    async with gateway(world.kernel) as one:
        url, life = f"{one.url}/v1/rooms/{world.room}/live", 8.0
        while True:
            async with connect(url, **UNHURRIED) as socket:
                await Client(socket).send(wire.Hello(world.kernel.keyring.issue(principal(seconds=life))))
                async with asyncio.timeout(PATIENCE):
                    first = wire.server_frames.decode(await socket.recv())
                bye, code = await last_words(socket)
            if isinstance(first, wire.Welcome):
                break
            life *= 2  # a machine so busy that the token ended at the door
    assert bye is not None
    assert (bye.code, code) == (Close.TOKEN_EXPIRED, Close.TOKEN_EXPIRED)


async def test_fifth_socket_of_a_viewer_replaces_the_first(world: World) -> None:
    me = principal()
    async with gateway(world.kernel) as one, AsyncExitStack() as stack:
        mine = [
            await stack.enter_async_context(watching(one.url, world.kernel.keyring, world.room, me)) for _ in range(5)
        ]
        bye, code = await last_words(mine[0].socket)
        assert bye is not None
        assert code == Close.REPLACED
        assert one.hub.rooms[world.room].audience.size == 1
