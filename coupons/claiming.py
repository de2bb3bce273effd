"""What a batch of claims of one drop gets: read everything once, decide in order of arrival, write once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Row, column, func, select, text
from sqlalchemy import Uuid as UuidType
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import codes, rules
from coupons.cards import CouponCard
from coupons.granting import Decided, Locked, Wanted, lock, note, reach, tell_stock, viewer_array, write
from coupons.tables import CampaignStore
from geo.matching import FRESH, MAX_ACCURACY_M
from geo.tables import Location
from guides.tables import Member
from kernel.clock import milliseconds

NEARBY_STORES = 4
"""Stores looked at for each viewer where stores have quotas: when one fills up, the next may still give."""

Answer = CouponCard | str
"""A coupon, or the code of the refusal."""


class Claim(NamedTuple):
    """``viewer`` wants a coupon. ``key`` is the claim's id, chosen by the client: the same id gets the same coupon."""

    brand: str
    viewer: UUID
    key: str
    room: UUID | None


@dataclass(slots=True)
class _Standing:
    """What the database says about a viewer who claims; ``near`` holds stores in reach and metres, nearest first."""

    tier: int | None
    fix: tuple[Any, Any]
    near: list[tuple[UUID, float]] = field(default_factory=list)


_FORMER = text(
    """
    SELECT c.viewer_id, c.drop_id, c.claim_key, c.id, c.code, c.state, c.valid_from, c.valid_until,
           c.distance_band_m, s.code AS store, s.name AS store_name, s.address AS store_address
    FROM coupons c JOIN stores s ON s.id = c.store_id
    WHERE c.campaign_id = :campaign AND c.viewer_id = ANY(CAST(:viewers AS uuid[]))
    """
)


async def answer_batch(session: AsyncSession, drop: UUID, claims: Sequence[Claim]) -> list[Answer]:
    """Decide ``claims`` in the order given and write what is granted; true once the caller's transaction commits.

    Two claims of one viewer with the same key are one claim, in this batch and across batches.
    """
    locked = await lock(session, drop)
    if locked is None or locked.row.mode != "claim":
        return ["not_found"] * len(claims)
    batch = _Batch(locked)
    ours = [
        claim for claim in claims if claim.brand == locked.row.brand_id and claim.room in (None, locked.row.room_id)
    ]
    batch.recall(await session.execute(_FORMER, {"campaign": locked.row.campaign_id, "viewers": _viewers(ours)}))
    waiting = batch.sift(ours)
    while waiting:
        await batch.look(session, waiting)
        wanted, deferred = batch.decide(waiting)
        cards = await write(session, locked, [want for _, want in wanted])
        for (claim, _), card in zip(wanted, cards, strict=True):
            batch.answers[claim.viewer, claim.key] = card or "limit_reached"
            batch.granted -= card is None
        await note(session, locked, batch.decided)
        batch.decided = []
        waiting = deferred
    if batch.was_open:
        await tell_stock(session, locked, batch.granted)
    return [batch.answers.get((claim.viewer, claim.key), "not_found") for claim in claims]


def _viewers(claims: Iterable[Claim]) -> list[UUID]:
    return list({claim.viewer for claim in claims})


