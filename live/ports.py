"""What a room needs from outside the room service. The composition root plugs the real things in."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol
from uuid import UUID

from kernel.identity import Principal
from live import wire


class Locator(Protocol):
    """Keeps the newest fix of each viewer in a room."""

    async def locate(self, who: Principal, room: UUID, fix: wire.Locate) -> int:
        """Keep ``fix``; returns how many stores of the brand are near it. Refusal ``consent_missing``,
        ``location_uncertain``, ``busy``, ``unavailable``."""

    async def forget(self, room: UUID, viewers: list[UUID], before: datetime) -> None:
        """These viewers left the room: their fixes from ``before`` or earlier go. A newer one stays: they came back,
        perhaps to another gateway."""


class Unchecked(Exception):
    """Nobody could say whether a text is all right."""


class Checker(Protocol):
    """Somebody outside who judges what viewers say."""

    async def check(self, viewer: UUID, text: str) -> Literal["pass", "review", "risky"]:
        """The verdict on ``text``; raises ``Unchecked``. May be cancelled when it takes too long."""


class Issuer(Protocol):
    """Gives coupons."""

    async def claim(self, who: Principal, room: UUID, command: wire.Claim) -> wire.CouponCard:
        """A coupon of an open claim drop, durable on return; Refusal with the reason otherwise."""

    async def open_drop(self, who: Principal, room: UUID, command: wire.Drop) -> UUID:
        """Release coupons into the room; returns the drop. The same id of the same guide is the same drop, whichever
        gateway is asked. Refusal if the campaign or the guide may not, ``idempotency_mismatch`` for an id that stands
        for something else."""

    async def seen(self, viewer: UUID, coupons: list[UUID]) -> None:
        """Note that ``viewer`` was shown these coupons of theirs."""


Outcome = Literal["sent", "refused", "unknown", "failed", "later"]
"""Of a reminder: it went out; the viewer wants none; nobody knows where to send it; it is wrong in itself; it surely
did not go out, and another time it may."""


@dataclass(frozen=True, slots=True)
class Reminder:
    """What one viewer is to be told: this room begins ``at``, or has begun (``live``)."""

    viewer: UUID
    room: UUID
    title: str
    guide: str
    live: bool
    at: datetime
    zone: str
    """The brand's, as in ``Europe/Berlin``."""


class Messenger(Protocol):
    """Reaches viewers who are not here."""

    def remind(self, reminders: Sequence[Reminder]) -> AsyncIterator[tuple[Reminder, Outcome]]:
        """Send all of them, in any order; each that is settled is yielded at once. One about which nobody can say
        whether it went out is not yielded. May be cancelled when it takes too long."""
