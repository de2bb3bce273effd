"""``make bench-fanout``: what one frame to one viewer costs the gateway, beside the floor and its peers."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from loadtest.bench import beside
from loadtest.bench.house import Gateway, House, Room
from loadtest.bench.machine import cpu_seconds
from loadtest.bench.receiver import Crowd, Receiver
from loadtest.bench.room import RoomCrowd, stamped

FRAME = 200
"""Bytes of payload, the same for all."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    viewers: int = 3000
    rounds: int = 7
    frames: int = 25

    @classmethod
    def quick(cls) -> "Plan":
        """In less than 45 s."""
        return cls(viewers=1000, rounds=5, frames=20)


@dataclass
class Contender:
    """One server in the race: how it is told to send, what arrived, and what each round cost."""

    name: str
    pid: int
    crowd: Crowd
    fire: Callable[[], Callable[[], bool]]
    """Send one frame to everybody; returns the question whether all have it."""
    cost: list[float] = field(default_factory=list)
    """CPU seconds of the server for each frame to each viewer, round by round."""
    rate: list[float] = field(default_factory=list)
    """Frames a second by the wall clock, from a frame's first arrival to its last."""
    payload: int = 0


def _peer(peer: beside.Peer) -> Contender:
    crowd = peer.crowd

    def fire() -> Callable[[], bool]:
        target = crowd.frames + crowd.joined
        peer.send()
        return lambda: crowd.frames >= target

    return Contender(peer.name, peer.pid, crowd, fire)


def ours(gateway: Gateway, room: Room, crowd: RoomCrowd, thread: ThreadPoolExecutor) -> Contender:
    """The gateway, driven by announcements over REST: certain events, which no rest between ticks holds back."""

    def fire() -> Callable[[], bool]:
        seq = crowd.head() + 1
        # Sized such that a batch of this one event is as long as the peers' frames.
        around = len(f'{{"t":"batch","e":[{{"t":"announce","text":"","at":{int(time.time() * 1000)}}}],"seq":{seq}}}')
        asked = thread.submit(room.announce, stamped("", FRAME - around).replace("·", "x"))
        return lambda: crowd.heard(seq) >= crowd.joined and (not asked.done() or asked.result() is None)

    return Contender("nearcast", gateway.pid, crowd, fire)


def arrived(crowd: Crowd) -> int:
    """Frames that arrived so far, over all viewers."""
    return crowd.arrivals if isinstance(crowd, RoomCrowd) else crowd.frames


def go(contender: Contender, receiver: Receiver, frames: int) -> None:
    """One round: ``frames`` frames to everybody, each when the one before has arrived everywhere."""
    crowd = contender.crowd
    if isinstance(crowd, RoomCrowd):
        crowd.begin()
    before, used = arrived(crowd), cpu_seconds(contender.pid)
    rates = []
    for _ in range(frames):
        here, done = arrived(crowd), contender.fire()
        receiver.until(lambda here=here: arrived(crowd) > here, f"{contender.name} sends")  # type: ignore[misc]
        first, some = time.perf_counter(), arrived(crowd) - here
        receiver.until(done, f"{contender.name}: everybody has the frame")
        rest = arrived(crowd) - here - some
        if rest > 0:
            rates.append(rest / (time.perf_counter() - first))
    contender.cost.append((cpu_seconds(contender.pid) - used) / (arrived(crowd) - before))
    contender.rate.append(median(rates) if rates else 0.0)


def measure(house: House, plan: Plan) -> dict[str, Any]:
    """Run all contenders in turn, round by round; the result as saved."""
    with ExitStack() as stack:
        receiver = stack.enter_context(Receiver())
        thread = stack.enter_context(ThreadPoolExecutor(1))
        gateway, room = house.gateway(), house.room()
        crowd = RoomCrowd(gateway.port, room.id)
        contenders = [ours(gateway, room, crowd, thread)]
        for name, module in (("floor", "bare"), ("broadcast", "broadcast"), ("fastapi", "fastapi_loop")):
            contenders.append(_peer(stack.enter_context(beside.in_python(name, module, FRAME))))
        if (modules := beside.node_modules()) is not None:
            command = ["node", str(beside.PEERS / "socketio.js"), str(FRAME)]
            shape = beside.SocketIoCrowd
            socketio = beside.running("socketio", command, shape, NODE_PATH=str(modules), NODE_ENV="production")
            contenders.append(_peer(stack.enter_context(socketio)))
        tokens = house.tokens(plan.viewers)
        for contender in contenders:
            receiver.connect(contender.crowd, tokens)
        receiver.listen(1.0)
        for contender in contenders:
            go(contender, receiver, 2)  # warm
            contender.cost.clear()
            contender.rate.clear()
        spent = heard = 0.0
        busiest = 0.0
        for _ in range(plan.rounds):
            for contender in contenders:
                before = arrived(contender.crowd)
                receiver.watch()
                go(contender, receiver, plan.frames)
                start = 0 if isinstance(contender.crowd, RoomCrowd) else before
                spent, heard = spent + receiver.used(), heard + arrived(contender.crowd) - start
                busiest = max(busiest, receiver.busy())
        crowd_size = crowd.received / max(1, crowd.arrivals)
        return _result(contenders, plan, crowd_size, spent / heard, busiest, crowd.missing())


def _result(
    contenders: list[Contender], plan: Plan, size: float, receiver: float, busiest: float, missing: int
) -> dict[str, Any]:
    by_name = {contender.name: contender for contender in contenders}
    mine = by_name["nearcast"].cost

    def against(name: str) -> float | None:
        if name not in by_name:
            return None
        # Round by round, so that whatever else the machine did meanwhile fell on both.
        return round(median(theirs / ours for ours, theirs in zip(mine, by_name[name].cost, strict=True)), 2)

    return {
        "bench": "fanout",
        "vs_floor": against("floor"),
        "vs_broadcast": against("broadcast"),
        "vs_fastapi": against("fastapi"),
        "vs_socketio": against("socketio"),
        "viewers": plan.viewers,
        "frame_bytes": round(size),
        "missing": missing,
        "receiver_us": round(receiver * 1e6, 2),
        "receiver_busiest": round(busiest, 2),
        "servers": {
            contender.name: {
                "us_per_frame": round(median(contender.cost) * 1e6, 2),
                "lost": contender.crowd.lost,
                "wall_frames_per_s": round(median(contender.rate)),
            }
            for contender in contenders
        },
    }


FIELDS = ("bench", "vs_floor", "vs_broadcast", "vs_fastapi", "vs_socketio")
