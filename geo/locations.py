"""Viewers' fixes: taken in one by one, written in groups, forgotten soon.

Coordinates appear in no log line and no exception: errors of the database, which quote their parameters, are answered
by a refusal and logged by type only.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import get_args
from uuid import UUID

import numpy as np
import structlog
from sqlalchemy import ARRAY, Uuid, any_, delete, literal, text

from geo import doubt
from geo.catchments import Catchments
from geo.datum import DATUMS, Datum, Floats, to_canonical
from geo.matching import FRESH, MAX_ACCURACY_M
from geo.tables import Location
from kernel.errors import Refusal
from kernel.postgres import Sessions, transaction
from kernel.tasks import end

log = structlog.get_logger()

QUEUE = 20_000
"""Fixes waiting to be written; more are refused as ``busy``."""
BATCH = 1_000
"""Fixes a statement."""
ARRIVALS = 50_000
"""Viewers whose arrival is not yet told; a viewer beyond that is told of with their next fix."""
TELL_PAUSE_SECONDS = 0.1
"""Between two tellings of arrivals: what comes meanwhile is told together."""
ROUNDED = 2
"""Decimals of a degree; a fix that has no more in either number is a region (``getFuzzyLocation``), not a place."""
STILL_M = (15, 50)
"""A fix that is no farther from the kept one than its own accuracy, within these bounds, says nothing of a move."""

_LIMITS = {
    "fresh": FRESH,
    "still_from": STILL_M[0],
    "still_to": STILL_M[1],
    "top_speed": doubt.TOP_SPEED,
    "frozen_after": doubt.FROZEN_AFTER,
    "shared_by": doubt.SHARED_BY,
    "shared_within": doubt.SHARED_WITHIN,
    "doubt_lasts": doubt.LASTS,
    "strong": list(doubt.STRONG),
}

Key = tuple[UUID, UUID]
"""Room and viewer."""
_Kept = tuple[float, float, float]
"""Longitude, latitude (canonical) and accuracy of what is kept."""
Arrival = tuple[str, UUID, UUID]
"""Brand, room and viewer."""

# First: a consent that is locked cannot be withdrawn before the commit, and a withdrawal that came first is seen by
# `_WRITE`: a fix of somebody who has withdrawn is never written. Two gateways write one viewer's fixes one after the
# other, and the second sees what the first wrote. Sorted, so that they lock in one order.
#
# A crash may forget the last fixes (the table is unlogged anyway), so nobody waits for the disk. And each group is
# planned for its size, by looking up. A plan for any size takes it for ten fixes, and compares each of a thousand with
# each; one for a table that was empty when PostgreSQL last looked reads all of it for each. For the same reason tables
# are asked for each fix by itself (OFFSET keeps PostgreSQL from making joins of that).
_BEGIN = text(
    """
    WITH held AS (
        SELECT viewer_id FROM location_consents WHERE viewer_id = ANY(CAST(:viewers AS uuid[]))
        ORDER BY viewer_id FOR NO KEY UPDATE
    )
    SELECT count(*), set_config('synchronous_commit', 'off', true),
        set_config('plan_cache_mode', 'force_custom_plan', true), set_config('enable_seqscan', 'off', true)
    FROM held
    """
)

# `still`: the new fix could be the kept one, seen through its own error. Then the kept position stays, and a viewer who
# sits at the edge of a catchment does not fall in and out of it with every tremble: of any catchment, and for whoever
# asks (claims, push drops, the count in the answer). Not if the kept fix was much vaguer or is stale. The speed is
# taken from the kept position, so what that may be off is allowed for.
#
# `earlier`: what was kept, the newest of the viewer's other rooms (nobody is in two places because two rooms are open),
# and the one before this in the group. Signs, too, speak against the viewer wherever they were seen, in every room.
_WRITE = text(
    """
    WITH consented AS (
        SELECT new.* FROM unnest(CAST(:room AS uuid[]), CAST(:viewer AS uuid[]), CAST(:brand AS text[]),
            CAST(:x AS float8[]), CAST(:y AS float8[]), CAST(:accuracy AS float4[]), CAST(:digits AS bigint[]),
            CAST(:at AS timestamptz[])) AS new (room, viewer, brand, x, y, accuracy, digits, at)
        WHERE (
            SELECT coalesce(b.location_consent, c.version) = c.version FROM location_consents c, brands b
            WHERE c.viewer_id = new.viewer AND c.withdrawn_at IS NULL AND b.id = new.brand
        )
    ), placed AS (
        SELECT *, lag(position) OVER own AS before, lag(accuracy) OVER own AS before_accuracy,
            lag(at) OVER own AS before_at
        FROM (SELECT *, ST_MakePoint(x, y)::geography AS position FROM consented) AS new
        WINDOW own AS (PARTITION BY viewer ORDER BY at, room)
    ), crowded AS (
        SELECT room, digits FROM (
            SELECT room, digits, viewer FROM consented
            UNION
            SELECT asked.room, asked.digits, others.viewer_id
            FROM (SELECT room, digits, max(at) AS at FROM consented GROUP BY room, digits) AS asked
            CROSS JOIN LATERAL (
                SELECT viewer_id FROM locations
                WHERE room_id = asked.room AND digits = asked.digits
                  AND fixed_at > asked.at - CAST(:shared_within AS interval)
                LIMIT :shared_by -- so many are enough, however many there are
            ) AS others
        ) AS senders
        GROUP BY room, digits HAVING count(*) >= :shared_by
    ), judged AS (
        SELECT new.room, new.viewer, new.brand, new.accuracy, new.digits, new.at, new.position, old.position AS kept,
            old.accuracy_m AS kept_accuracy,
            CASE WHEN old.digits = new.digits THEN least(old.repeats + 1, 30000) ELSE 0 END AS repeats,
            coalesce(old.fixed_at > new.at - CAST(:fresh AS interval) AND old.accuracy_m <= 2 * new.accuracy
                AND ST_DWithin(old.position, new.position,
                    least(greatest(new.accuracy, CAST(:still_from AS float8)), CAST(:still_to AS float8))),
                false) AS still,
            (SELECT bool_or(ST_Distance(earlier.position, new.position)
                            - earlier.accuracy - new.accuracy - CAST(:still_to AS float8)
                            > :top_speed * greatest(abs(extract(epoch FROM new.at - earlier.at)), 1))
             FROM (VALUES (old.position, old.accuracy_m, old.fixed_at), (before, before_accuracy, before_at),
                          (elsewhere.position, elsewhere.accuracy_m, elsewhere.fixed_at))
                 AS earlier (position, accuracy, at)
             WHERE earlier.at IS NOT NULL) AS jumped
        FROM placed AS new
        LEFT JOIN LATERAL (
            SELECT * FROM locations WHERE room_id = new.room AND viewer_id = new.viewer OFFSET 0
        ) AS old ON true
        LEFT JOIN LATERAL (
            SELECT * FROM (
                SELECT * FROM locations WHERE viewer_id = new.viewer AND room_id <> new.room OFFSET 0
            ) AS others
            ORDER BY fixed_at DESC LIMIT 1
        ) AS elsewhere ON true
        WHERE old.fixed_at IS NULL OR old.fixed_at <= new.at
    ), signs AS (
        SELECT room, viewer, brand, at, sign FROM judged LEFT JOIN crowded USING (room, digits)
        CROSS JOIN LATERAL (VALUES ('jumped', jumped), ('frozen', repeats >= :frozen_after),
                                   ('shared', crowded IS NOT NULL)) AS seen (sign, there)
        WHERE there
    ), noted AS (
        INSERT INTO doubts AS kept (room_id, viewer_id, sign, brand_id, first_at, last_at)
        SELECT room, viewer, sign, brand, at, at FROM signs ORDER BY room, viewer, sign
        ON CONFLICT (room_id, viewer_id, sign) DO UPDATE SET last_at = greatest(kept.last_at, excluded.last_at)
    ), doubted AS (
        SELECT viewer, string_agg(DISTINCT sign, '+' ORDER BY sign) AS doubt, max(at) AS at
        FROM (
            SELECT viewer, sign, at FROM signs
            UNION ALL
            SELECT viewer, sign, last_at
            FROM (SELECT viewer, max(at) AS at FROM judged GROUP BY viewer) AS judged
            CROSS JOIN LATERAL (SELECT sign, last_at FROM doubts WHERE viewer_id = judged.viewer OFFSET 0) AS former
            WHERE last_at > at - CAST(:doubt_lasts AS interval)
        ) AS standing
        GROUP BY viewer HAVING count(DISTINCT sign) > 1 OR bool_or(sign = ANY(CAST(:strong AS text[])))
    ), written AS (
        INSERT INTO locations AS old
            (room_id, viewer_id, position, accuracy_m, fixed_at, digits, repeats, doubt, doubted_at)
        SELECT room, viewer, CASE WHEN still THEN kept ELSE position END,
            CASE WHEN still THEN least(accuracy, kept_accuracy) ELSE accuracy END, judged.at, digits, repeats, doubt,
            doubted.at
        FROM judged LEFT JOIN doubted USING (viewer) ORDER BY room, viewer
        ON CONFLICT (room_id, viewer_id) DO UPDATE SET
            (position, accuracy_m, fixed_at, digits, repeats, doubt, doubted_at) =
            (excluded.position, excluded.accuracy_m, excluded.fixed_at, excluded.digits, excluded.repeats,
             excluded.doubt, excluded.doubted_at)
        WHERE old.fixed_at <= excluded.fixed_at
        RETURNING room_id, viewer_id, ST_X(position::geometry) AS x, ST_Y(position::geometry) AS y, accuracy_m
    ), doubted_there AS (
        UPDATE locations AS kept SET doubt = doubted.doubt, doubted_at = doubted.at
        FROM doubted
        WHERE kept.viewer_id = doubted.viewer
          AND (kept.room_id, kept.viewer_id) NOT IN (SELECT room, viewer FROM judged)
    )
    SELECT consented.room, consented.viewer, written.x, written.y, written.accuracy_m
    FROM consented LEFT JOIN written ON written.room_id = consented.room AND written.viewer_id = consented.viewer
    """
)


@dataclass(slots=True, eq=False)
class _Waiting:
    """A fix in the queue. Its position has no place in a repr: it might end in a log."""

    brand: str
    key: Key
    lng: float = field(repr=False)
    lat: float = field(repr=False)
    datum: Datum
    accuracy: float
    at: datetime
    answer: asyncio.Future[int]

    def say(self, outcome: int | Refusal) -> None:
        if self.answer.done():  # the viewer's connection is gone
            return
        if isinstance(outcome, Refusal):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


class Locations:
    """Keeps the newest fix of each viewer in a room. An async context manager: it owns the task that writes.

    Fixes that come while a group is being written are the next group, so the database is asked as often as it answers,
    whatever the number of viewers. ``on_written`` is told, after the commit, who has a new fix (push drops wait for
    them); it runs in a task of its own and cannot delay fixes.
    """

    def __init__(
        self,
        sessions: Sessions,
        catchments: Catchments,
        on_written: Callable[[list[Arrival]], Awaitable[object]] | None = None,
    ) -> None:
        self._sessions = sessions
        self._catchments = catchments
        self._on_written = on_written
        self._queue: deque[_Waiting] = deque()
        self._queued = asyncio.Event()
        self._writing = asyncio.Lock()
        self._arrivals: dict[Arrival, None] = {}
        self._arrived = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Locations":
        self._tasks = [asyncio.create_task(self._write_groups(), name="locations")]
        if self._on_written is not None:
            self._tasks.append(asyncio.create_task(self._tell_arrivals(self._on_written), name="arrivals"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await end(*self._tasks)
        for waiting in self._queue:
            waiting.say(Refusal("unavailable", retry_after=1))
        self._queue.clear()

    async def locate(
        self,
        brand: str,
        viewer: UUID,
        room: UUID,
        lng: float,
        lat: float,
        datum: Datum,
        accuracy: float | None,
        now: datetime,
    ) -> int:
        """Keep a fix taken at ``now``; returns in how many stores' catchments of ``brand`` it lies.

        It is committed when this returns, unless the viewer has a newer one. Refusal ``invalid``,
        ``location_uncertain`` (accuracy in metres unknown or above ``MAX_ACCURACY_M``), ``consent_missing``, ``busy``,
        ``unavailable``, and ``not_in_room`` if the viewer leaves meanwhile.
        """
        check_fix(lng, lat, datum, accuracy)
        if len(self._queue) >= QUEUE:
            raise Refusal("busy", retry_after=1)
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(brand, (room, viewer), lng, lat, datum, accuracy or 0.0, now, answer))
        self._queued.set()
        return await answer

    async def forget(self, room: UUID, viewers: Sequence[UUID], before: datetime) -> None:
        """``viewers`` left ``room``: their fixes from ``before`` or earlier go, also those still in the queue."""
        gone = {(room, viewer) for viewer in viewers}
        queue, self._queue = self._queue, deque()
        for waiting in queue:
            if waiting.key in gone and waiting.at <= before:
                waiting.say(Refusal("not_in_room"))
            else:
                self._queue.append(waiting)
        # Behind the group that is being written now, which may hold one of theirs.
        async with self._writing, transaction(self._sessions) as session:
            await session.execute(
                delete(Location).where(
                    Location.room_id == room,
                    Location.viewer_id == any_(literal(list(viewers), ARRAY(Uuid))),
                    Location.fixed_at <= before,
                )
            )

    async def _write_groups(self) -> None:
        while True:
            await self._queued.wait()
            async with self._writing:
                group = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
                if not self._queue:
                    self._queued.clear()
                await self._answer([waiting for waiting in group if not waiting.answer.done()])

    async def _answer(self, group: list[_Waiting]) -> None:
        if not group:
            return
        try:
            lng, lat = _canonical(group)
            written = await self._write(group, lng, lat)
            near = await self._count_near(group, lng, lat, written)
        except asyncio.CancelledError:
            for waiting in group:
                waiting.say(Refusal("unavailable", retry_after=1))
            raise
        except Exception as error:
            # Whatever it was, the next group may do better, and these viewers may try again. Not the error itself:
            # it quotes the statement's parameters, which are where people are.
            log.error("fixes_not_written", fixes=len(group), error=type(error).__name__)  # noqa: TRY400
            for waiting in group:
                waiting.say(Refusal("unavailable", retry_after=1))
            return
        for waiting, stores in zip(group, near, strict=True):
            waiting.say(stores if waiting.key in written else Refusal("consent_missing"))
        self._note_arrivals(dict.fromkeys((w.brand, *w.key) for w in group if written.get(w.key)))

    async def _write(self, group: list[_Waiting], lng: Floats, lat: Floats) -> dict[Key, _Kept | None]:
        """Write each viewer's newest fix of the group. Who consented → what is kept now, None if theirs was no news."""
        newest: dict[Key, int] = {}
        for index, waiting in enumerate(group):
            if waiting.key not in newest or waiting.at >= group[newest[waiting.key]].at:
                newest[waiting.key] = index
        chosen = list(newest.values())
        columns = {
            "room": [group[i].key[0] for i in chosen],
            "viewer": [group[i].key[1] for i in chosen],
            "brand": [group[i].brand for i in chosen],
            "x": lng[chosen].tolist(),
            "y": lat[chosen].tolist(),
            "accuracy": [group[i].accuracy for i in chosen],
            # As given: the same place converted in another company may differ in the last bit.
            "digits": [doubt.digits(group[i].lng, group[i].lat, group[i].datum) for i in chosen],
            "at": [group[i].at for i in chosen],
        }
        async with transaction(self._sessions) as session:
            await session.execute(_BEGIN, {"viewers": columns["viewer"]})
            rows = await session.execute(_WRITE, columns | _LIMITS)
            return {(row.room, row.viewer): None if row.x is None else (row.x, row.y, row.accuracy_m) for row in rows}

    async def _count_near(
        self, group: list[_Waiting], lng: Floats, lat: Floats, written: dict[Key, _Kept | None]
    ) -> list[int]:
        """In how many catchments each viewer of the group is, by what is kept of them: a claim will see the same."""
        counts = np.zeros(len(group), np.int64)
        accuracy = np.array([waiting.accuracy for waiting in group])
        for index, waiting in enumerate(group):
            if (kept := written.get(waiting.key)) is not None:
                lng[index], lat[index], accuracy[index] = kept
        brands = np.array([waiting.brand for waiting in group])
        for brand in set(brands.tolist()):
            mine = np.flatnonzero(brands == brand)
            found = (await self._catchments.of(brand)).match(lng[mine], lat[mine], accuracy[mine])
            counts[mine] = np.bincount(found.fix, minlength=len(mine))
        return counts.tolist()

    def _note_arrivals(self, arrivals: dict[Arrival, None]) -> None:
        if self._on_written is not None and len(self._arrivals) < ARRIVALS:
            self._arrivals.update(arrivals)
            self._arrived.set()

    async def _tell_arrivals(self, on_written: Callable[[list[Arrival]], Awaitable[object]]) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            arrivals, self._arrivals = list(self._arrivals), {}
            try:
                await on_written(arrivals)
            except Exception:
                # Those viewers are told of again with their next fix; the others must not suffer.
                log.exception("arrivals_not_told", arrivals=len(arrivals))
            # Groups of fixes may follow each other every few milliseconds; whoever listens asks the database each time.
            await asyncio.sleep(TELL_PAUSE_SECONDS)


