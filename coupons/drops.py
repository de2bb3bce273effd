"""Drops: opened by guides, seen by rooms, ended by time, by the guide, or by the last coupon."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import Row, func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import rules
from coupons.cards import DropCard, DropOpened, DropView, EndReason
from coupons.codes import Signer
from coupons.granting import end
from coupons.locking import lock
from coupons.push import grant_arrivals, run_push
from coupons.tables import Campaign, Drop
from coupons.terms import offer_of, quiet_of
from kernel.clock import milliseconds
from kernel.errors import Refusal
from kernel.identity import Principal, Role
from kernel.ids import new_id
from kernel.outbox import emit
from kernel.postgres import Sessions, transaction
from kernel.tables import Brand

__all__ = [
    "close_due",
    "due",
    "end_drop",
    "grant_arrivals",
    "list_drops",
    "open_drop",
    "require_host",
    "run_push",
    "view_of",
]

SPREAD_MS = 500
"""Thousands wait with a finger on the button for an opening that was announced: their turns come within so long."""

# The room's row is the room service's; coupons only read it.
_ROOM = text("SELECT id, brand_id, guide_id, state, clock_timestamp() AS at FROM rooms WHERE id = :room")
# A room cannot end while a drop is being opened in it.
_HOLD_ROOM = text("SELECT 1 FROM rooms WHERE id = :room FOR SHARE")
_HOLD_GUIDE = text("SELECT 1 FROM staff WHERE id = :guide FOR NO KEY UPDATE")

_DUE = text(
    """
    SELECT d.id, d.opens_at, d.minute, d.minute_issued, c.per_minute, c.per_day, c.day, c.day_issued,
            b.timezone, clock_timestamp() AS at
    FROM drops d JOIN campaigns c ON c.id = d.campaign_id JOIN brands b ON b.id = c.brand_id
    WHERE d.state = 'open' AND d.mode = 'push' AND (d.matched_at IS NULL OR d.match_again)
      AND d.opens_at <= clock_timestamp() AND d.ends_at > clock_timestamp()
      AND c.state = 'running' AND (c.claim_from IS NULL OR c.claim_from <= clock_timestamp())
    ORDER BY d.opens_at
    """
)
_OVER = text(
    """
    SELECT d.id FROM drops d JOIN campaigns c ON c.id = d.campaign_id JOIN rooms r ON r.id = d.room_id
    WHERE d.state = 'open'
      AND (d.ends_at <= :now OR d.issued >= d.stock OR c.issued >= c.stock OR r.state = 'ended' OR c.state = 'ended')
    ORDER BY d.id
    """
)


async def require_host(session: AsyncSession, who: Principal, room: UUID) -> Row[Any]:
    """The room (``guide_id``, ``state``, and ``at``, the time), which is ``who``'s own or any of the brand for ops.

    Refusal ``not_found`` or ``forbidden``.
    """
    row = (await session.execute(_ROOM, {"room": room})).one_or_none()
    if row is None or row.brand_id != who.brand:
        raise Refusal("not_found", what=str(room))
    if who.role is not Role.OPS and not (who.role is Role.GUIDE and who.subject == row.guide_id):
        raise Refusal("forbidden")
    return row


def card_of(drop: Drop, campaign: Campaign) -> DropCard:
    """``drop`` as its room sees it. Another drop, or an edit, may have left its campaign with less than is its own."""
    return DropCard(
        id=drop.id,
        mode=drop.mode,
        title=campaign.title,
        terms=rules.describe(offer_of(campaign)),
        stock=drop.stock,
        left=min(drop.stock - drop.issued, campaign.stock - campaign.issued),
        opens_at=milliseconds(drop.opens_at),
        ends_at=milliseconds(drop.ends_at),
        radius_m=campaign.radius_m,
        spread=drop.spread_ms,
        signature=drop.signature,
        held_until=None if drop.held_until is None else milliseconds(drop.held_until),
    )


def view_of(drop: Drop, campaign: Campaign) -> DropView:
    """``drop`` as guides and ops see it."""
    return DropView(
        **msgspec.structs.asdict(card_of(drop, campaign)),
        room=drop.room_id,
        campaign=campaign.id,
        state=drop.state,
        issued=drop.issued,
        end_reason=drop.end_reason,
        matched_at=None if drop.matched_at is None else milliseconds(drop.matched_at),
    )


async def open_drop(
    session: AsyncSession,
    who: Principal,
    room: UUID,
    campaign: UUID,
    mode: str,
    stock: int | None,
    seconds: int,
    delay: int,
    signer: Signer | None = None,
) -> DropView:
    """Release ``stock`` coupons (None: all that are left) into ``room``, from ``delay`` seconds on for ``seconds``.

    The opening of a claim drop that is announced ahead is spread over ``SPREAD_MS``. ``signer`` signs the times.

    What a push drop gives in the brand's quiet hours is held (``coupons.holding``) until they end.

    Raises Refusal: ``not_found``, ``forbidden``, ``room_not_live``, ``campaign_state``, ``ended``, ``sold_out``,
    ``drop_limit``, ``invalid`` for more stock than the campaign has left.
    """
    query = select(Campaign, Brand).join(Brand, Brand.id == Campaign.brand_id)
    query = query.where(Campaign.id == campaign, Campaign.brand_id == who.brand)
    row = (await session.execute(query.with_for_update(key_share=True, of=Campaign))).one_or_none()
    await session.execute(_HOLD_ROOM, {"room": room})
    host = await require_host(session, who, room)
    if row is None:
        raise Refusal("not_found", what=str(campaign))
    found, brand = row
    if host.state != "live":
        raise Refusal("room_not_live")
    opens_at = host.at + timedelta(seconds=delay)
    quiet = quiet_of(brand) if mode == "push" else None
    held_until = None if quiet is None else quiet.until(opens_at)
    _check_campaign(found, opens_at, held_until or opens_at)
    if who.role is Role.GUIDE and brand.guide_drops_a_day is not None:
        await _check_day(session, who.subject, brand, host.at)
    left = found.stock - found.issued
    if left <= 0:
        raise Refusal("sold_out", "All coupons of this campaign are given.")
    if stock is not None and stock > left:
        raise Refusal("invalid", f"The campaign has {left} coupons left.", field="stock", left=left)
    drop = Drop(
        id=new_id(),
        campaign_id=campaign,
        room_id=room,
        by=who.subject,
        mode=mode,
        stock=left if stock is None else stock,
        issued=0,
        state="open",
        opens_at=opens_at,
        ends_at=opens_at + timedelta(seconds=seconds),
        held_until=held_until,
        spread_ms=SPREAD_MS if delay and mode == "claim" else 0,
    )
    if signer is not None:
        times = milliseconds(opens_at), milliseconds(drop.ends_at)
        drop.signature = signer.sign_opening(drop.id, *times, drop.spread_ms)
    columns = ("id", "campaign_id", "room_id", "by", "mode", "stock", "opens_at", "ends_at", "held_until", "spread_ms",
               "signature")  # fmt: skip
    await session.execute(insert(Drop).values({name: getattr(drop, name) for name in columns}))
    await emit(session, "coupons.drop_opened", room, DropOpened(card_of(drop, found)))
    return view_of(drop, found)


def _check_campaign(campaign: Campaign, opens_at: datetime, begins: datetime) -> None:
    """``begins``: from when on what it gives first can be used."""
    if campaign.state != "running":
        raise Refusal("campaign_state", state=campaign.state)
    ends = (campaign.claim_until, opens_at), (campaign.valid_until, begins)
    if any(last is not None and last <= then for last, then in ends):
        raise Refusal("ended", "The campaign is over by then.")


async def _check_day(session: AsyncSession, guide: UUID, brand: Brand, at: datetime) -> None:
    midnight = at.astimezone(ZoneInfo(brand.timezone)).replace(hour=0, minute=0, second=0, microsecond=0)
    # Two drops opened at once must not both be the last one.
    await session.execute(_HOLD_GUIDE, {"guide": guide})
    released = await session.scalar(
        select(func.count()).select_from(Drop).where(Drop.by == guide, Drop.created_at >= midnight)
    )
    if (released or 0) >= (brand.guide_drops_a_day or 0):
        raise Refusal("drop_limit", limit=brand.guide_drops_a_day)


async def end_drop(session: AsyncSession, who: Principal, drop: UUID) -> DropView:
    """Stop a drop at once; ending an ended one changes nothing. Refusal ``not_found`` or ``forbidden``."""
    locked = await lock(session, drop)
    if locked is None:
        raise Refusal("not_found", what=str(drop))
    await require_host(session, who, locked.row.room_id)
    await end(session, drop, locked.row.room_id, "stopped")
    query = select(Drop, Campaign).join(Campaign, Campaign.id == Drop.campaign_id).where(Drop.id == drop)
    ended, campaign = (await session.execute(query)).one()
    return view_of(ended, campaign)


async def list_drops(session: AsyncSession, who: Principal, room: UUID) -> list[DropView]:
    """The room's drops, newest first. Refusal ``not_found`` or ``forbidden``."""
    await require_host(session, who, room)
    query = (
        select(Drop, Campaign)
        .join(Campaign, Campaign.id == Drop.campaign_id)
        .where(Drop.room_id == room)
        .order_by(Drop.created_at.desc(), Drop.id)
        .limit(200)
    )
    return [view_of(drop, campaign) for drop, campaign in (await session.execute(query))]


