"""Tells rooms what was committed: from the outbox in PostgreSQL to the rooms' bus, at least once and in order.

A lane belongs to whoever holds its row's lock, so any number of relays may run: they share the lanes, and when one
dies PostgreSQL gives its lanes to the next. An event published just before a crash is published again; the bus knows
it by its id and drops it.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import msgspec
import structlog
from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from redis.exceptions import RedisError
from sqlalchemy import Row, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from kernel import tracing
from kernel.outbox import CHANNEL
from kernel.postgres import Sessions, transaction, watch
from kernel.settings import Settings
from kernel.tables import OutboxEvent, OutboxLane
from live import wire
from live.bus import Bus
from live.rooms import LiveEvent

BATCH = 200
"""Events a transaction takes; what a crash publishes twice at most."""
POLL_SECONDS = 1.0
"""How long an event waits when its notification was lost."""
ROOMS_AT_ONCE = 32
PUBLISH_SECONDS = 2.0
"""How long one event may take: while it waits, its lane is locked, and others of the lane wait with it."""

log = structlog.get_logger()

RELAYED = Counter("nearcast_relay_events", "Outbox events told to rooms, by topic", ["topic"], registry=REGISTRY)
REPEATED = Counter("nearcast_relay_repeats", "Outbox events the bus had already", registry=REGISTRY)
LAG = Histogram("nearcast_relay_lag_seconds", "From commit to the bus", registry=REGISTRY)
WAITING = Gauge("nearcast_outbox_waiting_events", "Events committed and not told yet", registry=REGISTRY)
OLDEST = Gauge("nearcast_outbox_oldest_seconds", "Age of the oldest event not told yet; 0 if none", registry=REGISTRY)

_WAITING = text(
    "SELECT count(*) AS events, coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0) AS age "
    "FROM outbox WHERE published_at IS NULL"  # the partial index holds just these
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """What was committed and is not told yet: how many events, and the seconds the oldest has waited."""

    events: int
    age: float


async def waiting(session: AsyncSession) -> Waiting:
    """The outbox's backlog at this moment."""
    row = (await session.execute(_WAITING)).one()
    return Waiting(row.events, max(0.0, float(row.age)))


_OPENED = text(
    "SELECT payload FROM outbox WHERE topic = 'coupons.drop_opened' "
    "AND position(convert_to(:drop, 'UTF8') IN payload) > 0 "
    "ORDER BY id DESC LIMIT 1"  # backwards by the primary key: it was just opened
)


async def origin_of_drop(session: AsyncSession, drop: UUID) -> str:
    """The traceparent of the request that opened ``drop``; empty if it was not traced."""
    payload = await session.scalar(_OPENED, {"drop": str(drop)})
    return "" if payload is None else tracing.origin_of(bytes(payload))


class _Grant(msgspec.Struct):
    viewer: UUID
    coupon: msgspec.Raw


class _Issued(msgspec.Struct):
    grants: list[_Grant]


class _Told(msgspec.Struct):
    viewer: UUID
    review: wire.Review


class _Reviewed(msgspec.Struct):
    notices: list[_Told]


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
    if topic == "coupons.reviewed":
        reviewed = msgspec.json.decode(payload, type=_Reviewed)
        reviews = {told.viewer: wire.encoder.encode(told.review) for told in reviewed.notices}
        return await bus.publish(room, event_id, private=reviews) is not None
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


async def _take(session: AsyncSession, besides: Collection[UUID]) -> Sequence[Row[int, str, UUID, bytes, int]]:
    """Lock the free lanes and read what waits in them, oldest first, for rooms that are not in ``besides``."""
    lanes = (await session.scalars(select(OutboxLane.lane).with_for_update(skip_locked=True))).all()
    waiting = (
        select(
            OutboxEvent.id,
            OutboxEvent.topic,
            OutboxEvent.room_id,
            OutboxEvent.payload,
            func.extract("epoch", func.clock_timestamp() - OutboxEvent.created_at).label("age"),
        )
        .where(OutboxEvent.lane.in_(lanes), OutboxEvent.published_at.is_(None), OutboxEvent.room_id.not_in(besides))
        .order_by(OutboxEvent.id)
        .limit(BATCH)
    )
    return (await session.execute(waiting)).all()


async def _tell(
    bus: Bus, events: Sequence[Row[int, str, UUID, bytes, int]], places: asyncio.Semaphore
) -> tuple[list[int], Exception | None]:
    """Publish ``events`` of one room in order, up to the first that fails; returns the numbers of those told."""
    told: list[int] = []
    for event in events:
        try:
            origin = tracing.origin_of(event.payload)
            async with places, asyncio.timeout(PUBLISH_SECONDS):
                with tracing.follow("relay", origin, topic=event.topic, room=str(event.room_id)):
                    fresh = await publish(bus, event.id, event.topic, event.room_id, event.payload)
        except (RedisError, OSError) as error:
            return told, error
        told.append(event.id)
        RELAYED.labels(event.topic).inc()
        LAG.observe(max(0.0, float(event.age)))
        if not fresh:
            REPEATED.inc()
    return told, None


async def turn(sessions: Sessions, bus: Bus, stuck: set[UUID] | None = None) -> int:
    """Publish one batch of waiting events and mark them; returns how many were taken.

    Rooms are told at once beside each other. One whose events cannot be published keeps them, in order, and does not
    hold up the others: of a Cluster one node may be away. It is added to ``stuck``, whose rooms are left out.
    Raises what Redis raises if nothing at all could be published.
    """
    stuck = set() if stuck is None else stuck
    async with transaction(sessions) as session:
        events = await _take(session, stuck)
        places = asyncio.Semaphore(ROOMS_AT_ONCE)
        by_room: dict[UUID, list[Row[int, str, UUID, bytes, int]]] = {}
        for event in events:
            by_room.setdefault(event.room_id, []).append(event)
        results = await asyncio.gather(*(_tell(bus, of_room, places) for of_room in by_room.values()))
        numbers = [number for told, _ in results for number in told]
        failed = {room: error for room, (_, error) in zip(by_room, results, strict=True) if error is not None}
        for room, error in failed.items():
            if not numbers and not stuck:
                raise error
            log.warning("room_not_told", room=str(room), error=type(error).__name__)
        stuck.update(failed)
        if numbers:
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
    watch(connection)
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
            stuck: set[UUID] = set()
            while await turn(sessions, bus, stuck) == BATCH:
                pass
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await woken.wait()
            except TimeoutError:
                continue
