"""One campaign, its drops, coupons and redemptions as a few dictionaries, played beside the real database.

``CouponMachine`` does to both what Hypothesis thinks of; after every step the rows must be the model's, and the audit
content.
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from sqlalchemy import text
from world import BRAND, SIGNER_SEED, World, make_world

from app import privacy
from coupons import campaigns, codes, drops, ledger, redemption
from coupons.codes import Signer
from coupons.issuing import Issuer
from geo.catchments import Catchments
from kernel.clock import now
from kernel.errors import Refusal
from kernel.identity import Keyring, Principal
from kernel.postgres import create_engine, create_sessions, transaction
from kernel.process import Kernel
from kernel.redis import create_client
from kernel.settings import Settings

STORES = {"S1": 0.0, "S2": 2_000.0}
PLACES = (0.0, 400.0, 1_600.0, 20_000.0)
"""Metres north of S1; the last one is out of everybody's reach."""
REACH_M = 3_000
VIEWERS = 4
TRACES = tuple(
    f"SELECT '{table}.{column}' FROM {table} WHERE {column} = :member"
    for table, column in (
        ("members", "id"),
        ("coupons", "viewer_id"),
        ("drop_viewers", "viewer_id"),
        ("reviews", "viewer_id"),
        ("visits", "viewer_id"),
        ("locations", "viewer_id"),
        ("attendance", "viewer_id"),
    )
)
"""Where a member's id stands; after an erasure, nowhere."""


class House:
    """A database with two stores, and a loop to ask it from a machine that knows nothing of loops."""

    def __init__(self, settings: Settings) -> None:
        self._runner = asyncio.Runner()
        self.signer = Signer(SIGNER_SEED)
        self._settings = settings

    def __enter__(self) -> "House":
        self.run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._close())
        self._runner.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    async def _open(self) -> None:
        engine, client = create_engine(self._settings), create_client(self._settings)
        kernel = Kernel(self._settings, engine, create_sessions(engine), client, Keyring.from_settings(self._settings))
        self.world: World = await make_world(kernel)
        await self.world.store("S2", STORES["S2"])
        self.issuer = Issuer(kernel.sessions, Catchments(kernel.sessions))
        self.issuer.start()

    async def _close(self) -> None:
        await self.issuer.stop()
        await self.world.kernel.redis.aclose()
        await self.world.kernel.engine.dispose()

    async def do(self, use_case: Any, *arguments: Any) -> Any:
        """A use case in a transaction of its own: what it returns, or the code of its refusal."""
        try:
            async with transaction(self.world.kernel.sessions) as session:
                return await use_case(session, *arguments)
        except Refusal as refusal:
            return refusal.code


@dataclass
class ModelDrop:
    mode: str
    stock: int
    issued: int = 0
    end_reason: str | None = None
    decided: set[UUID] = field(default_factory=set)


@dataclass
class ModelCoupon:
    id: UUID
    code: str
    viewer: UUID
    store: str
    drop: UUID
    state: str = "issued"
    over: bool = False
    """Its owner was erased: no till takes it any more, also not if its use before that is taken back."""


@dataclass
class ModelUse:
    id: UUID
    coupon: ModelCoupon
    standing: bool = True


