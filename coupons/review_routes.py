"""REST: coupons under review, for ops who decide, and for the viewers who wait."""

from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

import msgspec
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from coupons import reviews
from coupons.edge import ASKED, SIGNED_IN, Cursor, Limit, behind
from kernel.http import InSession, Ops, Page, Viewer, encode_cursor, refusals

router = APIRouter()

_APPROVED = (
    *ASKED,
    "review_settled",
    "campaign_state",
    "not_started",
    "ended",
    "sold_out",
    "sold_out_today",
    "busy",
    "limit_reached",
    "tier",
    "segment",
    "cap_reached",
    "out_of_range",
)


class SignView(BaseModel):
    """Why the location looked implausible: `jumped`, `frozen` or `shared`."""

    model_config = ConfigDict(from_attributes=True)

    sign: str
    strong: bool
    first_at: datetime
    last_at: datetime


class ReviewView(BaseModel):
    """A coupon that waits for a decision, or about which one was made."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    drop: UUID
    room: UUID
    campaign: UUID
    title: str
    viewer: UUID
    viewer_name: str
    store: str
    store_name: str
    within_m: int = Field(description="The distance is at most so many metres; the position is not kept")
    state: Literal["open", "granted", "declined", "expired"]
    asked_at: datetime
    expires_at: datetime
    decided_at: datetime | None
    decided_by: UUID | None
    coupon: UUID | None
    signs: list[SignView]

    @classmethod
    def of(cls, review: reviews.Review) -> Self:
        """From the use case's answer."""
        return cls.model_validate(review)


class Notice(BaseModel):
    """What became of one's coupon; `until`, in milliseconds since 1970, is when it is decided at the latest."""

    drop: UUID
    title: str
    state: Literal["open", "granted", "declined", "expired"]
    until: int | None
    coupon: UUID | None


@router.get("/ops/reviews", tags=["ops"], summary="Coupons under review", responses=refusals(*SIGNED_IN, "invalid"))
async def list_reviews(
    session: InSession,
    who: Ops,
    state: Annotated[Literal["open", "settled"], Query()] = "open",
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[ReviewView]:
    """What waits, the oldest first; or what was decided in the last 30 days, the latest first."""
    settled = state == "settled"
    found = await reviews.listed(session, who, settled=settled, after=behind(cursor), limit=limit)
    last = None
    if len(found) == limit:
        last = encode_cursor(found[-1].decided_at if settled else found[-1].asked_at, found[-1].id)
    return Page(items=[ReviewView.of(review) for review in found], next=last)


@router.post("/ops/reviews/{review}/approve", tags=["ops"], summary="Grant it", responses=refusals(*_APPROVED))
async def approve_review(review: UUID, session: InSession, who: Ops) -> ReviewView:
    """The viewer gets the coupon, if one is left; the drop may have ended. Doing it again changes nothing."""
    return ReviewView.of(await reviews.approve(session, who, review))


@router.post(
    "/ops/reviews/{review}/refuse", tags=["ops"], summary="Refuse it", responses=refusals(*ASKED, "review_settled")
)
async def refuse_review(review: UUID, session: InSession, who: Ops) -> ReviewView:
    """The viewer gets none of this drop, and is told so. Doing it again changes nothing."""
    return ReviewView.of(await reviews.decline(session, who, review))


@router.get("/me/reviews", tags=["wallet"], summary="My coupons under review", responses=refusals(*SIGNED_IN))
async def my_reviews(session: InSession, who: Viewer) -> Page[Notice]:
    """The newest 50, with what became of them."""
    found = await reviews.mine(session, who, 50)
    return Page(items=[Notice(**msgspec.structs.asdict(notice)) for notice in found])
