"""The account of what a room's viewers were told: positions without gaps, delays of everything to everybody."""

import time
from uuid import uuid4

import numpy as np
from msgspec import Raw

from live import wire
from loadtest.bench.receiver import Viewer
from loadtest.bench.room import LONGEST_MS, RoomCrowd, percentile, stamped


class Silent:
    """A socket of which only the method is taken."""

    def recv_into(self, _: object) -> int:
        return 0


def hear(crowd: RoomCrowd, viewer: Viewer, frame: wire.ServerFrame, at: float) -> None:
    payload = bytearray(b"...." + wire.encoder.encode(frame) + b"....")
    crowd.hear(viewer, payload, 4, len(payload) - 4, at)


def room_of(viewers: int, seq: int) -> tuple[RoomCrowd, list[Viewer]]:
    crowd = RoomCrowd(1, "room")
    here = [Viewer(crowd, Silent(), str(number)) for number in range(viewers)]  # type: ignore[arg-type]
    crowd.viewers += here
    you = wire.Person(uuid4(), "")
    card = wire.RoomCard(uuid4(), "", "live", you)
    for viewer in here:
        hear(crowd, viewer, wire.Welcome(you, card, wire.Position("e", seq), 0), 0.0)
    return crowd, here


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


def test_the_percentile_is_the_delay_that_so_many_did_not_exceed() -> None:
    delays = np.bincount([10] * 98 + [20, 300], minlength=LONGEST_MS)
    assert [percentile(delays, part) for part in (0.5, 0.98, 0.99, 1.0)] == [10, 10, 20, 300]
    assert percentile(np.zeros(LONGEST_MS, dtype=np.int64), 0.99) == 0


def test_a_stamp_is_now_and_the_text_has_its_size() -> None:
    text = stamped("hello", 60)
    assert len(text) == 60
    assert abs(int(text[:13]) / 1000 - time.time()) < 60
