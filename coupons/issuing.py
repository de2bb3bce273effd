"""Claims by group commit: they wait a few milliseconds in a bounded queue, and one transaction answers a whole batch.

An answer is given only after that transaction has committed, so nobody is told yes while the database says no.
"""

import asyncio
from collections import Counter as Tally
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter
from typing import Self
from uuid import UUID

import structlog
from prometheus_client import REGISTRY, Counter, Histogram
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession

from coupons.cards import CouponCard
from coupons.claiming import Answer, Answered, NotYet, Plan, answer_batch, carry_out, foresee
from coupons.granting import Named, in_one_transaction
from coupons.locking import lock
from coupons.sight import Claim, Ours, Sight, look
from geo.catchments import Catchments
from kernel import tracing
from kernel.clock import milliseconds
from kernel.errors import Refusal
from kernel.identity import Principal, Role
from kernel.postgres import Sessions
from kernel.tasks import end

BATCH = 500
BATCH_AT_MOST = 2000
"""In a storm batches grow with the line, up to half of it, so that the next one is looked up meanwhile."""
QUEUE = 20_000
"""Claims that may wait in one process; beyond it they are refused at once."""
LINGER_SECONDS = 0.003
"""How long the first claim of a batch waits for company."""
WORKERS = 4
"""Batches under way at the same time."""
AHEAD = 2
"""Of these, of one drop: while one batch is written, the places of the next are looked up, and it waits for the lock.
They are decided one after the other, so the claims of a drop are answered in the order they came."""
REPLIES = 25
"""Callers that are woken at a time: the next batch goes on in between."""
BATCH_TIMEOUT_SECONDS = 10.0
WORD_SECONDS = 0.5
"""How long a batch that has the lock waits to hear of the one before; nobody else gives coupons meanwhile."""
NAMED_SECONDS = 10.0
"""How long a store's name and address are remembered: a card may show what it was called until so long ago."""

CLAIMS = Counter("nearcast_claims", "Claims answered, by outcome", ["outcome"], registry=REGISTRY)
for _known in ("issued", "busy", "unavailable"):
    CLAIMS.labels(_known)  # there from the start, so that a rate sees the first of them
BATCH_SECONDS = Histogram("nearcast_claim_batch_seconds", "Time to write and commit a batch", registry=REGISTRY)
BATCH_SIZE = Histogram(
    "nearcast_claim_batch_size",
    "Claims in a batch",
    buckets=(1, 5, 20, 50, 100, 200, 500, 1000, 2000),
    registry=REGISTRY,
)

_OUTCOMES: dict[object, str] = {CouponCard: "issued", NotYet: "not_started"}

log = structlog.get_logger()


class _Waiting(Claim, frozen=True, eq=False):
    """A claim and who waits for its answer."""

    answer: asyncio.Future[Answer]
    trace: str
    """What it is part of; empty unless traces are made."""


class _Turn:
    """How far a batch has come, for the next one of its drop."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.asked: asyncio.Future[None] = loop.create_future()
        """Its plan stands in the queue for the lock, or it has come to its end: the next one's plan may be sent."""
        self.locked: asyncio.Future[None] = loop.create_future()
        """It has the lock, or never will: the next one may queue for it."""
        self.decided: asyncio.Future[None] = loop.create_future()
        """Its transaction has ended."""

    def has_asked(self) -> None:
        """Its plan is on its way."""
        if not self.asked.done():
            self.asked.set_result(None)

    def has_lock(self) -> None:
        """It has the lock now."""
        if not self.locked.done():
            self.locked.set_result(None)

    def over(self) -> None:
        """It has come to its end, however that went."""
        self.has_asked()
        self.has_lock()
        if not self.decided.done():
            self.decided.set_result(None)


@dataclass(slots=True, eq=False)
class _Line:
    """The claims of one drop that wait, in the order they came."""

    waiting: deque[_Waiting] = field(default_factory=deque)
    called: bool = False
    """A worker was asked to take a batch and has not come yet."""
    full: asyncio.Event = field(default_factory=asyncio.Event)
    """A whole batch waits: nobody need linger."""
    under_way: int = 0
    last: _Turn | None = None
    """Of the newest batch under way."""
    unplanned: int = 0
    """Batches under way that are decided under the lock. Nobody knows before what they give: a plan sent meanwhile
    would fail, and the next one after it."""
    ours: Ours = field(default_factory=Ours)


