"""``make bench-fanout``: what one frame to one viewer costs the gateway, beside the floor and its peers."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from statistics import median
from typing import Any

from live import wire
from loadtest.bench import beside
from loadtest.bench.house import Gateway, House
from loadtest.bench.machine import cpu_seconds, kernel_ticks
from loadtest.bench.receiver import Crowd, Receiver
from loadtest.bench.room import STAMP, RoomCrowd, stamped

FRAME = 200
"""Bytes of payload, the same for all."""
TEXT_FROM = 18
"""Characters that a comment of this bench has at least: its stamp and its number."""
SETTLE_SECONDS = 0.002
"""Listening after a frame's last arrival, so that what its sender does afterwards is charged to that frame too."""
FIELDS = ("bench", "vs_floor", "vs_broadcast", "vs_fastapi", "vs_socketio")

_numbers = count()  # an id is never used again, also by another contender in the same room


@dataclass(frozen=True)
class Plan:
    """How much is measured: ``rounds`` of ``frames`` frames from each server to each of its ``viewers``."""

    viewers: int = 3800
    rounds: int = 7
    frames: int = 20

    @classmethod
    def quick(cls) -> "Plan":
        """In less than 45 s."""
        return cls(viewers=1500, rounds=5, frames=15)


def arrived(crowd: Crowd) -> int:
    """Frames that arrived so far, over all viewers."""
    return crowd.arrivals if isinstance(crowd, RoomCrowd) else crowd.frames


@dataclass
class Contender:
    """One server in the race: how it is told to send, what arrived, and what each round cost."""

    name: str
    pid: int
    crowd: Crowd
    fire: Callable[[], Callable[[], bool]]
    """Send one frame to everybody; returns the question whether all have it."""
    cpu: float = 0.0
    """CPU seconds of the server in this round, while its frames were under way."""
    frames: int = 0
    """Frames that arrived from it in this round."""
    cost: list[float] = field(default_factory=list)
    """CPU seconds for each frame to each viewer, round by round."""
    ticks: tuple[int, int] = (0, 0)
    """``kernel_ticks`` when the first round began."""
    rates: list[float] = field(default_factory=list)
    """Frames a second by the clock, from a frame's first arrival to its last."""

    def go(self, receiver: Receiver) -> None:
        """One frame to everybody."""
        before, used = arrived(self.crowd), cpu_seconds(self.pid)
        done = self.fire()
        receiver.until(lambda: arrived(self.crowd) > before, f"{self.name} sends")
        first, some = time.perf_counter(), arrived(self.crowd)
        receiver.until(done, f"{self.name}: everybody has the frame")
        rest, took = arrived(self.crowd) - some, time.perf_counter() - first
        receiver.listen(SETTLE_SECONDS)
        self.cpu += cpu_seconds(self.pid) - used
        self.frames += arrived(self.crowd) - before
        if rest > 0:
            self.rates.append(rest / took)

    def kernel_share(self) -> float:
        """Which part of its CPU time since ``ticks`` the server spent inside the kernel, 0 to 1."""
        kernel, whole = (now - then for now, then in zip(kernel_ticks(self.pid), self.ticks, strict=True))
        return kernel / max(1, whole)

    def close_round(self) -> None:
        """Note what the round cost; the next one begins."""
        self.cost.append(self.cpu / self.frames)
        self.cpu, self.frames = 0.0, 0


def _peer(peer: beside.Peer) -> Contender:
    crowd = peer.crowd

    def fire() -> Callable[[], bool]:
        target = crowd.frames + crowd.joined
        peer.send()
        return lambda: crowd.frames >= target

    return Contender(peer.name, peer.pid, crowd, fire)


def ours(gateway: Gateway, crowd: RoomCrowd) -> Contender:
    """The gateway, driven by comments, each alone in its tick: checked, handed to Redis, heard, told to everybody."""
    filled = TEXT_FROM

    def fire() -> Callable[[], bool]:
        nonlocal filled
        if crowd.told and crowd.told[-1].lossy_stamps and crowd.told[-1].events == 1:
            filled = max(TEXT_FROM, filled + FRAME - crowd.told[-1].size)  # as long as the peers' frames
        number = next(_numbers)
        text = stamped(f"{number} ", filled)
        # Another one each time, since one viewer may say one thing a second.
        speaker = crowd.viewers[-1 - number % len(crowd.viewers)]
        speaker.send(wire.encoder.encode(wire.Comment(f"f{number}", text)))
        stamp = int(text[:STAMP])
        return lambda: crowd.said(stamp) >= crowd.joined

    return Contender("nearcast", gateway.pid, crowd, fire)


def _peers(stack: ExitStack) -> Iterator[Contender]:
    for name, module in (("floor", "bare"), ("broadcast", "broadcast"), ("fastapi", "fastapi_loop")):
        yield _peer(stack.enter_context(beside.in_python(name, module, FRAME)))
    if (modules := beside.node_modules()) is not None:
        command = ["node", str(beside.PEERS / "socketio.js"), str(FRAME)]
        yield _peer(
            stack.enter_context(
                beside.running("socketio", command, beside.SocketIoCrowd, NODE_PATH=str(modules), NODE_ENV="production")
            )
        )


def measure(house: House, plan: Plan) -> dict[str, Any]:
    """Let all contenders send in turn; the result as saved."""
    with Receiver() as receiver, ExitStack() as stack:
        gateway, room = house.gateway(), house.room()
        crowd = RoomCrowd(gateway.port, room.id)
        contenders = [ours(gateway, crowd), *_peers(stack)]
        tokens = house.tokens(plan.viewers)
        for contender in contenders:
            receiver.connect(contender.crowd, tokens)
        receiver.listen(1.0)
        for contender in contenders:
            contender.go(receiver)  # warm
            contender.close_round()
            contender.cost.clear()
            contender.ticks = kernel_ticks(contender.pid)
        crowd.begin()
        receiver.watch()
        heard = -sum(arrived(contender.crowd) for contender in contenders)
        for _ in range(plan.rounds):
            for _ in range(plan.frames):
                # In turn, frame by frame: each server's memory is as cold as the others', whatever else goes on.
                for contender in contenders:
                    contender.go(receiver)
            for contender in contenders:
                contender.close_round()
        heard += sum(arrived(contender.crowd) for contender in contenders)
        return _result(contenders, plan, crowd, receiver.used() / heard, receiver.busy())


def _result(contenders: list[Contender], plan: Plan, crowd: RoomCrowd, receiver: float, busy: float) -> dict[str, Any]:
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
        "frame_bytes": round(crowd.received / max(1, crowd.arrivals)),
        "missing": crowd.missing(),
        "receiver_us": round(receiver * 1e6, 2),
        "receiver_busy": round(busy, 2),
        "servers": {
            contender.name: {
                "us_per_frame": round(median(contender.cost) * 1e6, 2),
                "kernel_share": round(contender.kernel_share(), 2),
                "lost": contender.crowd.lost,
                "wall_frames_per_s": round(median(contender.rates or [0])),
            }
            for contender in contenders
        },
    }
