"""One room as a swarm's viewers see it: what was told to whom and how late, and what became of what they asked.

The gateway writes the same bytes to everybody, so a frame is understood once, and each further viewer costs a look-up
(as in ``loadtest.bench.room``, which keeps everything for a bench of seconds; here a second's account is handed over
and forgotten, so that a test may take all night).
"""

import socket
import sys
import time
from array import array
from collections import Counter, deque
from typing import Protocol

import numpy as np

from live import wire
from loadtest import comments
from loadtest.bench import frames
from loadtest.bench.receiver import Crowd
from loadtest.bench.receiver import Viewer as Line
from loadtest.bench.room import TAIL
from loadtest.swarm.log import Log
from loadtest.swarm.people import Person, Seat
from loadtest.swarm.plan import Histogram, RoomPlan, rounded

REMEMBERED_SECONDS = 10.0
"""So long a frame is recognised when it comes to one more viewer; later it is understood anew."""
TAKEN = frozenset(
    {"too_fast", "duplicate", "sold_out", "ended", "limit_reached", "held_out", "tier", "out_of_range",
     "location_missing", "location_stale", "location_uncertain", "not_in_room", "not_started", "consent_missing",
     "room_not_live", "quiet_hours", "under_review", "suspect", "cap_reached", "muted"}
)  # fmt: skip
"""Refusals that are the service doing its work; any other is a failure."""
AGAIN = frozenset({"busy", "unavailable"})
"""Refusals after which a client asks again; counted, and a failure only if a budget says so."""


class Told:
    """A frame that many viewers got."""

    __slots__ = ("at", "certain", "certain_stamps", "events", "known", "latest_at", "latest_stamp", "likes",
                 "lossy_stamps", "missed_at", "seq", "since", "size")  # fmt: skip

    def __init__(self, batch: wire.Batch, size: int, now: float) -> None:
        self.size, self.since = size, now
        self.at, self.latest_at = array("d"), array("d")
        """When each viewer had it, seconds since 1970; those to whom its count of likes was news."""
        self.missed_at = array("d")
        """The same of those who had been away, and were told on coming back."""
        self.events, self.seq = len(batch.e), batch.seq
        self.certain = 0
        self.known = False
        self.likes = -1
        self.latest_stamp = 0
        self.certain_stamps: list[int] = []
        self.lossy_stamps: list[int] = []


class Ears(Protocol):
    """Who wants to know what a room's viewers hear."""

    def came(self, person: Person) -> None:
        """``person`` is in."""

    def went(self, seat: Seat, why: str) -> None:
        """The server ended this connection."""

    def dropped(self, room: "Room", drop: wire.DropCard) -> None:
        """A drop was announced; told once for each room."""

    def answered(self, person: Person, kind: str, frame: wire.Frame, ack: wire.Ack) -> None:
        """What ``person`` asked was answered."""


