"""What viewers did, gathered and written to the database in batches: presence in rooms, taps, coupons seen.

Also remembers who left a moment ago: a viewer who does not come back soon has their location forgotten.
"""

import asyncio
from collections import Counter
from datetime import UTC, datetime
from time import time
from uuid import UUID

import structlog
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from kernel.clock import now
from kernel.errors import Refusal
from kernel.identity import Principal, Role
from kernel.postgres import Sessions, transaction
from live import attendance, pins
from live.attendance import Attended
from live.metrics import Tally
from live.ports import Issuer, Locator

GONE_SECONDS = 20.0
"""After so long a viewer who left counts as gone."""
AT_ONCE = 200
"""Rows of attendance that one statement writes. The driver looks at each value while nothing else is served: those of
10,000 viewers who stayed held up all rooms for half a second."""
MAX_WAITING = 50_000
"""Entries of each kind that wait for the database; past that new ones are left out, and counted."""
MAX_SEEN_AT_ONCE = 200

log = structlog.get_logger()


class Journal:
    """One gateway's notes, written about twice a second."""

    def __init__(self, sessions: Sessions, locator: Locator, issuer: Issuer, tally: Tally) -> None:
        self._sessions = sessions
        self._locator = locator
        self._issuer = issuer
        self._tally = tally
        self._attended: dict[tuple[UUID, UUID], Attended] = {}
        self._taps: dict[UUID, Counter[UUID]] = {}
        self._seen: dict[UUID, set[UUID]] = {}
        self._left: dict[tuple[UUID, UUID], float] = {}
        """Since when, in the order in which they left."""
        self._banned: set[tuple[UUID, UUID]] = set()
        self._writing = asyncio.Lock()

    def joined(self, room: UUID, who: Principal) -> None:
        """``who`` came in."""
        if who.role is Role.VIEWER:  # staff at work are no visitors: the funnel begins with customers
            self._attend(room, who.subject, 1)
        self._left.pop((room, who.subject), None)

    def stayed(self, room: UUID, viewer: UUID) -> None:
        """``viewer`` is still here."""
        self._attend(room, viewer, 0)

    def left(self, room: UUID, who: Principal) -> None:
        """``who`` left; they may be back in a moment."""
        if who.role is Role.VIEWER:
            self._attend(room, who.subject, 0)
        self._left.pop((room, who.subject), None)
        if len(self._left) < MAX_WAITING:
            self._left[room, who.subject] = time()
        else:
            self._tally.shed["left"] += 1  # their fixes end by age

    def banned(self, room: UUID, who: Principal) -> None:
        """``who`` left and may not come back: their location ends at once, and no drop finds them any more."""
        self._attend(room, who.subject, 0)
        self._left.pop((room, who.subject), None)
        if len(self._banned) < MAX_WAITING:
            self._banned.add((room, who.subject))
        else:
            self._tally.shed["left"] += 1

    def tapped(self, room: UUID, product: UUID) -> None:
        """Somebody opened the card of ``product``."""
        taps = self._taps.setdefault(room, Counter())
        if product in taps or len(taps) < 1000:
            taps[product] += 1
        else:
            self._tally.shed["tap"] += 1

    def seen(self, viewer: UUID, coupon: UUID) -> None:
        """``viewer`` was shown ``coupon``."""
        if viewer in self._seen or len(self._seen) < MAX_WAITING:
            self._seen.setdefault(viewer, set()).add(coupon)
        else:
            self._tally.shed["seen"] += 1

    def _attend(self, room: UUID, viewer: UUID, joins: int) -> None:
        at = now()
        former = self._attended.get((room, viewer))
        if former is not None:
            self._attended[room, viewer] = Attended(room, viewer, former.first_at, at, former.joins + joins)
        elif len(self._attended) < MAX_WAITING:
            self._attended[room, viewer] = Attended(room, viewer, at, at, joins)
        else:
            self._tally.shed["attendance"] += 1

    async def written(self, room: UUID, viewer: UUID) -> None:
        """Return once the database knows that ``viewer`` is in ``room``. Raises what it raises."""
        if (room, viewer) not in self._attended and not self._writing.locked():
            return
        # It may be in the batch that is being written. And whoever waited with this one may have written it along:
        # if each wrote for itself then, a room that fills would wait for a transaction a viewer, one after the other.
        async with self._writing:
            if (room, viewer) in self._attended:
                await self._write_attended()

    async def flush(self) -> None:
        """Write what is waiting. What cannot be written now waits for the next time."""
        for what, write in (
            ("attendance", self._write_attendance),
            ("taps", self._write_taps),
            ("seen", self._write_seen),
            ("forget", self._forget),
        ):
            try:
                await write()
            except (SQLAlchemyError, RedisError, OSError, TimeoutError, Refusal) as error:
                self._tally.failures[what] += 1
                log.warning("journal_failed", what=what, error=type(error).__name__)

    async def _write_attendance(self) -> None:
        async with self._writing:
            await self._write_attended()

    async def _write_attended(self) -> None:
        """Write everybody's, holding ``_writing``."""
        batch, self._attended = self._attended, {}
        rows = list(batch.values())
        written = 0
        try:
            while written < len(rows):
                async with transaction(self._sessions) as session:
                    await attendance.attend(session, rows[written : written + AT_ONCE])
                written += AT_ONCE
        except BaseException:
            for row in rows[written:]:
                key = row.room, row.viewer
                newer = self._attended.get(key, row)
                joins = row.joins if newer is row else row.joins + newer.joins
                self._attended[key] = Attended(*key, row.first_at, newer.last_at, joins)
            raise

    async def _write_taps(self) -> None:
        batch, self._taps = self._taps, {}
        while batch:
            room, counts = batch.popitem()
            try:
                async with transaction(self._sessions) as session:
                    await pins.taps(session, room, counts)
            except BaseException:
                for key, taps in [*batch.items(), (room, counts)]:
                    self._taps.setdefault(key, Counter()).update(taps)
                raise

    async def _write_seen(self) -> None:
        for _ in range(MAX_SEEN_AT_ONCE):
            if not self._seen:
                return
            viewer, coupons = self._seen.popitem()
            try:
                await self._issuer.seen(viewer, list(coupons))
            except BaseException:
                self._seen.setdefault(viewer, set()).update(coupons)
                raise

    async def _forget_banned(self) -> None:
        while self._banned:
            room, viewer = self._banned.pop()
            try:
                await self._locator.forget(room, [viewer], now())
            except BaseException:
                self._banned.add((room, viewer))
                raise

    async def _forget(self) -> None:
        await self._forget_banned()
        gone: dict[UUID, list[UUID]] = {}
        latest = time() - GONE_SECONDS
        leaving: list[tuple[tuple[UUID, UUID], float]] = []
        for place, at in self._left.items():
            if at > latest:
                break
            leaving.append((place, at))
            gone.setdefault(place[0], []).append(place[1])
        for room, viewers in gone.items():
            before = max(at for place, at in leaving if place[0] == room)
            await self._locator.forget(room, viewers, datetime.fromtimestamp(before, UTC))
        for place, at in leaving:
            if self._left.get(place) == at:  # not one who came back and left again meanwhile
                del self._left[place]
