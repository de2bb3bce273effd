"""Tells webhooks what the ledger says: at least once, in the ledger's order, one call at a time to each of them.

The ledger itself is the queue, and a webhook's ``cursor`` its place in it. A worker takes a webhook for
``LEASE_SECONDS``, calls it with a batch, and moves the cursor once the call was answered with a success. A worker that
dies in between leaves the cursor where it was: the batch is sent again, with the same event ids.

Identifiers of the ledger are given out before their transactions commit, so a line may appear behind others that
have been read. ``Horizon`` says up to where that can no longer happen, and nobody reads beyond it.
"""

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Literal
from uuid import UUID

import msgspec
import structlog
from prometheus_client import REGISTRY, Counter
from sqlalchemy import Row, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from coupons.callback import Answer, Caller, Network, signed_headers
from kernel.clock import milliseconds, now
from kernel.postgres import Sessions, transaction
from kernel.tasks import end

BATCH = 200
"""Events in one call: some 100 kB of JSON."""
WINDOW = 20_000
"""Ledger lines, of all brands, looked through for one batch."""
BATCHES_A_VISIT = 20
"""After so many the webhook is left to wait its turn again, so that a long replay leaves room for others."""
AT_ONCE = 32
"""Webhooks called at the same time by one worker."""
LEASE_SECONDS = 30
"""Longer than a call (``callback.CALL_SECONDS``) and the reading before it; renewed with every batch."""
FIRST_RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 600.0
PAUSE_AFTER = timedelta(hours=72)
"""A webhook that has failed for so long, with not one success, is left alone until ops say otherwise."""
GONE = 410

Name = Literal["issued", "expiring", "redeemed", "reversed", "expired", "voided"]
TRANSITIONS: dict[str, Name] = {
    "issue": "issued",
    "remind": "expiring",
    "redeem": "redeemed",
    "reverse": "reversed",
    "expire": "expired",
    "void": "voided",
}
"""The ledger's word → the event's name, as a webhook chooses it; on the wire ``coupon.`` stands before it."""
_WORDS: dict[str, str] = {name: word for word, name in TRANSITIONS.items()}


def transitions_of(events: Sequence[str]) -> list[str]:
    """What the ledger calls these events."""
    return [_WORDS[event] for event in events]


CALLS = Counter("nearcast_webhook_calls", "Calls of webhooks by what became of them", ["outcome"], registry=REGISTRY)
for _outcome in ("told", "defect"):
    CALLS.labels(_outcome)  # there from the start, so that a rate sees the first of them
log = structlog.get_logger()


