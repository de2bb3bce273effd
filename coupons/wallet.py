"""What a viewer has: their coupons, what they have been shown, and the codes they show at the till."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time
from typing import Any, NamedTuple
from uuid import UUID

import segno
from geoalchemy2 import Geometry
from sqlalchemy import ColumnElement, Row, Select, case, cast, exists, func, null, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import codes, rules
from coupons.cards import CouponCard
from coupons.directions import Directions, to_store
from coupons.tables import Campaign, Coupon, CouponReminder, LedgerLine, Redemption
from coupons.terms import PROMISED, terms_of
from coupons.wechat_card import Cards, WeChatCard
from geo.tables import Store
from kernel.clock import milliseconds
from kernel.errors import Refusal
from kernel.identity import Principal


@dataclass(frozen=True, slots=True)
class QrCode:
    """What to draw until ``expires_at``: a payload, and the same as an SVG."""

    payload: str
    svg: str
    expires_at: datetime


def _cards(now: datetime) -> Select[Any]:
    # The sweep that marks coupons as expired runs every few seconds; to their owner they are expired at once.
    state = case(((Coupon.state == "issued") & (Coupon.valid_until <= now), "expired"), else_=Coupon.state)
    return (
        select(
            Coupon.id,
            Coupon.code,
            state.label("state"),
            Coupon.valid_from,
            Coupon.valid_until,
            Coupon.distance_band_m,
            Coupon.drop_id,
            *PROMISED,
            Store.code.label("store"),
            Store.name.label("store_name"),
            Store.address.label("store_address"),
        )
        .join(Campaign, Campaign.id == Coupon.campaign_id)
        .join(Store, Store.id == Coupon.store_id)
    )


def _own(who: Principal, now: datetime) -> Sequence[ColumnElement[bool]]:
    """Which coupons ``who`` has and knows of."""
    told = Coupon.held_until.is_(None) | (Coupon.held_until <= now)
    return Coupon.viewer_id == who.subject, Coupon.brand_id == who.brand, told


async def cards_of(session: AsyncSession, coupons: Sequence[UUID], now: datetime) -> dict[UUID, CouponCard]:
    """``coupons`` as their owners see them."""
    return {row.id: _card(row) for row in await session.execute(_cards(now).where(Coupon.id.in_(coupons)))}


def _card(row: Row[Any]) -> CouponCard:
    return CouponCard(
        id=row.id,
        title=row.title,
        terms=rules.describe(terms_of(row)),
        code=codes.display(row.code),
        state=row.state,
        store=row.store,
        store_name=row.store_name,
        store_address=row.store_address,
        valid_from=milliseconds(row.valid_from),
        valid_until=milliseconds(row.valid_until),
        distance_m=row.distance_band_m,
        drop=row.drop_id,
    )


async def coupons_of(
    session: AsyncSession,
    who: Principal,
    now: datetime,
    *,
    state: str | None = None,
    after: tuple[datetime, UUID] | None = None,
    limit: int = 50,
) -> list[tuple[CouponCard, datetime]]:
    """The viewer's coupons and when they expire, nearest expiry first, behind ``after`` (expiry and id)."""
    query = _cards(now).where(*_own(who, now))
    if state == "expired":
        query = query.where((Coupon.state == "expired") | ((Coupon.state == "issued") & (Coupon.valid_until <= now)))
    elif state == "issued":
        query = query.where(Coupon.state == "issued", Coupon.valid_until > now)
    elif state is not None:
        query = query.where(Coupon.state == state)
    if after is not None:
        query = query.where(tuple_(Coupon.valid_until, Coupon.id) > after)
    query = query.order_by(Coupon.valid_until, Coupon.id).limit(limit)
    return [(_card(row), row.valid_until) for row in await session.execute(query)]


async def coupon_of(session: AsyncSession, who: Principal, coupon: UUID, now: datetime) -> CouponCard:
    """One coupon of the viewer; Refusal ``not_found`` for anybody else's."""
    query = _cards(now).where(Coupon.id == coupon, *_own(who, now))
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise Refusal("not_found", what=str(coupon))
    return _card(row)


async def coupon_qr(session: AsyncSession, who: Principal, coupon: UUID, signer: codes.Signer, now: datetime) -> QrCode:
    """The coupon's QR code for this half minute. Refusal ``not_found``, ``already_redeemed``, ``coupon_expired``,
    ``coupon_voided``."""
    query = select(Coupon.code, Coupon.state, Coupon.valid_until).where(Coupon.id == coupon, *_own(who, now))
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise Refusal("not_found", what=str(coupon))
    # One that is not valid yet may be shown: the till says from when it is.
    reason = rules.unusable(row.state, same_store=True, valid_from=now, valid_until=row.valid_until, now=now)
    if reason is not None:
        raise Refusal(reason)
    return draw(signer.show_coupon(row.code, now.timestamp()), now)


def member_qr(who: Principal, signer: codes.Signer, now: datetime) -> QrCode:
    """The member's own QR code for this half minute."""
    return draw(signer.show_member(who.subject, now.timestamp()), now)


