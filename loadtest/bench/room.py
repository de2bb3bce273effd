"""Viewers of a Nearcast room: the real hello and welcome, and a careful account of everything that was told.

The gateway writes the same bytes to everybody, so a frame is understood once: ``Told`` keeps what is in it, and for
every further viewer only the moment at which it came. Nothing is sampled: each viewer's position is followed, and the
delay is known for each event and each viewer.
"""

import time
from array import array
from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from live import wire
from loadtest.bench.receiver import Crowd, Viewer

TAIL = 64
"""Bytes at a frame's end that, with its length, tell it from others: the last event's time, or the log's position."""
STAMP = 13
"""Digits of the milliseconds with which every text of the benches begins."""
Delays = NDArray[np.int64]
"""``Delays[ms]``: how many deliveries took so many milliseconds."""
LONGEST_MS = 60_000


class Told:
    """One frame that many viewers got: what was in it, and when each of them had it."""

    __slots__ = ("at", "certain", "certain_stamps", "events", "lossy_stamps", "seq", "size")

    def __init__(self, batch: wire.Batch, size: int) -> None:
        self.size = size
        self.at = array("d")
        """Seconds since 1970, one for each viewer who got it."""
        self.events = len(batch.e)
        self.seq = batch.seq
        self.certain = 0
        self.certain_stamps: list[int] = []
        self.lossy_stamps: list[int] = []
        for raw in batch.e:
            event = wire.room_events.decode(raw)
            self.certain += event.kind is wire.Kind.CERTAIN
            if isinstance(event, wire.Commented):
                self.lossy_stamps.append(int(event.text[:STAMP]))
            elif isinstance(event, wire.Announced) and event.text:
                self.certain_stamps.append(int(event.text[:STAMP]))
            elif isinstance(event, wire.Pinned):
                self.certain_stamps.append(event.at)


class RoomCrowd(Crowd):
    """The viewers of one room at one gateway."""

    def __init__(self, port: int, room: str) -> None:
        super().__init__("nearcast", port, f"/v1/rooms/{room}/live")
        self.told: list[Told] = []
        self._known: dict[tuple[int, bytes], Told] = {}
        self.epoch = ""
        self.acknowledged = self.comments = 0
        """Commands done; comments among them."""
        self.refused: Counter[str] = Counter()
        self.closes: Counter[int] = Counter()
        self.welcomes = 0
        self.welcome_bytes = 0
        self.recovered = 0
        self.positions: dict[str, tuple[str, int]] = {}
        """Epoch and position of those who were here before, by token; they say so in their hello."""

    # ---- coming in -------------------------------------------------------------------------------------------------

    def opened(self, viewer: Viewer) -> None:
        """Say hello."""
        position = None
        if (former := self.positions.get(viewer.token)) is not None:
            position = wire.Position(*former)
            viewer.seq = position.seq
        viewer.send(wire.encoder.encode(wire.Hello(viewer.token, position)))

    def return_from(self, former: "RoomCrowd") -> None:
        """Whoever comes now with a token of ``former`` was there and wants to go on from where they were."""
        self.positions = {viewer.token: (former.epoch, viewer.seq) for viewer in former.viewers}

    def hear(self, viewer: Viewer, buffer: bytearray, start: int, stop: int, now: float) -> None:
        """See ``Crowd``; whatever most viewers get as well is understood only once."""
        told = self._known.get((stop - start, bytes(buffer[max(start, stop - TAIL) : stop])))
        if told is None:
            told = self._understand(viewer, bytes(buffer[start:stop]))
            if told is None:
                return
        told.at.append(now)
        if told.seq is not None:
            viewer.missing += told.seq - viewer.seq - told.certain
            viewer.told += told.certain
            viewer.seq = told.seq

    def _understand(self, viewer: Viewer, payload: bytes) -> Told | None:
        frame = wire.server_frames.decode(payload)
        match frame:
            case wire.Batch():
                told = Told(frame, len(payload))
                self.told.append(told)
                self._known[len(payload), payload[-TAIL:]] = told
                return told
            case wire.Welcome():
                self._welcomed(viewer, frame, len(payload))
            case wire.Ack(error=None):
                self.acknowledged += 1
                self.comments += frame.comment is not None
            case wire.Ack(error=error):
                assert error is not None
                self.refused[error.code] += 1
            case wire.Bye(code=code):
                self.closes[code] += 1
        return None

    def _welcomed(self, viewer: Viewer, welcome: wire.Welcome, size: int) -> None:
        self.welcomes += 1
        self.welcome_bytes += size
        self.epoch = welcome.log.epoch
        if welcome.recovered:
            # What was missed follows in batches, which must lead from the old position to this one without a gap.
            self.recovered += 1
        else:
            viewer.seq = welcome.log.seq
        if not viewer.joined:
            self.enter(viewer)

    # ---- accounts --------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Forget what was told so far; positions stay."""
        self.told = []
        self._known = {}
        self.acknowledged = self.comments = 0
        self.refused.clear()

    @property
    def deliveries(self) -> int:
        """Events that arrived since ``begin``, over all viewers."""
        return sum(told.events * len(told.at) for told in self.told)

    @property
    def arrivals(self) -> int:
        """Frames that arrived since ``begin``, over all viewers."""
        return sum(len(told.at) for told in self.told)

    @property
    def received(self) -> int:
        """Bytes of those frames."""
        return sum(told.size * len(told.at) for told in self.told)

    def heard(self, seq: int) -> int:
        """How many viewers were told the certain event ``seq`` since ``begin``."""
        return sum(len(t.at) for t in self.told if t.seq is not None and t.seq - t.certain < seq <= t.seq)

    def said(self, stamp: int) -> int:
        """How many viewers were shown the comment that was stamped so, since ``begin``."""
        return sum(len(told.at) for told in self.told if stamp in told.lossy_stamps)

    def head(self) -> int:
        """The highest position that anybody has."""
        return max((viewer.seq for viewer in self.viewers), default=0)

    def missing(self) -> int:
        """Certain events that some viewer should have and has not: gaps, and what they are behind the head."""
        head = self.head()
        return sum(viewer.missing + head - viewer.seq for viewer in self.viewers)

    def delays(self, stamps: Callable[[Told], list[int]]) -> Delays:
        """How long each event with a stamp took to each viewer."""
        total = np.zeros(LONGEST_MS, dtype=np.int64)
        for told in self.told:
            at = np.frombuffer(told.at, dtype=np.float64) * 1000
            for stamp in stamps(told):
                took = np.clip(at - stamp, 0, LONGEST_MS - 1).astype(np.int64)
                total += np.bincount(took, minlength=LONGEST_MS)
        return total


def percentile(delays: Delays, part: float) -> float:
    """The delay in ms that ``part`` (0 to 1) of the deliveries did not exceed; 0 if there were none."""
    reached = delays.cumsum()
    if not len(reached) or not reached[-1]:
        return 0.0
    return float(np.searchsorted(reached, part * reached[-1]))


def stamped(text: str, size: int = 0) -> str:
    """``text`` behind the milliseconds of now, filled up to ``size`` characters."""
    return f"{int(time.time() * 1000)} {text}".ljust(size, "x")
