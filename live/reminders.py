"""Viewers who want to be told when a scheduled room is about to start: each of them once.

A reminder is sent five minutes before the time that the room was announced for, or when the room starts, whichever
comes first. It is taken (``attempts``, ``taken_until``) in one transaction, sent, and settled in another. A worker that
dies in between leaves it taken; after a minute another worker sends it again, which may be the second time that it
arrives. That happens ``MAX_ATTEMPTS`` times at most.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import delete, exists, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.errors import Refusal
from kernel.identity import Principal, Role
from kernel.postgres import Sessions, transaction
from live.ports import Messenger, Outcome, Reminder
from live.tables import Reminder as Row
from live.tables import Room

LEAD = timedelta(minutes=5)
"""So long before the announced time."""
LATE = timedelta(minutes=30)
"""So long after it is due a reminder is still worth sending."""
MAX_ATTEMPTS = 3
BATCH = 200
LEASE_SECONDS = 60
"""A batch is sent within this time; after it the worker that took it counts as dead."""
LATER_SECONDS = 15
"""When the messenger could not be reached, it is tried again after this time."""

log = structlog.get_logger()


async def subscribe(session: AsyncSession, who: Principal, room: UUID) -> None:
    """Remind ``who`` of ``room``; once is as good as twice. Refusal ``forbidden``, ``not_found``, ``room_ended``,
    ``room_state`` (it has started)."""
    await _scheduled(session, who, room, "scheduled")
    await session.execute(insert(Row).values(room_id=room, viewer_id=who.subject).on_conflict_do_nothing())


async def unsubscribe(session: AsyncSession, who: Principal, room: UUID) -> None:
    """Do not remind ``who`` of ``room``; too late if that was done or is on its way. Refusal ``forbidden``,
    ``not_found``."""
    await _scheduled(session, who, room)
    await session.execute(
        delete(Row).where(Row.room_id == room, Row.viewer_id == who.subject, Row.attempts == 0, Row.outcome.is_(None))
    )


async def subscribed(session: AsyncSession, who: Principal, room: UUID) -> bool:
    """Whether ``who`` wanted to be reminded of ``room``."""
    query = select(exists().where(Row.room_id == room, Row.viewer_id == who.subject))
    return bool(await session.scalar(query))


async def _scheduled(session: AsyncSession, who: Principal, room: UUID, *states: str) -> None:
    if who.role is not Role.VIEWER:
        raise Refusal("forbidden")
    state = await session.scalar(select(Room.state).where(Room.id == room, Room.brand_id == who.brand))
    if state is None:
        raise Refusal("not_found", what=str(room))
    if states and state not in states:
        raise Refusal("room_ended" if state == "ended" else "room_state")


# ---- sending, by the worker ----------------------------------------------------------------------------------------

# Whoever subscribed within the last five minutes was told the time as they did; they hear when it starts. `attempts`
# is raised before anything is sent: a worker that dies while it sends must not be able to send for ever.
_TAKE = text("""
    WITH due AS (
        SELECT reminders.room_id, reminders.viewer_id
        FROM rooms JOIN reminders ON reminders.room_id = rooms.id
        WHERE (
                rooms.state = 'scheduled' AND rooms.scheduled_at BETWEEN now() - CAST(:late AS interval)
                    AND now() + CAST(:lead AS interval)
                AND reminders.at <= rooms.scheduled_at - CAST(:lead AS interval)
             OR rooms.state = 'live' AND rooms.live_at > now() - CAST(:late AS interval)
        )
        AND reminders.outcome IS NULL AND reminders.attempts < :attempts
        AND (reminders.taken_until IS NULL OR reminders.taken_until < now())
        LIMIT :batch
        FOR UPDATE OF reminders SKIP LOCKED
    )
    UPDATE reminders SET attempts = attempts + 1, taken_until = now() + CAST(:lease AS interval)
    FROM due JOIN rooms ON rooms.id = due.room_id JOIN staff ON staff.id = rooms.guide_id
             JOIN brands ON brands.id = rooms.brand_id
    WHERE reminders.room_id = due.room_id AND reminders.viewer_id = due.viewer_id
    RETURNING reminders.viewer_id, rooms.id, rooms.title, staff.name, rooms.state = 'live',
              coalesce(rooms.live_at, rooms.scheduled_at), brands.timezone
""")
# `later` was surely not sent: it gives the attempt back, and is tried again until it is too late.
_SETTLE = text("""
    UPDATE reminders
    SET outcome = nullif(said.outcome, 'later'),
        settled_at = CASE WHEN said.outcome <> 'later' THEN now() END,
        attempts = reminders.attempts - CASE WHEN said.outcome = 'later' THEN 1 ELSE 0 END,
        taken_until = CASE WHEN said.outcome = 'later' THEN now() + CAST(:later AS interval) END
    FROM unnest(CAST(:rooms AS uuid[]), CAST(:viewers AS uuid[]), CAST(:outcomes AS text[]))
         AS said (room, viewer, outcome)
    WHERE reminders.room_id = said.room AND reminders.viewer_id = said.viewer AND reminders.outcome IS NULL
""")


async def take(session: AsyncSession) -> list[Reminder]:
    """Up to ``BATCH`` reminders that are due, taken: nobody else gets them for ``LEASE_SECONDS``."""
    rows = await session.execute(
        _TAKE,
        {
            "late": LATE, "lead": LEAD, "lease": timedelta(seconds=LEASE_SECONDS), "attempts": MAX_ATTEMPTS,
            "batch": BATCH,
        },
    )  # fmt: skip
    return [Reminder(*row) for row in rows]


async def settle(session: AsyncSession, outcomes: Sequence[tuple[Reminder, Outcome]]) -> None:
    """Note what became of reminders that were taken."""
    values: dict[str, Any] = {
        "rooms": [told.room for told, _ in outcomes],
        "viewers": [told.viewer for told, _ in outcomes],
        "outcomes": [outcome for _, outcome in outcomes],
        "later": timedelta(seconds=LATER_SECONDS),
    }
    await session.execute(_SETTLE, values)


async def send_due(sessions: Sessions, messenger: Messenger) -> int:
    """Send what is due, batch by batch, without holding a transaction meanwhile; returns how many were settled."""
    settled = 0
    while True:
        async with transaction(sessions) as session:
            taken = await take(session)
        if not taken:
            return settled
        outcomes: list[tuple[Reminder, Outcome]] = []
        try:
            async with asyncio.timeout(LEASE_SECONDS / 2):
                async for told, outcome in messenger.remind(taken):
                    outcomes.append((told, outcome))
        except TimeoutError:
            log.warning("reminders_slow", taken=len(taken), told=len(outcomes))
        finally:
            # Those without an outcome may have been sent: they stay taken, and their attempt is spent.
            if outcomes:
                async with transaction(sessions) as session:
                    await settle(session, outcomes)
        done = sum(outcome != "later" for _, outcome in outcomes)
        settled += done
        log.info("reminded", taken=len(taken), settled=done)
        if not done:
            return settled  # the messenger cannot be reached: the rest need not be taken to learn that
