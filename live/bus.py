"""Between processes: one numbered log a room, and the channel on which its gateways hear of it.

A *certain* event is published: numbered, logged, deduplicated by its id, and it sets the pieces of the room's snapshot
(``slots``) that it changes, all in one atomic step. Other events are cast: told to whoever listens, and forgotten.

Redis keys of a room share the hash tag ``{room}``, so that they lie in one slot of a Cluster:
``meta`` (epoch, seq, likes), ``log`` (stream, ids ``seq-0``), ``slots``, ``recent``, ``kept`` (rows for the worker).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import Any, Protocol
from uuid import UUID

import msgspec

from kernel import tracing
from kernel.ids import new_id
from kernel.redis import Client, Script
from live.feed import Feed

ROOM_TTL_SECONDS = 48 * 3600
"""How long the keys of a room without events stay."""
DEDUP_SECONDS = 3600
KEPT_ROWS = 100_000
"""Comments that wait for the worker at most, per room; past that the oldest are lost, and the worker's lag shows it."""
RECENT = 30
"""Comments shown to whoever comes in."""
LOG_LENGTH = 10_000
COMMENT = b'{"t":"comment"'

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Entry:
    """One numbered event: for everybody (``event``), or a payload for each of some viewers (``private``)."""

    seq: int
    event: bytes | None = None
    private: Mapping[UUID, bytes] | None = None
    slots: Mapping[str, bytes] = field(default_factory=dict)
    at: float = 0.0
    """When it was published, in seconds since 1970."""
    trace: str = ""
    """The traceparent of who published it, where traces are made."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A room at one moment. ``entries`` are the kept tail of the log, ``recent`` comment events, both oldest first."""

    epoch: str
    seq: int
    slots: dict[str, bytes]
    entries: list[Entry]
    likes: int = 0
    recent: list[bytes] = field(default_factory=list)


class Kept(msgspec.Struct, frozen=True):
    """A comment on its way to the database: one row of a room's ``kept`` stream, as JSON in the field ``r``."""

    id: UUID
    author: UUID
    name: str
    role: str
    text: str
    at: int


class Receiver(Protocol):
    """Whoever listens to rooms: the hub."""

    def entry(self, room: UUID, epoch: str, entry: Entry) -> None:
        """A numbered event, in the order of the log; some may be missing or come twice after a loss."""

    def cast(self, room: UUID, events: Sequence[bytes], at: float) -> None:
        """Events without a number, published at ``at`` (seconds since 1970)."""

    async def restored(self, rooms: Collection[UUID]) -> None:
        """``rooms`` were not heard for a while, and are again: whatever was said meanwhile has to be read."""


class Bus(Protocol):
    """What carries rooms between processes."""

    @property
    def healthy(self) -> bool:
        """Whether events of subscribed rooms are being heard at this moment."""

    @property
    def losses(self) -> int:
        """How often the subscription was lost since the start."""

    async def publish(
        self,
        room: UUID,
        event_id: str,
        *,
        event: bytes | None = None,
        private: Mapping[UUID, bytes] | None = None,
        slots: Mapping[str, bytes] | None = None,
    ) -> int | None:
        """Append, number and tell; returns the number, or None if ``event_id`` was published within the hour.

        ``slots`` are the pieces of the snapshot that this event sets; empty bytes say "known to be nothing".
        """

    async def cast(self, room: UUID, events: Sequence[bytes], *, keep: Sequence[bytes] = ()) -> None:
        """Tell events that need no number; ``keep`` rows (``Kept`` as JSON) wait in Redis for the worker."""

    async def seed(self, room: UUID, slots: Mapping[str, bytes]) -> None:
        """Set those slots that are not known yet."""

    async def read(self, room: UUID, after: int) -> list[Entry]:
        """The kept entries whose number is greater than ``after``, in order."""

    async def snapshot(self, room: UUID) -> Snapshot:
        """The room now; gives it an epoch if it has none."""

    async def head(self, room: UUID) -> tuple[str, int]:
        """The room's epoch (empty if it has none) and the number of its last event."""

    async def renew(self, room: UUID, epoch: str) -> str:
        """Replace ``epoch``, which lost entries that were seen; returns the room's epoch now."""

    async def subscribe(self, room: UUID) -> None:
        """Hear this room from now on, and again after every loss of the connection. Raises what Redis raises."""

    async def unsubscribe(self, room: UUID) -> None:
        """Hear it no longer."""

    async def run(self, receiver: Receiver) -> None:
        """Hand what is heard to ``receiver`` until cancelled; a lost connection is logged, counted and repaired."""


def key(room: UUID, name: str) -> str:
    """The Redis key ``name`` of a room."""
    return f"nearcast:{{{room}}}:{name}"


def channel(room: UUID) -> str:
    """The channel on which a room's gateways hear of it."""
    return key(room, "channel")


def new_epoch() -> str:
    """A name for a log that begins now."""
    return new_id().hex


class _Record(msgspec.Struct, array_like=True):
    event: bytes | None
    private: dict[bytes, bytes] | None
    slots: dict[str, bytes]
    at: float
    trace: str = ""


class _Cast(msgspec.Struct, array_like=True):
    events: list[bytes]
    at: float


