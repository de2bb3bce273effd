"""Campaigns: a coupon's terms, stock, stores and limits, and their way from draft to ended."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, insert, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import rules
from coupons.cards import DropStock
from coupons.tables import Campaign, CampaignStore, Drop
from coupons.terms import terms_of, tiers_of
from geo.tables import Store
from kernel.clock import now
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.ids import new_id
from kernel.outbox import emit_everywhere

MOVES = {"run": ("draft", "paused"), "pause": ("running",), "end": ("draft", "running", "paused")}
"""What can be done to a campaign, and in which states."""
_IN_ORDER = (("claim_from", "claim_until"), ("valid_from", "valid_until"), ("claim_from", "valid_until"))
"""Moments of which the second must lie after the first. Coupons may be claimed before they hold."""
STATES = {"run": "running", "pause": "paused", "end": "ended"}


async def create(
    session: AsyncSession, who: Principal, columns: dict[str, Any], store_codes: Sequence[str] | None
) -> Campaign:
    """A draft from ``columns`` of ``Campaign``; ``store_codes`` None: every store of the brand.

    Refusal ``invalid`` where the terms promise nothing, no end of validity is given, a store is unknown, or another
    campaign of the brand has its ``key``.
    """
    _check(columns)
    identity = new_id()
    row = columns | {"id": identity, "brand_id": who.brand, "all_stores": store_codes is None}
    made = upsert(Campaign).values(row).on_conflict_do_nothing(index_elements=["brand_id", "key"])
    if await session.scalar(made.returning(Campaign.id)) is None:
        raise Refusal("invalid", "A campaign of the brand has this key already.", field="key")
    if store_codes is not None:
        await _take_part(session, who.brand, identity, columns.get("store_quota"), store_codes)
    return await get(session, who.brand, identity)


async def redraft(
    session: AsyncSession, who: Principal, campaign: UUID, columns: dict[str, Any], store_codes: Sequence[str] | None
) -> Campaign:
    """Give a draft all of its terms anew, as ``create`` would; Refusal also ``not_found``, ``campaign_state``."""
    _check(columns)
    changed = update(Campaign).where(Campaign.id == campaign, Campaign.brand_id == who.brand, Campaign.state == "draft")
    if not (await session.execute(changed.values(columns | {"all_stores": store_codes is None}))).rowcount:  # type: ignore[attr-defined]
        found = await get(session, who.brand, campaign)
        raise Refusal("campaign_state", f"A campaign that is {found.state} cannot do this.", state=found.state)
    await session.execute(delete(CampaignStore).where(CampaignStore.campaign_id == campaign))
    if store_codes is not None:
        await _take_part(session, who.brand, campaign, columns.get("store_quota"), store_codes)
    return await get(session, who.brand, campaign)


def _check(columns: dict[str, Any]) -> None:
    """Refusal ``invalid`` for terms that no till could carry out, and for times that make no sense."""
    campaign = Campaign(**columns)
    terms = terms_of(campaign)
    if (wrong := rules.terms_problem(terms)) is not None:
        field, reason = wrong
        raise Refusal("invalid", reason, field=field)
    if (problem := rules.tiers_problem(terms, tiers_of(campaign))) is not None:
        raise Refusal("invalid", problem, field="distance_tiers")
    if (campaign.usable_from is None) != (campaign.usable_until is None) or (
        campaign.usable_from is not None and campaign.usable_from == campaign.usable_until
    ):
        raise Refusal("invalid", "Give both usable_from and usable_until, and not the same.", field="usable_until")
    if campaign.valid_until is None and campaign.valid_days is None:
        raise Refusal("invalid", "Say until when the coupons hold: valid_until or valid_days.", field="valid_until")
    for first, last in _IN_ORDER:
        if columns.get(first) and columns.get(last) and columns[first] >= columns[last]:
            raise Refusal("invalid", f"{last} must lie after {first}.", field=last)
        if columns.get(last) and columns[last] <= now():
            raise Refusal("invalid", f"{last} is over already.", field=last)


async def _take_part(
    session: AsyncSession, brand: str, campaign: UUID, quota: int | None, codes: Sequence[str]
) -> None:
    query = select(Store.code, Store.id).where(Store.brand_id == brand, Store.code.in_(codes))
    stores = dict((await session.execute(query)).all())
    unknown = sorted(set(codes) - set(stores))
    if unknown or not stores:
        raise Refusal("invalid", "These stores are not known.", field="store_codes", unknown=unknown[:20])
    rows = [{"campaign_id": campaign, "store_id": store, "quota": quota} for store in sorted(stores.values())]
    await session.execute(insert(CampaignStore), rows)


async def get(session: AsyncSession, brand: str, campaign: UUID) -> Campaign:
    """A campaign of ``brand``; Refusal ``not_found``."""
    query = select(Campaign).where(Campaign.id == campaign, Campaign.brand_id == brand)
    found = await session.scalar(query.execution_options(populate_existing=True))
    if found is None:
        raise Refusal("not_found", what=str(campaign))
    return found


async def newest(
    session: AsyncSession, brand: str, limit: int, before: tuple[datetime, UUID] | None = None
) -> list[Campaign]:
    """Campaigns of ``brand``, newest first, older than ``before`` (time of creation and id)."""
    query = select(Campaign).where(Campaign.brand_id == brand)
    if before is not None:
        query = query.where(tuple_(Campaign.created_at, Campaign.id) < before)
    query = query.order_by(Campaign.created_at.desc(), Campaign.id.desc()).limit(limit)
    return list(await session.scalars(query))


async def store_codes(session: AsyncSession, campaigns: Sequence[Campaign]) -> dict[UUID, list[str]]:
    """The codes of the stores of those ``campaigns`` that not all stores take part in."""
    some = [campaign.id for campaign in campaigns if not campaign.all_stores]
    query = (
        select(CampaignStore.campaign_id, func.array_agg(Store.code))
        .join(Store, Store.id == CampaignStore.store_id)
        .where(CampaignStore.campaign_id.in_(some))
        .group_by(CampaignStore.campaign_id)
    )
    return {campaign: sorted(found) for campaign, found in (await session.execute(query))} if some else {}


async def move(session: AsyncSession, who: Principal, campaign: UUID, action: str) -> Campaign:
    """``run``, ``pause`` or ``end`` a campaign; doing it again changes nothing. The next batch of claims obeys it.

    Refusal ``not_found``, ``campaign_state``.
    """
    moved = update(Campaign).where(
        Campaign.id == campaign, Campaign.brand_id == who.brand, Campaign.state.in_(MOVES[action])
    )
    await session.execute(moved.values(state=STATES[action]))
    found = await get(session, who.brand, campaign)
    if found.state != STATES[action]:
        raise Refusal("campaign_state", f"A campaign that is {found.state} cannot do this.", state=found.state)
    return found


async def change_stock(session: AsyncSession, who: Principal, campaign: UUID, current: int, target: int) -> Campaign:
    """Set the stock to ``target`` if it still is ``current``. Never below what is issued, and not once it is ended.

    Rooms in which it changes what is left hear of it.

    Refusal ``not_found``, ``campaign_state``, ``budget_conflict`` (with what it is now).
    """
    changed = update(Campaign).where(
        Campaign.id == campaign,
        Campaign.brand_id == who.brand,
        Campaign.state != "ended",
        Campaign.stock == current,
        Campaign.issued <= target,
    )
    done = await session.scalar(changed.values(stock=target).returning(Campaign.id))
    found = await get(session, who.brand, campaign)
    if done is None and found.state == "ended":
        raise Refusal("campaign_state", "A campaign that is ended keeps its stock.", state=found.state)
    if done is None:
        given = f"{found.issued} coupons are given already; the stock cannot be less than that."
        reason = given if found.stock == current else None
        raise Refusal("budget_conflict", reason, stock=found.stock, issued=found.issued)
    await _tell_rooms(session, found, current)
    return found


async def _tell_rooms(session: AsyncSession, campaign: Campaign, stock_before: int) -> None:
    # Every grant of the campaign holds its row first, as we do: nobody tells of another number meanwhile.
    of_campaign = select(Drop.id, Drop.room_id, Drop.stock - Drop.issued)
    open_drops = await session.execute(of_campaign.where(Drop.campaign_id == campaign.id, Drop.state == "open"))
    before, left = stock_before - campaign.issued, campaign.stock - campaign.issued
    told = [
        (room, "coupons.drop_stock", DropStock(drop, min(left, of_drop)))
        for drop, room, of_drop in open_drops
        if min(left, of_drop) != min(before, of_drop)
    ]
    await emit_everywhere(session, told)
