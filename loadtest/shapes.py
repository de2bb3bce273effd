"""Shapes of a load: how many viewers are in which room at which moment, and what happens to them. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

SMALL = 10
"""Viewers of a small room."""
ROOMS = 470
"""Rooms of an evening, the big one included."""
RISE_SECONDS = 60.0


@dataclass(frozen=True)
class Shape:
    """One of the shapes that a test can have.

    ``rise`` is the part of the test in which viewers come, never longer than a minute; ``moments`` are parts of it at
    which something happens: ``drop`` (a claim drop opens in the biggest room) or ``strike`` (a gateway dies).
    """

    name: str
    says: str
    says_zh: str
    many_rooms: bool = False
    rise: float = 0.5
    moments: tuple[tuple[float, str], ...] = ()
    claim_within: float = 5.0
    """Seconds in which everybody who wants a coupon asks for it."""
    everybody_claims: bool = False
    drops: bool = True
    """Whether the guides also open drops at their usual pace."""

    def rooms(self, viewers: int) -> list[int]:
        """How many viewers each room has when all have come, the biggest first; their sum is ``viewers``.

        Small rooms take half of the viewers at most, so that the big one stays big when few are simulated.
        """
        small = min(ROOMS - 1, viewers // (2 * SMALL)) if self.many_rooms else 0
        return [viewers - small * SMALL, *[SMALL] * small]

    def share(self, at: float, seconds: float) -> float:
        """Which part of the viewers is to be in, ``at`` seconds after the beginning of a test of ``seconds``."""
        rise = min(RISE_SECONDS, self.rise * seconds)
        return 1.0 if rise <= 0 else min(1.0, max(0.0, at / rise))

    def when(self, what: str, seconds: float) -> list[float]:
        """The seconds at which ``what`` happens."""
        return [part * seconds for part, name in self.moments if name == what]


_SHAPES = (
    Shape(
        "evening",
        f"{ROOMS} rooms, most with {SMALL} viewers, one with all others",
        f"{ROOMS} 个直播间，大多 {SMALL} 人，其余都在一间",
        many_rooms=True,
        rise=0.3,
    ),
    Shape("peak", "one room that fills within a minute", "一个直播间在一分钟内坐满"),
    Shape(
        "drop",
        "everybody claims a coupon within two seconds, three times",
        "所有人在两秒内抢券，共三次",
        rise=0.3,
        moments=((0.45, "drop"), (0.65, "drop"), (0.85, "drop")),
        claim_within=2.0,
        everybody_claims=True,
        drops=False,
    ),
    Shape(
        "storm",
        "a gateway dies at half-time, and everybody who was there returns",
        "中途一个网关崩溃，所有人重连",
        rise=0.3,
        moments=((0.5, "strike"),),
        drops=False,
    ),
    Shape("soak", "an even load for as long as you like", "长时间平稳负载", rise=0.1),
)
SHAPES = {shape.name: shape for shape in _SHAPES}


def users_at(shape: Shape, users: int, seconds: float) -> Callable[[float], tuple[int, float] | None]:
    """The shape for Locust's own users: count and spawn rate at a moment, None once the test is over."""
    rate = max(1.0, users / max(1.0, min(RISE_SECONDS, shape.rise * seconds)))

    def tick(at: float) -> tuple[int, float] | None:
        return None if at >= seconds else (max(1, round(users * shape.share(at, seconds))), rate)

    return tick