class CouponMachine(RuleBasedStateMachine):
    """Everything that happens to one campaign, in any order."""

    house: ClassVar[House]
    open_drops = Bundle("open_drops")
    coupons = Bundle("coupons")
    uses = Bundle("uses")

    @initialize(
        stock=st.integers(1, 6),
        quota=st.none() | st.integers(1, 3),
        per_viewer=st.integers(1, 2),
        return_expired=st.booleans(),
    )
    def begin(self, stock: int, quota: int | None, per_viewer: int, return_expired: bool) -> None:
        self.world = self.house.world
        self.stock, self.per_viewer, self.returns = stock, per_viewer, return_expired
        self.state, self.returned = "running", 0
        self.quotas: dict[str, int | None] = dict.fromkeys(STORES, quota)
        self.drops: dict[UUID, ModelDrop] = {}
        self.given: dict[UUID, ModelCoupon] = {}
        self.answers: dict[tuple[UUID, UUID, str], UUID] = {}
        self.used: dict[tuple[str, str], ModelUse] = {}
        self.erased: set[UUID] = set()
        self.house.run(self._begin(stock, quota, per_viewer))

    async def _begin(self, stock: int, quota: int | None, per_viewer: int) -> None:
        terms = {"store_quota": quota, "per_viewer": per_viewer, "return_expired": self.returns}
        self.campaign = await self.world.campaign(stock=stock, radius_m=REACH_M, **terms)
        await self.world.execute("DELETE FROM locations")
        self.viewers: list[Principal] = await self.world.viewers(VIEWERS, north_m=None)
        self.places: dict[UUID, float] = {}
        for number, viewer in enumerate(self.viewers):
            await self._stand(viewer, PLACES[number % len(PLACES)])

    async def _stand(self, viewer: Principal, north_m: float) -> None:
        self.places[viewer.subject] = north_m
        await self.world.locate(viewer, north_m)

    # ---- what the model knows

    @property
    def left(self) -> int:
        return self.stock - len(self.given)

    def had(self, viewer: UUID) -> int:
        return sum(coupon.viewer == viewer for coupon in self.given.values())

    def near(self, viewer: UUID) -> list[str]:
        """Stores in reach, nearest first."""
        away = {store: abs(self.places[viewer] - north) for store, north in STORES.items()}
        return sorted((store for store in away if away[store] < REACH_M), key=lambda store: away[store])

    def giving(self, viewer: UUID) -> str | None:
        taken = Counter(coupon.store for coupon in self.given.values())
        for store in self.near(viewer):
            quota = self.quotas[store]
            if quota is None or taken[store] < quota:
                return store
        return None

    def _give(self, drop: UUID, coupon: ModelCoupon) -> None:
        assert self.had(coupon.viewer) < self.per_viewer
        assert self.giving(coupon.viewer) == coupon.store
        self.given[coupon.id] = coupon
        self.drops[drop].issued += 1
        self.drops[drop].decided.add(coupon.viewer)

    def _settle(self, drop: UUID) -> None:
        """A drop that gave its last coupon, or finds that its campaign has none, is over."""
        if min(self.drops[drop].stock - self.drops[drop].issued, self.left) <= 0:
            self.drops[drop].end_reason = "sold_out"

    def _closed(self, drop: UUID) -> str | None:
        if (reason := self.drops[drop].end_reason) is not None:
            return "sold_out" if reason == "sold_out" else "ended"
        return None if self.state == "running" else "campaign_state"

    # ---- what may happen

    @rule(target=open_drops, mode=st.sampled_from(("claim", "push")), stock=st.none() | st.integers(1, 5))
    def open_drop(self, mode: str, stock: int | None) -> Any:
        found = self.house.run(
            self.house.do(drops.open_drop, self.world.guide, self.world.room, self.campaign, mode, stock, 300, 0)
        )
        refused = (
            "campaign_state" if self.state != "running"
            else "sold_out" if self.left <= 0
            else "invalid" if stock is not None and stock > self.left
            else None
        )  # fmt: skip
        if refused is not None:
            assert found == refused
            return multiple()
        self.drops[found.id] = ModelDrop(mode, self.left if stock is None else stock)
        return found.id

    @rule(target=coupons, drop=open_drops, number=st.integers(0, VIEWERS - 1), key=st.sampled_from(("a", "b", "c")))
    def claim(self, drop: UUID, number: int, key: str) -> Any:
        viewer = self.viewers[number]
        expected = self._expected(drop, viewer.subject, key)
        found = self.house.run(self._claim(drop, viewer, key))
        if isinstance(found, str):
            assert found == expected
            given: Any = multiple()
        elif (former := self.answers.get((drop, viewer.subject, key))) is not None:
            assert found.id == former, "a retry gets the same coupon"
            given = multiple()
        else:
            assert expected is None, f"said yes instead of {expected}"
            coupon = ModelCoupon(found.id, found.code, viewer.subject, found.store, drop)
            self._give(drop, coupon)
            self.answers[drop, viewer.subject, key] = found.id
            given = found.id
        if self.drops[drop].mode == "claim" and self._closed(drop) is None:
            self._settle(drop)
        return given

    async def _claim(self, drop: UUID, viewer: Principal, key: str) -> Any:
        try:
            return await self.house.issuer.claim(viewer, self.world.room, drop, key)
        except Refusal as refusal:
            return refusal.code

    def _expected(self, drop: UUID, viewer: UUID, key: str) -> str | None:
        """The refusal's code, None for a coupon (a new one, or that of the same claim before)."""
        if self.drops[drop].mode != "claim":
            return "not_found"
        if (drop, viewer, key) in self.answers:
            return None
        full = self.had(viewer) >= self.per_viewer
        if (closed := self._closed(drop)) is not None:
            return "limit_reached" if full and closed == "sold_out" else closed
        if full:
            return "limit_reached"
        if not self.near(viewer):
            return "out_of_range"
        left = min(self.left, self.drops[drop].stock - self.drops[drop].issued)
        return "sold_out" if left <= 0 or self.giving(viewer) is None else None

    @rule(target=coupons, drop=open_drops)
    def push(self, drop: UUID) -> Any:
        model = self.drops[drop]
        quiet = model.mode != "push" or self._closed(drop) is not None
        granted = self.house.run(drops.run_push(self.world.kernel.sessions, drop))
        new = [row for row in self.house.run(self._rows(drop)) if row.id not in self.given]
        assert granted == len(new)
        assert not (quiet and new), "a drop that is over, or held, gives nothing"
        for row in new:
            assert row.viewer_id not in model.decided, "nobody is decided about twice"
            assert row.store in self.near(row.viewer_id)
            self.given[row.id] = ModelCoupon(row.id, codes.display(row.code), row.viewer_id, row.store, drop)
            model.issued += 1
        if not quiet:
            found = self.house.run(self.world.execute("SELECT viewer_id FROM drop_viewers WHERE drop_id = :d", d=drop))
            model.decided = {row.viewer_id for row in found}
            if model.decided:
                self._settle(drop)
            if model.end_reason is None:
                forgotten = [
                    v.subject for v in self.viewers if v.subject not in model.decided and self.giving(v.subject)
                ]
                assert not forgotten, "somebody in reach of a store with coupons was passed over"
        return multiple(*(row.id for row in new))

    async def _rows(self, drop: UUID) -> list[Any]:
        return await self.world.execute(
            "SELECT k.id, k.viewer_id, k.code, s.code AS store FROM coupons k JOIN stores s ON s.id = k.store_id"
            " WHERE k.drop_id = :drop",
            drop=drop,
        )

    @rule(drop=consumes(open_drops))
    def end_drop(self, drop: UUID) -> None:
        self.house.run(self.house.do(drops.end_drop, self.world.guide, drop))
        self.drops[drop].end_reason = self.drops[drop].end_reason or "stopped"

    @rule(action=st.sampled_from(("pause", "run", "run")))
    def move(self, action: str) -> None:
        self.house.run(self.house.do(campaigns.move, self.world.ops, self.campaign, action))
        self.state = campaigns.STATES[action]

    @rule(stale=st.booleans(), to=st.integers(0, 8))
    def edit_budget(self, stale: bool, to: int) -> None:
        seen = self.stock - 1 if stale else self.stock
        found = self.house.run(self.house.do(campaigns.change_stock, self.world.ops, self.campaign, seen, to))
        if stale or to < len(self.given):
            assert found == "budget_conflict"
        else:
            self.stock = to

    @rule(number=st.integers(0, VIEWERS - 1), place=st.sampled_from(PLACES))
    def walk(self, number: int, place: float) -> None:
        self.house.run(self._stand(self.viewers[number], place))

    @rule(target=uses, coupon=coupons, store=st.sampled_from(tuple(STORES)), key=st.sampled_from(("t", "u", "v")))
    def redeem(self, coupon: UUID, store: str, key: str) -> Any:
        model = self.given[coupon]
        presented = redemption.Presented(model.code, None)
        key = f"{self.campaign}-{key}"
        found = self.house.run(
            self.house.do(redemption.redeem, self.world.clerk(store), presented, 15_000, key, self.house.signer, now())
        )
        former = self.used.get((store, key))
        if former is not None:
            if former.coupon is model:
                assert (found.id, found.replayed) == (former.id, True), "a till that asks again learns that it worked"
            else:
                assert found == "idempotency_mismatch"
            return multiple()
        refused = {"redeemed": "already_redeemed", "expired": "coupon_expired"}.get(model.state)
        refused = refused or ("coupon_expired" if model.over else None)
        refused = refused if store == model.store else "wrong_store"
        if refused is not None:
            assert found == refused
            return multiple()
        model.state = "redeemed"
        self.used[store, key] = ModelUse(found.id, model)
        return store, key

    @rule(use=uses, elsewhere=st.booleans())
    def reverse(self, use: tuple[str, str], elsewhere: bool) -> None:
        model = self.used[use]
        store = next(code for code in STORES if (code != use[0]) == elsewhere)
        found = self.house.run(self.house.do(redemption.reverse, self.world.clerk(store), model.id, now()))
        if elsewhere:
            assert found == "wrong_store"
        else:
            assert found.reversed_at is not None
            if model.standing:
                model.standing, model.coupon.state = False, "issued"
                assert found.coupon_now == ("ownerless" if model.coupon.over else "usable")

    @rule(chunk=st.integers(1, 3))
    def expire(self, chunk: int) -> None:
        expired = self.house.run(self._expire(chunk))
        over = [coupon for coupon in self.given.values() if coupon.state == "issued"]
        assert expired == len(over)
        for coupon in over:
            coupon.state = "expired"
            if self.returns:
                self.stock, self.returned = self.stock + 1, self.returned + 1
                quota = self.quotas[coupon.store]
                self.quotas[coupon.store] = None if quota is None else quota + 1

    async def _expire(self, chunk: int) -> int:
        done, later = 0, now() + timedelta(days=30)
        # Coupons of the machines before this one expire too; they are none of this one's business.
        mine = "SELECT count(*) FROM coupons WHERE campaign_id = :campaign AND state = 'expired'"
        before = await self.world.scalar(mine, campaign=self.campaign)
        while await ledger.expire_due(self.world.kernel.sessions, later, chunk):
            done += 1
        return int(await self.world.scalar(mine, campaign=self.campaign)) - int(before)

    @rule(number=st.integers(0, VIEWERS - 1), looked_again=st.booleans())
    def erase(self, number: int, looked_again: bool) -> None:
        """Somebody is erased, and somebody new comes to where they stood."""
        gone = self.viewers[number].subject
        assert self.house.run(self.house.do(privacy.erase, BRAND, gone, now())) is True
        assert self.house.run(self.house.do(privacy.erase, BRAND, gone, now())) is False, "doing it again does nothing"
        if looked_again:
            kernel = self.world.kernel
            self.house.run(privacy.sweep(kernel.sessions, kernel.redis, now() + timedelta(hours=1)))
        self.erased.add(gone)
        self.house.run(self._replace(number, gone))

    async def _replace(self, number: int, gone: UUID) -> None:
        left = [coupon for coupon in self.given.values() if coupon.viewer == gone]
        for coupon in left:
            coupon.viewer = await self.world.scalar("SELECT viewer_id FROM coupons WHERE id = :id", id=coupon.id)
            coupon.over = True
        assert len({coupon.viewer for coupon in left}) <= 1, "what one person had stays one person's"
        for drop in self.drops.values():
            drop.decided.discard(gone)
        (self.viewers[number],) = await self.world.viewers(1, north_m=None)
        await self._stand(self.viewers[number], self.places.pop(gone))

    # ---- what must hold after each of it

    @invariant()
    def rows_are_the_models(self) -> None:
        if hasattr(self, "campaign"):
            self.house.run(self._compare())

    async def _compare(self) -> None:
        async with self.world.kernel.sessions() as session:
            mine = {"campaign": self.campaign}
            campaign = (
                await session.execute(
                    text("SELECT stock, issued, returned, state FROM campaigns WHERE id = :campaign"), mine
                )
            ).one()
            found_drops = await session.execute(
                text("SELECT id, issued, stock, end_reason FROM drops WHERE campaign_id = :campaign"), mine
            )
            shares = await session.execute(
                text(
                    "SELECT s.code, c.quota FROM campaign_stores c JOIN stores s ON s.id = c.store_id"
                    " WHERE c.campaign_id = :campaign"
                ),
                mine,
            )
            assert all(self.quotas[code] == quota for code, quota in shares)
            found = await session.execute(
                text("SELECT id, state, viewer_id FROM coupons WHERE campaign_id = :campaign"), mine
            )
            assert tuple(campaign) == (self.stock, len(self.given), self.returned, self.state)
            assert {row.id: tuple(row)[1:] for row in found_drops} == {
                drop: (model.issued, model.stock, model.end_reason) for drop, model in self.drops.items()
            }
            assert {row.id: (row.state, row.viewer_id) for row in found} == {
                coupon.id: (coupon.state, coupon.viewer) for coupon in self.given.values()
            }
            for gone in self.erased:
                traces = await session.scalars(text(" UNION ALL ".join(TRACES)), {"member": gone})
                assert traces.all() == []
            assert (await ledger.audit(session)).findings == []


def machine_of(house: House) -> type[CouponMachine]:
    """The machine on a database; each of its games is a campaign of its own."""
    return type("Machine", (CouponMachine,), {"house": house})
