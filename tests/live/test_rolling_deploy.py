"""A new version in the middle of an evening: every process is replaced in turn, and nobody but the log notices."""

import asyncio
import os
import re
import signal
from bisect import bisect_left
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from time import monotonic
from uuid import uuid4

import httpx
import pytest
from front import Api, another_api, nginx, until_ready
from swarm import Swarm, allow_sockets
from viewers import until
from world import World, make_world

from app.processes import open_kernel
from app.up import Stack
from coupons import ledger
from kernel.identity import Principal
from kernel.tasks import end
from live.leaving import RETURNS_PER_SECOND

AT_ONCE = 200
CLAIMANTS = 200
PATIENCE = 240.0


@dataclass
class Evening:
    """What goes on all the while: the guide speaks, people look around, people claim. Everything through nginx."""

    url: str
    world: World
    claimants: list[Principal]
    drop: str
    texts: list[str] = field(default_factory=list)
    statuses: list[tuple[str, int]] = field(default_factory=list)

    def _client(self, who: Principal) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self.world.kernel.keyring.issue(who)}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60)

    async def announce(self) -> None:
        async with self._client(self.world.guide) as client:
            for number in count(1):
                answer = await client.post(f"/v1/rooms/{self.world.room}/announce", json={"text": str(number)})
                self.statuses.append(("announce", answer.status_code))
                if answer.is_success:
                    self.texts.append(str(number))
                await asyncio.sleep(0.1)

    async def look(self) -> None:
        async with self._client(self.world.ops) as client:
            while True:
                self.statuses.append(("look", (await client.get("/v1/rooms")).status_code))
                await asyncio.sleep(0.05)

    async def claim(self) -> None:
        """Each claims once, and some asks again what they have."""
        for who in self.claimants:
            async with self._client(who) as client:
                headers = {"Idempotency-Key": str(uuid4())}
                answer = await client.post(f"/v1/drops/{self.drop}/claims", headers=headers)
                self.statuses.append(("claim", answer.status_code))
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(one) for one in (self.announce(), self.look(), self.look())]
        claiming = asyncio.create_task(self.claim())
        try:
            yield
            await claiming
        finally:
            await end(*tasks, claiming)
            for task in tasks:
                assert task.cancelled(), task


async def replaced(stack: Stack, name: str) -> float:
    """Replace a supervised process as `systemctl restart` would; the seconds until its successor is ready."""
    child = stack.children[name]
    before = child.process
    assert before is not None
    began = monotonic()
    os.kill(before.pid, signal.SIGTERM)
    await until(lambda: before.returncode is not None and child.process is not before, PATIENCE)
    assert before.returncode == 0, name
    if child.ready_url is not None:
        await until_ready(child.ready_url.removesuffix("/readyz"))
    return monotonic() - began


async def everything_replaced(stack: Stack, second: Api) -> dict[str, float]:
    """In the order of docs/operations.md."""
    took = {"worker": await replaced(stack, "worker"), "api": await replaced(stack, "api")}
    began = monotonic()
    assert await second.stop() == 0
    await second.start()
    took["the other api"] = monotonic() - began
    for name in ("gateway-1", "gateway-2"):
        took[name] = await replaced(stack, name)
    return took


async def crowd(swarm: Swarm, people: list[Principal], world: World) -> None:
    for place in range(0, len(people), AT_ONCE):
        few = [swarm.join(world.kernel.keyring.issue(who)) for who in people[place : place + AT_ONCE]]
        await until(lambda few=few: all(viewer.welcomes for viewer in few), PATIENCE)


def fullest_second(moments: list[float]) -> int:
    moments = sorted(moments)
    return max((bisect_left(moments, at + 1) - place for place, at in enumerate(moments)), default=0)


@pytest.mark.deep
@pytest.mark.timeout(1800)
async def test_every_process_is_replaced_under_viewers_and_nothing_certain_is_lost(stack: Stack) -> None:
    viewers = 2000
    allow_sockets(2 * viewers)
    async with AsyncExitStack() as exits:
        kernel = await exits.enter_async_context(open_kernel(stack.settings))
        world = await make_world(kernel)
        claimants = await world.viewers(CLAIMANTS)
        people = claimants + await world.viewers(viewers - CLAIMANTS, north_m=None)
        drop = await world.drop(await world.campaign(stock=CLAIMANTS), stock=CLAIMANTS, seconds=1500)
        second = await exits.enter_async_context(another_api(stack))
        apis = [stack.api.removeprefix("http://"), second.address]
        front = exits.enter_context(nginx(apis, [url.removeprefix("http://") for url in stack.gateways]))
        swarm = Swarm([front.url], world.room)
        exits.callback(swarm.close)
        await crowd(swarm, people, world)
        arrived, swarm.lag = monotonic(), 0.0
        evening = Evening(front.url, world, claimants, str(drop))
        async with evening.going_on():
            took = await everything_replaced(stack, second)
        await until(lambda: all(viewer.told[-1:] == evening.texts[-1:] for viewer in swarm.viewers), PATIENCE)

        failed = [line for line in front.log().splitlines() if re.search(r" 5\d\d \d+ ", line)]
        assert failed == []
        assert swarm.gone_wrong() == []
        for viewer in swarm.viewers:
            assert viewer.told == evening.texts  # each once, in order
            assert all(recovered for _, _, recovered in viewer.welcomes[1:])
            assert viewer.lost == 0
        assert all(len(viewer.welcomes) > 1 for viewer in swarm.viewers), "somebody was on neither gateway"
        bad = [(what, status) for what, status in evening.statuses if status >= 400]
        assert bad == []
        back = fullest_second([at for viewer in swarm.viewers for at in viewer.attempts if at > arrived])
        print(
            f"{viewers} viewers, {len(evening.texts)} announcements and {len(evening.statuses)} requests while "
            + ", ".join(f"{name} was replaced in {seconds:.1f} s" for name, seconds in took.items())
            + f"; {back} attempts to come in in the fullest second; our own loop was late by {swarm.lag:.2f} s at most"
        )
        assert back <= RETURNS_PER_SECOND * (1 + swarm.lag)
        async with kernel.sessions() as session:
            report = await ledger.audit(session)
        assert report.ok, report.findings
        assert report.totals["issued"] >= CLAIMANTS
