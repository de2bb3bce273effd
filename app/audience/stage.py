"""What all actors share: the API, the clock, chance, the rooms, and the tally."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from random import Random
from time import time
from typing import Any
from uuid import UUID

import httpx

from app.audience.line import Reader
from app.audience.rest import Refused, Rest
from app.audience.tally import Tally
from live import wire


@dataclass(frozen=True, slots=True)
class Campaign:
    """As much of a campaign as the audience checks."""

    id: UUID
    title: str
    kind: str
    amount_fen: int
    threshold_fen: int
    percent_off: int
    min_tier: int
    left: int

    @classmethod
    def from_item(cls, item: dict[str, Any]) -> "Campaign":
        """From an item of ``GET /v1/campaigns``."""
        return cls(
            id=UUID(item["id"]),
            title=item["title"],
            kind=item["kind"],
            amount_fen=item.get("amount_fen") or 0,
            threshold_fen=item.get("threshold_fen") or 0,
            percent_off=item.get("percent_off") or 0,
            min_tier=item.get("min_tier") or 0,
            left=item["stock"] - item["issued"],
        )

    def discount(self, order_fen: int) -> int:
        """What the till must take off an order at or above the threshold."""
        if self.kind == "percent":
            off = order_fen * self.percent_off // 100
            return min(off, self.amount_fen) if self.amount_fen else off
        return min(self.amount_fen, order_fen) if self.kind == "amount" else 0


@dataclass(slots=True)
class Scene:
    """A room as the audience knows it."""

    id: UUID
    title: str
    sockets: list[str]
    shelf: list[UUID]
    told: list[wire.RoomEvent] = field(default_factory=list)
    """The certain events in the order in which the room's guide got them: what everybody else is checked against."""
    recent: deque[wire.Commented] = field(default_factory=lambda: deque(maxlen=50))
    pinned: UUID | None = None
    viewers: int = 0


@dataclass(slots=True)
class Stage:
    """What all actors share."""

    rest: Rest
    tally: Tally
    chance: Random
    group: asyncio.TaskGroup
    reader: Reader = field(default_factory=Reader)
    campaign_of: dict[UUID, Campaign] = field(default_factory=dict)
    """By drop."""
    released: Counter[UUID] = field(default_factory=Counter)
    """Coupons put into drops tonight, by campaign."""
    running: set[asyncio.Task[None]] = field(default_factory=set)
    over: bool = False
    """The evening is over: nobody comes back any more."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` beside the others, until it is done or everybody is dismissed."""
        task = self.group.create_task(work)
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        return task

    def dismiss(self) -> None:
        """Cancel what is still planned or going on."""
        for task in self.running:
            task.cancel()

    def later(self, seconds: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin ``work`` after a while."""

        async def wait() -> None:
            await asyncio.sleep(seconds)
            await work()

        self.spawn(wait())

    async def tried(self, what: str, work: Coroutine[Any, Any, Any]) -> Any:
        """The outcome of ``work``; a refusal or a lost API is a problem called ``what``, and gives None."""
        try:
            return await work
        except Refused as refused:
            self.tally.problem(f"{what}: {refused.code}", refused.fields.get("detail", ""))
        except httpx.TransportError as error:
            self.tally.problem(f"{what}: no answer", type(error).__name__)
        return None


def milliseconds() -> int:
    """The time as the wire tells it."""
    return int(time() * 1000)
