"""A till whose answers get lost asks for ever with one key, and never uses a second coupon or the same one twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import pytest
from tills import Tills, open_tills
from world import World

from coupons.codes import Signer
from kernel.postgres import create_engine, create_sessions


class Deaf(httpx.AsyncBaseTransport):
    """A network that brings requests to the server and loses ``deaf`` answers."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner, self.deaf = inner, 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self._inner.handle_async_request(request)
        if self.deaf:
            self.deaf -= 1
            raise httpx.ReadError("the answer got lost", request=request)
        return answer


async def test_answers_that_get_lost_cost_nothing(tills: Tills, world: World) -> None:
    clerk, body = world.clerk(), {"code": await tills.coupon(), "order": "A-1", "order_fen": 15_000}
    deaf = Deaf(tills.client._transport)
    async with httpx.AsyncClient(transport=deaf, base_url="http://api") as client:
        till = Tills(world, client, tills._issuer, tills.signer)
        deaf.deaf = 3
        for _ in range(3):
            with pytest.raises(httpx.ReadError):
                await till.ok(clerk, "POST", "/redemptions", body, key="k")
        used = await till.ok(clerk, "POST", "/redemptions", body, key="k")
        assert used["replayed"] is True
        # So is taking it back, and telling of it from an evening without a network.
        deaf.deaf = 1
        with pytest.raises(httpx.ReadError):
            await till.ok(clerk, "POST", f"/redemptions/{used['id']}/reverse")
        assert (await till.ok(clerk, "POST", f"/redemptions/{used['id']}/reverse"))["reversed_at"]
        assert (await till.ok(clerk, "POST", "/redemptions", body, key="k"))["id"] == used["id"]
    lines = [row[0] for row in await world.execute("SELECT transition FROM ledger ORDER BY id")]
    assert lines == ["issue", "redeem", "reverse"]


class Wire:
    """A wire to PostgreSQL that breaks ``breaks`` times, between a COMMIT done there and its answer here."""

    def __init__(self) -> None:
        self.breaks = 0
        self.broken = 0


@asynccontextmanager
async def _wire(host: str, port: int) -> AsyncIterator[tuple[Wire, int]]:
    wire = Wire()
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(host, port)
        committing = False

        async def forth() -> None:
            nonlocal committing
            while data := await reader.read(65_536):
                committing = committing or (wire.breaks > 0 and b"COMMIT;" in data)
                server_writer.write(data)
            server_writer.close()

        async def back() -> None:
            while data := await server_reader.read(65_536):
                if committing:  # it is done there, and nobody here will hear of it
                    wire.breaks, wire.broken = wire.breaks - 1, wire.broken + 1
                    break
                writer.write(data)
            writer.close()
            server_writer.close()

        for way in (forth(), back()):
            task = asyncio.create_task(_quietly(way))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as listening:
        yield wire, listening.sockets[0].getsockname()[1]
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _quietly(way: Any) -> None:
    with suppress(OSError):
        await way


async def test_a_commit_whose_answer_never_came_is_found_again(world: World, signer: Signer) -> None:
    address = urlsplit(str(world.kernel.settings.database_url))
    async with _wire(str(address.hostname), int(address.port or 5432)) as (wire, port):
        login = address.netloc.rpartition("@")[0]
        url = urlunsplit(address._replace(netloc=f"{login}@127.0.0.1:{port}"))
        engine = create_engine(world.kernel.settings.model_copy(update={"database_url": url}))
        apart = replace(world, kernel=replace(world.kernel, engine=engine, sessions=create_sessions(engine)))
        async with open_tills(apart, signer) as tills:
            clerk, body = world.clerk(), {"code": await tills.coupon(), "order_fen": 15_000}
            wire.breaks = 1
            problem = await tills.refused(clerk, "POST", "/redemptions", body, key="k")
            assert (problem["code"], wire.broken) == ("unavailable", 1)
            assert await world.scalar("SELECT count(*) FROM redemptions") == 1, "the server had done it"
            used = await tills.ok(clerk, "POST", "/redemptions", body, key="k")
            assert (used["replayed"], used["discount_fen"]) == (True, 2000)
        await engine.dispose()
    assert await world.scalar("SELECT count(*) FROM redemptions") == 1
