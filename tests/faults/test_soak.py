"""An evening without faults that goes on: memory and descriptors of every process stay where they are.

``SOAK_OUT=file`` writes what each process used, one JSON line a look.
"""

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

import pytest
from house import PATIENCE, House, persistently
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from kernel.identity import Principal
from live import wire

pytestmark = [pytest.mark.deep]
PEOPLE = 60
AT_ONCE = 8
LOOK_SECONDS = 2.0
SPARE_DESCRIPTORS = 6
SPARE_SHARE, SPARE_BYTES = 0.05, 6 << 20
"""What caches and the allocator may still take between the middle of a soak and its end; more is a leak."""


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(50, marks=pytest.mark.timeout(900)),
        pytest.param(600, marks=pytest.mark.timeout(2400)),
    ],
)
async def test_memory_and_descriptors_stay_flat(house: House, seconds: int) -> None:
    looks: list[dict[str, tuple[int, int]]] = []
    async with house.evening(), passers_by(house) as did:
        began = monotonic()
        while monotonic() - began < seconds:
            await asyncio.sleep(LOOK_SECONDS)
            looks.append(used(house))
            _write_down(looks[-1], monotonic() - began)
        await house.heard_more(3)
    print(dict(did))
    assert min(did[what] for what in ("visit", "comment", "ok", "claim", "redeem")) > seconds // 10, did
    grown = {name: growth(name, looks) for name in looks[-1]}
    print(grown)
    for name, (descriptors, before, after) in grown.items():
        assert descriptors <= SPARE_DESCRIPTORS, f"{name} opens more and more: {descriptors}"
        if seconds >= 600:  # caches and the room's log are still filling before
            assert after <= before * (1 + SPARE_SHARE) + SPARE_BYTES, f"{name} grows: {before} to {after}"


def growth(name: str, looks: list[dict[str, tuple[int, int]]]) -> tuple[int, int, int]:
    """Descriptors more, and bytes before and after: the third quarter beside the last tenth."""
    middle = looks[len(looks) // 2 : len(looks) * 3 // 4]
    end = looks[-max(3, len(looks) // 10) :]
    counts, sizes = ([[look[name][of] for look in part] for part in (middle, end)] for of in (0, 1))
    return int(median(counts[1]) - max(counts[0])), int(median(sizes[0])), int(median(sizes[1]))


def used(house: House) -> dict[str, tuple[int, int]]:
    """Of our processes and of Redis; PostgreSQL's memory is shared, of its family only the number counts."""
    found = house.resources()
    redis = Path(f"/proc/{house.redis_pid}")
    pages = int((redis / "statm").read_text().split()[1])
    found["redis"] = len(list((redis / "fd").iterdir())), pages * os.sysconf("SC_PAGESIZE")
    return found


def _write_down(look: dict[str, tuple[int, int]], at: float) -> None:
    if out := os.environ.get("SOAK_OUT"):
        with Path(out).open("a") as file:
            file.write(json.dumps({"at": round(at, 1), "used": look}) + "\n")


@asynccontextmanager
async def passers_by(house: House) -> AsyncIterator[Counter[str]]:
    """People who come, talk, like, claim what opens, use it at the till and go, for as long as the block runs."""
    did: Counter[str] = Counter()
    people = await persistently(lambda: house.world.viewers(PEOPLE))
    waiting = asyncio.Queue[Principal]()
    for who in people:
        waiting.put_nowait(who)

    async def come_and_go() -> None:
        while True:
            who = await waiting.get()
            visit = Visit(house, who, did)
            with suppress(WebSocketException, OSError, TimeoutError):
                await visit.make()
            for code in visit.codes:
                await visit.redeem(code)
            did["visit"] += 1
            waiting.put_nowait(who)

    coming = [asyncio.ensure_future(come_and_go()) for _ in range(AT_ONCE)]
    try:
        yield did
        for each in coming:
            if each.done():
                each.result()
    finally:
        for each in coming:
            each.cancel()
        await asyncio.gather(*coming, return_exceptions=True)


class Visit:
    """A viewer for a few seconds."""

    def __init__(self, house: House, who: Principal, did: Counter[str]) -> None:
        self.house, self.who, self.did = house, who, did
        self.codes: list[str] = []
        self._leave = monotonic() + random.uniform(0.5, 4)

    async def make(self) -> None:
        url = f"{random.choice(self.house.sockets)}/v1/rooms/{self.house.world.room}/live"
        async with connect(url, compression=None, close_timeout=1) as gateway:
            await self._say(gateway, wire.Hello(self.house.world.kernel.keyring.issue(self.who)))
            await self._say(gateway, wire.Locate(121.47, 31.23, "gcj02", 10))
            await self._say(gateway, wire.Comment("c", f"好看 {random.random()}"))
            await self._say(gateway, wire.Like(3))
            self.did["comment"] += 1
            with suppress(TimeoutError):
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + self._leave - monotonic()):
                    async for data in gateway:
                        await self._take(gateway, wire.server_frames.decode(data))

    async def _take(self, gateway: ClientConnection, frame: Any) -> None:
        if isinstance(frame, wire.Welcome):
            for drop in frame.drops:
                await self._claim(gateway, drop)
        elif isinstance(frame, wire.Batch):
            for event in map(wire.room_events.decode, frame.e):
                if isinstance(event, wire.DropOpened):
                    await self._claim(gateway, event.drop)
        elif isinstance(frame, wire.Ack):
            self.did["ok" if frame.ok else "refused"] += 1
            if frame.coupon is not None:
                self.codes.append(frame.coupon.code)

    async def _claim(self, gateway: ClientConnection, drop: wire.DropCard) -> None:
        if drop.mode == "claim":
            self.did["claim"] += 1
            await self._say(gateway, wire.Claim(f"c{drop.id}"[:32], drop.id))

    async def _say(self, gateway: ClientConnection, frame: Any) -> None:
        await gateway.send(wire.encoder.encode(frame).decode())

    async def redeem(self, code: str) -> None:
        house = self.house
        headers = {
            "Authorization": f"Bearer {house.world.kernel.keyring.issue(house.world.clerk())}",
            "Idempotency-Key": code,
        }
        body = {"code": code, "order_fen": 12_000}
        async with asyncio.timeout(PATIENCE):
            answer = await house.client.post(f"{house.stack.api}/v1/redemptions", json=body, headers=headers)
        assert answer.is_success, answer.text
        self.did["redeem"] += 1
