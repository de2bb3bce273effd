"""``make bench-joins``: everybody comes at once; then everybody loses the network and comes back."""

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from live import wire
from loadtest.bench.house import Gateway, House, Room
from loadtest.bench.machine import CannotMeasure, cpu_seconds
from loadtest.bench.receiver import Receiver
from loadtest.bench.room import RoomCrowd, stamped

AT_ONCE = 256
"""Handshakes under way: a storm, yet no more than fits the listener's queue."""
MISSED = 20
"""Certain events told while everybody is away."""
RECENT = 25
"""Comments in the room before anybody comes, so that welcomes have their usual size."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    viewers: int = 6000
    storms: int = 4
    missed: int = MISSED

    @classmethod
    def quick(cls) -> "Plan":
        """In less than 45 s."""
        return cls(viewers=2500, storms=2)


def measure(house: House, plan: Plan) -> dict[str, Any]:
    """Storm after storm; the result as saved."""
    storms = []
    with Receiver() as receiver:
        gateway, room = house.gateway(), house.room()
        staying = RoomCrowd(gateway.port, room.id)
        # Somebody stays all the time, as in a room that is live: its copy in the gateway is never cold.
        receiver.connect(staying, [house.guide_token])
        _furnish(receiver, staying, room)
        tokens = house.tokens(plan.viewers)
        for _ in range(plan.storms):
            crowd = RoomCrowd(gateway.port, room.id)
            joins = _storm(receiver, crowd, gateway, tokens)
            receiver.listen(1.0)
            receiver.leave(list(crowd.viewers))
            _empty(receiver, gateway)
            _while_away(receiver, staying, room, plan.missed)
            back = RoomCrowd(gateway.port, room.id)
            back.return_from(crowd)
            resumes = _storm(receiver, back, gateway, tokens, plan.missed)
            storms.append({"joins": joins, "resumes": resumes})
            receiver.leave(list(back.viewers))
            _empty(receiver, gateway)
            staying.begin()
    return _result(storms, plan)


def _furnish(receiver: Receiver, crowd: RoomCrowd, room: Room) -> None:
    room.command("pin", {"product": room.shelf[0]})
    guide = crowd.viewers[0]
    for number in range(RECENT):
        guide.send(wire.encoder.encode(wire.Comment(f"r{number}", stamped("大家晚上好，今晚新品买一送一"))))
        receiver.listen(0.1)
    receiver.until(lambda: crowd.acknowledged >= RECENT, "comments before the storm")
    crowd.begin()


def _while_away(receiver: Receiver, staying: RoomCrowd, room: Room, missed: int) -> None:
    """Tell the room something certain, ``missed`` times, until the one who stayed has heard it all."""
    target = staying.head() + missed
    for number in range(missed):
        room.announce(stamped(f"missed {number}"))
    receiver.until(lambda: staying.head() >= target, "the room is told what the others miss")


def _storm(
    receiver: Receiver, crowd: RoomCrowd, gateway: Gateway, tokens: list[str], missed: int = 0
) -> dict[str, Any]:
    receiver.watch()
    began, used = time.perf_counter(), cpu_seconds(gateway.pid)
    receiver.connect(crowd, tokens, AT_ONCE)
    if missed:
        owed = len(tokens) * missed
        receiver.until(lambda: sum(viewer.told for viewer in crowd.viewers) >= owed, "everybody has what was missed")
    wall, cpu = time.perf_counter() - began, cpu_seconds(gateway.pid) - used
    whole = sum(viewer.told >= missed and not viewer.missing for viewer in crowd.viewers)
    return {
        "wall_s": round(wall, 3),
        "gateway_cpu_s": round(cpu, 3),
        "receiver_busy": round(receiver.busy(), 2),
        "welcome_bytes": round(crowd.welcome_bytes / max(1, crowd.welcomes)),
        "said_recovered": crowd.recovered,
        "recovered": whole,
        "per_s_core": round(len(tokens) / cpu),
        "per_s_wall": round(len(tokens) / wall),
    }


def _empty(receiver: Receiver, gateway: Gateway) -> None:
    """Until the gateway has noticed that only one is left."""
    ends = time.monotonic() + 30
    while gateway.figures()["nearcast_gateway_viewers"] > 1:
        if time.monotonic() > ends:
            raise CannotMeasure("the gateway does not notice that viewers are gone")
        receiver.listen(0.1)


def _result(storms: list[dict[str, Any]], plan: Plan) -> dict[str, Any]:
    resumed = plan.viewers * len(storms)
    whole = sum(min(storm["resumes"]["recovered"], storm["resumes"]["said_recovered"]) for storm in storms)
    return {
        "bench": "joins",
        "joins_per_s": round(median(storm["joins"]["per_s_core"] for storm in storms)),
        "resumes_per_s": round(median(storm["resumes"]["per_s_core"] for storm in storms)),
        "recovered": round(whole / resumed, 6),
        "viewers": plan.viewers,
        "missed": plan.missed,
        "storms": storms,
    }


FIELDS = ("bench", "joins_per_s", "resumes_per_s", "recovered")
