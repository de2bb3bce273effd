"""Tells rooms what was committed: from the outbox in PostgreSQL to the rooms' bus, at least once and in order.

A lane belongs to whoever holds its row's lock, so any number of relays may run: they share the lanes, and when one
dies PostgreSQL gives its lanes to the next. An event published just before a crash is published again; the bus knows
it by its id and drops it.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
import msgspec
import structlog
from prometheus_client import REGISTRY, Counter, Histogram
from sqlalchemy import Row, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.outbox import CHANNEL
from kernel.postgres import Sessions, transaction
from kernel.settings import Settings
from kernel.tables import OutboxEvent, OutboxLane
from live import wire
from live.bus import Bus
from live.rooms import LiveEvent

BATCH = 200
"""Events a transaction takes; what a crash publishes twice at most."""
POLL_SECONDS = 1.0
"""How long an event waits when its notification was lost."""

log = structlog.get_logger()

RELAYED = Counter("nearcast_relay_events", "Outbox events told to rooms, by topic", ["topic"], registry=REGISTRY)
REPEATED = Counter("nearcast_relay_repeats", "Outbox events the bus had already", registry=REGISTRY)
LAG = Histogram("nearcast_relay_lag_seconds", "From commit to the bus", registry=REGISTRY)


class _Grant(msgspec.Struct):
    viewer: UUID
    coupon: msgspec.Raw


class _Issued(msgspec.Struct):
    grants: list[_Grant]


class _Opened(msgspec.Struct):
    drop: wire.DropCard


async def publish(bus: Bus, number: int, topic: str, room: UUID, payload: bytes) -> bool:
    """Tell ``room`` about one outbox event; False if the bus had it before. Raises KeyError for an unknown topic."""
    event_id = f"o{number}"
    if topic == "coupons.drop_stock":
        stock = msgspec.json.decode(payload, type=wire.DropStock)
        await bus.cast(room, [wire.encoder.encode(stock)])
        return True
    if topic == "coupons.issued":
        issued = msgspec.json.decode(payload, type=_Issued)
        private = {grant.viewer: bytes(grant.coupon) for grant in issued.grants}
        return await bus.publish(room, event_id, private=private) is not None
    event, slots = _CERTAIN[topic](payload)
    return await bus.publish(room, event_id, event=event, slots=slots) is not None


def _live_event(payload: bytes) -> tuple[bytes, Mapping[str, bytes]]:
    told = msgspec.json.decode(payload, type=LiveEvent)
    return bytes(told.event), told.snapshot()


def _drop_opened(payload: bytes) -> tuple[bytes, Mapping[str, bytes]]:
    card = msgspec.json.decode(payload, type=_Opened).drop
    return wire.encoder.encode(wire.DropOpened(drop=card)), {f"drop:{card.id}": wire.encoder.encode(card)}


def _drop_ended(payload: bytes) -> tuple[bytes, Mapping[str, bytes]]:
    ended = msgspec.convert(msgspec.json.decode(payload) | {"t": "drop_end"}, wire.DropEnded)
    return wire.encoder.encode(ended), {f"drop:{ended.drop}": b""}


_CERTAIN = {
    "live.event": _live_event,
    "coupons.drop_opened": _drop_opened,
    "coupons.drop_ended": _drop_ended,
}


async def _take(session: AsyncSession) -> Sequence[Row[int, str, UUID, bytes, int]]:
    """Lock the free lanes and read what waits in them, oldest first."""
    lanes = (await session.scalars(select(OutboxLane.lane).with_for_update(skip_locked=True))).all()
    waiting = (
        select(
            OutboxEvent.id,
            OutboxEvent.topic,
            OutboxEvent.room_id,
            OutboxEvent.payload,
            func.extract("epoch", func.clock_timestamp() - OutboxEvent.created_at).label("age"),
        )
        .where(OutboxEvent.lane.in_(lanes), OutboxEvent.published_at.is_(None))
        .order_by(OutboxEvent.id)
        .limit(BATCH)
    )
    return (await session.execute(waiting)).all()


async def turn(sessions: Sessions, bus: Bus) -> int:
    """Publish one batch of waiting events and mark them; returns how many. Any error leaves all of them waiting."""
    async with transaction(sessions) as session:
        events = await _take(session)
        for event in events:
            fresh = await publish(bus, event.id, event.topic, event.room_id, event.payload)
            RELAYED.labels(event.topic).inc()
            LAG.observe(max(0.0, float(event.age)))
            if not fresh:
                REPEATED.inc()
        if events:
            numbers = [event.id for event in events]
            await session.execute(
                update(OutboxEvent).where(OutboxEvent.id.in_(numbers)).values(published_at=func.clock_timestamp())
            )
    return len(events)


@asynccontextmanager
async def notifications(settings: Settings) -> AsyncIterator[asyncio.Event]:
    """An event that is set whenever somebody commits to the outbox."""
    assert settings.database_url is not None
    woken = asyncio.Event()
    connection = await asyncpg.connect(settings.database_url)
    # A lost connection must wake the waiter too, so that it notices and connects again.
    connection.add_termination_listener(lambda *_: woken.set())
    await connection.add_listener(CHANNEL, lambda *_: woken.set())
    try:
        yield woken
    finally:
        if not connection.is_closed():
            await connection.close(timeout=2)


async def run(settings: Settings, sessions: Sessions, bus: Bus) -> None:
    """Relay until cancelled. Raises what PostgreSQL or Redis raise; the worker starts it again."""
    async with notifications(settings) as woken:
        log.info("relay_started")
        while True:
            woken.clear()
            while await turn(sessions, bus) == BATCH:
                pass
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await woken.wait()
            except TimeoutError:
                continue
