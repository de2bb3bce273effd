"""Two APIs and two workers, as real processes, on one database: whom a caller asks makes no difference."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import insert
from world import World, make_world

import live.tables
from app.processes import free_port
from app.up import Child
from coupons import codes, ledger
from kernel.clock import now
from kernel.identity import Principal
from kernel.ids import new_id
from kernel.postgres import transaction
from kernel.process import Kernel
from live.bus import RedisBus

PATIENCE = 120.0
"""A deadline costs only when something is wrong."""
LOSERS = 2
"""For each coupon, viewers who want one more than there are."""


@dataclass
class House:
    """A brand's processes, and what was promised through them."""

    world: World
    client: httpx.AsyncClient
    logs: Path
    apis: list[str] = field(default_factory=list)
    workers: dict[str, Child] = field(default_factory=dict)
    rooms: list[UUID] = field(default_factory=list)

    def api(self) -> Child:
        """One more API, not started yet."""
        port = free_port()
        self.apis.append(f"http://127.0.0.1:{port}")
        return self._child("api", port, "/readyz")

    def worker(self) -> Child:
        """One more worker, not started yet."""
        port = free_port()
        child = self._child("worker", port, "/metrics")
        self.workers[f"http://127.0.0.1:{port}/metrics"] = child
        return child

    def _child(self, verb: str, port: int, ready: str) -> Child:
        environment = (
            os.environ | self.world.kernel.settings.environment() | {f"NEARCAST_{verb.upper()}_PORT": str(port)}
        )
        ready_url = f"http://127.0.0.1:{port}{ready}"
        return Child(f"{verb}-{port}", [verb], environment, self.logs / f"{verb}-{port}.log", ready_url)

    async def ask(self, api: str, who: Principal, path: str, key: str, body: Any = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.world.kernel.keyring.issue(who)}", "Idempotency-Key": key}
        return await self.client.post(f"{api}/v1{path}", json=body, headers=headers)

    async def everywhere(self, who: list[Principal], path: str, keys: list[str], body: Any = None) -> list[Any]:
        """What each of ``who`` is answered by each API, all at the same moment: the JSON of it, person by person."""
        asked = [self.ask(api, one, path, key, body) for one, key in zip(who, keys, strict=True) for api in self.apis]
        return [answer.json() for answer in await asyncio.gather(*asked)]

    async def enter_new_room(self) -> None:
        """Somewhere else: outbox events of one room lie in one lane, those of several in several."""
        self.world.room = new_id()
        self.rooms.append(self.world.room)
        async with transaction(self.world.kernel.sessions) as session:
            await session.execute(
                insert(live.tables.Room).values(
                    id=self.world.room, brand_id="acme", guide_id=self.world.guide.subject, title="夜", state="live",
                    live_at=now(),
                )
            )  # fmt: skip

    async def until_told(self) -> None:
        waiting = "SELECT count(*) FROM outbox WHERE published_at IS NULL"
        async with asyncio.timeout(PATIENCE):
            while await self.world.scalar(waiting):
                await asyncio.sleep(0.05)

    async def heard(self) -> list[tuple[UUID, UUID]]:
        """Coupon and viewer of everything private in the rooms' logs, as gateways hand it on."""
        told = []
        for room in self.rooms:
            entries = (await RedisBus(self.world.kernel.redis).snapshot(room)).entries
            assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
            for entry in entries:
                told += [(UUID(_id(coupon)), viewer) for viewer, coupon in (entry.private or {}).items()]
        return told

    async def counted(self, name: str) -> Counter[str]:
        """A counter of each worker that runs, added up by topic (empty: it has none)."""
        total: Counter[str] = Counter()
        for url, worker in self.workers.items():
            if worker.process is not None and worker.process.returncode is None:
                for family in text_string_to_metric_families((await self.client.get(url)).text):
                    for sample in family.samples:
                        if sample.name == name:
                            total[sample.labels.get("topic", "")] += int(sample.value)
        return total


def _id(coupon: bytes) -> str:
    found: str = msgspec.json.decode(coupon)["id"]
    return found


