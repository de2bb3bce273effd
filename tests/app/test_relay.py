"""The relay: in order, and exactly once at the rooms, also when it is killed or Redis is gone."""

import asyncio
import os
import signal
import sys
from uuid import UUID

import msgspec
import pytest
from redis.exceptions import RedisError
from sqlalchemy import func, select

from app import relay
from coupons import reviews
from kernel.ids import new_id
from kernel.outbox import emit
from kernel.postgres import transaction
from kernel.process import Kernel
from kernel.redis import create_client
from kernel.settings import Settings
from kernel.tables import OutboxEvent
from kernel.tasks import firmly
from live import wire
from live.bus import RedisBus
from live.hosting import LiveEvent

KILLED = """
import asyncio, os, sys
from app import relay
from app.processes import open_kernel
from kernel.settings import Settings
from live.bus import RedisBus

class HangsAfter(RedisBus):
    told = 0
    async def publish(self, *arguments, **named):
        number = await super().publish(*arguments, **named)
        HangsAfter.told += 1
        if HangsAfter.told == int(sys.argv[1]):
            print("told", flush=True)
            await asyncio.sleep(600)
        return number

async def main():
    settings = Settings()
    async with open_kernel(settings) as kernel:
        await relay.run(settings, kernel.sessions, HangsAfter(kernel.redis))

asyncio.run(main())
"""


async def announce(kernel: Kernel, room: UUID, *texts: str) -> None:
    for text in texts:
        event = wire.encoder.encode(wire.Announced(text=text, at=0))
        async with transaction(kernel.sessions) as session:
            told = LiveEvent(msgspec.Raw(event), {"announcement": msgspec.Raw(msgspec.json.encode(text))})
            await emit(session, "live.event", room, told)


async def log_of(kernel: Kernel, room: UUID) -> list[str]:
    entries = (await RedisBus(kernel.redis).snapshot(room)).entries
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    told = [wire.room_events.decode(entry.event or b"") for entry in entries]
    return [event.text for event in told if isinstance(event, wire.Announced)]


async def waiting(kernel: Kernel) -> int:
    async with kernel.sessions() as session:
        left = select(func.count()).where(OutboxEvent.published_at.is_(None))
        return int(await session.scalar(left) or 0)


async def test_a_room_hears_its_events_in_the_order_of_commits_from_several_relays(kernel: Kernel) -> None:
    rooms = [new_id() for _ in range(6)]
    texts = [str(number) for number in range(50)]
    bus = RedisBus(kernel.redis)

    async def relay_until_done(spoken: asyncio.Event) -> None:
        while not spoken.is_set() or await waiting(kernel):
            await relay.turn(kernel.sessions, bus)

    spoken = asyncio.Event()
    relays = [asyncio.create_task(relay_until_done(spoken)) for _ in range(3)]
    await asyncio.gather(*(announce(kernel, room, *texts) for room in rooms))
    spoken.set()
    await asyncio.gather(*relays)
    for room in rooms:
        assert await log_of(kernel, room) == texts


async def test_an_event_wakes_the_relay_without_waiting_for_its_poll(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "POLL_SECONDS", 3600)
    room = new_id()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(firmly(relay.run(kernel.settings, kernel.sessions, RedisBus(kernel.redis))))
        await announce(kernel, room, "before or after it listens")
        async with asyncio.timeout(60):
            while not await log_of(kernel, room):
                await asyncio.sleep(0.01)
            await announce(kernel, room, "while it sleeps")
            while len(await log_of(kernel, room)) < 2:
                await asyncio.sleep(0.01)
        running.cancel()


async def test_a_relay_killed_after_publishing_and_before_marking_loses_and_repeats_nothing(kernel: Kernel) -> None:
    room = new_id()
    texts = [str(number) for number in range(20)]
    await announce(kernel, room, *texts)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        KILLED,
        "7",
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | kernel.settings.environment(),
    )
    assert process.stdout is not None
    while await process.stdout.readline() != b"told\n":
        assert process.returncode is None
    process.send_signal(signal.SIGKILL)
    await process.wait()
    assert await log_of(kernel, room) == texts[:7]

    bus = RedisBus(kernel.redis)
    async with asyncio.timeout(60):
        while await waiting(kernel):  # PostgreSQL notices the dead connection in its own time
            await relay.turn(kernel.sessions, bus)
    assert await log_of(kernel, room) == texts


async def test_while_redis_is_away_events_wait_and_none_is_marked(kernel: Kernel) -> None:
    room = new_id()
    await announce(kernel, room, "patient")
    nowhere = create_client(Settings(redis_url="redis://127.0.0.1:1/0"))
    with pytest.raises((RedisError, OSError)):
        await relay.turn(kernel.sessions, RedisBus(nowhere))
    await nowhere.aclose()
    assert await waiting(kernel) == 1
    assert await relay.turn(kernel.sessions, RedisBus(kernel.redis)) == 1
    assert await log_of(kernel, room) == ["patient"]


async def test_events_of_coupons_reach_the_room_as_frames_of_the_wire(kernel: Kernel) -> None:
    room, drop, viewer = new_id(), new_id(), new_id()
    card = wire.DropCard(drop, "claim", "满100减20", "…", stock=5, left=5, opens_at=1, ends_at=2, radius_m=3000)
    coupon = wire.CouponCard(new_id(), "满100减20", "…", "ABCD", "s1", "一号店", valid_until=9)
    async with transaction(kernel.sessions) as session:
        await emit(session, "coupons.drop_opened", room, {"drop": card})
        grants = [{"viewer": viewer, "coupon": coupon}]
        await emit(session, "coupons.issued", room, {"drop": drop, "grants": grants})
        waits = reviews.Reviewed([reviews.Told(viewer, reviews.Notice(drop, "满100减20", "open", 9))])
        await emit(session, "coupons.reviewed", room, waits)
        await emit(session, "coupons.drop_ended", room, {"drop": drop, "reason": "sold_out"})
    assert await relay.turn(kernel.sessions, RedisBus(kernel.redis)) == 4
    snapshot = await RedisBus(kernel.redis).snapshot(room)
    opened, issued, reviewed, ended = snapshot.entries
    assert wire.room_events.decode(opened.event or b"") == wire.DropOpened(drop=card)
    assert issued.private is not None
    assert msgspec.json.decode(issued.private[viewer], type=wire.CouponCard) == coupon
    assert reviewed.private is not None
    told = wire.server_frames.decode(reviewed.private[viewer])
    assert told == wire.Review(drop=drop, title="满100减20", state="open", until=9)
    assert wire.room_events.decode(ended.event or b"") == wire.DropEnded(drop=drop, reason="sold_out")
    assert snapshot.slots[f"drop:{drop}"] == b""
