"""The viewers of one room in this process, and the ticks in which they are told what happened.

A tick merges what came since the last one, encodes it once, makes one WebSocket frame of it (and one compressed frame,
if somebody here negotiated that), and writes the same bytes to every socket, in turns between which other rooms and the
event loop are served. An event alone in a quiet room leaves in the loop's next turn.

There are two kinds of ticks. What is certain is told at once, in order. Small talk, latest and lossy events, is told in
ticks of its own, after which the room rests as long as that took: so under load they stretch and carry more. A certain
event does not wait for small talk that is being told to thousands: it overtakes it.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from time import time
from uuid import UUID

from msgspec import Raw

from kernel import tracing
from kernel.identity import Role
from live import wire
from live.connection import Connection
from live.framing import prepared_frame
from live.metrics import Tally
from live.sample import Sample
from live.telling import Pen, Run, Talk, Telling, batch
from live.turns import Turns

EVENTS_IN_FRAME = 200
"""Numbered events told in one frame: a burst of thousands must not be encoded and compressed in one go."""
MEASURED = 256
"""Lossy events of a tick whose delay is measured."""
REST_FACTOR = 1.0
"""A room rests this many times as long as its tick took: its small talk takes about half of one core at most."""
MIN_REST_SECONDS = 0.005
MAX_REST_SECONDS = 0.5
LATEST_SECONDS = 0.25
ARRIVALS_SECONDS = 1.0
"""Arrivals alone are told so often: while thousands come in, telling of them must not delay them."""
JOINS_PER_SECOND = 5.0
KINDS: Mapping[bytes, wire.Kind] = {
    str(event.__struct_config__.tag).encode(): event.kind for event in wire.RoomEvent.__args__
}
_STAFF = (b'"role":"guide"', b'"role":"ops"')
# A quotation mark inside a text is escaped, so no viewer can write these bytes into a comment.


class Audience:
    """Who watches a room through this process."""

    def __init__(
        self, display_rate: float, tally: Tally, turns: Turns, failed: Callable[[BaseException], None]
    ) -> None:
        self._tally = tally
        self._pen = Pen(tally, failed)
        self._turns = turns
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self.connections: dict[Connection, int] = {}
        """Who gets what happens, and up to which number their welcome or their replay told them."""
        self.people: dict[UUID, list[Connection]] = {}
        self._guides: set[Connection] = set()
        self._newcomers: dict[Connection, int] = {}
        self._pending: list[Run] = []
        self._latest: dict[bytes, bytes] = {}
        self._latest_from: dict[bytes, float] = {}
        self._comments = Sample(display_rate)
        self._joins = Sample(JOINS_PER_SECOND)
        self._certain_at: list[float] = []
        self._traced: list[tracing.Mark] = []
        self._traced_now: list[tracing.Mark] = []
        self._lossy_at: list[float] = []
        """When what waits was published whose delay is measured, in seconds since 1970."""
        self._latest_at = 0.0
        self._arrivals_at = 0.0
        self._rest_until = 0.0
        self._handle: asyncio.Handle | None = None
        self._handle_at = 0.0
        self._telling = False
        """What is certain is being told, or about to be."""
        self._under_way: Telling | None = None
        self._talking = False
        self._shown = self._left_out = 0
        self.recent: Callable[[list[bytes]], None] = lambda _: None
        """Told which lossy events were shown."""

    # ---- who is here -----------------------------------------------------------------------------------------------

    def show(self, display_rate: float) -> None:
        """From now on show each viewer at most so many comments a second."""
        self._comments.rate = display_rate

    def add(self, connection: Connection, seq: int) -> None:
        """``connection`` was told everything up to ``seq``; from now on it gets what follows."""
        assert connection.session is not None
        assert connection.session.who is not None
        who = connection.session.who
        self.connections[connection] = seq
        self.people.setdefault(who.subject, []).append(connection)
        if who.role is not Role.VIEWER:
            self._guides.add(connection)
        if self._pending:
            self._newcomers[connection] = seq

    def remove(self, connection: Connection) -> None:
        """``connection`` gets nothing more."""
        if connection not in self.connections:
            return
        assert connection.session is not None
        assert connection.session.who is not None
        del self.connections[connection]
        self._newcomers.pop(connection, None)
        self._guides.discard(connection)
        subject = connection.session.who.subject
        here = self.people[subject]
        here.remove(connection)
        if not here:
            del self.people[subject]

    @property
    def _staff(self) -> set[UUID]:
        return {guide.session.who.subject for guide in self._guides if guide.session and guide.session.who}

    @property
    def size(self) -> int:
        """How many people are here, staff left out."""
        return len(self.people) - len(self._staff)

    def viewers(self) -> set[UUID]:
        """Who is here, staff left out."""
        return self.people.keys() - self._staff

    # ---- what happened ---------------------------------------------------------------------------------------------

    def certain(
        self, seq: int, event: bytes | None, private: Mapping[UUID, bytes] | None, at: float, trace: str = ""
    ) -> None:
        """A numbered event, published ``at`` (seconds since 1970); ``trace`` is where it came from, if it is traced.
        Their order is kept, between those for all and those for some as well."""
        self._tally.events["certain"] += 1
        if private is not None:
            self._pending.append(Run(private=private, seq=seq))
        if event is not None:
            last = self._pending[-1] if self._pending else None
            if last is None or last.private is not None or len(last.events) >= EVENTS_IN_FRAME:
                self._pending.append(Run())
            self._pending[-1].events.append((seq, event))
            self._pending[-1].seq = seq
        self._certain_at.append(at)
        if trace:
            self._traced.append(tracing.begin("tell viewers", trace, seq=seq, sockets=len(self.connections)))
        self._schedule()

    def loose(self, events: list[bytes], at: float) -> None:
        """Events without a number: the newest of each ``latest`` counts, ``lossy`` ones are sampled."""
        for event in events:
            tag = event[6 : event.find(b'"', 6)]
            kind = KINDS.get(tag)
            if kind is wire.Kind.LATEST:
                # A drop's stock replaces that drop's, so its id, which comes next, belongs to the name.
                name = event[:60] if tag == b"drop_stock" else tag
                self._latest[name] = event
                self._latest_from[name] = at
            elif tag == b"comment":
                self._comments.add(event, always=_STAFF[0] in event or _STAFF[1] in event)
            elif kind is wire.Kind.LOSSY:
                self._joins.add(event)
            self._tally.events["latest" if kind is wire.Kind.LATEST else "lossy"] += 1
        if self._comments and len(self._lossy_at) < MEASURED:
            self._lossy_at.append(at)
        self._schedule()

    def begin_anew(self, seq: int) -> None:
        """Everybody is about to get a snapshot that tells them all up to ``seq``, in another log perhaps: what of the
        log so far is not told yet must not come after it."""
        self._pending = []
        self._newcomers = {}
        self.connections = dict.fromkeys(self.connections, seq)
        if self._under_way is not None:
            self._under_way.stop()

    def tell_guides(self) -> None:
        """Once a second: tell staff how much was left out, if anything was."""
        shown, left_out, self._shown, self._left_out = self._shown, self._left_out, 0, 0
        if left_out and self._guides:
            frame = prepared_frame(wire.Shed(shown, shown + left_out))
            for guide in list(self._guides):
                guide.write(frame)

    # ---- ticks -----------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if self._pending and not self._telling:
            self._telling = True
            self._loop.call_soon(self._tell)
        if self._talking:
            return
        if self._comments:
            at = self._rest_until
        elif self._latest:
            at = max(self._rest_until, self._latest_at + LATEST_SECONDS)
        elif self._joins:
            at = max(self._rest_until, self._arrivals_at + ARRIVALS_SECONDS)
        else:
            return
        if self._handle is not None:
            if at >= self._handle_at:
                return  # it leaves soon enough
            self._handle.cancel()
        self._handle_at = at
        wait = at - self._loop.time()
        self._handle = self._loop.call_later(wait, self._talk) if wait > 0 else self._loop.call_soon(self._talk)

    def _tell(self) -> None:
        runs, self._pending = self._pending, []
        newcomers, self._newcomers = self._newcomers, {}
        published, self._certain_at = self._certain_at, []
        self._traced_now, self._traced = self._traced, []
        self._under_way = Telling(
            self._pen, runs, newcomers, self.connections, self.people, partial(self._told, published),
            partial(self._broke, telling=True),
        )  # fmt: skip
        self._turns.begin(self._under_way.step)

    def _told(self, published: list[float]) -> None:
        """The last slice of what is certain was handed to the sockets."""
        self._telling, self._under_way = False, None
        self._measure(wire.Kind.CERTAIN, published)
        for mark in self._traced_now:
            mark.end()
        self._schedule()

    def _talk(self) -> None:
        self._handle = None
        now = self._loop.time()
        told: list[bytes] = []
        published: dict[wire.Kind, list[float]] = {}
        if self._latest and now >= self._latest_at + LATEST_SECONDS:
            told += self._latest.values()
            published[wire.Kind.LATEST] = list(self._latest_from.values())
            self._latest, self._latest_from = {}, {}
            self._latest_at = now
        if self._joins:
            self._arrivals_at = now
        joins, unseen = self._joins.take(now)
        comments, unheard = self._comments.take(now)
        self._shown += len(comments)
        self._left_out += unheard
        self._tally.shed["join"] += unseen
        self._tally.shed["comment"] += unheard
        self.recent(comments)
        told += joins + comments
        if not told:  # a timer that came a little early
            self._schedule()
            return
        published[wire.Kind.LOSSY], self._lossy_at = self._lossy_at, []
        self._talking = True
        talk = Talk(
            self._pen, batch([Raw(event) for event in told]), len(joins) + len(comments), self.connections,
            lambda: self._telling, partial(self._talked, published), partial(self._broke, telling=False),
        )  # fmt: skip
        self._turns.begin(talk.step)

    def _talked(self, published: Mapping[wire.Kind, list[float]], took: float) -> None:
        """The last slice of small talk was handed to the sockets; it ``took`` so many seconds. Now the room rests."""
        self._talking = False
        self._rest_until = self._loop.time() + min(MAX_REST_SECONDS, max(MIN_REST_SECONDS, took * REST_FACTOR))
        for kind, at in published.items():
            self._measure(kind, at)
        self._schedule()

    def _measure(self, kind: wire.Kind, published: list[float]) -> None:
        wall = time()
        for at in published:
            self._tally.delays[kind].observe(wall - at)

    def _broke(self, error: BaseException, *, telling: bool) -> None:
        """A tick broke off: a defect. The room goes on with the next one; whoever supervises hears of it."""
        if telling:
            self._telling, self._under_way = False, None
        else:
            self._talking = False
        self._failed(error)
