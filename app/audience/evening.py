"""What happens tonight, and when: the guide's script, the side rooms, one spammer, coupons that run out in seconds."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count, cycle
from uuid import UUID

from app.audience.crowd import Crowd
from app.audience.host import Host
from app.audience.rest import Account
from app.audience.stage import Campaign, Stage
from app.audience.till import Tills
from app.audience.viewer import Viewer
from live import wire

HASTY_TITLE = "开场 10 秒闪券"
HASTY_SECONDS = 9
"""How long the coupons of the opening are valid, so that somebody comes to the till too late."""
PIN_SECONDS = 15
DROP_SECONDS = 60
"""Between two drops, once the opening is over."""
SLOW_SECONDS = 3
MUTE_SECONDS = 60
ANNOUNCEMENTS = (
    "今晚到店核销，附近门店都有试喝",
    "八折券限量，先到先得",
    "桂花乌龙第二件半价，到店更优惠",
    "点右下角看看离你最近的门店",
)
SPAM = ("看我头像同款半价", "同款低价，点我头像", "半价同款在我主页", "主页有同款，半价出")


@dataclass(slots=True)
class Evening:
    """The script of one evening."""

    stage: Stage
    main: Host
    sides: Sequence[Host]
    ops: Account
    campaigns: list[Campaign]
    crowd: Crowd
    tills: Tills
    hasty: UUID | None = None
    """The campaign of the opening, to be ended afterwards."""

    def coupon_for(self, viewer: Viewer, coupon: wire.CouponCard) -> None:
        """A viewer got a coupon: off to the till, in time or too late."""
        if coupon.title == HASTY_TITLE:
            self.stage.spawn(self.stage.tried("an expired coupon", self.tills.expired((viewer, coupon))))
        else:
            self.tills.arrive(viewer, coupon)

    def campaign(self, kind: str, *, tiered: bool = False) -> Campaign | None:
        """A running campaign of ``kind`` with most left to give."""
        found = [c for c in self.campaigns if c.kind == kind and (c.min_tier > 0) == tiered and c.left > 0]
        return max(found, key=lambda campaign: campaign.left, default=None)

    # ---- the main room ---------------------------------------------------------------------------------------------

    async def main_show(self) -> None:
        """The opening of about ten seconds has everything in it; after that it goes on for as long as it may."""
        await self.main.command(wire.Start)
        products = cycle(self.main.scene.shelf) if self.main.scene.shelf else None
        if products is not None:
            await self.main.pin(next(products))
        await self.main.command(wire.Announce, text=ANNOUNCEMENTS[0])
        await asyncio.sleep(2.5)
        await self.hasty_drop()
        await asyncio.sleep(1.5)
        await self.preview()
        await self.push()
        await asyncio.sleep(1)
        await self.claim_drop(delay=1)
        if products is not None:
            await self.main.pin(next(products))
        await asyncio.sleep(1.5)
        await self.moderate()
        for turn in count(1):
            await asyncio.sleep(PIN_SECONDS)
            await self._turn(turn, next(products) if products is not None else None)

    async def _turn(self, turn: int, product: UUID | None) -> None:
        if product is not None and turn % 5:
            await self.main.pin(product)
        elif product is not None:
            await self.main.command(wire.Unpin)  # a moment for questions
        if turn % 3 == 0:
            await self.main.command(wire.Announce, text=ANNOUNCEMENTS[turn // 3 % len(ANNOUNCEMENTS)])
        every = DROP_SECONDS // PIN_SECONDS
        if turn % every == 0:
            await (self.push() if turn // every % 2 else self.claim_drop(delay=3))

    async def preview(self) -> None:
        """How many would get one now?"""
        campaign = self.campaign("amount")
        if campaign is None:
            return
        assert self.main.account is not None
        path = f"/v1/rooms/{self.main.scene.id}/drops/preview"
        body = {"campaign": str(campaign.id)}
        shown = await self.stage.tried("preview", self.stage.rest.call("POST", path, self.main.account.token, body))
        if shown is not None:
            tally = self.stage.tally
            tally.expect(shown["in_range"] <= shown["located"], "a preview with more in range than located")
            tally.expect(shown["eligible"] <= shown["in_range"], "a preview with more eligible than in range")

    async def push(self) -> None:
        """Coupons for whoever is near, and for who comes near within a while."""
        if (campaign := self.campaign("amount")) is not None:
            await self.main.drop(campaign, "push", max(50, len(self.crowd.viewers)), seconds=45)

    async def claim_drop(self, delay: int) -> None:
        """First come, first served; not enough for all."""
        if (campaign := self.campaign("percent")) is not None:
            await self.main.drop(campaign, "claim", max(10, len(self.crowd.viewers) // 5), seconds=30, delay=delay)

    async def hasty_drop(self) -> None:
        """Three coupons that nobody can reach a store in time with."""
        until = datetime.now(UTC) + timedelta(seconds=HASTY_SECONDS)
        terms = {
            "title": HASTY_TITLE, "kind": "amount", "amount_fen": 500, "threshold_fen": 0, "stock": 3,
            "per_viewer": 1, "radius_m": 5000, "valid_until": until.isoformat(),
        }  # fmt: skip
        rest, token = self.stage.rest, self.ops.token
        made = await self.stage.tried("make a campaign", rest.call("POST", "/v1/campaigns", token, terms))
        if made is None:
            return
        self.hasty = UUID(made["id"])
        await self.stage.tried("run a campaign", rest.call("POST", f"/v1/campaigns/{self.hasty}/run", token))
        await self.main.drop(Campaign.from_item(made), "claim", 3, seconds=6)

    # ---- a spammer -------------------------------------------------------------------------------------------------

    async def moderate(self) -> None:
        """Somebody advertises; the guide takes it down, mutes them, and slows the room for a moment."""
        crowd = [v for v in self.crowd.came if v.in_room and v.scene is self.main.scene and v.account is not None]
        if not crowd:
            return
        spammer = self.stage.chance.choice(crowd)
        assert spammer.account is not None
        blocked = await spammer.say_and_hear("加 微.信 领红包")
        if blocked is not None:
            refused = blocked.error is not None and blocked.error.code in ("blocked_words", "too_fast")
            self.stage.tally.expect(refused, "a blocked word went through")
        said = await spammer.say_and_hear(SPAM[0])
        if said is not None and said.comment is not None:
            await self.main.command(wire.Delete, comment=said.comment)
        await self.main.command(wire.Mute, viewer=spammer.account.subject, seconds=MUTE_SECONDS)
        for text in SPAM[1:]:
            await asyncio.sleep(1.1)  # one comment a second is everybody's limit
            answer = await spammer.say_and_hear(text)
            if answer is None or (answer.error is not None and answer.error.code == "muted"):
                break
        else:
            self.stage.tally.problem("a mute did not take effect")
        await self.main.command(wire.Slow, seconds=SLOW_SECONDS)
        await asyncio.sleep(2)
        await self.main.command(wire.Slow, seconds=0)

    # ---- other rooms -----------------------------------------------------------------------------------------------

    async def side_show(self, number: int) -> None:
        """A quiet room: a pin now and then, and a coupon for the few who are there."""
        host = self.sides[number]
        chance = self.stage.chance
        await host.command(wire.Start)
        products = cycle(host.scene.shelf or [None])
        for turn in count():
            product = next(products)
            if product is not None:
                await host.pin(product)
            await asyncio.sleep(5 + 2 * number if turn == 0 else chance.uniform(20, 40))
            if turn == 0 or chance.random() < 0.15:
                await self._side_drop(host, number)

    async def _side_drop(self, host: Host, number: int) -> None:
        tiered = number % 3 == 1
        campaign = self.campaign("amount", tiered=True) if tiered else self.campaign("gift")
        if campaign is not None:
            mode = "claim" if tiered else "push"
            await host.drop(campaign, mode, max(10, len(self.crowd.viewers) // 20), seconds=30)
