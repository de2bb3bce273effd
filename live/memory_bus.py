"""The bus inside one process: for tests, and for whoever needs rooms without Redis."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import time
from uuid import UUID

from live.bus import COMMENT, LOG_LENGTH, RECENT, Entry, Receiver, Snapshot, new_epoch


@dataclass(slots=True)
class _Room:
    epoch: str
    log: deque[Entry]
    seq: int = 0
    slots: dict[str, bytes] = field(default_factory=dict)
    recent: deque[bytes] = field(default_factory=lambda: deque(maxlen=RECENT))
    kept: list[bytes] = field(default_factory=list)
    events: set[str] = field(default_factory=set)


class MemoryBus:
    """``live.bus.Bus`` without Redis. Every receiver that runs hears every room it subscribed, in order."""

    def __init__(self, *, log_length: int = LOG_LENGTH) -> None:
        self._log_length = log_length
        self._rooms: dict[UUID, _Room] = {}
        self._subscribed: set[UUID] = set()
        self._receiver: Receiver | None = None

    @property
    def healthy(self) -> bool:
        """See ``Bus``."""
        return self._receiver is not None

    @property
    def losses(self) -> int:
        """See ``Bus``: there is nothing to be lost here."""
        return 0

    def _room(self, room: UUID) -> _Room:
        if room not in self._rooms:
            self._rooms[room] = _Room(new_epoch(), deque(maxlen=self._log_length))
        return self._rooms[room]

    async def publish(
        self,
        room: UUID,
        event_id: str,
        *,
        event: bytes | None = None,
        private: Mapping[UUID, bytes] | None = None,
        slots: Mapping[str, bytes] | None = None,
    ) -> int | None:
        """See ``Bus``."""
        kept = self._room(room)
        if event_id in kept.events:
            return None
        kept.events.add(event_id)
        kept.seq += 1
        entry = Entry(kept.seq, event, None if private is None else dict(private), dict(slots or {}), time())
        kept.log.append(entry)
        kept.slots.update(entry.slots)
        if self._receiver is not None and room in self._subscribed:
            self._receiver.entry(room, kept.epoch, entry)
        return kept.seq

    async def cast(self, room: UUID, events: Sequence[bytes], *, keep: Sequence[bytes] = ()) -> None:
        """See ``Bus``."""
        kept = self._room(room)
        kept.recent.extend(event for event in events if event.startswith(COMMENT))
        kept.kept.extend(keep)
        if self._receiver is not None and room in self._subscribed:
            self._receiver.cast(room, list(events), time())

    async def seed(self, room: UUID, slots: Mapping[str, bytes]) -> None:
        """See ``Bus``."""
        kept = self._room(room)
        kept.slots = dict(slots) | kept.slots

    async def read(self, room: UUID, after: int) -> list[Entry]:
        """See ``Bus``."""
        return [entry for entry in self._room(room).log if entry.seq > after]

    async def snapshot(self, room: UUID) -> Snapshot:
        """See ``Bus``."""
        kept = self._room(room)
        return Snapshot(kept.epoch, kept.seq, dict(kept.slots), list(kept.log), 0, list(kept.recent))

    async def head(self, room: UUID) -> tuple[str, int]:
        """See ``Bus``."""
        kept = self._room(room)
        return kept.epoch, kept.seq

    async def renew(self, room: UUID, epoch: str) -> str:
        """See ``Bus``."""
        kept = self._room(room)
        if kept.epoch == epoch:
            kept.epoch = new_epoch()
        return kept.epoch

    async def subscribe(self, room: UUID) -> None:
        """See ``Bus``."""
        self._subscribed.add(room)

    async def unsubscribe(self, room: UUID) -> None:
        """See ``Bus``."""
        self._subscribed.discard(room)

    async def run(self, receiver: Receiver) -> None:
        """See ``Bus``."""
        self._receiver = receiver
        try:
            await asyncio.Event().wait()
        finally:
            self._receiver = None
