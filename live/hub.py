"""The rooms of this process: each with a copy of its log and snapshot, so that joins and resumes do not reach Redis.

A room is opened once, by the first viewer, and kept a while after the last. Entries are applied strictly in the order
of the log: a missing number is read from the stream before anything later is told. When the log itself was lost (Redis
emptied, or rolled back by a crash) its epoch changes, and every viewer is told by a fresh ``welcome``.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from functools import partial
from time import time
from typing import Any
from uuid import UUID

import msgspec
import structlog
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from kernel.errors import Refusal
from live import wire
from live.audience import Audience
from live.bus import LOG_LENGTH, Bus, Entry
from live.metrics import Tally
from live.replica import Facts, Room
from live.turns import Turns
from live.wire import Close

IDLE_SECONDS = 60.0
"""How long a room without viewers stays open here: they may be about to come back."""
CHECKS_AT_ONCE = 32
CHECK_SECONDS = 10.0
"""How long one room's log may take to be looked at: without an answer it is asked again, not waited for in silence."""
REPAIR_SECONDS = 5.0
"""How long somebody who comes in waits for a room that is being repaired."""
SEEDED = "seeded"
"""The slot that says that a snapshot has what the database knows. Events alone set only what they change, and a log
that begins anew may begin with any of them."""

log = structlog.get_logger()