async def due(session: AsyncSession) -> Sequence[UUID]:
    """Push drops that have opened, were not matched to the end, and are not held up by their pace: ``run_push`` is for
    each of them."""
    return [row.id for row in await session.execute(_DUE) if not _paced(row)]


def _paced(row: Row[Any]) -> bool:
    """Whether it has given what it may in this minute or today."""
    today, minute = row.at.astimezone(ZoneInfo(row.timezone)).date(), rules.minute_of(row.opens_at, row.at)
    return 0 in (
        rules.left_of_day(row.per_day, counted_on=row.day, issued=row.day_issued, today=today),
        rules.left_of_minute(row.per_minute, counted_in=row.minute, issued=row.minute_issued, minute=minute),
    )


async def close_due(sessions: Sessions, now: datetime) -> int:
    """End the drops whose time, stock, room or campaign is over; returns how many. Any number of workers may do it."""
    async with sessions() as session:
        over = (await session.scalars(_OVER, {"now": now})).all()
    closed = 0
    for drop in over:
        async with transaction(sessions) as session:
            locked = await lock(session, drop)
            if locked is not None:
                closed += await end(session, drop, locked.row.room_id, _end_reason(locked.row, locked.left, now))
    return closed


def _end_reason(row: Row[Any], left: int, now: datetime) -> EndReason:
    if left <= 0:
        return "sold_out"
    return "time" if row.ends_at <= now else "stopped"
