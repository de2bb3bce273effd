"""Drop after drop while the API, the worker or PostgreSQL is killed: what was promised is there afterwards."""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar
from uuid import UUID

import httpx
import msgspec
import pytest
from sqlalchemy.exc import DBAPIError
from world import World

from app.processes import free_port
from app.up import Stack
from coupons import ledger
from kernel.identity import Principal
from live.bus import RedisBus

DROPS = int(os.environ.get("CRASH_DROPS") or 200)
CHUNKS = 4
"""Each with a seed of its own, so that what went wrong is found again in less time."""
VIEWERS = 8
STOCK = 6
PATIENCE = 300.0
"""A deadline costs only when something is wrong. On a machine that shares its cores with a dozen others an API takes
half a minute to start, PostgreSQL ten seconds to recover, and either may be killed again while it does."""
VICTIMS = ("api", "worker", "postgres", "nobody")
NOT_NOW = (502, 503)
Answer = TypeVar("Answer")


async def persistently(work: Callable[[], Awaitable[Answer]]) -> Answer:
    """What ``work`` returns once the database is there to be asked."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await work()
            except (DBAPIError, OSError):
                await asyncio.sleep(0.1)


class Evening:
    """Drops over REST, by people who ask again until they have an answer, and somebody with a knife."""

    def __init__(self, stack: Stack, world: World, client: httpx.AsyncClient, chance: random.Random) -> None:
        self.stack, self.world, self.client, self.chance = stack, world, client, chance
        self.told: dict[UUID, UUID] = {}
        """Coupon → viewer: who was told yes."""
        self.used: set[UUID] = set()
        """Redemptions that a till was told of."""
        self.rooms: list[UUID] = []
        self.kills = dict.fromkeys(VICTIMS, 0)
        self._next: list[str] = []
        """Who is killed next: each of them once, in any order, before anybody is again."""

    async def ask(self, who: Principal, path: str, key: str, body: Any = None) -> httpx.Response:
        """The first answer that is one, however often the process behind it dies."""
        headers = {"Authorization": f"Bearer {self.world.kernel.keyring.issue(who)}", "Idempotency-Key": key}
        instead: Counter[str] = Counter()
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    try:
                        answer = await self.client.post(f"{self.stack.api}/v1{path}", json=body, headers=headers)
                        if answer.status_code not in NOT_NOW:
                            return answer
                        instead[answer.text] += 1
                    except httpx.TransportError as error:  # killed, or not listening again yet
                        instead[type(error).__name__] += 1
                    await asyncio.sleep(0.05 + 0.1 * self.chance.random())
        except TimeoutError:
            found = await self._what_hangs()
            raise AssertionError(f"{path}: no answer in {PATIENCE} s but {dict(instead)}\n{found}") from None

    async def _what_hangs(self) -> str:
        """What the API said last and where it stands, and what PostgreSQL is doing for whom."""
        child = self.stack.children["api"]
        process = child.process
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGABRT)  # it writes down where its threads are
            await asyncio.sleep(2)
        said = "\n".join(child.log.read_text(errors="replace").splitlines()[-60:])
        doing = "SELECT pid, state, wait_event_type, wait_event, now() - xact_start AS since, left(query, 80) AS query"
        try:
            rows = await self.world.execute(f"{doing} FROM pg_stat_activity WHERE datname = current_database()")
        except (DBAPIError, OSError) as error:
            rows = [error]
        return f"the API ({process}) said\n{said}\nPostgreSQL:\n" + "\n".join(map(str, rows))

    async def drop(self) -> None:
        """One drop in a room of its own, with a kill at some moment of it."""
        await persistently(self._enter_new_room)
        campaign = await persistently(lambda: self.world.campaign(stock=STOCK))
        viewers = await persistently(lambda: self.world.viewers(VIEWERS))
        mode = self.chance.choice(("push", "claim"))
        murder = asyncio.create_task(self._kill_somebody())
        body = {"campaign": str(campaign), "mode": mode, "stock": STOCK}
        opened = await self.ask(self.world.ops, f"/rooms/{self.world.room}/drops", str(self.world.room), body)
        assert opened.status_code == 201, opened.text
        drop = opened.json()["id"]
        if mode == "claim":
            await asyncio.gather(*(self._claim(viewer, drop) for viewer in viewers))
        else:
            await self._until_matched(UUID(drop))
        await murder

    async def _enter_new_room(self) -> None:
        room = UUID(int=self.chance.getrandbits(128))
        await self.world.execute(
            "INSERT INTO rooms (id, brand_id, guide_id, title, state, live_at)"
            " VALUES (:id, 'acme', :guide, '夜', 'live', now())",
            id=room,
            guide=self.world.guide.subject,
        )
        self.world.room = room
        self.rooms.append(room)

    async def _claim(self, viewer: Principal, drop: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while True:
                await asyncio.sleep(0.3 * self.chance.random())
                answer = await self.ask(viewer, f"/drops/{drop}/claims", "c")
                found = answer.json()
                if answer.status_code == 200:
                    self.told[UUID(found["id"])] = viewer.subject
                    if self.chance.random() < 0.4:
                        await self._redeem(found["code"])
                    return
                if found["code"] != "location_missing":
                    assert found["code"] == "sold_out", found
                    return
                # PostgreSQL keeps no fixes over a crash: the viewer's phone sends the next one.
                await persistently(lambda: self.world.locate(viewer, 0))

    async def _redeem(self, code: str) -> None:
        answer = await self.ask(self.world.clerk(), "/redemptions", code, {"code": code, "order_fen": 12_000})
        assert answer.status_code in (200, 201), answer.text
        self.used.add(UUID(answer.json()["id"]))

    async def _until_matched(self, drop: UUID) -> None:
        matched = "SELECT matched_at IS NOT NULL OR state = 'ended' FROM drops WHERE id = :drop"
        async with asyncio.timeout(PATIENCE):
            while not await persistently(lambda: self.world.scalar(matched, drop=drop)):
                await asyncio.sleep(0.05)

    async def _kill_somebody(self) -> None:
        self._next = self._next or self.chance.sample(VICTIMS, len(VICTIMS))
        victim = self._next.pop()
        await asyncio.sleep(0.8 * self.chance.random())
        self.kills[victim] += 1
        if victim == "postgres":
            await self._kill_postgres()
        elif victim != "nobody":
            process = self.stack.children[victim].process
            if process is not None and process.returncode is None:
                process.kill()

    async def _kill_postgres(self) -> None:
        # One of its processes: the postmaster then kills all the others and recovers from the log, as after a crash.
        writer = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"
        pid = await persistently(lambda: self.world.scalar(writer))
        if pid is not None:
            os.kill(pid, signal.SIGKILL)

    async def until_quiet(self) -> None:
        """Everything is told, and no push drop waits."""
        waiting = (
            "SELECT (SELECT count(*) FROM outbox WHERE published_at IS NULL)"
            " + (SELECT count(*) FROM drops WHERE state = 'open' AND mode = 'push' AND matched_at IS NULL)"
        )
        async with asyncio.timeout(PATIENCE):
            while await persistently(lambda: self.world.scalar(waiting)):
                await asyncio.sleep(0.1)

    async def audit(self) -> ledger.AuditReport:
        async with self.world.kernel.sessions() as session:
            return await ledger.audit(session)

    async def rows(self, statement: str, **values: Any) -> list[Any]:
        return await persistently(lambda: self.world.execute(statement, **values))

    async def heard(self) -> list[UUID]:
        """The coupons in the rooms' logs, as their viewers hear of them."""
        bus = RedisBus(self.world.kernel.redis)
        told = []
        for room in self.rooms:
            entries = (await bus.snapshot(room)).entries
            assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
            told += [UUID(_coupon(payload)) for entry in entries for payload in (entry.private or {}).values()]
        return told


