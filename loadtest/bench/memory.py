"""``make bench-memory``: what a viewer who only watches costs the gateway in resident memory."""

from dataclasses import dataclass
from typing import Any

from loadtest.bench.house import House
from loadtest.bench.machine import resident_kib
from loadtest.bench.receiver import Receiver
from loadtest.bench.room import RoomCrowd


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    viewers: int = 10_000
    settle: float = 25.0
    """Seconds: long enough for a ping to everybody, and for what joining left behind to be written and freed."""
    warm: int = 200
    """Viewers who come before the first look, so that what exists once is not charged to the others."""

    @classmethod
    def quick(cls) -> "Plan":
        """In less than 45 s."""
        return cls(viewers=4000, settle=4.0)


def measure(house: House, plan: Plan) -> dict[str, Any]:
    """Look, let everybody in, wait, look again; the result as saved."""
    with Receiver() as receiver:
        gateway, room = house.gateway(), house.room()
        crowd = RoomCrowd(gateway.port, room.id)
        tokens = house.tokens(plan.warm + plan.viewers)
        empty = resident_kib(gateway.pid)
        receiver.connect(crowd, tokens[: plan.warm])
        receiver.listen(2.0)
        before = resident_kib(gateway.pid)
        receiver.connect(crowd, tokens[plan.warm :], at_once=256)
        joined = resident_kib(gateway.pid)
        receiver.listen(plan.settle)
        settled = resident_kib(gateway.pid)
        return {
            "bench": "memory",
            "kib_per_viewer": round((settled - before) / plan.viewers, 2),
            "viewers": plan.viewers,
            "still_there": crowd.joined - plan.warm,
            "kib_per_viewer_just_joined": round((joined - before) / plan.viewers, 2),
            "empty_kib": round(empty),
            "before_kib": round(before),
            "joined_kib": round(joined),
            "settled_kib": round(settled),
        }


FIELDS = ("bench", "kib_per_viewer")
