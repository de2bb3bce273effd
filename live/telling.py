"""What a room says, on its way to the sockets: a slice at a time, the same bytes to everybody.

``Telling`` is what is certain, in order, and none of it twice; ``Talk`` is small talk, which stands aside meanwhile.
``Pen`` writes and counts for both.
"""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from uuid import UUID

import msgspec
from msgspec import Raw

from live import wire
from live.connection import Connection
from live.framing import Prepared, prepared, prepared_frame
from live.metrics import Tally

SLICE = 64
"""Writes between two looks at the clock."""
MOST_ASIDE_SECONDS = 0.5
"""Small talk that is being told lets certain events pass for so long in all; then they take turns with it."""


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
class Run:
    """Part of what is told for certain: events for everybody, or (``private``) a payload for some."""

    events: list[tuple[int, bytes]] = field(default_factory=list)
    private: Mapping[UUID, bytes] | None = None
    seq: int = 0

    def message(self, *, after: int = 0) -> Prepared | None:
        """What is numbered above ``after``, as one message; None if that is nothing."""
        told = [Raw(event) for seq, event in self.events if seq > after]
        return batch(told, self.seq) if told else None


def batch(events: list[Raw], seq: int | None = None) -> Prepared:
    """``events`` as one message, which tells the log up to ``seq`` if they are numbered."""
    return prepared(wire.encoder.encode(wire.Batch(events, seq)))


class Pen:
    """Writes to sockets, and counts what was written.

    A defect with one socket costs that socket only: it is told to ``failed`` and cut off, and its viewer, who comes
    back and resumes, misses nothing. All others are told what they are owed.
    """

    def __init__(self, tally: Tally, failed: Callable[[BaseException], None]) -> None:
        self._tally = tally
        self._failed = failed

    def write(self, message: Prepared, targets: list[Connection], apart: Container[Connection]) -> list[Connection]:
        """``message`` to all ``targets`` but those ``apart`` and those who are slow or leave: these are returned."""
        plain = message.plain
        left: list[Connection] = []
        alike = compressed = 0
        for connection in targets:
            try:
                if connection.slow or connection.closing or (apart and connection in apart):
                    left.append(connection)
                elif connection.deflates:
                    connection.push(message.deflated)
                    compressed += 1
                else:
                    connection.push(plain)
                    alike += 1
            except Exception as error:
                self._cut_off(connection, error)
        tally = self._tally
        tally.frames += alike + compressed
        tally.written += alike * len(plain)
        if compressed:
            tally.written += compressed * len(message.deflated)
            tally.saved += compressed * (len(plain) - len(message.deflated))
        return left

    def write_apart(self, message: Prepared | None, connection: Connection) -> None:
        """``message``, if there is one, to one viewer who is not like all others."""
        if message is None or connection.closing:
            return
        try:
            connection.write(message)
            self._tally.frames += 1
        except Exception as error:
            self._cut_off(connection, error)

    def _cut_off(self, connection: Connection, error: Exception) -> None:
        self._failed(error)
        connection.transport.abort()

    @property
    def frames(self) -> int:
        """Frames this gateway wrote so far."""
        return self._tally.frames

    def counted(self, certain: int) -> None:
        """So many of the frames counted told what is certain."""
        self._tally.certain_frames += certain

    def passed_over(self, lossy: int, viewers: int) -> None:
        """So many slow viewers were not told so many lossy events."""
        self._tally.shed["slow"] += lossy * viewers


