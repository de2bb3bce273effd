"""Simulated clerks: most redemptions go right, the rest go wrong in every way a till knows, and must be refused."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import httpx

from app.audience.rest import Account, Refused
from app.audience.stage import Stage, milliseconds
from app.audience.town import Town
from app.audience.viewer import Viewer
from live import wire

QUEUE = 1000
"""Viewers on their way to a till; beyond that they go home."""
TILLS = 4
PAUSE_SECONDS = 0.6
EAGER = 40
"""So many first winners go to the till at once; of the later ones only some."""
LATER_SHARE = 0.15
SHIFT_SECONDS = 1800
"""After that a clerk signs in again; tokens live longer."""
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

Sale = tuple[Viewer, wire.CouponCard]


class Tills:
    """The clerks of all stores, as four pairs of hands."""

    def __init__(self, stage: Stage, town: Town) -> None:
        self.stage = stage
        self.town = town
        self._queue: asyncio.Queue[Sale] = asyncio.Queue(QUEUE)
        self._clerks: dict[str, tuple[float, Account]] = {}
        self._came = 0
        self._number = 0
        self._ways: tuple[Callable[[Sale], Awaitable[None]], ...] = (
            self.twice, self.wrong_store, self.mistyped, self.reversed, self.by_qr, self.too_little, self.right,
            self.visit, self.right, self.right,
        )  # fmt: skip

    def arrive(self, viewer: Viewer, coupon: wire.CouponCard) -> None:
        """A viewer got a coupon; some go and use it."""
        self._came += 1
        if self._came > EAGER and self.stage.chance.random() > LATER_SHARE:
            return
        try:
            self._queue.put_nowait((viewer, coupon))
        except asyncio.QueueFull:
            self.stage.tally.counts["went_home"] += 1

    async def work(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as hands:
            for _ in range(TILLS):
                hands.create_task(self._serve())

    async def _serve(self) -> None:
        while True:
            sale = await self._queue.get()
            way = self._ways[self._number % len(self._ways)]
            self._number += 1
            try:
                await way(sale)
            except Refused as refused:
                self.stage.tally.problem(f"till ({way.__name__}): {refused.code}", refused)
            except httpx.TransportError as error:
                self.stage.tally.problem(f"till ({way.__name__}): no answer", type(error).__name__)
            await asyncio.sleep(self.stage.chance.uniform(0.5, 1.5) * PAUSE_SECONDS)

    # ---- ways to redeem --------------------------------------------------------------------------------------------

    async def right(self, sale: Sale) -> None:
        """The code is typed, the discount is right, and the same request again changes nothing."""
        key = str(uuid4())
        order = self._order(sale)
        first = await self._redeem(sale, key=key, order=order)
        self._counted(sale, first, order)
        again = await self._redeem(sale, key=key, order=order)
        same = again["id"] == first["id"] and again["replayed"] and not first["replayed"]
        self._expect(same, "a repeated redemption request was not answered as the first")

    async def twice(self, sale: Sale) -> None:
        """Used, then tried again with a new key."""
        order = self._order(sale)
        self._counted(sale, await self._redeem(sale, order=order), order)
        problem = await self._refused("redeem", "already_redeemed", self._redeem(sale, order=order))
        if problem is not None:
            told = sale[1].store in str(problem.get("store")) and bool(problem.get("redeemed_at"))
            self._expect(told, "already_redeemed does not say where and when")

    async def wrong_store(self, sale: Sale) -> None:
        """First at another store's till, then at the right one."""
        others = [code for code in self.town.shops if code != sale[1].store]
        if others:
            code = self.stage.chance.choice(others[:20])
            await self._refused("redeem", "wrong_store", self._redeem(sale, store=code))
        await self.right(sale)

    async def mistyped(self, sale: Sale) -> None:
        """One symbol wrong, then right."""
        place = self.stage.chance.randrange(4)
        code = sale[1].code
        wrong = ALPHABET[(ALPHABET.index(code[place]) + 1) % len(ALPHABET)]
        typed = code[:place] + wrong + code[place + 1 :]
        await self._refused("redeem", "code_mistyped", self._redeem(sale, code=typed))
        await self.right(sale)

    async def reversed(self, sale: Sale) -> None:
        """Used, taken back, used again."""
        order = self._order(sale)
        done = await self._redeem(sale, order=order)
        clerk = await self._clerk(sale[1].store)
        back = await self.stage.rest.call("POST", f"/v1/redemptions/{done['id']}/reverse", clerk.token)
        self._expect(bool(back.get("reversed_at")), "a reversal does not say when")
        self.stage.tally.counts["reversed"] += 1
        self._counted(sale, await self._redeem(sale, order=order), order)

    async def by_qr(self, sale: Sale) -> None:
        """The viewer shows the QR code, the clerk looks first, then scans it."""
        viewer, coupon = sale
        assert viewer.account is not None
        shown = await self.stage.rest.call("GET", f"/v1/me/coupons/{coupon.id}/qr", viewer.account.token)
        self._expect("<svg" in shown["svg"], "a QR code without its picture")
        clerk = await self._clerk(coupon.store)
        await self.stage.rest.call("POST", "/v1/redemptions/check", clerk.token, {"qr": shown["payload"]})
        order = self._order(sale)
        self._counted(sale, await self._redeem(sale, qr=shown["payload"], order=order), order)

    async def too_little(self, sale: Sale) -> None:
        """An order below the threshold, then one above."""
        campaign = self._campaign(sale)
        if campaign is not None and campaign.threshold_fen:
            below = self._redeem(sale, order=campaign.threshold_fen - 1)
            await self._refused("redeem", "below_threshold", below)
        await self.right(sale)

    async def visit(self, sale: Sale) -> None:
        """The member shows the member code and buys nothing."""
        viewer, coupon = sale
        assert viewer.account is not None
        shown = await self.stage.rest.call("GET", "/v1/me/qr", viewer.account.token)
        clerk = await self._clerk(coupon.store)
        await self.stage.rest.call("POST", "/v1/visits", clerk.token, {"qr": shown["payload"]})
        self.stage.tally.counts["visits"] += 1

    async def expired(self, sale: Sale) -> None:
        """Too late: the coupon's time is over before the viewer is at the till."""
        wait = (sale[1].valid_until - milliseconds()) / 1000 + 0.3
        await asyncio.sleep(max(0.0, wait))
        await self._refused("redeem", "coupon_expired", self._redeem(sale))

    # ---- parts -----------------------------------------------------------------------------------------------------

    async def _clerk(self, store: str) -> Account:
        """The clerk of a store, who signs in on first use."""
        now = asyncio.get_running_loop().time()
        since, clerk = self._clerks.get(store, (0.0, None))
        if clerk is None or now - since > SHIFT_SECONDS:
            clerk = await self.stage.rest.sign_in("clerk", f"till-{store}", store_code=store)
            self._clerks[store] = (now, clerk)
        return clerk

    def _campaign(self, sale: Sale) -> Any:
        drop = sale[1].drop
        return None if drop is None else self.stage.campaign_of.get(drop)

    def _order(self, sale: Sale) -> int:
        campaign = self._campaign(sale)
        threshold = 10_000 if campaign is None else campaign.threshold_fen
        return threshold + self.stage.chance.randrange(1_000, 30_000)

    async def _redeem(
        self,
        sale: Sale,
        *,
        code: str | None = None,
        qr: str | None = None,
        store: str | None = None,
        key: str | None = None,
        order: int | None = None,
    ) -> Any:
        clerk = await self._clerk(store or sale[1].store)
        body: dict[str, Any] = {"qr": qr} if qr else {"code": code or sale[1].code}
        if order is not None:
            body["order_fen"] = order
        return await self.stage.rest.call("POST", "/v1/redemptions", clerk.token, body, key=key)

    async def _refused(self, tried: str, code: str, work: Awaitable[Any]) -> dict[str, Any] | None:
        """The problem document of ``work``, which has to be refused with ``code``; None if it was not refused."""
        try:
            await work
        except Refused as refused:
            self.stage.tally.refusal(tried, refused.code, frozenset({code}))
            return refused.fields
        self.stage.tally.problem(f"{tried} went through instead of {code}")
        return None

    def _counted(self, sale: Sale, answer: dict[str, Any], order: int) -> None:
        self.stage.tally.counts["redeemed"] += 1
        campaign = self._campaign(sale)
        if campaign is not None:
            due = campaign.discount(order)
            self._expect(answer["discount_fen"] == due, "a wrong discount", f"{answer['discount_fen']} for {due}")

    def _expect(self, holds: bool, what: str, example: object = "") -> None:
        self.stage.tally.expect(holds, what, example)
