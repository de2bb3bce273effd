"""The viewers of one room in this process, and the ticks in which they are told what happened.

A tick merges what came since the last one, encodes it once, makes one WebSocket frame of it (and one compressed frame,
if somebody here negotiated that), and writes the same bytes to every socket, in turns between which other rooms and the
event loop are served. An event alone in a quiet room leaves in the loop's next turn.

There are two kinds of ticks. What is certain is told at once, in order. Small talk, latest and lossy events, is told in
ticks of its own, after which the room rests as long as that took: so under load they stretch and carry more. A certain
event does not wait for small talk that is being told to thousands: it overtakes it.
"""

import asyncio
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from time import perf_counter, time
from uuid import UUID

import msgspec
from msgspec import Raw

from kernel import tracing
from kernel.identity import Role
from live import wire
from live.connection import Connection
from live.framing import Prepared, prepared, prepared_frame
from live.metrics import Tally
from live.sample import Sample
from live.turns import Turns

SLICE = 64
"""Writes between two looks at the clock."""
EVENTS_IN_FRAME = 200
"""Numbered events told in one frame: a burst of thousands must not be encoded and compressed in one go."""
MEASURED = 256
"""Lossy events of a tick whose delay is measured."""
MOST_ASIDE_SECONDS = 0.5
"""Small talk that is being told lets certain events pass for so long in all; then they take turns with it."""
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


class Granted(wire.Frame, frozen=True, tag="coupon"):
    """``wire.CouponGranted`` with the coupon still encoded."""

    coupon: Raw
    seq: int | None = None


_REVIEW = wire.encoder.encode(wire.Review(UUID(int=0), "", "open")).partition(b",")[0]
_reviews = msgspec.json.Decoder(wire.Review)


def is_coupon(payload: bytes) -> bool:
    """Whether what the log holds for one viewer is a coupon; else it is a ``wire.Review``."""
    return not payload.startswith(_REVIEW)


def private_frame(payload: bytes, seq: int) -> Prepared:
    """What the log holds for one viewer, at its place ``seq``."""
    if is_coupon(payload):
        return prepared_frame(Granted(Raw(payload), seq))
    return prepared_frame(msgspec.structs.replace(_reviews.decode(payload), seq=seq))


@dataclass(slots=True)
class _Run:
    """Part of what is told for certain: events for everybody, or (``private``) a payload for some."""

    events: list[tuple[int, bytes]] = field(default_factory=list)
    private: Mapping[UUID, bytes] | None = None
    seq: int = 0

    def message(self, *, after: int = 0) -> Prepared | None:
        """What is numbered above ``after``, as one message; None if that is nothing."""
        told = [Raw(event) for seq, event in self.events if seq > after]
        return _batch(told, self.seq) if told else None


def _batch(events: list[Raw], seq: int | None = None) -> Prepared:
    return prepared(wire.encoder.encode(wire.Batch(events, seq)))


class Audience:
    """Who watches a room through this process."""

    def __init__(
        self, display_rate: float, tally: Tally, turns: Turns, failed: Callable[[BaseException], None]
    ) -> None:
        self._tally = tally
        self._turns = turns
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self.connections: dict[Connection, None] = {}
        self.people: dict[UUID, list[Connection]] = {}
        self._guides: set[Connection] = set()
        self._newcomers: dict[Connection, int] = {}
        self._pending: list[_Run] = []
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
        self.telling = False
        """What is certain is being told, or about to be."""
        self._talking = False
        self._shown = self._left_out = 0
        self.recent: Callable[[list[bytes]], None] = lambda _: None
        """Told which lossy events were shown."""

    # ---- who is here -----------------------------------------------------------------------------------------------

    def add(self, connection: Connection, seq: int) -> None:
        """``connection`` was told everything up to ``seq``; from now on it gets what follows."""
        assert connection.session is not None
        assert connection.session.who is not None
        who = connection.session.who
        self.connections[connection] = None
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
            self._pending.append(_Run(private=private, seq=seq))
        if event is not None:
            last = self._pending[-1] if self._pending else None
            if last is None or last.private is not None or len(last.events) >= EVENTS_IN_FRAME:
                self._pending.append(_Run())
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

    def forget_pending(self) -> None:
        """Numbered events not told yet are part of a snapshot that everybody is about to get."""
        self._pending = []
        self._newcomers = {}

    def tell_guides(self) -> None:
        """Once a second: tell staff how much was left out, if anything was."""
        shown, left_out, self._shown, self._left_out = self._shown, self._left_out, 0, 0
        if left_out and self._guides:
            frame = prepared_frame(wire.Shed(shown, shown + left_out))
            for guide in list(self._guides):
                guide.write(frame)

    # ---- ticks -----------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if self._pending and not self.telling:
            self.telling = True
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
        self._turns.begin(_Telling(self, runs, newcomers, published).step)

    def told(self, published: list[float]) -> None:
        """The last slice of what is certain was handed to the sockets."""
        self.telling = False
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
        message = _batch([Raw(event) for event in told])
        self._turns.begin(_Talk(self, message, len(joins) + len(comments), published).step)

    def talked(self, took: float, published: Mapping[wire.Kind, list[float]]) -> None:
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

    def broke(self, error: BaseException, *, telling: bool) -> None:
        """A tick broke off: a defect. The room goes on with the next one; whoever supervises hears of it."""
        if telling:
            self.telling = False
        else:
            self._talking = False
        self._failed(error)

    # ---- writing ---------------------------------------------------------------------------------------------------

    def write(self, message: Prepared, targets: list[Connection], apart: Container[Connection]) -> list[Connection]:
        """``message`` to all ``targets`` but those ``apart`` and those who are slow or leave: these are returned."""
        plain = message.plain
        left: list[Connection] = []
        alike = compressed = 0
        for connection in targets:
            if connection.slow or connection.closing or (apart and connection in apart):
                left.append(connection)
            elif connection.deflates:
                connection.push(message.deflated)
                compressed += 1
            else:
                connection.push(plain)
                alike += 1
        tally = self._tally
        tally.frames += alike + compressed
        tally.written += alike * len(plain)
        if compressed:
            tally.written += compressed * len(message.deflated)
            tally.saved += compressed * (len(plain) - len(message.deflated))
        return left

    def counted(self, certain: int) -> None:
        """So many of the frames counted told what is certain."""
        self._tally.certain_frames += certain

    @property
    def frames(self) -> int:
        """Frames this gateway wrote so far."""
        return self._tally.frames

    def write_apart(self, message: Prepared | None, connection: Connection) -> None:
        """``message``, if there is one, to one viewer who is not like all others."""
        if message is not None and not connection.closing:
            connection.write(message)
            self._tally.frames += 1

    def passed_over(self, lossy: int, viewers: int) -> None:
        """So many slow viewers were not told so many lossy events."""
        self._tally.shed["slow"] += lossy * viewers

    def grant(self, run: _Run, newcomers: Mapping[Connection, int]) -> None:
        """Each private payload of ``run`` to its viewer's sockets."""
        assert run.private is not None
        for viewer, payload in run.private.items():
            for connection in list(self.people.get(viewer, ())):
                if newcomers.get(connection, 0) < run.seq:
                    self.write_apart(private_frame(payload, run.seq), connection)