def check_fix(lng: float, lat: float, datum: str, accuracy: float | None) -> None:
    """Refusal ``invalid`` for what cannot be a fix, ``location_uncertain`` for one too vague to decide anything."""
    if not (-180 <= lng <= 180 and -90 <= lat <= 90) or datum not in DATUMS:
        raise Refusal("invalid", "This is not a position.", field="position")
    if accuracy is None or math.isnan(accuracy) or accuracy > MAX_ACCURACY_M:
        raise Refusal("location_uncertain")
    if round(lng, ROUNDED) == lng and round(lat, ROUNDED) == lat:
        # Blurred on purpose by the device: half a kilometre off whatever accuracy it claims.
        raise Refusal("location_uncertain", "Your location is rounded; allow the exact one.")
    if accuracy < 0:
        raise Refusal("invalid", "An accuracy is not negative.", field="accuracy")


def _canonical(group: list[_Waiting]) -> tuple[Floats, Floats]:
    """The group's positions in the canonical frame, converted datum by datum."""
    lng, lat = np.array([w.lng for w in group]), np.array([w.lat for w in group])
    datums = np.array([w.datum for w in group])
    for datum in get_args(Datum):
        mine = datums == datum
        lng[mine], lat[mine] = to_canonical(lng[mine], lat[mine], datum)
    return lng, lat
