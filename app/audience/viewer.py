"""One simulated viewer: what their phone sends, what it hears, and what it may expect."""

import asyncio
from collections.abc import Callable
from functools import partial
from random import Random
from time import time
from typing import Literal
from uuid import UUID, uuid4

from app.audience import people
from app.audience.line import Events
from app.audience.rest import Account
from app.audience.seat import Seat
from app.audience.stage import Scene, Stage, milliseconds
from app.audience.town import Town, Whereabouts
from live import wire

Habit = Literal["near", "far", "vague", "unasked", "shy"]
"""Near a store; far from all; with hopeless accuracy; sends fixes without consent; sends none at all."""
HABITS: dict[Habit, int] = {"near": 72, "far": 8, "vague": 5, "unasked": 6, "shy": 9}
"""How many of a hundred."""
CONSENT = "2026-11"
"""Version of the text they agree to."""
ANSWER_SECONDS = 5

_TAKEN = frozenset({"sold_out", "ended", "limit_reached", "held_out", "tier"})
# Attendance and fixes are written in batches, so a claim right after the door may come before them.
_EARLY = frozenset({"not_in_room", "location_missing", "busy"})
_ELSEWHERE = frozenset({"out_of_range", "location_uncertain", "location_stale"})
CLAIM_REFUSALS = _TAKEN | _EARLY | _ELSEWHERE
COMMENT_REFUSALS = frozenset({"too_fast", "duplicate", "muted", "room_ended", "room_not_live", "busy"})
LOCATE_REFUSALS: dict[Habit, frozenset[str]] = {
    "near": frozenset({"busy"}),
    "far": frozenset({"busy"}),
    "vague": frozenset({"location_uncertain", "busy"}),
    "unasked": frozenset({"consent_missing", "busy"}),
    "shy": frozenset(),
}


def habit(chance: Random) -> Habit:
    """What kind of viewer comes next."""
    return chance.choices(list(HABITS), list(HABITS.values()))[0]


