"""The account of what a room's viewers were told: positions without gaps, delays of everything to everybody."""

import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from msgspec import Raw

from live import wire
from loadtest.bench import halves
from loadtest.bench.machine import CannotMeasure
from loadtest.bench.receiver import SO_TIMESTAMPNS, Crowd, Receiver, Viewer
from loadtest.bench.room import LONGEST_MS, RoomCrowd, percentile, stamped

READ_LATE = 0.2
"""Seconds after they were sent that frames are read."""


class Silent:
    """A socket of which only the method is taken."""

    def recv_into(self, _: object) -> int:
        return 0


def hear(crowd: RoomCrowd, viewer: Viewer, frame: wire.ServerFrame, at: float) -> None:
    payload = bytearray(b"...." + wire.encoder.encode(frame) + b"....")
    crowd.hear(viewer, payload, 4, len(payload) - 4, at)


def room_of(viewers: int, seq: int) -> tuple[RoomCrowd, list[Viewer]]:
    crowd = RoomCrowd(1, "room")
    return crowd, seated(crowd, [str(number) for number in range(viewers)], seq)


def seated(crowd: RoomCrowd, tokens: list[str], seq: int) -> list[Viewer]:
    here = [crowd.admit(Silent(), token) for token in tokens]  # type: ignore[arg-type]
    you = wire.Person(uuid4(), "")
    card = wire.RoomCard(uuid4(), "", "live", you)
    for viewer in here:
        hear(crowd, viewer, wire.Welcome(you, card, wire.Position("e", seq), 0), 0.0)
    return here


def batch(*events: wire.Event, seq: int | None = None) -> wire.Batch:
    return wire.Batch([Raw(wire.encoder.encode(event)) for event in events], seq)


def said(text: str) -> wire.Commented:
    return wire.Commented(uuid4(), wire.Person(uuid4(), "x"), text, 0)


def test_every_event_counts_for_every_viewer_who_got_it() -> None:
    crowd, (one, two, three) = room_of(3, seq=5)
    start = 1_700_000_000_000
    frame = batch(said(f"{start} a"), said(f"{start + 10} b"), wire.Announced(f"{start + 20} c", start), seq=6)
    for viewer, later in ((one, 0.1), (two, 0.2)):
        hear(crowd, viewer, frame, start / 1000 + later)
    hear(crowd, three, batch(wire.Announced(f"{start + 20} c", start), seq=6), start / 1000 + 0.5)
    assert (crowd.joined, crowd.arrivals, crowd.deliveries) == (3, 3, 7)
    assert crowd.heard(6) == 3
    assert crowd.heard(7) == crowd.heard(5) == 0
    lossy = crowd.delays(lambda told: told.lossy_stamps)
    assert sorted(np.repeat(np.arange(LONGEST_MS), lossy)) == [90, 100, 190, 200]
    certain = crowd.delays(lambda told: told.certain_stamps)
    assert sorted(np.repeat(np.arange(LONGEST_MS), certain)) == [80, 180, 480]
    assert crowd.missing() == 0


def test_a_gap_and_a_viewer_left_behind_are_both_losses() -> None:
    crowd, (one, two, three) = room_of(3, seq=0)
    for viewer in (one, three):
        hear(crowd, viewer, batch(wire.Unpinned(1), seq=1), 1.0)
    hear(crowd, three, batch(wire.Unpinned(2), seq=2), 1.0)
    hear(crowd, one, batch(wire.Unpinned(3), seq=3), 1.0)
    hear(crowd, three, batch(wire.Unpinned(3), seq=3), 1.0)
    assert (one.missing, three.missing) == (1, 0)
    assert crowd.missing() == 1 + 3
    assert two.seq == 0


def test_acks_and_refusals_are_counted_apart() -> None:
    crowd, (one,) = room_of(1, seq=0)
    hear(crowd, one, wire.Ack("a", ok=True, comment=uuid4()), 1.0)
    hear(crowd, one, wire.Ack("b", ok=True), 1.0)
    hear(crowd, one, wire.Ack("c", error=wire.Error("too_fast", "")), 1.0)
    hear(crowd, one, wire.Bye(4002, "slow"), 1.0)
    assert (crowd.acknowledged, crowd.comments, dict(crowd.refused), dict(crowd.closes)) == (
        2, 1, {"too_fast": 1}, {4002: 1},
    )  # fmt: skip


class _Clocked(Crowd):
    """Keeps when the last frame came."""

    came = 0.0

    def hear(self, viewer: Viewer, buffer: bytearray, start: int, stop: int, now: float) -> None:
        super().hear(viewer, buffer, start, stop, now)
        self.came = now


def _turn_late(receiver: Receiver, server: socket.socket, frames: list[bytes]) -> float:
    """Send ``frames``, and read them so late; returns when they were sent."""
    for frame in frames:
        server.sendall(frame)
    sent = time.time()
    time.sleep(READ_LATE)
    receiver.turn(60)
    return sent


