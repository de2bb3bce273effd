"""Bodies of requests and answers of the till's REST routes."""

from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from coupons import redemption
from coupons.views import Fen
from kernel.http import PLAIN

Typed = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=PLAIN)]
Scanned = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=PLAIN)]


class Redeem(BaseModel):
    """What the clerk typed or scanned: exactly one of ``code`` and ``qr``."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"code": "7ZQ4-M0KD-X9T2-5RHC-8", "order_fen": 4200}]})

    code: Typed | None = None
    qr: Scanned | None = None
    order_fen: Fen | None = Field(None, description="What the order comes to before the discount")

    def presented(self) -> redemption.Presented:
        """For the use case."""
        return redemption.Presented(self.code, self.qr)


class Place(BaseModel):
    """A store."""

    code: str
    name: str


class UsedCoupon(BaseModel):
    """What was redeemed."""

    title: str
    terms: str
    code: str
    viewer_name: str | None


class RedemptionView(BaseModel):
    """A redemption. ``replayed``: this very request had been carried out before."""

    id: UUID
    coupon: UsedCoupon
    store: Place
    order_fen: int | None
    discount_fen: int
    at: datetime
    reversible_until: datetime
    replayed: bool
    reversed_at: datetime | None

    @classmethod
    def of(cls, used: redemption.Used) -> Self:
        """From the use case's answer."""
        return cls(
            id=used.id,
            coupon=UsedCoupon(title=used.title, terms=used.terms, code=used.code, viewer_name=used.viewer_name),
            store=Place(code=used.store_code, name=used.store_name),
            order_fen=used.order_fen,
            discount_fen=used.discount_fen,
            at=used.at,
            reversible_until=used.reversible_until,
            replayed=used.replayed,
            reversed_at=used.reversed_at,
        )


class UsableCoupon(UsedCoupon):
    """What could be redeemed."""

    state: Literal["issued"]
    valid_from: datetime
    valid_until: datetime


class CheckView(BaseModel):
    """A coupon that this till could redeem. ``discount_fen`` is null where the order is below the threshold."""

    coupon: UsableCoupon
    store: Place
    threshold_fen: int
    discount_fen: int | None

    @classmethod
    def of(cls, looked: redemption.Looked) -> Self:
        """From the use case's answer."""
        coupon = UsableCoupon(
            title=looked.title,
            terms=looked.terms,
            code=looked.code,
            viewer_name=looked.viewer_name,
            state="issued",
            valid_from=looked.valid_from,
            valid_until=looked.valid_until,
        )
        return cls(
            coupon=coupon,
            store=Place(code=looked.store_code, name=looked.store_name),
            threshold_fen=looked.threshold_fen,
            discount_fen=looked.discount_fen,
        )


class NewVisit(BaseModel):
    """The member's QR code as scanned."""

    qr: Scanned


class VisitView(BaseModel):
    """A visit that was recorded."""

    id: UUID
    at: datetime
    name: str