@pytest.fixture
async def house(kernel: Kernel, tmp_path: Path) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        # A connection for each request: of two that wait, the API hangs up after 5 s, which may be just now.
        alone = httpx.Limits(max_keepalive_connections=0)
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=PATIENCE, limits=alone))
        house = House(await make_world(kernel), client, tmp_path)
        children = [house.api(), house.api(), house.worker(), house.worker()]
        for child in children:
            await child.start()
            stack.push_async_callback(child.stop)
        await asyncio.gather(*(child.until_ready() for child in children))
        yield house
        async with kernel.sessions() as session:
            assert (await ledger.audit(session)).findings == []


async def _claim_everything(house: House, stock: int) -> dict[UUID, UUID]:
    """Everybody asks both APIs for one of ``stock`` coupons with one claim; returns coupon → viewer."""
    drop = await house.world.drop(await house.world.campaign(stock=stock), stock=stock)
    viewers = await house.world.viewers(stock + LOSERS)
    answers = await house.everywhere(viewers, f"/drops/{drop}/claims", ["c"] * len(viewers))
    told: dict[UUID, UUID] = {}
    for viewer, first, second in zip(viewers, answers[::2], answers[1::2], strict=True):
        assert first.get("id") == second.get("id"), "one claim has one answer, whoever is asked"
        if "id" in first:
            told[UUID(first["id"])] = viewer.subject
        else:
            assert first["code"] == second["code"] == "sold_out"
    assert len(told) == stock
    return told


async def _use_and_take_back(house: House, coupon: UUID) -> None:
    """Tills at both APIs redeem one coupon, take it back and redeem it again, all tills at the same moment."""
    code = await house.world.scalar("SELECT code FROM coupons WHERE id = :id", id=coupon)
    tills, body = [house.world.clerk() for _ in range(3)], {"code": codes.display(code), "order_fen": 12_000}

    async def redeem() -> str:
        # Each till's request arrives at both APIs, as of a till that asks again elsewhere.
        answers = await house.everywhere(tills, "/redemptions", [str(uuid4()) for _ in tills], body)
        won = Counter(answer["id"] for answer in answers if "id" in answer)
        assert list(won.values()) == [len(house.apis)], "one till wins, and is told so by whomever it asks"
        assert {answer["code"] for answer in answers if "id" not in answer} == {"already_redeemed"}
        return str(*won)

    first = await redeem()
    backs = await house.everywhere(tills, f"/redemptions/{first}/reverse", [str(uuid4()) for _ in tills])
    assert len({answer["reversed_at"] for answer in backs}) == 1
    assert await redeem() != first
    lines = await house.world.execute("SELECT transition FROM ledger WHERE coupon_id = :id ORDER BY id", id=coupon)
    assert [line[0] for line in lines] == ["issue", "redeem", "reverse", "redeem"]


@pytest.mark.parametrize(
    ("rooms", "stock", "killed"),
    [
        (2, 6, False),
        pytest.param(12, 40, True, marks=[pytest.mark.deep, pytest.mark.timeout(900)]),
    ],
)
async def test_two_apis_and_two_workers_keep_one_promise_and_tell_it_once(
    house: House, rooms: int, stock: int, killed: bool
) -> None:
    told: dict[UUID, UUID] = {}
    for number in range(rooms):
        await house.enter_new_room()
        claimed = await _claim_everything(house, stock)
        told |= claimed
        await _use_and_take_back(house, next(iter(claimed)))
        if killed:
            # One is killed in the middle of whatever it tells, and somebody else comes in its place.
            victim = list(house.workers.values())[number % 2]
            assert victim.process is not None
            victim.process.kill()
            await victim.process.wait()
            await victim.start()
    await house.until_told()
    rows = dict(await house.world.execute("SELECT id, viewer_id FROM coupons"))
    assert rows == told, "somebody was told yes and has nothing, or has what nobody told them of"
    heard = await house.heard()
    assert sorted(heard) == sorted(rows.items()), "each coupon reached its viewer in its room exactly once"
    if not killed:
        relayed = await house.counted("nearcast_relay_events_total")
        events = dict(await house.world.execute("SELECT topic, count(*) FROM outbox GROUP BY topic"))
        assert relayed == events, "no worker told what another one told"
        assert (await house.counted("nearcast_relay_repeats_total")).total() == 0
