"""What a push drop would do if it were released now: whom it would reach, at which stores, and why not the others."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import inf
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import Select, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import history, rules
from coupons.drops import require_host
from coupons.granting import partaking
from coupons.locking import Area
from coupons.push import held
from coupons.reach import Match, match
from coupons.tables import Campaign, CampaignStore
from coupons.terms import limits_of, quiet_of
from geo.matching import FRESH, MAX_ACCURACY_M, candidates
from geo.tables import Store
from kernel.clock import milliseconds
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.tables import Brand

CHOICES = 20
"""Stores in reach of a viewer that are looked at where the nearest have given all of theirs."""

_FIXES = text(
    """
    SELECT count(*) FILTER (WHERE l.fixed_at > :fresh_after AND l.accuracy_m <= :max_accuracy) AS located,
           count(*) FILTER (WHERE l.fixed_at <= :fresh_after) AS stale,
           count(*) FILTER (WHERE l.fixed_at > :fresh_after AND l.accuracy_m > :max_accuracy) AS uncertain
    FROM locations l WHERE l.room_id = :room
    """
)


class StoreViewers(msgspec.Struct, frozen=True):
    """A store and how many eligible viewers are in its reach."""

    code: str
    name: str
    viewers: int


class Preview(msgspec.Struct, frozen=True):
    """What a push drop would do now. ``reasons`` counts, by refusal code, the viewers with a fix who would get none.

    ``held_until``, in milliseconds, is when the brand's quiet hours end and viewers would be told; None: at once.
    """

    located: int
    in_range: int
    eligible: int
    reasons: dict[str, int]
    stores: list[StoreViewers]
    held_until: int | None = None


async def preview(session: AsyncSession, who: Principal, room: UUID, campaign: UUID) -> Preview:
    """Whom a push drop of ``campaign`` would reach in ``room`` now, and why not the others."""
    host = await require_host(session, who, room)
    query = select(Campaign, Brand).join(Brand, Brand.id == Campaign.brand_id)
    row = (await session.execute(query.where(Campaign.id == campaign, Campaign.brand_id == who.brand))).one_or_none()
    if row is None:
        raise Refusal("not_found", what=str(campaign))
    found, brand = row
    clock = host.at.astimezone(ZoneInfo(brand.timezone)).time() if found.only_open else None
    area = Area(room, who.brand, campaign, found.all_stores, found.radius_m, found.near_counts, host.at, clock)
    matches = await match(session, area, drop=None)
    reasons, stores = await _foresee(session, found, brand, area, matches)
    values = {"room": room, "fresh_after": host.at - FRESH, "max_accuracy": MAX_ACCURACY_M}
    fixes = (await session.execute(_FIXES, values)).one()
    in_range = len(matches)
    if found.store_quota is not None:
        # Whoever is in reach of stores only that have given all of theirs is not out of reach.
        in_range = await session.scalar(select(func.count()).select_from(_near(area, partaking(area)).subquery())) or 0
        reasons["sold_out"] += in_range - len(matches)
    reasons["out_of_range"] = fixes.located - in_range
    reasons["location_stale"] = fixes.stale
    reasons["location_uncertain"] = fixes.uncertain
    hours = quiet_of(brand)
    quiet = None if hours is None else hours.until(host.at)
    return Preview(
        located=fixes.located,
        in_range=in_range,
        eligible=stores.total(),
        reasons={code: n for code, n in sorted(reasons.items()) if n > 0},
        stores=await _named(session, stores),
        held_until=None if quiet is None else milliseconds(quiet),
    )


def _near(
    area: Area, stores: Select[Any], viewers: Sequence[UUID] | None = None, k: int = 1
) -> Select[UUID, UUID, float, str, int, str | None]:
    return candidates(
        area.room,
        stores,
        radius_m=area.radius_m,
        near_counts=area.near_counts,
        fresh_after=area.at - FRESH,
        viewers=viewers,
        k=k,
    )


async def _foresee(
    session: AsyncSession, campaign: Campaign, brand: Brand, area: Area, matches: Sequence[Match]
) -> tuple[Counter[str], Counter[UUID]]:
    """Why some of ``matches`` would get none, and how many the others would get at which store: as ``coupons.push``
    decides it, pass by pass, while stores fill up."""
    viewers = [m.viewer for m in matches]
    has = await held(session, campaign.id, viewers)
    limits = limits_of(campaign, campaign.id, brand.cap_coupons)
    histories = await history.of(session, brand.id, viewers, limits, brand.cap_days, area.at)
    today = area.at.astimezone(ZoneInfo(brand.timezone)).date()
    left_today = rules.left_of_day(campaign.per_day, counted_on=campaign.day, issued=campaign.day_issued, today=today)
    left = campaign.stock - campaign.issued
    left -= rules.reserve(left, campaign.reserve_percent, matched=False)
    quotas = await _Quotas.read(session, campaign)
    reasons: Counter[str] = Counter()
    stores: Counter[UUID] = Counter()
    waiting, choices = list(matches), None
    while waiting:
        crowded = []
        for one in waiting:
            had = histories.get(one.viewer, rules.NEWCOMER)
            reason = rules.barred(limits, tier=one.tier, held=has.get(one.viewer, 0), history=had)
            reason = reason or rules.passed_over(limits, one.viewer, one.doubt)
            reason = reason or rules.exhausted(stores.total(), left=left, left_today=left_today)
            if reason is None and stores[one.store] >= quotas.of(one.store):
                crowded.append(one)
            elif reason := reason or rules.to_review(limits, one.doubt):
                reasons[reason] += 1
            else:
                stores[one.store] += 1
        if choices is None and crowded:
            choices = await _choices(session, area, [one.viewer for one in crowded])
        waiting = []
        for one in crowded:
            free = [place for place in (choices or {}).get(one.viewer, []) if stores[place[0]] < quotas.of(place[0])]
            if free:
                waiting.append(msgspec.structs.replace(one, store=free[0][0], distance_m=free[0][1]))
            else:
                reasons["sold_out"] += 1
        waiting.sort(key=attrgetter("distance_m", "viewer"))
    return reasons, stores


class _Quotas(NamedTuple):
    """How many each store may still give: ``every`` one that is not in ``some``; None for any number."""

    every: int | None
    some: dict[UUID, int]

    @classmethod
    async def read(cls, session: AsyncSession, campaign: Campaign) -> "_Quotas":
        given = select(CampaignStore.store_id, CampaignStore.quota - CampaignStore.issued).where(
            CampaignStore.campaign_id == campaign.id, CampaignStore.quota.is_not(None)
        )
        some = {store: left for store, left in await session.execute(given) if left is not None}
        return cls(campaign.store_quota, some)

    def of(self, store: UUID) -> float:
        return inf if self.every is None else self.some.get(store, self.every)


async def _choices(session: AsyncSession, area: Area, viewers: Sequence[UUID]) -> dict[UUID, list[rules.Place]]:
    """The stores in reach of ``viewers``, nearest first."""
    found: dict[UUID, list[rules.Place]] = defaultdict(list)
    near = _near(area, partaking(area), viewers, CHOICES).subquery("near")
    query = select(near.c.viewer_id, near.c.store_id, near.c.distance_m).order_by(near.c.viewer_id, near.c.rank)
    for viewer, store, distance_m in await session.execute(query):
        found[viewer].append((store, distance_m))
    return found


async def _named(session: AsyncSession, stores: Counter[UUID]) -> list[StoreViewers]:
    query = select(Store.id, Store.code, Store.name).where(Store.id.in_(stores))
    names = {store.id: store for store in await session.execute(query)}
    return [StoreViewers(names[store].code, names[store].name, n) for store, n in stores.most_common()]