class _Telling:
    """What is certain, on its way to the sockets, a turn at a time."""

    __slots__ = ("_audience", "_late", "_message", "_newcomers", "_place", "_published", "_run", "_runs", "_targets")

    def __init__(
        self, audience: Audience, runs: list[_Run], newcomers: dict[Connection, int], published: list[float]
    ) -> None:
        self._audience = audience
        self._runs = iter(runs)
        self._newcomers = newcomers
        self._published = published
        # Whoever comes while this is being written has it in the snapshot already.
        self._targets = list(audience.connections)
        self._run: _Run | None = None
        self._place = 0
        self._message: Prepared | None = None
        self._late: dict[int, Prepared | None] = {}
        """Messages for newcomers, by what their snapshot told."""

    def step(self, until: float) -> bool:
        """Write until about ``until`` (``perf_counter``); returns whether something is left to write."""
        before = self._audience.frames
        try:
            while self._next():
                if perf_counter() >= until:
                    return True
            self._audience.told(self._published)
        except Exception as error:
            self._audience.broke(error, telling=True)
        finally:
            self._audience.counted(self._audience.frames - before)
        return False

    def _next(self) -> bool:
        if self._run is None:
            self._run = next(self._runs, None)
            if self._run is None:
                return False
            self._place = 0
            self._late.clear()
            if self._run.private is not None:
                self._audience.grant(self._run, self._newcomers)
                self._run = None
                return True
            self._message = self._run.message()
        if self._message is not None:
            slice_ = self._targets[self._place : self._place + SLICE]
            for connection in self._audience.write(self._message, slice_, self._newcomers):
                self._audience.write_apart(self._for(self._run, connection), connection)
        self._place += SLICE
        if self._place >= len(self._targets):
            self._run = None
        return True

    def _for(self, run: _Run, connection: Connection) -> Prepared | None:
        """What a slow viewer is told, too, and a newcomer as far as their snapshot did not tell it."""
        known = self._newcomers.get(connection)
        if known is None:
            return self._message
        if known not in self._late:
            self._late[known] = run.message(after=known)
        return self._late[known]


class _Talk:
    """Small talk on its way to the sockets, a turn at a time. It stands aside while something certain is told."""

    __slots__ = ("_aside", "_aside_since", "_audience", "_lossy", "_message", "_place", "_published", "_started",
                 "_targets")  # fmt: skip

    def __init__(
        self, audience: Audience, message: Prepared, lossy: int, published: Mapping[wire.Kind, list[float]]
    ) -> None:
        self._audience = audience
        self._message = message
        self._lossy = lossy
        self._published = published
        self._targets = list(audience.connections)
        self._place = 0
        self._started = perf_counter()
        self._aside = 0.0
        self._aside_since: float | None = None

    def step(self, until: float) -> bool:
        """Write until about ``until`` (``perf_counter``); returns whether something is left to write."""
        try:
            if self._stands_aside():
                return True
            while self._place < len(self._targets):
                slice_ = self._targets[self._place : self._place + SLICE]
                left = self._audience.write(self._message, slice_, ())
                self._audience.passed_over(self._lossy, sum(one.slow and not one.closing for one in left))
                self._place += SLICE
                if perf_counter() >= until:
                    return True
            self._audience.talked(perf_counter() - self._started - self._aside, self._published)
        except Exception as error:
            self._audience.broke(error, telling=False)
        return False

    def _stands_aside(self) -> bool:
        now = perf_counter()
        if self._aside_since is not None:
            self._aside += now - self._aside_since
            self._aside_since = None
        if not self._audience.telling or self._aside >= MOST_ASIDE_SECONDS:
            return False
        self._aside_since = now
        return True
