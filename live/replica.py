"""A room as one process knows it: a copy of its log and snapshot, so that joins and resumes do not reach Redis."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import time
from uuid import UUID

import msgspec
from msgspec import Raw

from kernel.identity import Principal, Role
from live import wire
from live.audience import Audience
from live.bus import RECENT, Entry, Snapshot
from live.connection import Connection
from live.framing import Prepared, Shared, prepared
from live.session import Answered
from live.telling import is_coupon, private_frame
from live.wire import Close

REPLAY_EVENTS = 100
REPLAY_BYTES = 32 * 1024
"""Events and bytes in one frame of a resume; one event may be more."""
_TAKEN_DOWN = b'{"t":"delete"'
_KICK, _BAN = b'{"t":"kick"', b'{"t":"ban"'
_BANNED = "you may not be in this room for now"


class Scene(msgspec.Struct, frozen=True, omit_defaults=True):
    """What ``wire.Welcome`` tells everybody, its parts still encoded."""

    room: Raw
    log: wire.Position
    pin: Raw | None = None
    announcement: Raw = Raw(b'""')
    counts: wire.Counts = wire.Counts()
    drops: Sequence[Raw] = ()
    recent: Sequence[Raw] = ()


class Greeting(wire.Frame, frozen=True, tag="welcome"):
    """What ``wire.Welcome`` tells one viewer; it is completed by the room's ``Scene``."""

    you: wire.Person
    now: int
    coupons: Sequence[Raw] = ()
    muted_until: int | None = None
    recovered: bool = False
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """What a room's rows say: whose it is, how much is shown, and its snapshot, drops excepted."""

    brand: str
    display_rate: float
    slots: dict[str, bytes]


def person(who: Principal) -> wire.Person:
    """``who`` as others see them."""
    return wire.Person(who.subject, who.name, who.role.value, who.tier)


