"""A brand's CRM: a real HTTP server that hears of coupons, and the courier that calls it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from world import SIGNER_SEED, World

from coupons import codes, redemption, webhooks
from coupons.codes import Signer
from coupons.deliveries import Courier
from coupons.push import run_push
from kernel.clock import now
from kernel.postgres import transaction

EVERY = ["issued", "redeemed", "reversed", "expired", "voided"]
HERE = ("127.0.0.1",)
SECONDS = 60


class Crm:
    """A real HTTP server. ``answers`` are used up in order, then 200: a status, or None for silence."""

    def __init__(self) -> None:
        self.url = ""
        self.calls: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int | None] = []
        self.headers = ""
        self.more = asyncio.Event()
        self.open = 0
        self.most_open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
                body = await reader.readexactly(int(headers["content-length"]))
                self.open += 1
                self.most_open = max(self.open, self.most_open)
                self.calls.append((headers, body))
                self.more.set()
                status = self.answers.pop(0) if self.answers else 200
                if status is None:
                    await reader.read()  # until the caller hangs up
                self.open -= 1
                writer.write(f"HTTP/1.1 {status} X\r\n{self.headers}Content-Length: 2\r\n\r\nok".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for _, body in self.calls for event in json.loads(body)["events"]]

    @property
    def told(self) -> list[int]:
        return [event["id"] for event in self.events]

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not done():
                self.more.clear()
                await self.more.wait()


@asynccontextmanager
async def listening(port: int = 0) -> AsyncIterator[Crm]:
    crm = Crm()
    server = await asyncio.start_server(crm.serve, "127.0.0.1", port)
    crm.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    try:
        yield crm
    finally:
        server.close()


@asynccontextmanager
async def working(world: World) -> AsyncIterator[Courier]:
    """A courier that is turned again and again, as the worker does it."""
    async with Courier(world.kernel.sessions, HERE) as courier:

        async def turn() -> None:
            while True:
                await courier.turn()
                await asyncio.sleep(0.02)

        turning = asyncio.create_task(turn())
        try:
            yield courier
        finally:
            turning.cancel()
            await asyncio.gather(turning, return_exceptions=True)


async def hook(world: World, url: str, events: list[str] | None = None) -> UUID:
    async with transaction(world.kernel.sessions) as session:
        made = await webhooks.create(session, world.ops, url, events or EVERY, HERE, after=0)  # type: ignore[arg-type]
        return made.id


async def column(world: World, webhook: UUID, name: str) -> Any:
    return await world.scalar(f"SELECT {name} FROM webhooks WHERE id = :id", id=webhook)


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SECONDS):
        while not await look():
            await asyncio.sleep(0.02)


async def lines(world: World) -> list[int]:
    return [row.id for row in await world.execute("SELECT id FROM ledger ORDER BY id")]


async def push(world: World, n: int) -> list[UUID]:
    """``n`` coupons, each to a viewer of its own."""
    campaign = await world.campaign(stock=n)
    await world.viewers(n)
    drop = await world.drop(campaign, "push", n)
    assert await run_push(world.kernel.sessions, drop) == n
    rows = await world.execute("SELECT id FROM coupons WHERE drop_id = :drop ORDER BY id", drop=drop)
    return [row.id for row in rows]


async def use(world: World, coupon: UUID) -> UUID:
    code = await world.scalar("SELECT code FROM coupons WHERE id = :id", id=coupon)
    presented = redemption.Presented(codes.display(code), None)
    async with transaction(world.kernel.sessions) as session:
        used = await redemption.redeem(
            session, world.clerk(), presented, 15_000, f"k-{coupon}", Signer(SIGNER_SEED), now()
        )
    return used.id


async def soon(world: World) -> None:
    """Let the next try come now."""
    await world.execute("UPDATE webhooks SET due_at = now()")


async def failing(world: World, webhook: UUID) -> bool:
    return bool(await column(world, webhook, "failures"))