class Issuer:
    """Answers claims of this process; any number of processes may answer for the same drop.

    ``async with Issuer(sessions, catchments) as issuer`` for as long as the process serves. On leaving, claims that
    still wait are refused as ``unavailable``: their viewers retry with the same id.
    """

    def __init__(self, sessions: Sessions, catchments: Catchments, *, queue: int = QUEUE) -> None:
        self._sessions = sessions
        self._catchments = catchments
        self._bound = queue
        self._waiting = 0
        self._lines: dict[UUID, _Line] = {}
        self._ready: asyncio.Queue[UUID] = asyncio.Queue()
        self._workers: list[asyncio.Task[None]] = []
        self._named: Named = {}
        self._named_until = 0.0

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def start(self) -> None:
        """Begin to answer; needs a running event loop."""
        self._workers = [asyncio.create_task(self._work(), name=f"issuer-{n}") for n in range(WORKERS)]

    async def stop(self) -> None:
        """End the workers and refuse whoever still waits."""
        await end(*self._workers)
        self._workers = []
        for line in self._lines.values():
            self._tell([(waiting, "unavailable") for waiting in line.waiting])
            _count(["unavailable"] * len(line.waiting))
        self._lines.clear()

    async def claim(self, who: Principal, room: UUID | None, drop: UUID, claim_id: str) -> CouponCard:
        """A coupon of the claim drop ``drop``, durable on return; the same ``claim_id`` gets the same coupon again.

        ``room`` is where the viewer claims it (None: anywhere). Whether they watch that room is the caller's to know.
        Raises Refusal: ``not_started`` (with ``retry_after``, and ``opens_at`` in milliseconds: the viewer's turn),
        ``sold_out``, ``limit_reached``, ``out_of_range``, ``location_missing``, ``location_stale``,
        ``location_uncertain``, ``suspect``, ``under_review``, ``ended``, ``campaign_state``, ``quiet_hours``, ``tier``,
        ``segment``, ``cap_reached``, ``sold_out_today``, ``held_out``, ``not_found``, ``forbidden``, ``invalid``,
        ``busy``, ``unavailable``.
        """
        if who.role is not Role.VIEWER:
            raise Refusal("forbidden")
        if not 1 <= len(claim_id) <= 200 or "\0" in claim_id or not (claim_id.isascii() or _encodable(claim_id)):
            raise Refusal("invalid", "The claim's id is not usable text.", field="id")
        if self._waiting >= self._bound:
            CLAIMS.labels("busy").inc()
            raise Refusal("busy", retry_after=1)
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(who.brand, who.subject, claim_id, room, answered, tracing.here())
        if (line := self._lines.get(drop)) is None:
            line = self._lines[drop] = _Line()
        line.waiting.append(waiting)
        if len(line.waiting) == BATCH:
            line.full.set()
        self._call(drop, line)
        self._waiting += 1
        answer = await answered
        if isinstance(answer, NotYet):
            raise Refusal("not_started", retry_after=answer.seconds, opens_at=milliseconds(answer.at))
        if isinstance(answer, str):
            raise Refusal(answer, retry_after=2 if answer == "unavailable" else None)
        return answer

    def _call(self, drop: UUID, line: _Line) -> None:
        """Ask a worker to come for a batch of ``line``, unless it is asked already or enough are under way."""
        if line.waiting and not line.called and line.under_way < AHEAD:
            line.called = True
            self._ready.put_nowait(drop)

    async def _work(self) -> None:
        while True:
            drop = await self._ready.get()
            line = self._lines[drop]
            await _company(line)
            batch = _next_of(line.waiting)
            turn = _Turn()
            before, line.last = line.last, turn
            line.called = False
            line.under_way += 1
            self._call(drop, line)
            answers: list[Answer] = ["unavailable"] * len(batch)
            try:
                answers = await self._answers(drop, batch, line, before, turn)
            finally:
                turn.over()
                line.under_way -= 1
                self._call(drop, line)  # while the replies go out, the next one goes on
                if not line.waiting and not line.under_way:
                    self._lines.pop(drop, None)
                _count(answers)
                await self._reply(batch, answers)

    async def _answers(
        self, drop: UUID, batch: list[_Waiting], line: _Line, before: _Turn | None, turn: _Turn
    ) -> list[Answer]:
        BATCH_SIZE.observe(len(batch))
        try:
            with tracing.gather("decide claims", (one.trace for one in batch), drop=str(drop), claims=len(batch)):
                return await self._decide(drop, batch, line, before, turn)
        except (DBAPIError, PoolTimeout, OSError, TimeoutError) as error:
            # A lost connection is nobody's defect; anything else that PostgreSQL refuses is one, and shows where.
            defect = isinstance(error, DBAPIError) and not error.connection_invalidated
            log.warning(
                "claims_unavailable", drop=str(drop), claims=len(batch), error=type(error).__name__, exc_info=defect
            )
        except Exception:
            # A defect met by this batch must not end the worker and so silence everybody else.
            log.exception("claims_failed", drop=str(drop), claims=len(batch))
        return ["unavailable"] * len(batch)

    async def _decide(
        self, drop: UUID, claims: Sequence[Claim], line: _Line, before: _Turn | None, turn: _Turn
    ) -> list[Answer]:
        async with asyncio.timeout(BATCH_TIMEOUT_SECONDS):
            sight = await look(self._sessions, self._catchments, drop, claims, self._names())
            plan = None if sight is None else foresee(claims, sight)
            if plan is not None:
                if before is not None:
                    await asyncio.wait([before.asked])
                    if line.unplanned:
                        await asyncio.wait([before.decided])
                if (answers := await self._carried_out(plan, line.ours, turn)) is not None:
                    return answers
            line.unplanned += 1
            try:
                return await self._decide_locked(drop, claims, line.ours, sight, plan, before, turn)
            finally:
                line.unplanned -= 1

    async def _decide_locked(
        self,
        drop: UUID,
        claims: Sequence[Claim],
        ours: Ours,
        sight: Sight | None,
        plan: Plan | None,
        before: _Turn | None,
        turn: _Turn,
    ) -> list[Answer]:
        if before is not None:
            await asyncio.wait([before.locked])  # or it might queue for the lock behind this one
        began = perf_counter()

        async def decide(session: AsyncSession, careful: bool) -> Answered:
            nonlocal began
            locked = await lock(session, drop)
            began = perf_counter()
            turn.has_lock()
            if before is not None:
                # It has let go of the lock. What it gave is in `ours` in a moment; if not, we ask the database.
                await asyncio.wait([before.decided], timeout=WORD_SECONDS)
            return await answer_batch(session, locked, claims, sight, ours, plan, careful=careful)

        answered = await in_one_transaction(self._sessions, decide)
        ours.add(answered.issued, answered.recipients)
        BATCH_SECONDS.observe(perf_counter() - began)
        return answered.answers

    async def _carried_out(self, plan: Plan, ours: Ours, turn: _Turn) -> list[Answer] | None:
        """The answers, if the plan was carried out as it is."""
        if (since := plan.since(ours)) is None:
            return None
        asyncio.get_running_loop().call_soon(turn.has_asked)  # by then the question is on its way
        began = perf_counter()
        answered = await carry_out(self._sessions, plan, since, ours)
        if answered is None:
            return None
        BATCH_SECONDS.observe(perf_counter() - began)
        return answered.answers

    def _names(self) -> Named:
        now = asyncio.get_running_loop().time()
        if now >= self._named_until:
            self._named, self._named_until = {}, now + NAMED_SECONDS
        return self._named

    async def _reply(self, batch: Iterable[_Waiting], answers: Iterable[Answer]) -> None:
        rest = zip(batch, answers, strict=True)
        try:
            while some := list(islice(rest, REPLIES)):
                self._tell(some)
                await asyncio.sleep(0)
        finally:
            self._tell(list(rest))  # also when cancelled: nobody waits for ever

    def _tell(self, answers: Collection[tuple[_Waiting, Answer]]) -> None:
        self._waiting -= len(answers)
        for waiting, answer in answers:
            if not waiting.answer.done():  # a viewer who left has cancelled it; what was granted is in their wallet
                waiting.answer.set_result(answer)


def _count(answers: Iterable[Answer]) -> None:
    outcomes = Tally([answer if isinstance(answer, str) else _OUTCOMES[type(answer)] for answer in answers])
    for outcome, count in outcomes.items():
        CLAIMS.labels(outcome).inc(count)


async def _company(line: _Line) -> None:
    """Let others join the first claim of a batch. While they keep coming, and the batch before has not ended, nothing
    is lost by waiting: larger batches cost less for each claim."""
    here = 0
    while here < len(line.waiting) < BATCH:
        here = len(line.waiting)
        line.full.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                await line.full.wait()
        if not line.under_way:
            return
    await asyncio.sleep(0)


def _next_of(waiting: deque[_Waiting]) -> list[_Waiting]:
    size = min(len(waiting), max(BATCH, min(len(waiting) // 2, BATCH_AT_MOST)))
    return [waiting.popleft() for _ in range(size)]


def _encodable(claim_id: str) -> bool:
    try:
        claim_id.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True
