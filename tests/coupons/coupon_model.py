"""One campaign, its drops, coupons and redemptions as a few dictionaries, played beside the real database.

``CouponMachine`` does to both what Hypothesis thinks of; after every step the rows must be the model's, and the audit
content.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID

import msgspec
from house_for_models import STORES, House
from hypothesis import event
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from sqlalchemy import text
from world import BRAND, ZONE

from app import privacy
from coupons import campaigns, codes, drops, holding, ledger, redemption, voiding
from coupons.cards import Issued
from kernel.clock import now
from kernel.errors import Refusal
from kernel.identity import Principal

PLACES = (0.0, 400.0, 1_600.0, 2_100.0, 20_000.0)
"""Metres north of S1; the last one is out of everybody's reach."""
REACH_M = 3_000
VIEWERS = 4
TILL_SAYS = {"redeemed": "already_redeemed", "expired": "coupon_expired", "voided": "coupon_voided"}
SELDOM = st.sampled_from((False, False, False, True))
KEYS = st.sampled_from(("t", "u", "v", "w"))
"""Of tills: few, so that some meet again."""
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
    uses: int = 0
    held: bool = False
    """It was given in quiet hours: its owner does not know of it, and no till takes it yet."""
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

    # Hypothesis leaves out some rules in each game: without drops from the start, most games would never see a coupon.
    @initialize(
        target=open_drops,
        stock=st.integers(2, 8),
        quota=st.none() | st.integers(1, 3),
        per_viewer=st.integers(1, 2),
        per_minute=st.none() | st.integers(1, 2),
        return_expired=st.booleans(),
    )
    def begin(
        self, stock: int, quota: int | None, per_viewer: int, per_minute: int | None, return_expired: bool
    ) -> Any:
        self.world, self.per_minute = self.house.world, per_minute
        self.stock, self.per_viewer, self.returns = stock, per_viewer, return_expired
        self.state, self.returned, self.night = "running", 0, False
        self.quotas: dict[str, int | None] = dict.fromkeys(STORES, quota)
        self.drops: dict[UUID, ModelDrop] = {}
        self.given: dict[UUID, ModelCoupon] = {}
        self.answers: dict[tuple[UUID, UUID, str], UUID] = {}
        self.used: dict[tuple[str, str], ModelUse] = {}
        self.erased: set[UUID] = set()
        self.house.run(self._begin(quota))
        return multiple(*(self._open(mode, None).id for mode in ("claim", "push")))

    async def _begin(self, quota: int | None) -> None:
        terms = {
            "store_quota": quota, "per_viewer": self.per_viewer, "per_minute": self.per_minute,
            "return_expired": self.returns,
        }  # fmt: skip
        self.campaign = await self.world.campaign(stock=self.stock, radius_m=REACH_M, **terms)
        await self.world.execute("DELETE FROM locations")
        await self._fall_asleep(False)
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

    def note(self, what: str) -> None:
        """It happened: for Hypothesis's statistics, and for whoever asks whether everything did."""
        event(what)
        self.house.happened[what] += 1

    # ---- what may happen

    @rule(target=open_drops, mode=st.sampled_from(("claim", "push")), stock=st.none() | st.integers(1, 5))
    def open_drop(self, mode: str, stock: int | None) -> Any:
        found = self._open(mode, stock)
        refused = (
            "campaign_state" if self.state != "running"
            else "sold_out" if self.left <= 0
            else "invalid" if stock is not None and stock > self.left
            else None
        )  # fmt: skip
        self.note(f"open a {mode} drop: {refused or 'open'}")
        if refused is not None:
            assert found == refused
            return multiple()
        return found.id

    def _open(self, mode: str, stock: int | None) -> Any:
        """What is answered: a drop, or a refusal's code."""
        found = self.house.run(
            self.house.do(drops.open_drop, self.world.guide, self.world.room, self.campaign, mode, stock, 300, 0)
        )
        if not isinstance(found, str):
            if any(self._closed(drop) is None for drop in self.drops):
                self.note("two drops at once")
            self.drops[found.id] = ModelDrop(mode, self.left if stock is None else stock)
        return found

    @rule(target=coupons, drop=open_drops, number=st.integers(0, VIEWERS - 1), key=st.sampled_from(("a", "b", "c")))
    def claim(self, drop: UUID, number: int, key: str) -> Any:
        return self._try(drop, number, key)

    def _try(self, drop: UUID, number: int, key: str) -> Any:
        """The new coupon's id, or none."""
        viewer = self.viewers[number]
        expected = self._expected(drop, viewer.subject, key)
        found = self.house.run(self._claim(drop, viewer, key))
        self.note(f"claim: {found if isinstance(found, str) else 'a coupon'}")
        if isinstance(found, str):
            assert found == expected
            given: Any = multiple()
        elif (former := self.answers.get((drop, viewer.subject, key))) is not None:
            assert found.id == former, "a retry gets the same coupon"
            self.note("claim: again")
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
        reason = self._refused(drop, viewer, key)
        untold = any(coupon.held and coupon.viewer == viewer for coupon in self.given.values())
        return "quiet_hours" if reason == "limit_reached" and untold else reason

    def _refused(self, drop: UUID, viewer: UUID, key: str) -> str | None:
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

    @rule(target=coupons, drop=open_drops, key=st.sampled_from(("a", "b")))
    def everybody_claims(self, drop: UUID, key: str) -> Any:
        """One after the other, so that it is known who comes too late."""
        given = [self._try(drop, number, key) for number in range(VIEWERS)]
        return multiple(*(coupon for coupon in given if isinstance(coupon, UUID)))

    @rule(target=coupons, drop=open_drops)
    def push(self, drop: UUID) -> Any:
        model = self.drops[drop]
        quiet = model.mode != "push" or self._closed(drop) is not None
        granted = self.house.run(drops.run_push(self.world.kernel.sessions, drop))
        new = [row for row in self.house.run(self._rows(drop)) if row.id not in self.given]
        assert granted == len(new)
        self.note(f"push: {'quiet' if quiet else 'coupons' if new else 'none'}")
        assert not (quiet and new), "a drop that is over, or held, gives nothing"
        for row in new:
            assert row.viewer_id not in model.decided, "nobody is decided about twice"
            assert row.store in self.near(row.viewer_id)
            coupon = ModelCoupon(row.id, codes.display(row.code), row.viewer_id, row.store, drop, held=self.night)
            self.given[row.id] = coupon
            model.issued += 1
        if not quiet:
            before, model.decided = model.decided, self.house.run(self._decided(drop))
            # A run that finds nobody new ends nothing: that is the sweep's. Pseudonyms are nobody new.
            if any(viewer.subject in model.decided - before for viewer in self.viewers):
                self._settle(drop)
            if self.house.run(self._held_till_the_next_minute(drop)):
                self.note("push: held by its pace")
            elif model.end_reason is None:
                forgotten = [
                    v.subject for v in self.viewers if v.subject not in model.decided and self.giving(v.subject)
                ]
                assert not forgotten, "somebody in reach of a store with coupons was passed over"
        return multiple(*(row.id for row in new))

    async def _decided(self, drop: UUID) -> set[UUID]:
        with_one, without = (
            f"SELECT viewer_id FROM {table} WHERE drop_id = :drop" for table in ("coupons", "drop_viewers")
        )
        return {row.viewer_id for row in await self.world.execute(f"{with_one} UNION {without}", drop=drop)}

    async def _held_till_the_next_minute(self, drop: UUID) -> bool:
        given = await self.world.scalar("SELECT minute_issued FROM drops WHERE id = :drop", drop=drop)
        assert self.per_minute is None or given <= self.per_minute
        return self.per_minute is not None and given == self.per_minute

    @rule()
    def a_minute_passes(self) -> None:
        """Seen from the drops, and what they gave: everything of theirs was a minute earlier."""
        for table, column in (("drops", "opens_at"), ("coupons", "issued_at")):
            earlier = f"UPDATE {table} SET {column} = {column} - interval '1 minute' WHERE campaign_id = :campaign"
            self.house.run(self.world.execute(earlier, campaign=self.campaign))
        self.note("a minute passes")

    @rule(sleep=st.booleans())
    def fall_asleep(self, sleep: bool) -> None:
        """The brand's quiet hours are around now, or far away."""
        self.night = sleep
        self.house.run(self._fall_asleep(sleep))
        self.note("night" if sleep else "day")

    async def _fall_asleep(self, sleep: bool) -> None:
        begins, ends = ((now() + timedelta(hours=h)).astimezone(ZONE).time() for h in ((-3, 3) if sleep else (9, 12)))
        await self.world.execute(
            "UPDATE brands SET quiet_from = :begins, quiet_until = :ends", begins=begins, ends=ends
        )

    @rule()
    def wake_up(self) -> None:
        """What was held is told, as if the hours were over; seen from its coupons, they are."""
        held = {coupon.id for coupon in self.given.values() if coupon.held}
        told = self.house.run(self._wake_up())
        assert told == {
            coupon for coupon in held if self.given[coupon].state == "issued" and not self.given[coupon].over
        }
        self.note(f"wake up: {'told' if told else 'nothing'}")
        for coupon in held:
            self.given[coupon].held = False

    async def _wake_up(self) -> set[UUID]:
        newest = await self.world.scalar("SELECT coalesce(max(id), 0) FROM outbox")
        while await holding.tell_due(self.world.kernel.sessions, now() + timedelta(hours=4)):
            pass
        begun = "UPDATE coupons SET valid_from = issued_at WHERE campaign_id = :campaign AND valid_from > issued_at"
        await self.world.execute(begun, campaign=self.campaign)
        rows = await self.world.execute(
            "SELECT payload FROM outbox WHERE id > :newest AND topic = 'coupons.issued'", newest=newest
        )
        told = [
            grant.coupon.id for row in rows for grant in msgspec.json.decode(bytes(row.payload), type=Issued).grants
        ]
        assert len(set(told)) == len(told)
        return {coupon for coupon in told if coupon in self.given}

    async def _rows(self, drop: UUID) -> list[Any]:
        return await self.world.execute(
            "SELECT k.id, k.viewer_id, k.code, s.code AS store FROM coupons k JOIN stores s ON s.id = k.store_id"
            " WHERE k.drop_id = :drop",
            drop=drop,
        )

    @rule(drop=open_drops)
    def end_drop(self, drop: UUID) -> None:
        self.house.run(self.house.do(drops.end_drop, self.world.guide, drop))
        self.drops[drop].end_reason = self.drops[drop].end_reason or "stopped"
        self.note("end a drop")

    @rule(action=st.sampled_from(("pause", "run", "run")))
    def move(self, action: str) -> None:
        self.house.run(self.house.do(campaigns.move, self.world.ops, self.campaign, action))
        self.state = campaigns.STATES[action]
        self.note(action)

    @rule(stale=st.booleans(), to=st.integers(0, 8))
    def edit_budget(self, stale: bool, to: int) -> None:
        seen = self.stock - 1 if stale else self.stock
        found = self.house.run(self.house.do(campaigns.change_stock, self.world.ops, self.campaign, seen, to))
        if stale or to < len(self.given):
            assert found == "budget_conflict"
            self.note("edit the budget: budget_conflict")
        else:
            self.note(f"edit the budget: {'less' if to < self.stock else 'more'}")
            self.stock = to

    @rule(number=st.integers(0, VIEWERS - 1), place=st.sampled_from(PLACES))
    def walk(self, number: int, place: float) -> None:
        self.house.run(self._stand(self.viewers[number], place))

    @rule(target=uses, coupon=coupons, elsewhere=SELDOM, key=KEYS)
    def redeem(self, coupon: UUID, elsewhere: bool, key: str) -> Any:
        return self._redeem(self.given[coupon], elsewhere, key)

    @rule(target=uses, use=uses, key=KEYS)
    def redeem_once_more(self, use: tuple[str, str], key: str) -> Any:
        return self._redeem(self.used[use].coupon, False, key)

    def _redeem(self, model: ModelCoupon, elsewhere: bool, key: str) -> Any:
        store = next(code for code in STORES if (code != model.store) == elsewhere)
        presented = redemption.Presented(model.code, None)
        key = f"{self.campaign}-{key}"
        found = self.house.run(
            self.house.do(redemption.redeem, self.world.clerk(store), presented, 15_000, key, self.house.signer, now())
        )
        former = self.used.get((store, key))
        if former is not None:
            if former.coupon is model:
                assert (found.id, found.replayed) == (former.id, True), "a till that asks again learns that it worked"
                self.note("redeem: again")
            else:
                self.note("redeem: idempotency_mismatch")
                assert found == "idempotency_mismatch"
            return multiple()
        refused = TILL_SAYS.get(model.state) or ("coupon_expired" if model.over else None)
        refused = refused or ("coupon_not_yet_valid" if model.held else None)
        refused = refused if store == model.store else "wrong_store"
        self.note(f"redeem: {refused or ('used once more' if model.uses else 'used')}")
        if refused is not None:
            assert found == refused
            return multiple()
        model.state, model.uses = "redeemed", model.uses + 1
        self.used[store, key] = ModelUse(found.id, model)
        return store, key

    @rule(use=uses, elsewhere=SELDOM)
    def reverse(self, use: tuple[str, str], elsewhere: bool) -> None:
        model = self.used[use]
        store = next(code for code in STORES if (code != use[0]) == elsewhere)
        found = self.house.run(self.house.do(redemption.reverse, self.world.clerk(store), model.id, now()))
        self.note(f"reverse: {'wrong_store' if elsewhere else found.coupon_now if model.standing else 'again'}")
        if elsewhere:
            assert found == "wrong_store"
        else:
            assert found.reversed_at is not None
            if model.standing:
                model.standing, model.coupon.state = False, "issued"
                assert found.coupon_now == ("ownerless" if model.coupon.over else "usable")

    @rule(coupon=coupons)
    def void(self, coupon: UUID) -> None:
        model = self.given[coupon]
        found = self.house.run(self.house.do(voiding.void, self.world.ops, model.code, now()))
        refused = {"redeemed": "already_redeemed", "expired": "coupon_expired"}.get(model.state)
        refused = refused or ("coupon_expired" if model.over and model.state == "issued" else None)
        self.note(f"void: {refused or model.state}")
        if refused is not None:
            assert found == refused
        else:
            assert found.id == coupon
            model.state = "voided"

    @rule(chunk=st.integers(1, 3))
    def expire(self, chunk: int) -> None:
        expired = self.house.run(self._expire(chunk))
        over = [coupon for coupon in self.given.values() if coupon.state == "issued"]
        assert expired == len(over)
        self.note(f"expire: {'returned' if over and self.returns else 'some' if over else 'none'}")
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
        self._erase(number, looked_again)

    @rule(use=uses)
    def erase_customer(self, use: tuple[str, str]) -> None:
        """As above, of somebody who used a coupon, if that was not done yet."""
        owner = self.used[use].coupon.viewer
        for number, viewer in enumerate(self.viewers):
            if viewer.subject == owner:
                return self._erase(number, False)

    def _erase(self, number: int, looked_again: bool) -> None:
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
        for state in {coupon.state for coupon in left} or {"no"}:
            self.note(f"erase: with {state} coupons")
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
                text("SELECT id, state, viewer_id, held_until FROM coupons WHERE campaign_id = :campaign"), mine
            )
            assert tuple(campaign) == (self.stock, len(self.given), self.returned, self.state)
            assert {row.id: tuple(row)[1:] for row in found_drops} == {
                drop: (model.issued, model.stock, model.end_reason) for drop, model in self.drops.items()
            }
            assert {row.id: (row.state, row.viewer_id, row.held_until is not None) for row in found} == {
                coupon.id: (coupon.state, coupon.viewer, coupon.held) for coupon in self.given.values()
            }
            for gone in self.erased:
                traces = await session.scalars(text(" UNION ALL ".join(TRACES)), {"member": gone})
                assert traces.all() == []
            assert (await ledger.audit(session)).findings == []


def machine_of(house: House) -> type[CouponMachine]:
    """The machine on a database; each of its games is a campaign of its own."""
    return type("Machine", (CouponMachine,), {"house": house})
