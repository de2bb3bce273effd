"""Which rooms have their own guide on a socket of this gateway, noted for the watch over lost guides (``live.life``).

One statement for all rooms together: at once when a guide comes or goes, else every few seconds. A gateway that is
killed writes nothing any more, and that is how its guides are missed. So nothing else may delay these notes: they have
a connection of their own, and do not queue behind the commands of hundreds of guides who start at once.
"""

import asyncio
from collections.abc import Iterable, Mapping
from time import monotonic
from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from live.metrics import Tally
from live.replica import Room

NOTE_SECONDS = 5.0
"""A third of the grace, so that one note may be missed."""
GATHER_SECONDS = 0.1
"""Guides who come together, as after a gateway's death, are written together."""
AGAIN_SECONDS = 1.0

log = structlog.get_logger()

# An age, not a time: PostgreSQL's clock is the only one that counts. A room whose lock is held is left for the next
# time, so that neither waits for the other; sorted for the sake of those who lock several rooms and do wait.
_NOTE = text("""
    WITH here AS (
        SELECT rooms.id, clock_timestamp() - seen.age * interval '1 second' AS at
        FROM rooms JOIN unnest(CAST(:rooms AS uuid[]), CAST(:ages AS float8[])) AS seen (id, age)
             ON seen.id = rooms.id
        WHERE rooms.state <> 'ended'
        ORDER BY rooms.id
        FOR NO KEY UPDATE OF rooms SKIP LOCKED
    )
    UPDATE rooms SET guide_seen_at = greatest(rooms.guide_seen_at, here.at)
    FROM here WHERE rooms.id = here.id
    RETURNING rooms.id
""")


class Hosts:
    """One gateway's notes about guides."""

    def __init__(self, engine: AsyncEngine, rooms: Mapping[UUID, Room], tally: Tally) -> None:
        self._engine = engine
        self._connection: AsyncConnection | None = None
        self._writing = asyncio.Lock()
        self._rooms = rooms
        self._tally = tally
        self._news: dict[UUID, float | None] = {}
        """Rooms whose guide came (None) or went (when, monotonic) and of which nothing was written since."""
        self._woken = asyncio.Event()

    def came(self, room: UUID) -> None:
        """The guide of ``room`` opened a socket here."""
        self._news[room] = None
        self._woken.set()

    def went(self, room: UUID) -> None:
        """The guide's last socket here is gone."""
        self._news[room] = monotonic()
        self._woken.set()

    async def run(self) -> None:
        """Write until cancelled. What cannot be written is written later, with the time at which it was true."""
        try:
            await self._keep_noting()
        finally:
            async with self._writing:
                await self._hang_up()

    async def _keep_noting(self) -> None:
        due = monotonic()
        while True:
            try:
                async with asyncio.timeout(due - monotonic()):
                    await self._woken.wait()
            except TimeoutError:
                due = monotonic() + NOTE_SECONDS
                await self.flush(self._here())
            else:
                await asyncio.sleep(GATHER_SECONDS)
                await self.flush(())
            if self._news:
                await asyncio.sleep(AGAIN_SECONDS)
                self._woken.set()

    def _here(self) -> list[UUID]:
        rooms = self._rooms.values()
        return [room.id for room in rooms if room.state != "ended" and room.guide in room.audience.people]

    async def flush(self, here: Iterable[UUID] = ()) -> None:
        """Write the news, and that the guides of the rooms ``here`` are here."""
        self._woken.clear()
        news, self._news = self._news, {}
        noted: dict[UUID, float | None] = {**news, **dict.fromkeys(here)}
        if not noted:
            return
        try:
            async with self._writing:
                written = await self._write(noted)
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            self._tally.failures["guides"] += 1
            log.warning("guides_not_noted", error=type(error).__name__)
            written = set()
        for room, went in news.items():
            if room not in written and room in self._rooms and self._rooms[room].state != "ended":
                self._news.setdefault(room, went)  # unless there is newer news

    async def _write(self, noted: Mapping[UUID, float | None]) -> set[UUID]:
        """Which rooms were written. Raises what PostgreSQL raises, and hangs up then."""
        try:
            if self._connection is None:
                self._connection = await self._engine.connect()
            at = monotonic()
            ages = [0.0 if went is None else at - went for went in noted.values()]
            async with self._connection.begin():
                return set(await self._connection.scalars(_NOTE, {"rooms": list(noted), "ages": ages}))
        except BaseException:
            await self._hang_up()
            raise

    async def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