def draw(payload: str, now: datetime) -> QrCode:
    """``payload`` as a QR code that is to be replaced when the time step of ``now`` ends."""
    picture = io.BytesIO()
    segno.make(payload, error="m", micro=False).save(
        picture, kind="svg", scale=4, border=4, xmldecl=False, svgns=True, omitsize=True
    )
    step_ends = (codes.step_at(now.timestamp()) + 1) * codes.STEP_SECONDS
    return QrCode(payload, picture.getvalue().decode(), datetime.fromtimestamp(step_ends, now.tzinfo))


async def seen(session: AsyncSession, viewer: UUID, coupons: Sequence[UUID]) -> int:
    """Note that ``viewer`` was shown these coupons, of which only their own count; returns how many were new."""
    shown = (
        update(Coupon)
        .where(Coupon.id.in_(coupons), Coupon.viewer_id == viewer, Coupon.seen_at.is_(None))
        .values(seen_at=func.now())
        .returning(Coupon.id)
    )
    return len((await session.scalars(shown)).all()) if coupons else 0


async def wechat_card(
    session: AsyncSession, who: Principal, coupon: UUID, cards: Cards | None, now: datetime
) -> WeChatCard:
    """What ``wx.addCard`` is given for the coupon. Refusal as ``coupon_qr``; ``no_card`` where none is set up;
    ``unavailable``."""
    query = (
        select(Coupon.code, Coupon.state, Coupon.valid_until, Campaign.wechat_card)
        .join(Campaign, Campaign.id == Coupon.campaign_id)
        .where(Coupon.id == coupon, *_own(who, now))
    )
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise Refusal("not_found", what=str(coupon))
    reason = rules.unusable(row.state, same_store=True, valid_from=now, valid_until=row.valid_until, now=now)
    if reason is not None:
        raise Refusal(reason)
    if cards is None or row.wechat_card is None:
        raise Refusal("no_card")
    return await cards.card(row.wechat_card, codes.display(row.code).replace("-", ""), now)


# ---- the wallet with the way to each store -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """A coupon in the wallet. ``away_m``: from where the viewer said that they are; None if they did not.
    ``place`` is where the list goes on behind it."""

    card: CouponCard
    opens: time | None
    closes: time | None
    directions: Directions
    reminded: bool
    away_m: float | None
    place: tuple[float | datetime, UUID]


async def held(
    session: AsyncSession,
    who: Principal,
    now: datetime,
    *,
    here: tuple[float, float] | None = None,
    nearest: bool = False,
    after: tuple[float | datetime, UUID] | None = None,
    limit: int = 50,
) -> list[Held]:
    """What the viewer can still use, nearest expiry first, or nearest store first if ``nearest`` (needs ``here``, a
    point in the canonical frame, which is not kept); behind ``after``, a ``place`` of the same order."""
    point = cast(Store.position, Geometry("POINT", 4326))
    away: ColumnElement[Any] = null()
    if here is not None:
        away = func.ST_Distance(Store.position, func.geography(func.ST_SetSRID(func.ST_MakePoint(*here), 4326)))
    reminded = exists().where(CouponReminder.coupon_id == Coupon.id)
    order = away if nearest else Coupon.valid_until
    query = _cards(now).add_columns(
        Store.opens,
        Store.closes,
        reminded.label("reminded"),
        func.ST_X(point).label("x"),
        func.ST_Y(point).label("y"),
        away.label("away_m"),
    )
    query = query.where(*_own(who, now), Coupon.state == "issued", Coupon.valid_until > now)
    if after is not None:
        query = query.where(tuple_(order, Coupon.id) > after)
    rows = (await session.execute(query.order_by(order, Coupon.id).limit(limit))).all()
    return [
        Held(
            card=_card(row),
            opens=row.opens,
            closes=row.closes,
            directions=to_store(row.x, row.y, row.store_name, row.store_address),
            reminded=row.reminded,
            away_m=row.away_m,
            place=(row.away_m if nearest else row.valid_until, row.id),
        )
        for row in rows
    ]


class Step(NamedTuple):
    """One thing that happened to a coupon; ``discount_fen`` where it was redeemed or that was taken back."""

    transition: str
    at: datetime
    discount_fen: int | None


async def history(session: AsyncSession, who: Principal, coupon: UUID, now: datetime) -> list[Step]:
    """What happened to one of the viewer's coupons, oldest first, not of what its brand was reminded; Refusal
    ``not_found`` for anybody else's."""
    query = (
        select(LedgerLine.transition, LedgerLine.at, Redemption.discount_fen)
        .join(Coupon, Coupon.id == LedgerLine.coupon_id)
        .outerjoin(Redemption, Redemption.id == LedgerLine.redemption_id)
        .where(Coupon.id == coupon, *_own(who, now), LedgerLine.transition != "remind")
        .order_by(LedgerLine.id)
    )
    steps = [Step(*row) for row in await session.execute(query)]
    if not steps:
        raise Refusal("not_found", what=str(coupon))
    return steps
