"""``make bench-peak``: one room at its peak. How late is what, is anything lost, and what does a viewer cost?"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from typing import Any
from uuid import UUID

from live import wire
from loadtest.bench import moments
from loadtest.bench.halves import Halves
from loadtest.bench.house import House, Room
from loadtest.bench.machine import most_sockets
from loadtest.bench.receiver import Receiver, Viewer
from loadtest.bench.room import STAMP, RoomCrowd, percentile, stamped

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
SINGLE_TEXT = 60
"""Characters of an event that is told alone: a frame of about 200 bytes."""
SETTLE_SECONDS = 0.002
"""Listening after such an event's last arrival, so that what is done afterwards is charged to it, too."""
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
    first: float = 5.0
    """Seconds of talk that come before and are told apart: the kernel fills the new sockets' buffers with memory that
    nobody has touched yet, which on a virtual machine may have to be fetched from its host."""
    fixed: int = 10
    """Single events whose cost is compared between the sizes."""
    alone: int = 200
    """Single events in a small room whose delay is measured."""
    sanctions: int = 10
    """Kicks, mutes and bans of which each is measured so often."""
    most: int = field(default_factory=most_sockets)
    """Sockets of one process; whoever comes beyond that watches through a second gateway, in a second process."""

    @classmethod
    def full(cls) -> "Plan":
        """Up to 20,000 viewers."""
        return cls((1000, 2500, 5000, MAIN, 15_000, 20_000))

    @classmethod
    def quick(cls) -> "Plan":
        """In less than 45 s."""
        return cls((1000, MAIN), seconds=2.0, first=0.0, fixed=3, alone=10, sanctions=1)


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
    with Receiver(delays=True) as receiver, ThreadPoolExecutor(1) as beside:
        # All at once: each call of the command starts a Python. They are signed on one core while the gateway starts on
        # the other.
        signed = beside.submit(house.tokens, 2 * NEIGHBOURS + plan.sanctions + max(plan.viewers))
        gateway = house.gateway()
        tokens = iter(signed.result())
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
        with Halves(house, gateway, crowd, room.id, plan.most - 3 * NEIGHBOURS) as halves:
            for viewers in plan.viewers:
                halves.connect(receiver, list(islice(tokens, viewers + 1 - halves.viewers)))
                _quiet(receiver, halves)
                first = _step(receiver, halves, next_door, room, plan.first) if plan.first else None
                step = _step(receiver, halves, next_door, room, plan.seconds)
                step["us_per_single_event"] = _single(receiver, halves, plan)
                steps.append(step if first is None else step | _told_apart(first))
        return _result(steps) | small


def _quiet(receiver: Receiver, halves: Halves) -> None:
    """Listen until nothing comes any more."""
    ends = time.monotonic() + LONGEST_TAIL
    seen, since = halves.arrivals(), time.monotonic()
    while time.monotonic() < ends and time.monotonic() - since < QUIET_SECONDS:
        receiver.turn(0.05)
        if (arrivals := halves.arrivals()) != seen:
            seen, since = arrivals, time.monotonic()


def _told_apart(first: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a step's first seconds."""
    names = ("certain_p99_ms", "certain_lost", "viewers_lost", "next_door_p99_ms", "receiver_behind_ms")
    return {"first": {name: first[name] for name in names}}


def _step(receiver: Receiver, halves: Halves, next_door: RoomCrowd, room: Room, seconds: float) -> dict[str, Any]:
    crowd, before, shed = halves.crowd, halves.account(), halves.shed()
    missing = before.missing(halves.viewers)
    halves.begin()
    next_door.begin()
    talk = Talk(crowd, crowd.viewers[0], room.shelf, next_door)
    receiver.watch()
    began, used = time.monotonic(), halves.cpu()
    while time.monotonic() - began < seconds:
        talk.say()
        receiver.turn(0.002)
    busy, talked = halves.busiest(receiver.busy()), time.monotonic() - began
    cpu_talking = halves.cpu() - used
    _quiet(receiver, halves)
    cpu = halves.cpu() - used
    heard = halves.account()
    return {
        "viewers": halves.viewers - 1,
        "gateways": halves.gateways,
        "seconds": round(talked, 1),
        "comments": talk.comments,
        "refused": dict(crowd.refused),
        "certain": talk.certain,
        "certain_told": heard.head - before.head,
        "certain_p50_ms": percentile(heard.certain, 0.5),
        "certain_p99_ms": percentile(heard.certain, 0.99),
        "certain_max_ms": percentile(heard.certain, 1.0),
        "certain_lost": heard.missing(halves.viewers) - missing,
        "viewers_lost": heard.lost - before.lost,
        "lossy_p50_ms": percentile(heard.lossy, 0.5),
        "lossy_p99_ms": percentile(heard.lossy, 0.99),
        "next_door_p99_ms": percentile(next_door.delays(lambda told: told.lossy_stamps), 0.99),
        "lossy_shown": int(heard.lossy.sum()),
        "lossy_owed": crowd.comments * heard.joined,
        "shed": halves.shed() - shed,
        "deliveries": heard.deliveries,
        "deliveries_per_s_core": round(heard.deliveries / cpu),
        "frames_per_s": round(heard.arrivals / talked),
        "frame_bytes": round(heard.received / max(1, heard.arrivals)),
        "gateway_busy": round(cpu_talking / talked, 2),
        "receiver_busy": round(busy, 2),
        "receiver_behind_ms": round(receiver.behind() * 1000),
    }


def _single(receiver: Receiver, halves: Halves, plan: Plan) -> float:
    """CPU in µs for one event to one viewer, told alone: what a viewer costs, whatever else is merged or rests."""
    halves.begin()
    cpu = 0.0
    for _ in range(plan.fixed):
        used, number = halves.cpu(), next(_numbers)
        text = stamped(f"{number} ", SINGLE_TEXT)
        stamp = int(text[:STAMP])
        # Another one each time, since one viewer may say one thing a second.
        speaker = halves.crowd.viewers[-1 - number % len(halves.crowd.viewers)]
        speaker.send(wire.encoder.encode(wire.Comment(f"s{number}", text)))
        receiver.until(partial(halves.said, stamp), "everybody hears an event alone")
        receiver.listen(SETTLE_SECONDS)
        cpu += halves.cpu() - used
    return round(cpu / halves.arrivals() * 1e6, 2)


def _result(steps: list[dict[str, Any]]) -> dict[str, Any]:
    main = next((step for step in steps if step["viewers"] == MAIN), steps[-1])
    growth = steps[-1]["us_per_single_event"] / steps[0]["us_per_single_event"]
    return {
        "bench": "peak",
        "viewers": main["viewers"],
        "certain_p99_ms": main["certain_p99_ms"],
        "certain_lost": sum(step["certain_lost"] + step.get("first", {}).get("certain_lost", 0) for step in steps),
        "lossy_p99_ms": main["lossy_p99_ms"],
        "deliveries_per_s_core": main["deliveries_per_s_core"],
        "growth_1k_20k": round(growth, 2),
        "next_door_p99_ms": main["next_door_p99_ms"],
        "steps": steps,
    }


FIELDS = (
    "bench", "viewers", "certain_p99_ms", "certain_lost", "lossy_p99_ms", "deliveries_per_s_core", "growth_1k_20k",
    "alone_ms", "revoked_ms", "next_door_p99_ms",
)  # fmt: skip