class Viewer(Seat):
    """A viewer's client, driven by the crowd and by what it hears."""

    def __init__(self, stage: Stage, scene: Scene, number: int, town: Town, kind: Habit) -> None:
        super().__init__(stage, scene)
        self.number = number
        self.kind = kind
        self.tier = people.tier(number)
        self.place: Whereabouts | None = None
        if kind in ("near", "unasked"):
            self.place = town.near()
        elif kind == "far":
            self.place = town.far()
        elif kind == "vague":
            self.place = town.vague()
        self.on_coupon: Callable[[Viewer, wire.CouponCard], None] | None = None
        self.coupons: dict[UUID, wire.CouponCard] = {}
        self.located_at = 0.0
        self.heard_the_end = False
        self._asked: dict[str, tuple[str, float]] = {}
        """What is not answered yet: command's id → what it was, and when."""
        self._heeding: dict[str, asyncio.Future[wire.Ack]] = {}
        self._claimed: dict[UUID, tuple[str, UUID | None]] = {}
        """Drop → the claim's id and the coupon it gave."""
        self._drop_of: dict[str, UUID] = {}
        """Claim's id → drop."""
        self._told: list[wire.RoomEvent] = []
        self._checked_to: int | None = None

    async def sign_in(self) -> Account:
        """Log in; those who let themselves be located say so first."""
        rest = self.stage.rest
        account = await rest.sign_in(
            "viewer", people.account(self.number), name=people.name(self.number), tier=self.tier
        )
        if self.kind in ("near", "far", "vague"):
            await rest.call("PUT", "/v1/me/consents/location", account.token, {"version": CONSENT})
        elif self.kind == "unasked":
            await rest.call("DELETE", "/v1/me/consents/location", account.token)
        return account

    # ---- doing -----------------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Comment."""
        id = self._ask("comment")
        self.send(wire.Comment(id, text))

    async def say_and_hear(self, text: str) -> wire.Ack | None:
        """Comment and wait for the answer; None if none came."""
        id = self._ask("comment")
        answer: asyncio.Future[wire.Ack] = asyncio.get_running_loop().create_future()
        self._heeding[id] = answer
        self.send(wire.Comment(id, text))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await answer
        except TimeoutError:
            return None
        finally:
            del self._heeding[id]

    def locate(self) -> None:
        """Send a fix; whoever has a coupon walks towards its store."""
        if self.place is None or not self.in_room:
            return
        now = time()
        if self.place.shop is not None and self.coupons and self.located_at:
            self.place.walk(self.place.shop, now - self.located_at)
        self.located_at = now
        self.send(self.place.fix(self.stage.chance, self._ask("locate")))

    def claim(self, drop: UUID) -> None:
        """Try for a coupon of ``drop``; a second call asks again with the same id."""
        id, _ = self._claimed.setdefault(drop, (uuid4().hex[:16], None))
        self._drop_of[id] = drop
        self._asked[id] = ("claim", time())
        self.send(wire.Claim(id, drop))

    def _ask(self, what: str) -> str:
        id = uuid4().hex[:16]
        self._asked[id] = (what, time())
        return id

    # ---- hearing ---------------------------------------------------------------------------------------------------

    def welcomed(self, welcome: wire.Welcome) -> None:
        """Look around: where am I, what is pinned, what can be had."""
        if self.welcomes == 1:
            self.scene.viewers += 1
            self.stage.tally.counts["viewers"] += 1
        self._asked.clear()  # answers to what was asked on a former line do not come on this one
        if not welcome.recovered:
            self._told, self._checked_to = [], None
            for coupon in welcome.coupons:
                self.coupons.setdefault(coupon.id, coupon)
            for drop in welcome.drops:
                self._offered(drop)
        if self.place is not None and time() - self.located_at > 5:
            self.locate()

    def batch(self, events: Events) -> None:
        """React to what happens in the room."""
        if events.newest_comment is not None:
            self.stage.tally.comment_delay.add(max(0, milliseconds() - events.newest_comment))
        for event in events.certain:
            self._told.append(event)
            if isinstance(event, wire.RoomChanged):
                self.heard_the_end = event.room.state == "ended"
            elif isinstance(event, wire.DropOpened):
                self._offered(event.drop)
            elif isinstance(event, wire.Pinned) and self.stage.chance.random() < 0.08:
                self.stage.later(self.stage.chance.uniform(0.5, 6), partial(self._open, event.product.id))

    async def _open(self, product: UUID) -> None:
        self.stage.tally.counts["taps"] += self.send(wire.Tap(product))

    def _offered(self, drop: wire.DropCard) -> None:
        if drop.mode == "push" or drop.id in self._claimed or drop.ends_at <= milliseconds():
            return
        if self.stage.chance.random() < (0.6 if self.kind == "near" else 0.25):
            opens_in = max(0.0, (drop.opens_at + drop.spread - milliseconds()) / 1000)
            self.stage.later(opens_in + self.stage.chance.uniform(0.1, 3), partial(self._try_for, drop.id))

    async def _try_for(self, drop: UUID) -> None:
        if self.in_room:
            self.claim(drop)

    def acked(self, ack: wire.Ack) -> None:
        """Hold the answer against what was asked."""
        what, asked_at = self._asked.pop(ack.id, ("nothing", 0.0))
        tally = self.stage.tally
        if ack.id in self._heeding and not self._heeding[ack.id].done():
            self._heeding[ack.id].set_result(ack)
        if what == "nothing":
            tally.problem("an answer to a question nobody asked")
        elif what == "comment":
            tally.comment_ack.add((time() - asked_at) * 1000)
            self._comment_answered(ack)
        elif what == "locate":
            self._located(ack)
        elif what == "claim":
            self._claim_answered(ack)

    def _comment_answered(self, ack: wire.Ack) -> None:
        tally = self.stage.tally
        if ack.error is not None:
            tally.refusal("comment", ack.error.code, COMMENT_REFUSALS | {"blocked_words"})
            return
        tally.counts["comments"] += 1
        tally.expect(ack.comment is not None, "an accepted comment has no id")

    def _located(self, ack: wire.Ack) -> None:
        tally = self.stage.tally
        tally.counts["fixes"] += 1
        if ack.error is not None:
            tally.refusal(f"fix ({self.kind})", ack.error.code, LOCATE_REFUSALS[self.kind])
        elif self.kind == "far":
            tally.expect(ack.stores == 0 or ack.stores is None, "a store near somebody far away")
        elif self.kind == "near":
            assert self.place is not None
            # The shop's trade area may leave this side out, then another shop has to be near; hence not a problem.
            tally.counts["near_fixes"] += 1
            tally.counts["near_fixes_with_store"] += bool(ack.stores)
        else:
            tally.problem(f"a fix was taken from a viewer who is {self.kind}")

    def _claim_answered(self, ack: wire.Ack) -> None:
        tally = self.stage.tally
        drop = self._drop_of[ack.id]
        campaign = self.stage.campaign_of.get(drop)
        entitled = campaign is None or campaign.min_tier <= self.tier
        if ack.error is not None:
            tally.refusal("claim", ack.error.code, CLAIM_REFUSALS)
            tally.expect(
                ack.error.code != "tier" or campaign is None or not entitled, "a member was refused for their tier"
            )
            return
        if ack.coupon is None:
            tally.problem("a granted claim has no coupon")
            return
        tally.expect(entitled, "a coupon for a member of too low a tier")
        before = self._claimed[drop][1]
        tally.expect(before in (None, ack.coupon.id), "a repeated claim gave another coupon")
        self._claimed[drop] = (ack.id, ack.coupon.id)
        self._keep(ack.coupon)
        if before is None and self.stage.chance.random() < 0.1:
            self.claim(drop)

    def granted(self, coupon: wire.CouponCard) -> None:
        """A coupon arrived on the socket."""
        self.stage.tally.counts["coupon_frames"] += 1
        self._keep(coupon)

    def _keep(self, coupon: wire.CouponCard) -> None:
        if coupon.id in self.coupons:
            return
        self.coupons[coupon.id] = coupon
        self.stage.tally.counts["coupons_issued"] += 1
        self.stage.tally.expect(self.kind == "near", f"a coupon for a viewer who is {self.kind}")
        self.send(wire.Seen(coupon.id))
        if self.on_coupon is not None:
            self.on_coupon(self, coupon)

    # ---- checking --------------------------------------------------------------------------------------------------

    def check_order(self) -> None:
        """Compare the certain events heard since the last check with what the room's guide heard: same order, no gap.

        What the guide has not heard yet is left for the next check.
        """
        reference = self.scene.told
        if not self._told:
            return
        if self._checked_to is None:
            try:
                self._checked_to = len(reference) - 1 - reference[::-1].index(self._told[0])
            except ValueError:
                return
        done = 0
        for event in self._told:
            if self._checked_to >= len(reference):
                break
            if event != reference[self._checked_to]:
                self.stage.tally.problem(
                    "certain events out of order, or one missing",
                    f"{type(event).__name__} for {type(reference[self._checked_to]).__name__}",
                )
                self._told, self._checked_to = [], None
                return
            self._checked_to += 1
            done += 1
        del self._told[:done]
        self.stage.tally.counts["checks"] += done

    def missing_at_end(self) -> int:
        """How many of the guide's certain events never came, counting from the last one that did."""
        return 0 if self._checked_to is None else len(self.scene.told) - self._checked_to
