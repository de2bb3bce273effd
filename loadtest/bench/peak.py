"""``make bench-peak``: one room at its peak. How late is what, is anything lost, and what does a viewer cost?"""

import time
from dataclasses import dataclass
from itertools import count, islice
from typing import Any
from uuid import UUID

from live import wire
from loadtest.bench import fanout, moments
from loadtest.bench.house import Gateway, House, Room
from loadtest.bench.machine import cpu_seconds, most_sockets
from loadtest.bench.receiver import Receiver, Viewer
from loadtest.bench.room import RoomCrowd, percentile, stamped

COMMENTS_PER_SECOND = 500.0
LIKES_PER_SECOND = 200.0
CERTAIN_PER_SECOND = 2.0
"""Pins and announcements in turn."""
NEIGHBOURS = 10
"""Viewers of a small room on the same gateway, who must not notice the crowd."""
NEIGHBOURS_PER_SECOND = 4.0
FULL_DISPLAY = 1000
"""The room's display rate: more than is said, so that everybody is shown everything."""
MAIN = 10_000
"""The number of viewers that the budgets are about."""
QUIET_SECONDS = 1.0
"""Longer than a room rests between two ticks."""
LONGEST_TAIL = 10.0
WORDS = ("这款真好看", "多少钱呀", "已拍，等发货", "附近哪家店有货？", "上次买的很喜欢，再囤一份")

_numbers = count()  # an id is never used again, also by the next step's talk


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    viewers: tuple[int, ...]
    seconds: float = 10.0
    fixed: int = 10
    """Single events whose cost is compared between the sizes."""
    alone: int = 200
    """Single events in a small room whose delay is measured."""
    sanctions: int = 10
    """Kicks, mutes and bans of which each is measured so often."""

    @classmethod
    def full(cls) -> "Plan":
        """Up to 20,000 viewers, or as many as one process can hold."""
        return cls((1000, 2500, 5000, MAIN, 15_000, min(20_000, most_sockets())))

    @classmethod
    def quick(cls) -> "Plan":
        """In less than 45 s."""
        return cls((1000, MAIN), seconds=4.0, fixed=4, alone=40, sanctions=2)