class Room:
    """One room in this process. Also the ``House`` of its viewers' sessions."""

    def __init__(
        self, id: UUID, facts: Facts, review: Callable[[str], str], log_length: int, audience: Audience
    ) -> None:
        self.id = id
        self.brand = facts.brand
        self.review = review
        self.audience = audience
        self.state = "live"
        self.guide: UUID | None = None
        self.slow_seconds = 0
        self.hushed = False
        self.allow: frozenset[UUID] = frozenset()
        self.mutes: dict[UUID, int] = {}
        self.bans: dict[UUID, int] = {}
        """Until when (ms since 1970) who may not be here."""
        self.epoch = ""
        self.seq = 0
        self.slots: dict[str, bytes] = {}
        self.counts = wire.Counts()
        self.coupons: dict[UUID, list[bytes]] = {}
        self.recent: deque[bytes] = deque(maxlen=RECENT)
        self.heard = ("", 0)
        """Epoch and greatest number heard while the copy was being repaired."""
        self.whole = asyncio.Event()
        """Set while this copy is complete; cleared while something is being read that was missed."""
        self.mending = False
        self.empty_since = time()
        self.likes = 0
        """Not yet handed to presence, as are ``arrivals``."""
        self.arrivals: set[UUID] = set()
        self._entries: list[Entry] = []
        self._log_length = log_length
        self._replays: dict[int, list[tuple[int, Prepared]]] = {}
        self.late: dict[Connection, wire.Position] = {}
        """Who missed more than their sockets take at once, and how far they were told. They are told the rest as they
        read, and what happens meanwhile with it; until then they are not of the audience."""
        self._scene: Shared | None = None
        self._scene_at: tuple[str, int, wire.Counts] | None = None
        audience.recent = self._shown

    # ---- the log's copy --------------------------------------------------------------------------------------------

    def replace(self, snapshot: Snapshot) -> None:
        """Begin anew from ``snapshot``. Coupons known from an earlier log stay known."""
        self.epoch, self.seq = snapshot.epoch, snapshot.seq
        self.slots, self.mutes, self.bans = {}, {}, {}
        self._entries = list(snapshot.entries)
        self._replays.clear()
        self._scene = None
        self._set(snapshot.slots)
        self.counts = wire.Counts(self.counts.viewers, snapshot.likes, self.counts.uniques)
        taken_down = set()
        for entry in snapshot.entries:
            self._index(entry)
            if entry.event is not None and entry.event.startswith(_TAKEN_DOWN):
                taken_down.add(msgspec.json.decode(entry.event, type=wire.Deleted).comment)
        self.recent.clear()
        self.recent.extend(event for event in snapshot.recent if _comment_id(event) not in taken_down)
        for viewer in self.bans:
            self.send_away(viewer, Close.BANNED, _BANNED)

    def ends_with(self, entry: Entry) -> bool:
        """Whether ``entry``, if it has the number of the newest entry here, is that entry."""
        return entry.seq != self.seq or not self._entries or self._entries[-1] == entry

    def apply(self, entry: Entry) -> None:
        """The next entry of the log."""
        self.seq = entry.seq
        self._entries.append(entry)
        if len(self._entries) > self._log_length * 1.25:
            del self._entries[: -self._log_length]
        self._replays.clear()
        self._set(entry.slots)
        self._index(entry)
        if entry.event is not None and entry.event.startswith(_TAKEN_DOWN):
            comment = msgspec.json.decode(entry.event, type=wire.Deleted).comment
            kept = [event for event in self.recent if _comment_id(event) != comment]
            self.recent.clear()
            self.recent.extend(kept)
        self.audience.certain(entry.seq, entry.event, entry.private, entry.at, entry.trace)
        self.kick(entry)
        if entry.event is not None and entry.event.startswith(_BAN):
            banned = msgspec.json.decode(entry.event, type=wire.Banned).viewer
            if self.banned(banned, time()):
                self.send_away(banned, Close.BANNED, _BANNED)

    def kick(self, entry: Entry) -> None:
        """Send away whom ``entry`` kicks. Only what happens now: a replay tells of it, and spares who came back."""
        if entry.event is not None and entry.event.startswith(_KICK):
            kicked = msgspec.json.decode(entry.event, type=wire.Kicked).viewer
            self.send_away(kicked, Close.KICKED, "the guide asked you to leave")

    def banned(self, viewer: UUID, now: float) -> bool:
        """Whether ``viewer`` may not be here at ``now``."""
        return self.bans.get(viewer, 0) > now * 1000

    def send_away(self, viewer: UUID, code: Close, reason: str) -> None:
        """Close all sockets that ``viewer`` has here."""
        late = [one for one in self.late if one.session and one.session.who and one.session.who.subject == viewer]
        for connection in [*self.audience.people.get(viewer, ()), *late]:
            if connection.session is not None:
                connection.apply(connection.session.end(code, reason))

    def _shown(self, comments: list[bytes]) -> None:
        if comments:
            self.recent.extend(comments)
            self._scene = None

    def _set(self, slots: Mapping[str, bytes]) -> None:
        self.slots.update(slots)
        for name, value in slots.items():
            if name == "room" and value:
                card = msgspec.json.decode(value, type=wire.RoomCard)
                self.state, self.slow_seconds, self.guide = card.state, card.slow_seconds, card.guide.id
                self.hushed, self.allow = card.hushed, frozenset(card.allow)
            elif name == "display" and value:
                self.audience.show(int(value))
            elif name.startswith(("mute:", "ban:")):
                del self.slots[name]
                kind, _, viewer = name.partition(":")
                held = self.mutes if kind == "mute" else self.bans
                if value and (until := int(value)) > time() * 1000:
                    held[UUID(viewer)] = until
                else:
                    held.pop(UUID(viewer), None)
            elif name.startswith("drop:") and not value:
                del self.slots[name]

    def hear(self, epoch: str, seq: int) -> None:
        """Remember that the log goes on at least to ``seq``."""
        self.heard = (epoch, max(seq, self.heard[1])) if epoch == self.heard[0] else (epoch, seq)

    def behind(self) -> bool:
        """Whether the log is known to go on past this copy. Numbers of another epoch say nothing."""
        return self.heard[0] == self.epoch and self.heard[1] > self.seq

    def _index(self, entry: Entry) -> None:
        for viewer, coupon in (entry.private or {}).items():
            if not is_coupon(coupon):
                continue
            known = self.coupons.setdefault(viewer, [])
            if coupon not in known:
                known.append(coupon)

    def _after(self, resume: wire.Position) -> list[Entry] | None:
        """What happened after ``resume``; None if that cannot be told completely."""
        if resume.epoch != self.epoch or not 0 <= resume.seq <= self.seq:
            return None
        if resume.seq == self.seq:
            return []
        if not self._entries or self._entries[0].seq > resume.seq + 1:
            return None
        return self._entries[resume.seq + 1 - self._entries[0].seq :]

    # ---- welcome ---------------------------------------------------------------------------------------------------

    def welcome(self, who: Principal, resume: wire.Position | None) -> tuple[Prepared, bool]:
        """The snapshot for ``who``, and whether all they missed is known: it is to follow."""
        missed = None if resume is None else self._after(resume)
        count = sum(entry.event is not None or who.subject in (entry.private or ()) for entry in missed or ())
        at = int(time() * 1000)
        greeting = Greeting(
            you=person(who),
            now=at,
            coupons=tuple(Raw(coupon) for coupon in self.coupons.get(who.subject, ())),  # a tuple: () is left out
            muted_until=until if (until := self.mutes.get(who.subject, 0)) > at else None,
            recovered=missed is not None,
            missed=count,
        )
        # Two objects become one: the brace that ends the first gives way to the fields of the second.
        own = wire.encoder.encode(greeting)[:-1] + b","
        return Prepared(own, self._told_everybody()), missed is not None

    def _told_everybody(self) -> Shared:
        """The part of a welcome that is the same for all who come in now: encoded and compressed once for them."""
        at = (self.epoch, self.seq, self.counts)
        if self._scene is None or at != self._scene_at:
            scene = Scene(
                room=Raw(self.slots["room"]),
                log=wire.Position(self.epoch, self.seq),
                pin=Raw(self.slots["pin"]) if self.slots.get("pin") else None,
                announcement=Raw(self.slots.get("announcement") or b'""'),
                counts=self.counts,
                drops=tuple(Raw(value) for name, value in self.slots.items() if name.startswith("drop:")),
                recent=tuple(Raw(event) for event in self.recent),
            )
            self._scene, self._scene_at = Shared(wire.encoder.encode(scene)[1:]), at
        return self._scene

    def _replay(self, viewer: UUID, missed: list[Entry]) -> list[tuple[int, Prepared]]:
        """What was missed, as messages, each with the number up to which it tells."""
        personal = any(viewer in entry.private for entry in missed if entry.private)
        first = missed[0].seq
        if not personal and first in self._replays:
            return self._replays[first]
        frames: list[tuple[int, Prepared]] = []
        run: list[Raw] = []
        size = 0

        def batch(seq: int) -> None:
            nonlocal size
            if run:
                frames.append((seq, prepared(wire.encoder.encode(wire.Batch(list(run), seq)))))
                run.clear()
                size = 0

        for entry in missed:
            if entry.private is not None and viewer in entry.private:
                batch(entry.seq - 1)
                frames.append((entry.seq, private_frame(entry.private[viewer], entry.seq)))
            if entry.event is not None:
                run.append(Raw(entry.event))
                size += len(entry.event)
                if len(run) == REPLAY_EVENTS or size >= REPLAY_BYTES:
                    batch(entry.seq)
        batch(missed[-1].seq)
        if not personal:  # after a gateway's death thousands come back from the same position
            self._replays[first] = frames
        return frames

    def admit(self, connection: Connection, resume: wire.Position | None, answers: Answered | None = None) -> bool:
        """Let the viewer of ``connection`` in; True if they are told everything they had missed."""
        session = connection.session
        assert session is not None
        assert session.who is not None
        message, recovered = self.welcome(session.who, resume)
        session.entered(self, answers)
        connection.room = self
        connection.write(message)
        if resume is not None and recovered:
            self.late[connection] = resume
            self.catch_up(connection)
        elif not connection.closing:
            self.audience.add(connection, self.seq)
        if session.who.role is Role.VIEWER:
            self.arrivals.add(session.who.subject)
        return recovered

    def catch_up(self, connection: Connection) -> None:
        """Tell a viewer who is late as much as the socket takes now: more would be cut off as too slow, and they would
        come back with the same wish. Called again when the socket takes more."""
        told = self.late.pop(connection)
        missed = self._after(told)
        assert connection.session is not None
        assert connection.session.who is not None
        if missed is None:
            connection.apply(connection.session.end(Close.SLOW, "too slow to keep up; resume", 1.0))
            return
        for seq, frame in self._replay(connection.session.who.subject, missed) if missed else ():
            if connection.slow:
                self.late[connection] = told
                return
            connection.write(frame)
            told = wire.Position(self.epoch, seq)
        if not connection.closing:
            self.audience.add(connection, self.seq)

    def remove(self, connection: Connection) -> None:
        """The viewer of ``connection`` is gone."""
        self.late.pop(connection, None)
        self.audience.remove(connection)


def _comment_id(event: bytes) -> UUID:
    return msgspec.json.decode(event, type=wire.Commented).id