def _coupon(payload: bytes) -> str:
    found: str = msgspec.json.decode(payload)["id"]
    return found


@pytest.fixture(scope="module", autouse=True)
def port_of_its_own() -> Iterator[None]:
    """While our API is dead, nobody else's on this machine may answer in its place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEARCAST_API_PORT", str(free_port()))
        patch.setenv("PYTHONFAULTHANDLER", "1")
        yield


@pytest.fixture
async def evening(stack: Stack, acme: World, chunk: int) -> AsyncIterator[Evening]:
    seed = int(os.environ.get("CRASH_SEED") or random.randrange(2**32)) + chunk
    print(f"CRASH_SEED={seed - chunk} (and {chunk})")
    async with httpx.AsyncClient(timeout=20) as client:
        yield Evening(stack, acme, client, random.Random(seed))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("chunk", "dropped"),
    [(CHUNKS, 8), *(pytest.param(chunk, DROPS // CHUNKS, marks=pytest.mark.deep) for chunk in range(CHUNKS))],
)
async def test_drops_under_kills_keep_every_promise(evening: Evening, dropped: int) -> None:
    for _ in range(dropped):
        await evening.drop()
    await evening.until_quiet()
    assert min(evening.kills.values()) > 0
    print(evening.kills, len(evening.told), "told yes,", len(evening.used), "redeemed")
    # The last one to be killed may be a PostgreSQL that has not noticed yet.
    report = await persistently(evening.audit)
    assert report.findings == []
    rows = await evening.rows("SELECT id, viewer_id FROM coupons WHERE brand_id = 'acme'")
    assert evening.told.items() <= dict(rows).items(), "somebody was told yes and has nothing"
    redemptions = await evening.rows("SELECT id FROM redemptions WHERE reversed_at IS NULL")
    assert evening.used <= {row.id for row in redemptions}, "a till was told yes and nothing is used"
    assert report.totals["issued"] == len(rows) > 0
    mine = await evening.rows("SELECT id FROM coupons WHERE room_id = ANY(:rooms)", rooms=evening.rooms)
    assert sorted(await evening.heard()) == sorted(row.id for row in mine), "each coupon reached its room exactly once"