class Order(msgspec.Struct, frozen=True):
    """What a redemption was worth; ``order_fen`` is null when the till did not say."""

    redemption: UUID
    order_fen: int | None
    discount_fen: int


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One transition of one coupon. ``id`` is the ledger line's: it grows, and is the same whenever it is told.

    Neither the coupon's code nor anything about where the viewer was: the receiver needs neither.
    """

    id: int
    type: str
    at: int
    coupon: UUID
    viewer: UUID
    campaign: UUID
    campaign_title: str
    room: UUID
    drop: UUID
    store: str
    valid_from: int
    valid_until: int
    order: Order | None = None


class Batch(msgspec.Struct, frozen=True):
    """The body of one call."""

    webhook: UUID
    events: list[Event]


_encoder = msgspec.json.Encoder()


# ---- how far it is safe to read ------------------------------------------------------------------------------------

_MARK = text(
    "SELECT coalesce(max(id), 0) AS upto, CAST(CAST(pg_current_xact_id() AS text) AS bigint) AS mark FROM ledger"
)
_NEWEST = text("SELECT coalesce(max(id), 0) FROM ledger")
_OLDEST_RUNNING = text("SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)")


class Horizon:
    """Up to which ledger line everything that will ever be there can be seen. Belongs to one worker.

    A transaction locks its coupon or its campaign before it writes a line, so it has its number by the time the line
    has one. We read the highest line, then take a transaction number ourselves: whoever was given a lower line and has
    not committed has a lower number than ours. Once no transaction below our number runs, those lines are all there.
    """

    def __init__(self) -> None:
        self.upto = 0
        self._waiting: Row[Any] | None = None

    async def advance(self, sessions: Sessions) -> int:
        """Look again; returns ``upto``."""
        if self._waiting is None:
            async with sessions() as session:
                if await session.scalar(_NEWEST) == self.upto:
                    return self.upto  # our own number costs the database something, so none while nothing happens
            async with transaction(sessions) as session:
                self._waiting = (await session.execute(_MARK)).one()
        async with sessions() as session:
            if await session.scalar(_OLDEST_RUNNING) >= self._waiting.mark:
                self.upto, self._waiting = self._waiting.upto, None
        return self.upto


# ---- taking, reading, settling -------------------------------------------------------------------------------------

_TAKE = text(
    """
    WITH due AS (
        SELECT id FROM webhooks
        WHERE state = 'active' AND cursor < :upto AND due_at <= clock_timestamp()
          AND (taken_until IS NULL OR taken_until < clock_timestamp())
        ORDER BY due_at LIMIT :places FOR UPDATE SKIP LOCKED
    )
    UPDATE webhooks SET taken_by = gen_random_uuid(), taken_until = clock_timestamp() + CAST(:lease AS interval)
    FROM due WHERE webhooks.id = due.id
    RETURNING webhooks.id, webhooks.taken_by
    """
)
# Read anew for each batch, so that a pause, a replay, a new secret or a new address holds from the next call on.
_HOLD = text(
    """
    UPDATE webhooks SET taken_until = clock_timestamp() + CAST(:lease AS interval)
    WHERE id = :id AND taken_by = :token AND state = 'active'
    RETURNING id, brand_id, url, events, key_id, secret, old_key_id, old_secret, old_until, cursor, failures
    """
)
_READ = text(
    """
    SELECT l.id, l.transition, l.at, c.id AS coupon, c.viewer_id, c.campaign_id, m.title, c.room_id, c.drop_id,
           s.code AS store, c.valid_from, c.valid_until, r.id AS redemption, r.order_fen, r.discount_fen
    FROM ledger l
    JOIN coupons c ON c.id = l.coupon_id
    JOIN campaigns m ON m.id = c.campaign_id
    JOIN stores s ON s.id = c.store_id
    LEFT JOIN redemptions r ON r.id = l.redemption_id
    WHERE l.id > :after AND l.id <= :until AND c.brand_id = :brand AND l.transition = ANY(:transitions)
    ORDER BY l.id LIMIT :batch
    """
)
# Whose lease has run out, or whose webhook was sent back or changed meanwhile, moves nothing.
_MOVE = text("UPDATE webhooks SET cursor = :cursor WHERE id = :id AND taken_by = :token RETURNING id")
_TOLD = text(
    """
    UPDATE webhooks SET cursor = :cursor, delivered_at = clock_timestamp(), failures = 0, failing_since = NULL,
                        last_status = :status, last_error = NULL
    WHERE id = :id AND taken_by = :token RETURNING id
    """
)
_FAILED = text(
    """
    UPDATE webhooks
    SET failures = failures + 1, failing_since = coalesce(failing_since, clock_timestamp()),
        last_status = :status, last_error = :error, due_at = clock_timestamp() + CAST(:delay AS interval),
        pause_reason = why.reason, state = CASE WHEN why.reason IS NULL THEN 'active' ELSE 'paused' END,
        taken_by = NULL, taken_until = NULL
    FROM (SELECT id, CASE WHEN :gone THEN 'gone'
                 WHEN failing_since < clock_timestamp() - CAST(:patience AS interval) THEN 'failing' END AS reason
          FROM webhooks WHERE id = :id) AS why
    WHERE webhooks.id = why.id AND taken_by = :token
    RETURNING pause_reason
    """
)
_RELEASE = text(
    """
    UPDATE webhooks SET taken_by = NULL, taken_until = NULL, due_at = clock_timestamp()
    WHERE id = :id AND taken_by = :token
    """
)
_LEAVE = text("UPDATE webhooks SET taken_by = NULL, taken_until = NULL WHERE taken_by = ANY(CAST(:tokens AS uuid[]))")


async def read(
    session: AsyncSession, brand: str, events: Sequence[str], after: int, upto: int
) -> tuple[list[Event], int]:
    """Up to ``BATCH`` events of ``brand`` behind the line ``after``, and the line up to which there are no others."""
    until = min(upto, after + WINDOW)
    values = {"after": after, "until": until, "brand": brand, "batch": BATCH}
    rows = (await session.execute(_READ, values | {"transitions": transitions_of(events)})).all()
    found = [_event(row) for row in rows]
    return found, found[-1].id if len(found) == BATCH else until


def _event(row: Row[Any]) -> Event:
    return Event(
        id=row.id,
        type=f"coupon.{TRANSITIONS[row.transition]}",
        at=milliseconds(row.at),
        coupon=row.coupon,
        viewer=row.viewer_id,
        campaign=row.campaign_id,
        campaign_title=row.title,
        room=row.room_id,
        drop=row.drop_id,
        store=row.store,
        valid_from=milliseconds(row.valid_from),
        valid_until=milliseconds(row.valid_until),
        order=None if row.redemption is None else Order(row.redemption, row.order_fen, row.discount_fen),
    )


def retry_delay(failures: int, retry_after: float | None) -> timedelta:
    """How long to wait after the call that made ``failures`` of them: doubling, and jittered downwards by up to half,
    so that webhooks that failed together do not come back together. A receiver may ask for more, up to an hour."""
    seconds: float = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(failures - 1, 20))
    jittered = seconds * random.uniform(0.5, 1)  # noqa: S311 - nothing to guess here
    return timedelta(seconds=max(jittered, min(retry_after or 0, 3600.0)))


def signing(row: Row[Any], at: datetime) -> dict[str, str]:
    """The secrets that sign at ``at``, by key id, the new one first."""
    secrets = {row.key_id: row.secret}
    if row.old_until is not None and row.old_until > at:
        secrets[row.old_key_id] = row.old_secret
    return secrets


# ---- calling -------------------------------------------------------------------------------------------------------


class Courier:
    """Calls every webhook that has something to hear, open as long as the ``async with``; the worker turns it.

    Each webhook has a task of its own while it is called, so that a slow one delays nobody.
    """

    def __init__(self, sessions: Sessions, trusted: Sequence[str]) -> None:
        self._sessions = sessions
        self._network = Network(trusted, AT_ONCE)
        self._horizon = Horizon()
        self._visits: dict[asyncio.Task[None], UUID] = {}

    async def __aenter__(self) -> "Courier":
        self._network.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await end(*self._visits)
        self._network.__exit__(kind, error, trace)
        # Whoever works next need not wait for the leases; if this fails they do, and nothing else is lost.
        with suppress(DBAPIError, OSError):
            async with transaction(self._sessions) as session:
                await session.execute(_LEAVE, {"tokens": list(self._visits.values())})

    async def turn(self) -> int:
        """Begin to call the webhooks that are due, without waiting for them; returns how many that are."""
        self._visits = {visit: token for visit, token in self._visits.items() if not visit.done()}
        upto = await self._horizon.advance(self._sessions)
        places = AT_ONCE - len(self._visits)
        if places == 0:
            return 0
        values = {"upto": upto, "places": places, "lease": timedelta(seconds=LEASE_SECONDS)}
        async with transaction(self._sessions) as session:
            taken = (await session.execute(_TAKE, values)).all()
        for row in taken:
            visit = asyncio.create_task(self._visit(row.id, row.taken_by, upto), name="webhook")
            self._visits[visit] = row.taken_by
        return len(taken)

    async def _visit(self, webhook: UUID, token: UUID, upto: int) -> None:
        try:
            await self._tell(webhook, token, upto)
        except (DBAPIError, OSError):
            log.warning("webhook_visit_cut_short", webhook=str(webhook))  # the lease runs out, then it is taken anew
        except Exception:
            CALLS.labels("defect").inc()
            log.exception("webhook_visit_failed", webhook=str(webhook))

    async def _tell(self, webhook: UUID, token: UUID, upto: int) -> None:
        mine: dict[str, Any] = {"id": webhook, "token": token}
        caller: Caller | None = None
        try:
            for _ in range(BATCHES_A_VISIT):
                async with transaction(self._sessions) as session:
                    row = (
                        await session.execute(_HOLD, mine | {"lease": timedelta(seconds=LEASE_SECONDS)})
                    ).one_or_none()
                    if row is None:
                        return
                    if row.cursor >= upto:
                        break
                    events, cursor = await read(session, row.brand_id, row.events, row.cursor, upto)
                    if not events:
                        await session.execute(_MOVE, mine | {"cursor": cursor})
                        continue
                if caller is None:
                    caller = Caller(row.url, self._network)
                answer = await self._call(caller, row, events)
                if not await self._settle(mine, row, answer, cursor):
                    return
            async with transaction(self._sessions) as session:
                await session.execute(_RELEASE, mine)
        finally:
            if caller is not None:
                await caller.__aexit__(None, None, None)

    async def _call(self, caller: Caller, row: Row[Any], events: list[Event]) -> Answer:
        at = now()
        body = _encoder.encode(Batch(row.id, events))
        return await caller.post(body, signed_headers(signing(row, at), int(at.timestamp()), body))

    async def _settle(self, mine: dict[str, Any], row: Row[Any], answer: Answer, cursor: int) -> bool:
        """Note what became of a call; returns whether to go on with the next one."""
        CALLS.labels(answer.error or "told").inc()
        values = mine | {"status": answer.status}
        async with transaction(self._sessions) as session:
            if answer.error is None:
                return (await session.execute(_TOLD, values | {"cursor": cursor})).first() is not None
            values |= {
                "error": answer.error,
                "delay": retry_delay(row.failures + 1, answer.retry_after),
                "gone": answer.status == GONE,
                "patience": PAUSE_AFTER,
            }
            paused = await session.scalar(_FAILED, values)
        log.log(
            30, "webhook_paused" if paused else "webhook_failed",
            webhook=str(row.id), brand=row.brand_id, error=answer.error, status=answer.status,
            failures=row.failures + 1, reason=paused,
        )  # fmt: skip
        return False