class Talk:
    """What viewers and the guide say, each at its own steady pace."""

    def __init__(self, crowd: RoomCrowd, guide: Viewer, shelf: list[str], next_door: RoomCrowd) -> None:
        self._next_door = next_door.viewers
        self._speakers = [viewer for viewer in crowd.viewers if viewer is not guide]
        self._guide = guide
        self._shelf = [UUID(product) for product in shelf]
        self.comments = self.certain = 0
        # One viewer may say one thing a second.
        pace = min(COMMENTS_PER_SECOND, len(self._speakers) / 2)
        now = time.monotonic()
        self._due = [(now, 1 / pace, self._comment), (now, 1 / LIKES_PER_SECOND, self._like),
                     (now + 0.2, 1 / CERTAIN_PER_SECOND, self._command),
                     (now + 0.1, 1 / NEIGHBOURS_PER_SECOND, self._chat)]  # fmt: skip

    def say(self) -> None:
        """Send what is due."""
        now = time.monotonic()
        for place, (at, every, what) in enumerate(self._due):
            while at <= now:
                what(next(_numbers))
                at += every
            self._due[place] = (at, every, what)

    def _send(self, viewer: Viewer, frame: wire.Frame) -> None:
        if viewer.alive:
            viewer.send(wire.encoder.encode(frame))

    def _comment(self, number: int) -> None:
        self.comments += 1
        speaker = self._speakers[self.comments % len(self._speakers)]
        self._send(speaker, wire.Comment(f"c{number}", stamped(f"{WORDS[number % len(WORDS)]} {number}")))

    def _chat(self, number: int) -> None:
        speaker = self._next_door[number % len(self._next_door)]
        self._send(speaker, wire.Comment(f"n{number}", stamped(f"我们这边很安静 {number}")))

    def _like(self, number: int) -> None:
        self._send(self._speakers[number * 7 % len(self._speakers)], wire.Like(1 + number % 5))

    def _command(self, number: int) -> None:
        self.certain += 1
        if self.certain % 2:
            self._send(self._guide, wire.Announce(f"g{number}", stamped(f"今晚满一百减二十 {number}")))
        else:
            self._send(self._guide, wire.Pin(f"g{number}", self._shelf[self.certain // 2 % len(self._shelf)]))


def measure(house: House, plan: Plan) -> dict[str, Any]:
    """Fill the room step by step, and measure each step; the result as saved."""
    with Receiver() as receiver:
        gateway = house.gateway()
        # All at once: each call of the command starts a Python.
        tokens = iter(house.tokens(2 * NEIGHBOURS + plan.sanctions + max(plan.viewers)))
        small = {
            "alone_ms": moments.alone(receiver, house, gateway, list(islice(tokens, NEIGHBOURS)), plan.alone),
            "revoked_ms": moments.revoked(receiver, house, gateway, list(islice(tokens, plan.sanctions))),
        }
        room = house.room(FULL_DISPLAY)
        crowd = RoomCrowd(gateway.port, room.id)
        receiver.connect(crowd, [house.guide_token])
        next_door = RoomCrowd(gateway.port, house.room().id)
        receiver.connect(next_door, islice(tokens, NEIGHBOURS))
        steps = []
        for viewers in plan.viewers:
            more = [next(tokens) for _ in range(viewers + 1 - len(crowd.viewers))]
            receiver.connect(crowd, more, at_once=256)
            _quiet(receiver, crowd)
            steps.append(_step(receiver, crowd, next_door, gateway, room, plan))
            steps[-1]["us_per_single_event"] = _single(receiver, crowd, gateway, plan)
        return _result(steps) | small


def _quiet(receiver: Receiver, crowd: RoomCrowd) -> None:
    """Listen until nothing comes any more."""
    ends = time.monotonic() + LONGEST_TAIL
    seen, since = crowd.arrivals, time.monotonic()
    while time.monotonic() < ends and time.monotonic() - since < QUIET_SECONDS:
        receiver.turn(0.05)
        if crowd.arrivals != seen:
            seen, since = crowd.arrivals, time.monotonic()


def _step(
    receiver: Receiver, crowd: RoomCrowd, next_door: RoomCrowd, gateway: Gateway, room: Room, plan: Plan
) -> dict[str, Any]:
    crowd.begin()
    next_door.begin()
    missing, lost, shed, head = crowd.missing(), crowd.lost, gateway.shed(), crowd.head()
    talk = Talk(crowd, crowd.viewers[0], room.shelf, next_door)
    receiver.watch()
    began, used = time.monotonic(), cpu_seconds(gateway.pid)
    while time.monotonic() - began < plan.seconds:
        talk.say()
        receiver.turn(0.002)
    busy, talked = receiver.busy(), time.monotonic() - began
    cpu_talking = cpu_seconds(gateway.pid) - used
    _quiet(receiver, crowd)
    cpu = cpu_seconds(gateway.pid) - used
    certain, lossy = (crowd.delays(lambda told: told.certain_stamps), crowd.delays(lambda told: told.lossy_stamps))
    return {
        "viewers": len(crowd.viewers) - 1,
        "seconds": round(talked, 1),
        "comments": talk.comments,
        "refused": dict(crowd.refused),
        "certain": talk.certain,
        "certain_told": crowd.head() - head,
        "certain_p50_ms": percentile(certain, 0.5),
        "certain_p99_ms": percentile(certain, 0.99),
        "certain_max_ms": percentile(certain, 1.0),
        "certain_lost": crowd.missing() - missing,
        "viewers_lost": crowd.lost - lost,
        "lossy_p50_ms": percentile(lossy, 0.5),
        "lossy_p99_ms": percentile(lossy, 0.99),
        "next_door_p99_ms": percentile(next_door.delays(lambda told: told.lossy_stamps), 0.99),
        "lossy_shown": int(lossy.sum()),
        "lossy_owed": crowd.comments * crowd.joined,
        "shed": gateway.shed() - shed,
        "deliveries": crowd.deliveries,
        "deliveries_per_s_core": round(crowd.deliveries / cpu),
        "frames_per_s": round(crowd.arrivals / talked),
        "frame_bytes": round(crowd.received / max(1, crowd.arrivals)),
        "gateway_busy": round(cpu_talking / talked, 2),
        "receiver_busy": round(busy, 2),
    }


def _single(receiver: Receiver, crowd: RoomCrowd, gateway: Gateway, plan: Plan) -> float:
    """CPU in µs for one event to one viewer, told alone: what a viewer costs, whatever else is merged or rests."""
    contender = fanout.ours(gateway, crowd)
    crowd.begin()
    for _ in range(plan.fixed):
        contender.go(receiver)
    contender.close_round()
    return round(contender.cost[-1] * 1e6, 2)


def _result(steps: list[dict[str, Any]]) -> dict[str, Any]:
    main = next((step for step in steps if step["viewers"] == MAIN), steps[-1])
    growth = steps[-1]["us_per_single_event"] / steps[0]["us_per_single_event"]
    return {
        "bench": "peak",
        "viewers": main["viewers"],
        "certain_p99_ms": main["certain_p99_ms"],
        "certain_lost": sum(step["certain_lost"] for step in steps),
        "lossy_p99_ms": main["lossy_p99_ms"],
        "deliveries_per_s_core": main["deliveries_per_s_core"],
        "growth_1k_20k": round(growth, 2),
        "steps": steps,
    }


FIELDS = (
    "bench", "viewers", "certain_p99_ms", "certain_lost", "lossy_p99_ms", "deliveries_per_s_core", "growth_1k_20k",
    "alone_ms", "revoked_ms",
)  # fmt: skip