class Hub:
    """All rooms of this process; the bus's ``Receiver``."""

    def __init__(
        self,
        bus: Bus,
        facts: Callable[[UUID], Awaitable[Facts]],
        settled: Callable[[UUID], Awaitable[object]],
        review: Callable[[str, str], str],
        tally: Tally,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        *,
        log_length: int = LOG_LENGTH,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._bus = bus
        self._facts = facts
        self._settled = settled
        self._review = review
        self._tally = tally
        self._spawn = spawn
        self._failed = failed
        self._log_length = log_length
        self._turns = Turns()
        self.rooms: dict[UUID, Room] = {}
        self._opening: dict[UUID, asyncio.Future[Room]] = {}

    # ---- opening and closing ---------------------------------------------------------------------------------------

    def get(self, room: UUID) -> Room | None:
        """The room, if it is open and complete."""
        found = self.rooms.get(room)
        return found if found is not None and found.whole.is_set() else None

    async def open(self, id: UUID) -> Room:
        """The room, opened if it was not; many at once open it once.

        Raises Refusal ``not_found``, TimeoutError, or what PostgreSQL and Redis raise when they cannot be reached.
        """
        if (room := self.get(id)) is not None:
            room.empty_since = time()  # somebody is about to come in
            return room
        if (opening := self._opening.get(id)) is None:
            opening = self._opening[id] = asyncio.ensure_future(self._open(id))
            opening.add_done_callback(lambda _: self._opening.pop(id, None))
        return await asyncio.shield(opening)

    async def _open(self, id: UUID) -> Room:
        room = self.rooms.get(id)
        if room is None:
            facts = await self._facts(id)
            audience = Audience(facts.display_rate, self._tally, self._turns, self._failed)
            room = Room(id, facts, partial(self._review, facts.brand), self._log_length, audience)
            room.mending = True  # by us: what is lost meanwhile is found below
            # Listening before reading: what is said in between is heard, and repaired below.
            self.rooms[id] = room
            try:
                await self._bus.subscribe(id)
                await self._reload(room, facts)
            except BaseException:
                self.rooms.pop(id, None)
                raise
            await self._mend(room)
        async with asyncio.timeout(REPAIR_SECONDS):
            await room.whole.wait()
        room.empty_since = time()
        return room

    async def reach(self, room: Room, seq: int) -> None:
        """A viewer knows more than this copy, from another gateway: read up before letting them in.

        Raises TimeoutError when the room is not whole soon, and what Redis raises.
        """
        if seq > room.seq:
            epoch, entries = await self._read(room)
            for entry in entries:
                self._take(room, epoch, entry)
            async with asyncio.timeout(REPAIR_SECONDS):
                await room.whole.wait()

    async def _read(self, room: Room) -> tuple[str, list[Entry]]:
        """What the log tells after this copy, and the log's epoch."""
        entries = await self._bus.read(room.id, room.seq)
        # Asked last: what was read before belongs to this epoch, or to one that is over and taken for lost either way.
        epoch, _ = await self._bus.head(room.id)
        return epoch, entries

    async def close_idle(self, now: float) -> None:
        """Give up rooms that nobody has watched here for a while."""
        for room in list(self.rooms.values()):
            if room.audience.connections or room.late or room.id in self._opening:
                room.empty_since = now
            elif now - room.empty_since > IDLE_SECONDS and not room.likes:
                del self.rooms[room.id]
                await self._bus.unsubscribe(room.id)

    async def _reload(self, room: Room, facts: Facts | None = None) -> None:
        """Take the room's snapshot from Redis; what is unknown there, from the database and from this copy."""
        snapshot = await self._bus.snapshot(room.id)
        missing = {name: value for name, value in room.slots.items() if name.startswith("drop:")}
        missing = {name: value for name, value in missing.items() if name not in snapshot.slots}
        if SEEDED not in snapshot.slots:
            facts = facts or await self._facts(room.id)
            # The database is ahead of a log that begins: what is still to be told would come behind the snapshot that
            # has it already, and show older pins and announcements again.
            await self._settled(room.id)
            missing |= facts.slots | {SEEDED: b"1"}
        if missing:
            await self._bus.seed(room.id, missing)
            snapshot = await self._bus.snapshot(room.id)
        room.replace(snapshot)

    # ---- Receiver --------------------------------------------------------------------------------------------------

    def entry(self, id: UUID, epoch: str, entry: Entry) -> None:
        """See ``live.bus.Receiver``."""
        room = self.rooms.get(id)
        if room is not None:
            self._tally.bus.observe(time() - entry.at)
            self._take(room, epoch, entry)

    def _take(self, room: Room, epoch: str, entry: Entry) -> None:
        if epoch != room.epoch:
            room.kick(entry)  # this copy begins anew from a snapshot, and snapshots send nobody away
        if not room.whole.is_set():
            room.hear(epoch, entry.seq)
        elif epoch != room.epoch:
            self._lost(room)
        elif entry.seq == room.seq + 1:
            room.apply(entry)
        elif entry.seq > room.seq:
            self._missed(room, epoch, entry.seq)

    def cast(self, id: UUID, events: Sequence[bytes], at: float) -> None:
        """See ``live.bus.Receiver``."""
        room = self.rooms.get(id)
        if room is None:
            return
        self._tally.bus.observe(time() - at)
        for event in events:
            if event.startswith(b'{"t":"counts"'):
                room.counts = msgspec.json.decode(event, type=wire.CountsChanged).counts
        room.audience.loose(list(events), at)

    async def restored(self, rooms: Collection[UUID]) -> None:
        """See ``live.bus.Receiver``: look at every such room's log, a few at a time. TimeoutError if one is silent."""
        waiting = iter([self.rooms[room] for room in rooms if room in self.rooms])

        async def work() -> None:
            for room in waiting:
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._check(room)

        await asyncio.gather(*(work() for _ in range(CHECKS_AT_ONCE)))

    async def _check(self, room: Room) -> None:
        have = room.seq  # before asking: what is heard while the answer is under way is ahead of it
        epoch, seq = await self._bus.head(room.id)
        if epoch != room.epoch:
            room.hear(epoch, seq)  # a room that is being opened may have read of its log what was there before
            self._lost(room)
        elif seq < have:
            # Redis came back without its last moments. Numbers given again would mean two things.
            log.warning("log_rolled_back", room=str(room.id), have=have, found=seq)
            await self._bus.renew(room.id, room.epoch)
            self._lost(room)
        elif (kept := await self._bus.read(room.id, room.seq - 1)) and not room.ends_with(kept[0]):
            # As above, and somebody published since: a replica that took over without its master's last moments.
            log.warning("log_rewritten", room=str(room.id), at=room.seq)
            await self._bus.renew(room.id, room.epoch)
            self._lost(room)
        elif seq > room.seq:
            self._missed(room, epoch, seq)
            await room.whole.wait()

    # ---- repairs ---------------------------------------------------------------------------------------------------

    def _missed(self, room: Room, epoch: str, seq: int) -> None:
        self._tally.gaps += 1
        log.warning("gap", room=str(room.id), have=room.seq, heard=seq)
        room.hear(epoch, seq)
        self._mend_soon(room)

    def _lost(self, room: Room) -> None:
        log.warning("log_lost", room=str(room.id), have=room.seq)
        room.epoch = ""
        self._mend_soon(room)

    def _mend_soon(self, room: Room) -> None:
        room.whole.clear()
        if not room.mending:
            room.mending = True
            self._spawn(self._mend(room))

    async def _mend(self, room: Room) -> None:
        """Read what is missing and apply it in order; where that is impossible, begin anew. ``retry`` comes back to
        a room for which PostgreSQL or Redis could not be reached."""
        room.mending = True
        try:
            while not room.epoch or room.behind():
                if not room.epoch:
                    await self._begin_anew(room)
                    continue
                after = room.seq
                epoch, missing = await self._read(room)
                if epoch != room.epoch:
                    room.epoch = ""  # another log: its numbers mean something else
                elif not missing or missing[0].seq > after + 1:
                    log.warning("log_trimmed", room=str(room.id), have=after)
                    room.epoch = ""
                for entry in missing:
                    if entry.seq == room.seq + 1 and room.epoch:
                        room.apply(entry)
            room.whole.set()
        except Refusal:
            self._dismiss(room, Close.ROOM_UNKNOWN, "there is no such room")
        except (RedisError, OSError, SQLAlchemyError) as error:
            self._tally.failures["repair"] += 1
            log.warning("repair_failed", room=str(room.id), error=type(error).__name__)
        finally:
            room.mending = False

    async def _begin_anew(self, room: Room) -> None:
        """Take a fresh snapshot and tell every viewer by a fresh ``welcome``: no storm of reconnects for our loss."""
        await self._reload(room)
        room.arrivals.update(room.audience.viewers())
        room.audience.begin_anew(room.seq)
        for place, connection in enumerate(list(room.audience.connections)):
            if connection.session is not None and connection.session.who is not None and not connection.closing:
                connection.write(room.welcome(connection.session.who, None)[0])
            if place % 100 == 99:
                await asyncio.sleep(0)

    def _dismiss(self, room: Room, code: Close, reason: str) -> None:
        for connection in [*room.audience.connections, *room.late]:
            if connection.session is not None:
                connection.apply(connection.session.end(code, reason))

    async def retry(self) -> None:
        """Once a second: go on with rooms whose repair failed."""
        for room in list(self.rooms.values()):
            # Also while something else is lost: a room of another node need not wait for it, and a repair of what was
            # lost waits for its rooms to be whole.
            if not room.whole.is_set() and not room.mending and room.id not in self._opening:
                self._mend_soon(room)

    def tell_guides(self) -> None:
        """Once a second: tell staff how much was left out."""
        for room in self.rooms.values():
            room.audience.tell_guides()