class Telling:
    """What is certain, on its way to the sockets, a turn at a time."""

    __slots__ = ("_broke", "_done", "_known", "_late", "_message", "_newcomers", "_pen", "_people", "_place", "_run",
                 "_runs", "_targets")  # fmt: skip

    def __init__(
        self,
        pen: Pen,
        runs: Iterable[Run],
        newcomers: Mapping[Connection, int],
        known: Mapping[Connection, int],
        people: Mapping[UUID, list[Connection]],
        done: Callable[[], None],
        broke: Callable[[BaseException], None],
    ) -> None:
        """``known`` and ``people`` are the audience's own: who is here, and up to which number their welcome told
        them; ``newcomers`` are those to whom it told part of ``runs``."""
        self._pen = pen
        self._runs = iter(runs)
        self._newcomers = newcomers
        self._known = known
        self._people = people
        self._done = done
        self._broke = broke
        # Whoever comes while this is being written has it in the snapshot already.
        self._targets = list(known)
        self._run: Run | None = None
        self._place = 0
        self._message: Prepared | None = None
        self._late: dict[int, Prepared | None] = {}

    def stop(self) -> None:
        """Write nothing more: everybody is about to be told all of it in another way."""
        self._run, self._runs = None, iter(())

    def step(self, until: float) -> bool:
        """Write until about ``until`` (``perf_counter``); returns whether something is left to write."""
        before = self._pen.frames
        try:
            while self._next():
                if perf_counter() >= until:
                    return True
            self._done()
        except Exception as error:
            self._broke(error)
        finally:
            self._pen.counted(self._pen.frames - before)
        return False

    def _next(self) -> bool:
        if self._run is None:
            self._run = next(self._runs, None)
            if self._run is None:
                return False
            self._place = 0
            self._late.clear()
            if self._run.private is not None:
                self._grant(self._run.private, self._run.seq)
                self._run = None
                return True
            self._message = self._run.message()
        if self._message is not None:
            slice_ = self._targets[self._place : self._place + SLICE]
            for connection in self._pen.write(self._message, slice_, self._newcomers):
                self._pen.write_apart(self._for(self._run, connection), connection)
        self._place += SLICE
        if self._place >= len(self._targets):
            self._run = None
        return True

    def _grant(self, private: Mapping[UUID, bytes], seq: int) -> None:
        """Each payload to its viewer's sockets, but those that came since: their welcome told it, or a replay did."""
        for viewer, payload in private.items():
            for connection in list(self._people.get(viewer, ())):
                if self._known[connection] < seq:
                    self._pen.write_apart(private_frame(payload, seq), connection)

    def _for(self, run: Run, connection: Connection) -> Prepared | None:
        """What a slow viewer is told, too, and a newcomer as far as their snapshot did not tell it."""
        known = self._newcomers.get(connection)
        if known is None:
            return self._message
        if known not in self._late:
            self._late[known] = run.message(after=known)
        return self._late[known]


class Talk:
    """Small talk on its way to the sockets, a turn at a time. It stands aside while something certain is told."""

    __slots__ = ("_aside", "_aside_since", "_broke", "_certain", "_done", "_lossy", "_message", "_pen", "_place",
                 "_started", "_targets")  # fmt: skip

    def __init__(
        self,
        pen: Pen,
        message: Prepared,
        lossy: int,
        targets: Iterable[Connection],
        certain: Callable[[], bool],
        done: Callable[[float], None],
        broke: Callable[[BaseException], None],
    ) -> None:
        """``certain`` says whether something certain is being told; ``done`` hears how many seconds this took."""
        self._pen = pen
        self._message = message
        self._lossy = lossy
        self._targets = list(targets)
        self._certain = certain
        self._done = done
        self._broke = broke
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
                left = self._pen.write(self._message, slice_, ())
                self._pen.passed_over(self._lossy, sum(one.slow and not one.closing for one in left))
                self._place += SLICE
                if perf_counter() >= until:
                    return True
            self._done(perf_counter() - self._started - self._aside)
        except Exception as error:
            self._broke(error)
        return False

    def _stands_aside(self) -> bool:
        now = perf_counter()
        if self._aside_since is not None:
            self._aside += now - self._aside_since
            self._aside_since = None
        if not self._certain() or self._aside >= MOST_ASIDE_SECONDS:
            return False
        self._aside_since = now
        return True