class _Batch:
    """The bookkeeping of one batch: what is left, who has how many, who was answered what."""

    def __init__(self, locked: Locked) -> None:
        self._locked = locked
        self._held: dict[UUID, int] = {}
        self._standings: dict[UUID, _Standing] = {}
        self._quota_left: dict[UUID, int] = {}
        self._has_quotas = locked.row.store_quota is not None
        self._closed = locked.closed()
        self.was_open = self._closed is None
        self.granted = 0
        self.answers: dict[tuple[UUID, str], Answer] = {}
        self.decided: list[Decided] = []

    def recall(self, former: Iterable[Row[Any]]) -> None:
        """Count what the viewers have of this campaign, and answer retries with what they got."""
        row = self._locked.row
        for coupon in former:
            self._held[coupon.viewer_id] = self._held.get(coupon.viewer_id, 0) + 1
            if coupon.drop_id == row.drop_id and coupon.claim_key is not None:
                self.answers[coupon.viewer_id, coupon.claim_key] = CouponCard(
                    id=coupon.id,
                    title=row.title,
                    terms=rules.describe(self._locked.terms),
                    code=codes.display(coupon.code),
                    state=coupon.state,
                    store=coupon.store,
                    store_name=coupon.store_name,
                    store_address=coupon.store_address,
                    valid_from=milliseconds(coupon.valid_from),
                    valid_until=milliseconds(coupon.valid_until),
                    distance_m=coupon.distance_band_m,
                    drop=coupon.drop_id,
                )

    def sift(self, claims: Iterable[Claim]) -> list[Claim]:
        """Answer what needs no look at places; returns the other claims, each once, in order.

        A storm on a drop that is over is answered here, at the price of one index lookup each.
        """
        waiting = {}
        for claim in claims:
            identity = (claim.viewer, claim.key)
            if identity in self.answers or identity in waiting:
                continue
            if self._closed is not None:
                held = self._held.get(claim.viewer, 0)
                full = self._closed == "sold_out" and held >= self._locked.limits.per_viewer
                self.answers[identity] = "limit_reached" if full else self._closed
            else:
                waiting[identity] = claim
        return list(waiting.values())

    async def look(self, session: AsyncSession, claims: Sequence[Claim]) -> None:
        """Read tier, fix and stores in reach of the viewers of ``claims``."""
        locked, viewers = self._locked, _viewers(claims)
        near = reach(locked.area, k=NEARBY_STORES if self._has_quotas else 1, viewers=viewers)
        asked = (
            func.unnest(viewer_array("asked", viewers))
            .table_valued(column("viewer_id", UuidType()), name="asked")
            .render_derived()
        )
        query = (
            select(
                asked.c.viewer_id,
                Member.tier,
                Location.fixed_at,
                Location.accuracy_m,
                near.c.store_id,
                near.c.distance_m,
                (CampaignStore.quota - CampaignStore.issued).label("quota_left"),
            )
            .select_from(asked)
            .outerjoin(Member, (Member.id == asked.c.viewer_id) & (Member.brand_id == locked.row.brand_id))
            .outerjoin(Location, (Location.viewer_id == asked.c.viewer_id) & (Location.room_id == locked.row.room_id))
            .outerjoin(near, near.c.viewer_id == asked.c.viewer_id)
            .outerjoin(
                CampaignStore,
                (CampaignStore.campaign_id == locked.row.campaign_id) & (CampaignStore.store_id == near.c.store_id),
            )
            .order_by(near.c.rank)
        )
        self._standings = {}
        for found in await session.execute(query):
            standing = self._standings.get(found.viewer_id)
            if standing is None:
                fix = (found.fixed_at, found.accuracy_m)
                standing = self._standings[found.viewer_id] = _Standing(found.tier, fix)
            if found.store_id is not None:
                standing.near.append((found.store_id, found.distance_m))
                if self._has_quotas:
                    quota = self._locked.row.store_quota if found.quota_left is None else found.quota_left
                    self._quota_left[found.store_id] = quota
        await self._look_past_full_stores(session)

    async def _look_past_full_stores(self, session: AsyncSession) -> None:
        """Tell those who stand before a store that has no more from those who stand before none."""
        lost = [viewer for viewer, standing in self._standings.items() if not standing.near]
        if self._has_quotas and lost:
            full = reach(self._locked.area, viewers=lost, full_too=True)
            for viewer, store, distance in await session.execute(
                select(full.c.viewer_id, full.c.store_id, full.c.distance_m)
            ):
                self._standings[viewer].near.append((store, distance))
                self._quota_left[store] = 0

    def decide(self, claims: Iterable[Claim]) -> tuple[list[tuple[Claim, Wanted]], list[Claim]]:
        """Who gets one of which store, and which claims must look again because their stores filled up just now."""
        wanted, deferred = [], []
        for claim in claims:
            standing = self._standings[claim.viewer]
            reason = self._refusal(claim, standing)
            if reason is not None:
                self.answers[claim.viewer, claim.key] = reason
                continue
            found = rules.first_with_quota(standing.near, self._quota_left)
            if found is None:
                if len(standing.near) == NEARBY_STORES:
                    deferred.append(claim)
                else:
                    self._refuse_in_range(claim, standing, "sold_out")
                continue
            store, distance = found
            if self._has_quotas:
                self._quota_left[store] -= 1
            held = self._held[claim.viewer] = self._held.get(claim.viewer, 0) + 1
            self.granted += 1
            wanted.append((claim, Wanted(claim.viewer, held, store, distance, claim.key)))
        return wanted, deferred

    def _refusal(self, claim: Claim, standing: _Standing) -> str | None:
        limits = self._locked.limits
        reason = rules.barred(limits, tier=standing.tier, held=self._held.get(claim.viewer, 0))
        if reason is not None:
            return reason
        if not standing.near:
            return rules.unplaced(*standing.fix, fresh_after=self._locked.at - FRESH, max_accuracy_m=MAX_ACCURACY_M)
        if rules.held_out(limits, claim.viewer):
            return self._refuse_in_range(claim, standing, "held_out")
        if self.granted >= self._locked.left:
            return self._refuse_in_range(claim, standing, "sold_out")
        return None

    def _refuse_in_range(self, claim: Claim, standing: _Standing, reason: str) -> str:
        self.answers[claim.viewer, claim.key] = reason
        store, distance = standing.near[0]
        self.decided.append(Decided(claim.viewer, store, reason, distance))
        return reason
