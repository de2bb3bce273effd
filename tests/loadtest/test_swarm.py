"""A swarm believes no gateway: what was left out, came twice or was lost over a resume is a failure."""

import contextlib
import threading
import time
from collections.abc import Iterator
from uuid import uuid4

from msgspec import Raw
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from live import wire
from loadtest import comments, config, figures
from loadtest.swarm.engine import Swarm
from loadtest.swarm.log import SETTLE_SECONDS, Log
from loadtest.swarm.plan import Plan, RoomPlan, Tick

YOU = wire.Person(uuid4(), "")
BEGIN = 5


def test_a_leap_is_a_loss_unless_the_number_was_somebody_elses() -> None:
    log = Log(alone=False)
    log.told(1, 3)
    log.leapt(0, 3, 2, now=10.0)  # told two of three
    log.leapt(3, 5, 1, now=10.0)  # 4 is nothing that we know of
    log.told(5, 5)
    assert log.lost(now=10.0 + SETTLE_SECONDS / 2) == 0
    assert log.lost(now=10.1 + SETTLE_SECONDS) == 1
    assert log.lost() == 0


def test_alone_in_a_room_every_number_is_ours_but_those_that_one_of_us_has_in_private() -> None:
    log = Log(alone=True)
    log.leapt(0, 2, 1, now=1.0)
    log.leapt(2, 4, 1, now=1.0)
    log.leapt(2, 4, 1, now=1.0)  # two viewers
    log.granted(2)  # somebody's coupon, which comes to its owner later than the leap of the others
    assert log.lost() == 2
    log.strict = False
    log.leapt(2, 4, 1, now=1.0)
    assert log.lost() == 0


# ---- against a gateway that does as it likes -------------------------------------------------------------------------


def batch(first: int, last: int, seq: int | None = None) -> wire.Batch:
    """So many announcements; the log's position is ``seq``, or that of the last."""
    now = int(time.time() * 1000)
    events = [
        Raw(wire.encoder.encode(wire.Announced(f"{n}{comments.stamp(now)}", now))) for n in range(first, last + 1)
    ]
    return wire.Batch(events, seq or last)


TOLD = {
    "honest": [batch(6, 6), batch(7, 8), batch(9, 9)],
    "leaves-out": [batch(6, 6), batch(8, 8), batch(9, 9)],
    "backwards": [batch(6, 7), batch(7, 7), batch(8, 9)],
    "forgetful": [batch(6, 6), batch(7, 7)],
    "faithful": [batch(6, 6), batch(7, 7)],
}
"""What each room tells on a first connection; the last two then break it off."""
REPLAYED = {"forgetful": batch(9, 9), "faithful": batch(8, 9)}


def gateway(socket: ServerConnection) -> None:
    """One viewer's connection."""
    assert socket.request is not None
    room = socket.request.path.split("/")[-2]
    hello = wire.client_frames.decode(socket.recv())
    assert isinstance(hello, wire.Hello)
    card = wire.RoomCard(uuid4(), "", "live", YOU)
    again = hello.resume is not None
    position = wire.Position("e", 9 if again else BEGIN)
    send(socket, wire.Welcome(YOU, card, position, 0, recovered=again, missed=2 if again else 0))
    with contextlib.suppress(ConnectionClosed):
        if again:
            assert hello.resume == wire.Position("e", 7)
            send(socket, REPLAYED[room])
        else:
            for frame in TOLD[room]:
                send(socket, frame)
            if room in REPLAYED:
                return
        for message in socket:
            frame = wire.client_frames.decode(message)
            if isinstance(frame, wire.Comment):
                send(socket, wire.Ack(frame.id, ok=True, comment=uuid4()))


def send(socket: ServerConnection, frame: wire.ServerFrame) -> None:
    socket.send(wire.encoder.encode(frame).decode())


@contextlib.contextmanager
def running() -> Iterator[str]:
    with serve(gateway, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_what_a_gateway_leaves_out_repeats_or_forgets_over_a_resume_is_counted_for_each_viewer() -> None:
    each = 2
    with running() as url:
        plan = Plan(
            shape="soak", seconds=3.0, sockets=[url], tokens=["t"] * len(TOLD) * each, located=0.0,
            rooms=[RoomPlan(name, each) for name in TOLD],
            pace=dict(vars(config.load().swarm), comment_every=1.0, lose_every=0, leave_every=0),
        )  # fmt: skip
        ticks: list[Tick] = []
        Swarm(plan, ticks.append).run()
    totals = figures.Totals(ticks)
    # Left out: 7. Forgotten: 8, over the resume. Backwards: 7 again.
    assert totals.failures == {"certain lost": each + each, "certain out of order": each}
    found = figures.of(ticks)
    assert (found["certain_lost"], found["certain_disordered"], found["failed"]) == (2 * each, each, 0)
    assert (found["recovered"], found["let_in"]) == (1.0, 1.0)
    assert totals.total("recovered") == 2 * each
    assert totals.outcomes["comment"]["ok"] == sum(totals.answers["comment"].values()) > 0
    # Who came back was told one batch of what they had missed, the forgetful gateway half of it.
    assert sum(totals.delays["missed"].values()) == each * (1 + 2)
    assert sum(totals.delays["certain"].values()) == each * (4 + 3 + 5 + 2 + 2)
    assert ticks[-1].phase == "end"
