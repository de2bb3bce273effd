"""REST: what a viewer can still use, the way to each store, and what happened to a coupon."""

from dataclasses import asdict
from datetime import datetime, time
from typing import Annotated, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from coupons import reminders, wallet
from coupons.deliveries import TRANSITIONS, Name
from coupons.edge import behind
from coupons.views import CouponView
from geo.datum import Datum, to_canonical
from geo.stores import Distance, walk_minutes
from kernel.clock import milliseconds, now
from kernel.errors import Refusal
from kernel.http import InSession, Page, Viewer, decode_cursor, encode_cursor, refusals

router = APIRouter(prefix="/v1/me", tags=["wallet"])

_SIGNED_IN = ("token_missing", "token_invalid", "token_expired", "forbidden", "unavailable")
Longitude = Annotated[float | None, Query(ge=-180, le=180, allow_inf_nan=False, description="Degrees east")]
Latitude = Annotated[float | None, Query(ge=-90, le=90, allow_inf_nan=False, description="Degrees north")]


class OpenLocation(BaseModel):
    """What `wx.openLocation` is given."""

    model_config = ConfigDict(from_attributes=True)

    latitude: float
    longitude: float
    name: str
    address: str
    scale: int


class Directions(BaseModel):
    """Links to the store. `geo` is WGS-84, as its standard has it; the other two are GCJ-02."""

    model_config = ConfigDict(from_attributes=True)

    geo: str
    tencent: str
    open_location: OpenLocation


class HeldView(CouponView):
    """A coupon that can be used, and the way to its store."""

    opens: time | None
    closes: time | None
    directions: Directions
    reminded: bool = Field(description="Whether its owner asked to be told before it expires")
    away_m: int | None = Field(description="From the point that was asked about; null if there was none")
    walk_minutes: int | None = Field(description="A guess")

    @classmethod
    def of_held(cls, held: wallet.Held) -> Self:
        """From the use case's answer."""
        return cls(
            **CouponView.of(held.card).model_dump(),
            opens=held.opens,
            closes=held.closes,
            directions=Directions.model_validate(asdict(held.directions)),
            reminded=held.reminded,
            away_m=None if held.away_m is None else round(held.away_m),
            walk_minutes=None if held.away_m is None else walk_minutes(held.away_m),
        )


class WeChatCard(BaseModel):
    """`cardExt` is JSON as text."""

    cardId: str
    cardExt: str


class StepView(BaseModel):
    """One thing that happened to a coupon, and when (milliseconds since 1970)."""

    event: Name
    at: int
    discount_fen: int | None = Field(description="What was taken off, or given back; null for the rest")


@router.get("/wallet", summary="What I can use", responses=refusals(*_SIGNED_IN, "invalid"))
async def my_wallet(
    session: InSession,
    who: Viewer,
    order: Annotated[Literal["expiry", "nearest"], Query()] = "expiry",
    lng: Longitude = None,
    lat: Latitude = None,
    datum: Annotated[Datum | None, Query(description="The frame of `lng` and `lat`")] = None,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Page[HeldView]:
    """Nearest expiry first, or nearest store first from a point, which is not kept; a `cursor` goes with its point."""
    here = None
    if lng is not None and lat is not None and datum is not None:
        here = to_canonical(lng, lat, datum)
    elif (lng, lat, datum) != (None, None, None) or order == "nearest":
        raise Refusal("invalid", "A place is `lng`, `lat` and `datum` together.", field="datum")
    nearest = order == "nearest"
    after: tuple[float | datetime, UUID] | None
    after = decode_cursor(cursor, tuple[Distance, UUID]) if nearest and cursor is not None else behind(cursor)
    found = await wallet.held(session, who, now(), here=here, nearest=nearest, after=after, limit=limit)
    last = encode_cursor(*found[-1].place) if len(found) == limit else None
    return Page(items=[HeldView.of_held(each) for each in found], next=last)


@router.get(
    "/coupons/{coupon}/history", summary="What happened to it", responses=refusals(*_SIGNED_IN, "not_found", "invalid")
)
async def my_coupon_history(coupon: UUID, session: InSession, who: Viewer) -> Page[StepView]:
    """Oldest first."""
    steps = await wallet.history(session, who, coupon, now())
    return Page(
        items=[
            StepView(event=TRANSITIONS[step.transition], at=milliseconds(step.at), discount_fen=step.discount_fen)
            for step in steps
        ]
    )


@router.get(
    "/coupons/{coupon}/wechat-card",
    summary="For wx.addCard",
    responses=refusals(
        *_SIGNED_IN, "not_found", "invalid", "already_redeemed", "coupon_expired", "coupon_voided", "no_card"
    ),
)
async def my_wechat_card(coupon: UUID, request: Request, session: InSession, who: Viewer) -> WeChatCard:
    """One entry of its `cardList`; used at once, and once."""
    card = await wallet.wechat_card(session, who, coupon, request.app.state.cards, now())
    return WeChatCard(cardId=card.card_id, cardExt=card.card_ext)


@router.put(
    "/coupons/{coupon}/reminder",
    summary="Remind me",
    status_code=204,
    responses=refusals(*_SIGNED_IN, "not_found", "invalid", "already_redeemed", "coupon_expired", "coupon_voided"),
)
async def remind_of_coupon(coupon: UUID, session: InSession, who: Viewer) -> None:
    """Once, a day before it expires. Ask after the viewer agreed to the template in the mini-program."""
    await reminders.subscribe(session, who, coupon, now())


@router.delete(
    "/coupons/{coupon}/reminder",
    summary="Do not remind me",
    status_code=204,
    responses=refusals(*_SIGNED_IN, "not_found", "invalid"),
)
async def do_not_remind_of_coupon(coupon: UUID, session: InSession, who: Viewer) -> None:
    """Too late if that was done already."""
    await reminders.unsubscribe(session, who, coupon)