@pytest.mark.parametrize("delays", [True, False])
@pytest.mark.parametrize(
    "frames", [[b"\x81\x7e\x00\x80" + b"x" * 128], [b"\x81\x01x", b"\x81\x01y"]], ids=["one", "two"]
)
def test_a_delay_ends_at_the_viewers_socket_however_late_it_is_read(delays: bool, frames: list[bytes]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door, Receiver(delays=delays) as receiver:
        crowd = _Clocked("room", door.getsockname()[1])
        viewer = receiver.adopt(crowd, socket.create_connection(crowd.address), "token", b"hello")
        viewer.open = True
        server, _ = door.accept()
        with server:
            while delays and not viewer.came:  # the kernel begins to note it a moment after it was asked to
                server.sendall(b"\x81\x01-")
                receiver.turn(60)
            before = crowd.frames
            sent = _turn_late(receiver, server, frames)
            assert crowd.frames == before + len(frames)
            assert crowd.came <= sent + READ_LATE / 2 if delays else crowd.came >= sent + READ_LATE
            viewer.sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 0)
            sent = _turn_late(receiver, server, frames)
            assert crowd.came >= sent + READ_LATE, "where the kernel does not say, it is when it was read"


def test_the_percentile_is_the_delay_that_so_many_did_not_exceed() -> None:
    delays = np.bincount([10] * 98 + [20, 300], minlength=LONGEST_MS)
    assert [percentile(delays, part) for part in (0.5, 0.98, 0.99, 1.0)] == [10, 10, 20, 300]
    assert percentile(np.zeros(LONGEST_MS, dtype=np.int64), 0.99) == 0


def test_a_stamp_is_now_and_the_text_has_its_size() -> None:
    text = stamped("hello", 60)
    assert len(text) == 60
    assert abs(int(text[:13]) / 1000 - time.time()) < 60


class _Inside:
    """Stands for ``multiprocessing``: the other process is a thread here."""

    Pipe = staticmethod(multiprocessing.Pipe)

    class Process(threading.Thread):
        def __init__(self, target: Callable[..., None], args: tuple[Any, ...], daemon: bool) -> None:
            # As in another process, the pipe's end stays open when whoever started it closes theirs.
            pipe = Connection(os.dup(args[0].fileno()))
            super().__init__(target=target, args=(pipe, *args[1:]), daemon=daemon)

        def run(self) -> None:
            with suppress(EOFError):  # this process let go of it
                super().run()

        def terminate(self) -> None:
            """Nothing to end: it ends with the pipe."""


class _Doorless(Receiver):
    """Lets everybody in at once, without a socket; whoever comes is told nothing yet."""

    def connect(self, crowd: Crowd, tokens: Iterable[str], at_once: int = 64, seconds: float = 180.0) -> None:
        assert isinstance(crowd, RoomCrowd)
        seated(crowd, list(tokens), seq=0)


class _Gateway:
    pid, port = os.getpid(), 2

    def shed(self) -> int:
        return 3


class _House:
    def gateway(self) -> _Gateway:
        return _Gateway()


def test_whoever_one_process_cannot_hold_is_counted_with_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    beyond = RoomCrowd(2, "room")
    here = RoomCrowd(1, "room")
    monkeypatch.setattr(halves, "RoomCrowd", lambda _port, _room: beyond)
    monkeypatch.setattr(halves, "Receiver", _Doorless)
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: _Inside)
    with _Doorless() as receiver, halves.Halves(_House(), _Gateway(), here, "room", 3) as both:  # type: ignore[arg-type]
        both.connect(receiver, ["a", "b"])
        assert (both.viewers, both.gateways, both.shed()) == (2, 1, 3)
        both.connect(receiver, ["c", "d", "e"])
        both.connect(receiver, ["f"])
        assert (both.viewers, both.gateways, both.shed()) == (6, 2, 6)
        assert [viewer.token for viewer in here.viewers] == ["a", "b", "c"]
        assert [viewer.token for viewer in beyond.viewers] == ["d", "e", "f"]

        both.begin()
        start = 1_700_000_000_000
        frame = batch(said(f"{start} a"), wire.Announced(f"{start} b", start), seq=1)
        for viewer in here.viewers:
            hear(here, viewer, frame, start / 1000 + 0.1)
        assert not both.said(start), "nobody beyond has it yet"
        for viewer in beyond.viewers[:2]:
            hear(beyond, viewer, frame, start / 1000 + 0.3)
        assert not both.said(start), "one has not"
        heard = both.account()
        assert (heard.head, heard.joined, heard.arrivals, heard.deliveries) == (1, 6, 5, 10)
        assert heard.missing(both.viewers) == 1
        assert [percentile(heard.certain, part) for part in (0.5, 1.0)] == [100, 300]
        assert int(heard.lossy.sum()) == both.arrivals() == 5
        hear(beyond, beyond.viewers[2], frame, start / 1000 + 0.4)
        assert both.said(start)
        assert both.account().missing(both.viewers) == 0

        for viewer in beyond.viewers:
            hear(beyond, viewer, batch(wire.Unpinned(2), seq=2), 1.0)
        assert both.account().missing(both.viewers) == 3, "those here are behind a head that only the others know"
        both.begin()
        assert both.arrivals() == both.account().deliveries == 0
        assert both.account().missing(both.viewers) == 3, "positions stay"


def test_a_second_receiver_that_ended_ends_the_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(_Doorless):
        def connect(self, *_: object, **__: object) -> None:
            raise EOFError

    monkeypatch.setattr(halves, "Receiver", Broken)
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: _Inside)
    here = RoomCrowd(1, "room")
    with _Doorless() as receiver, halves.Halves(_House(), _Gateway(), here, "room", 1) as both:  # type: ignore[arg-type]
        monkeypatch.setattr(halves, "PATIENCE_SECONDS", 0.2)
        with pytest.raises(CannotMeasure, match="second receiver"):
            both.connect(receiver, ["a", "b"])
