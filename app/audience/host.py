"""A simulated guide: commands over the socket, each answered before the next."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

from app.audience.line import Events
from app.audience.rest import Account
from app.audience.seat import Seat
from app.audience.stage import Campaign, Scene, Stage
from live import wire

ANSWER_SECONDS = 10


class Host(Seat):
    """The guide's client in their own room. What it hears is what viewers are checked against."""

    def __init__(self, stage: Stage, scene: Scene, name: str, account: Account | None = None) -> None:
        super().__init__(stage, scene)
        self.name = name
        self.account = account
        self.here = asyncio.Event()
        self._waiting: dict[str, asyncio.Future[wire.Ack]] = {}
        self._unsure = False

    async def sign_in(self) -> Account:
        """By the guide's account."""
        return await self.stage.rest.sign_in("guide", self.name)

    def welcomed(self, welcome: wire.Welcome) -> None:
        """The guide is in the room, or in it again."""
        if not welcome.recovered and self.scene.told:
            self.scene.told.clear()  # the log began anew; so does the comparison
        self.here.set()

    def batch(self, events: Events) -> None:
        """Remember what everybody else must hear too."""
        self.scene.told += events.certain
        self.scene.recent += events.comments

    def acked(self, ack: wire.Ack) -> None:
        """Wake whoever waits for this answer."""
        waiting = self._waiting.pop(ack.id, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(ack)

    def hung_up(self, code: int | None, reason: str) -> None:
        """The room waits for its guide."""
        self.here.clear()
        super().hung_up(code, reason)

    async def command(self, kind: type[wire.GuideCommand], **fields: Any) -> wire.Ack | None:
        """Give a command and wait for its answer; a refusal is a problem, and gives None.

        A command whose answer was lost with the line is given again with the same id, as a phone would.
        """
        id = uuid4().hex[:16]
        what = kind.__name__.lower()
        for _ in range(3):
            answer: asyncio.Future[wire.Ack] = asyncio.get_running_loop().create_future()
            self._waiting[id] = answer
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self.here.wait()
                    self.send(kind(id=id, **fields))
                    ack = await answer
            except TimeoutError:
                self.stage.tally.counts["commands_repeated"] += 1
                continue
            if ack.error is not None:
                self.stage.tally.problem(f"guide's {what}: {ack.error.code}", ack.error.message)
                return None
            self.stage.tally.counts["guide_commands"] += 1
            return ack
        self.stage.tally.problem(f"guide's {what}: no answer")
        return None

    async def pin(self, product: UUID) -> None:
        """Explain ``product``."""
        if await self.command(wire.Pin, product=product) is not None:
            self.scene.pinned = product

    async def drop(self, campaign: Campaign, mode: str, stock: int, seconds: int, delay: int = 0) -> UUID | None:
        """Release coupons of ``campaign``; the drop's id, or None if that was refused."""
        stock = min(stock, campaign.left - self.stage.released[campaign.id])
        if stock < 1:
            return None
        ack = await self.command(wire.Drop, campaign=campaign.id, mode=mode, stock=stock, seconds=seconds, delay=delay)
        if ack is None or ack.drop is None:
            return None
        self.stage.tally.counts["drops"] += 1
        self.stage.released[campaign.id] += stock
        self.stage.campaign_of[ack.drop] = campaign
        return ack.drop