class Room(Crowd):
    """A room of the plan, and everybody in it."""

    def __init__(self, plan: RoomPlan, ears: Ears, *, alone: bool) -> None:
        super().__init__(plan.id, 0)
        self.plan = plan
        self._ears = ears
        self._alone = alone
        self._logs: dict[str, Log] = {}
        self._known: dict[tuple[int, bytes], Told] = {}
        self._told: list[Told] = []
        self.asked: dict[str, tuple[float, str, wire.Frame, Person]] = {}
        """What is not answered yet, by id: when (monotonic), what, by whom."""
        self.here: list[Seat] = []
        """Who is in, in no order; ``places`` knows where."""
        self._places: dict[Seat, int] = {}
        self.pinned: str | None = None
        self._drops: set[str] = set()
        self._liked = 0
        self._likes_shown = -1
        self._like_stamps: deque[tuple[int, int]] = deque()
        """Likes sent so far and when (ms since 1970), of those that no count has shown yet."""
        self.failures: Counter[str] = Counter()
        self.recovered = self.unrecovered = 0
        self.answers: dict[str, Histogram] = {}
        self.outcomes: dict[str, Counter[str]] = {}
        self.next_person: Person | None = None

    # ---- who is here -----------------------------------------------------------------------------------------------

    def admit(self, sock: socket.socket, token: str) -> Seat:  # noqa: ARG002
        """See ``Crowd``; the engine says for whom it is."""
        assert self.next_person is not None
        return Seat(self, sock, self.next_person)

    def opened(self, viewer: Line) -> None:
        """Say hello, with the position where there is one."""
        assert isinstance(viewer, Seat)
        person = viewer.person
        resume = wire.Position(person.epoch, person.seq) if person.epoch else None
        viewer.send(wire.encoder.encode(wire.Hello(person.token, resume)))

    def sit(self, seat: Seat) -> None:
        """``seat`` is in."""
        self._places[seat] = len(self.here)
        self.here.append(seat)
        seat.joined = True

    def stand(self, seat: Seat) -> None:
        """``seat`` is gone; keeps its position, for a resume."""
        place = self._places.pop(seat, None)
        if place is not None:
            last = self.here.pop()
            if last is not seat:
                self.here[place] = last
                self._places[last] = place
        seat.joined = False
        seat.person.seq = seat.seq
        seat.person.line = None

    def ask_again(self, person: Person) -> None:
        """Send what was not answered once more: nobody knows whether it was heard; by its id it is carried out once."""
        for _, _, frame, by in list(self.asked.values()):
            if by is person and person.line is not None:
                person.line.send(wire.encoder.encode(frame))

    def forget(self, person: Person) -> None:
        """``person`` will not be back to hear the answers."""
        self.asked = {id: asked for id, asked in self.asked.items() if asked[3] is not person}

    def gone(self, viewer: Line) -> None:
        """See ``Crowd``."""
        assert isinstance(viewer, Seat)
        self._ears.went(viewer, "cut" if viewer.bye is None else str(viewer.bye.code))

    def broke(self, viewer: Line, error: frames.BadBytes) -> None:
        """A refused handshake, or bytes that no server may send."""
        assert isinstance(viewer, Seat)
        if viewer.open:
            self.failures[f"bad bytes: {error}"] += 1
        self._ears.went(viewer, "refused")

    # ---- hearing ---------------------------------------------------------------------------------------------------

    def hear(self, viewer: Line, buffer: bytearray, start: int, stop: int, now: float) -> None:
        """See ``Crowd``."""
        told = self._known.get((stop - start, bytes(buffer[max(start, stop - TAIL) : stop])))
        if told is None:
            told = self._understand(viewer, bytes(buffer[start:stop]), now)  # type: ignore[arg-type]
            if told is None:
                return
        if told.seq is None:
            told.at.append(now)
        else:
            behind = viewer.seq < viewer.replaying  # type: ignore[attr-defined]
            (told.missed_at if behind else told.at).append(now)
            self._moved(viewer, told, now)  # type: ignore[arg-type]
        if told.likes > viewer.likes:  # type: ignore[attr-defined]
            viewer.likes = told.likes  # type: ignore[attr-defined]
            told.latest_at.append(now)

    def _moved(self, seat: Seat, told: Told, now: float) -> None:
        assert told.seq is not None
        if seat.log is None:
            return
        if told.seq <= seat.seq:
            self._disordered(seat, told.seq, f"{told.certain} events")
            return
        if not told.known and seat.seq >= seat.replaying:
            # Live batches hold neighbouring numbers.
            told.known = True
            seat.log.told(told.seq - told.certain + 1, told.seq)
        if told.seq - seat.seq != told.certain:
            seat.log.leapt(seat.seq, told.seq, told.certain, now)
        seat.seq = told.seq

    def _disordered(self, seat: Seat, seq: int, what: str) -> None:
        """Counted as a failure; told in full, because one alone is as hard to explain as it is bad."""
        self.failures["certain out of order"] += 1
        sys.stderr.write(
            f"out of order in room {self.plan.id}: {what} came as {seq} to a viewer at {seat.seq}, whose welcome"
            f" {'replays up to' if seat.replaying else 'was at'} {seat.replaying or seat.welcomed_at}\n"
        )

    def _private(self, seat: Seat, seq: int | None, now: float) -> None:
        if seq is None or seat.log is None:
            return
        seat.log.granted(seq)
        if seq <= seat.seq:
            self._disordered(seat, seq, "something private")
            return
        if seq != seat.seq + 1:
            seat.log.leapt(seat.seq, seq, 0, now)
        seat.seq = seq

    def _understand(self, seat: Seat, payload: bytes, now: float) -> Told | None:
        frame = wire.server_frames.decode(payload)
        match frame:
            case wire.Batch():
                told = self._read(frame, len(payload), now)
                self._told.append(told)
                self._known[len(payload), payload[-TAIL:]] = told
                return told
            case wire.Welcome():
                self._welcomed(seat, frame)
            case wire.Ack():
                self._acked(frame)
            case wire.CouponGranted() | wire.Review():
                self._private(seat, frame.seq, now)
            case wire.Bye():
                seat.bye = frame
        return None

    def _read(self, batch: wire.Batch, size: int, now: float) -> Told:
        told = Told(batch, size, now)
        now_ms = int(now * 1000)
        for raw in batch.e:
            event = wire.room_events.decode(raw)
            told.certain += event.kind is wire.Kind.CERTAIN
            match event:
                case wire.Commented():
                    if (sent := comments.stamped_at(event.text, now_ms)) is not None:
                        told.lossy_stamps.append(sent)
                case wire.Announced():
                    if (sent := comments.stamped_at(event.text, now_ms)) is not None:
                        told.certain_stamps.append(sent)
                case wire.Pinned():
                    self.pinned = str(event.product.id)
                case wire.CountsChanged():
                    self._counted(told, event.counts.likes)
                case wire.DropOpened() if str(event.drop.id) not in self._drops:
                    self._drops.add(str(event.drop.id))
                    self._alone = False
                    for log in self._logs.values():
                        log.strict = False
                    self._ears.dropped(self, event.drop)
        return told

    def _counted(self, told: Told, likes: int) -> None:
        """A count that shows new likes: its delay is that of the oldest of them."""
        if self._likes_shown < 0 or likes > self._likes_shown + self._liked:
            # The first count, or somebody else likes here too: from now on ours are the ones above it.
            self._like_stamps.clear()
            self._liked = 0
            self._likes_shown = likes
            return
        fresh = likes - self._likes_shown
        if fresh <= 0:
            return
        told.likes, told.latest_stamp = likes, self._like_stamps[0][1]
        while fresh and self._like_stamps:
            many, sent = self._like_stamps.popleft()
            if many > fresh:
                self._like_stamps.appendleft((many - fresh, sent))
            fresh -= min(many, fresh)
        self._liked -= likes - self._likes_shown
        self._likes_shown = likes

    def liked(self, n: int, now_ms: int) -> None:
        """A viewer sent so many likes."""
        if self._likes_shown >= 0:
            self._like_stamps.append((n, now_ms))
            self._liked += n

    # ---- answers ---------------------------------------------------------------------------------------------------

    def _welcomed(self, seat: Seat, welcome: wire.Welcome) -> None:
        person, again = seat.person, seat.log is not None
        log = self._logs.setdefault(welcome.log.epoch, Log(alone=self._alone))
        if self._likes_shown < 0:
            self._likes_shown = welcome.counts.likes
        resumed = person.epoch != "" and not again
        if resumed and welcome.recovered:
            self.recovered += 1
            seat.seq, seat.replaying = person.seq, welcome.log.seq
        else:
            self.unrecovered += resumed
            seat.seq = welcome.log.seq
        log.head = max(log.head, welcome.log.seq)
        seat.welcomed_at = welcome.log.seq
        seat.log, seat.likes, person.epoch = log, welcome.counts.likes, welcome.log.epoch
        if welcome.pin is not None:
            self.pinned = str(welcome.pin.product.id)
        if not again:
            self.sit(seat)
            self._ears.came(person)

    def _acked(self, ack: wire.Ack) -> None:
        asked = self.asked.pop(ack.id, None)
        if asked is None:
            self.failures["an answer to nothing"] += 1
            return
        began, kind, frame, person = asked
        self.took(kind, (time.monotonic() - began) * 1000)
        outcome = "ok" if ack.error is None else ack.error.code
        self.outcomes.setdefault(kind, Counter())[outcome] += 1
        if ack.error is not None and outcome not in TAKEN and outcome not in AGAIN:
            self.failures[f"{kind}: {outcome}"] += 1
        self._ears.answered(person, kind, frame, ack)

    def took(self, kind: str, milliseconds: float) -> None:
        """An answer came after so long."""
        histogram = self.answers.setdefault(kind, {})
        ms = rounded(int(milliseconds))
        histogram[ms] = histogram.get(ms, 0) + 1

    # ---- accounts --------------------------------------------------------------------------------------------------

    def harvest(self, now: float) -> tuple[int, int, int, dict[str, Histogram]]:
        """Frames, events and bytes delivered since the last call, and delays by class; judges what is old enough."""
        arrivals = deliveries = received = 0
        delays: dict[str, Histogram] = {"certain": {}, "latest": {}, "lossy": {}, "missed": {}}
        for told in self._told:
            heard = len(told.at) + len(told.missed_at)
            if not heard:
                continue
            arrivals += heard
            deliveries += told.events * heard
            received += told.size * heard
            for sent in told.certain_stamps:
                _late(delays["missed"], told.missed_at, sent)
            for kind, stamps in (("certain", told.certain_stamps), ("lossy", told.lossy_stamps)):
                for sent in stamps:
                    _late(delays[kind], told.at, sent)
            if told.latest_stamp:
                _late(delays["latest"], told.latest_at, told.latest_stamp)
            told.at, told.latest_at, told.missed_at = array("d"), array("d"), array("d")
        if self._told and now - self._told[0].since > REMEMBERED_SECONDS:
            self._told = [told for told in self._told if now - told.since <= REMEMBERED_SECONDS]
            kept = set(map(id, self._told))
            self._known = {key: told for key, told in self._known.items() if id(told) in kept}
        self._judge(now)
        return arrivals, deliveries, received, delays

    def _judge(self, now: float | None) -> None:
        for log in self._logs.values():
            if lost := log.lost(now):
                self.failures["certain lost"] += lost

    def close_books(self) -> None:
        """Nothing is under way any more: whoever is behind the log's head was not told the rest."""
        self._judge(None)
        for seat in self.here:
            if seat.log is not None and (owed := seat.log.owed(seat.seq, seat.log.head)):
                self.failures["certain lost"] += owed
        for _, kind, _, _ in self.asked.values():
            self.failures[f"{kind}: no answer"] += 1


def _late(histogram: Histogram, at: "array[float]", sent: int) -> None:
    if not at:
        return
    took = np.maximum(np.frombuffer(at, dtype=np.float64) * 1000 - sent, 0).astype(np.int64)
    for ms, count in zip(*np.unique(took, return_counts=True), strict=True):
        key = rounded(int(ms))
        histogram[key] = histogram.get(key, 0) + int(count)