_pack = msgspec.msgpack.Encoder().encode
_record = msgspec.msgpack.Decoder(_Record).decode
_casts = msgspec.msgpack.Decoder(_Cast).decode


def _entry(seq: int, record: bytes | memoryview) -> Entry:
    read = _record(record)
    private = None if read.private is None else {UUID(bytes=who): what for who, what in read.private.items()}
    return Entry(seq, read.event, private, read.slots, read.at, read.trace)


def _entries(rows: Sequence[tuple[bytes, Any]]) -> list[Entry]:
    # Lua hands the fields of a stream entry on as a flat list, XRANGE as a dict.
    def record(fields: Any) -> bytes:
        found: bytes = fields[b"r"] if isinstance(fields, dict) else fields[1]
        return found

    return [_entry(int(number.split(b"-")[0]), record(fields)) for number, fields in rows]


class RedisBus:
    """The bus on Redis 7: one node, or a Cluster through sharded channels."""

    def __init__(self, client: Client, *, log_length: int = LOG_LENGTH) -> None:
        self._client = client
        self._log_length = log_length
        self._publish = Script(_HERE / "publish.lua")
        self._cast = Script(_HERE / "cast.lua")
        self._seed = Script(_HERE / "seed.lua")
        self._snapshot = Script(_HERE / "snapshot.lua")
        self._renew = Script(_HERE / "renew.lua")
        self._rooms: dict[bytes, UUID] = {}
        self.feed = Feed(client, self._heard)
        self._receiver: Receiver | None = None

    @property
    def healthy(self) -> bool:
        """See ``Bus``."""
        return self.feed.healthy

    @property
    def losses(self) -> int:
        """See ``Bus``."""
        return self.feed.losses

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
        slots = slots or {}
        to = None if private is None else {who.bytes: what for who, what in private.items()}
        record = _pack(_Record(event, to, dict(slots), time(), tracing.here()))
        keys = [key(room, name) for name in ("meta", "log", "slots", f"event:{event_id}")]
        arguments = [new_epoch(), channel(room), record, self._log_length, ROOM_TTL_SECONDS, DEDUP_SECONDS]
        for name, value in slots.items():
            arguments += [name, value]
        number: int | None = await self._publish(self._client, keys, arguments)
        return number

    async def cast(self, room: UUID, events: Sequence[bytes], *, keep: Sequence[bytes] = ()) -> None:
        """See ``Bus``."""
        record = _pack(_Cast(list(events), time()))
        recent = [event for event in events if event.startswith(COMMENT)][-RECENT:]
        arguments = [channel(room), record, KEPT_ROWS, RECENT, ROOM_TTL_SECONDS, len(recent), *recent, *keep]
        await self._cast(self._client, [key(room, "kept"), key(room, "recent")], arguments)

    async def seed(self, room: UUID, slots: Mapping[str, bytes]) -> None:
        """See ``Bus``."""
        pairs = [part for pair in slots.items() for part in pair]
        await self._seed(self._client, [key(room, "slots")], [ROOM_TTL_SECONDS, *pairs])

    async def read(self, room: UUID, after: int) -> list[Entry]:
        """See ``Bus``."""
        rows: Any = await self._client.xrange(key(room, "log"), min=f"{after + 1}-0")
        return _entries(rows)

    async def snapshot(self, room: UUID) -> Snapshot:
        """See ``Bus``."""
        keys = [key(room, name) for name in ("meta", "log", "slots", "recent")]
        epoch, seq, likes, flat, rows, recent = await self._snapshot(
            self._client, keys, [new_epoch(), ROOM_TTL_SECONDS]
        )
        slots = {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
        return Snapshot(epoch.decode(), seq, slots, _entries(rows), likes, recent[::-1])

    async def head(self, room: UUID) -> tuple[str, int]:
        """See ``Bus``."""
        found: Any = await self._client.hmget(key(room, "meta"), ["epoch", "seq"])
        epoch, seq = found
        return (epoch or b"").decode(), int(seq or 0)

    async def renew(self, room: UUID, epoch: str) -> str:
        """See ``Bus``."""
        now: bytes = await self._renew(self._client, [key(room, "meta")], [epoch, new_epoch()])
        return now.decode()

    async def subscribe(self, room: UUID) -> None:
        """See ``Bus``."""
        self._rooms[channel(room).encode()] = room
        await self.feed.add(channel(room))

    async def unsubscribe(self, room: UUID) -> None:
        """See ``Bus``."""
        self._rooms.pop(channel(room).encode(), None)
        await self.feed.discard(channel(room))

    async def run(self, receiver: Receiver) -> None:
        """See ``Bus``."""
        self._receiver = receiver

        async def restored(channels: Collection[str]) -> None:
            found = (self._rooms.get(name.encode()) for name in channels)
            await receiver.restored([room for room in found if room is not None])

        await self.feed.run(restored)

    def _heard(self, name: bytes, message: bytes) -> None:
        room = self._rooms.get(name)
        if room is None or self._receiver is None:
            return  # the last messages of a room that was just given up
        if message.startswith(b"c "):
            told = _casts(memoryview(message)[2:])
            self._receiver.cast(room, told.events, told.at)
            return
        _, epoch, seq, record = message.split(b" ", 3)
        self._receiver.entry(room, epoch.decode(), _entry(int(seq), record))
