"""Bodies of requests and answers of the till's REST routes."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import date, datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from coupons import closing, codes, offline, receipts, redemption, rules, stacking
from coupons.views import Fen, Moment
from kernel.http import PLAIN, Body

Typed = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=PLAIN)]
Scanned = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=PLAIN)]


Order = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64, pattern=PLAIN)]


class Check(Body):
    """What the clerk typed or scanned: exactly one of ``code`` and ``qr``."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"code": "7ZQ4-M0KD-X9T2-5RHC-8", "order_fen": 4200}]})

    code: Typed | None = None
    qr: Scanned | None = None
    order_fen: Fen | None = Field(None, description="What the order comes to before the discount")

    def presented(self) -> redemption.Presented:
        """For the use case."""
        return redemption.Presented(self.code, self.qr)


class Redeem(Check):
    """What is redeemed, and on which order."""

    order: Order | None = Field(None, description="The order as the store names it; then `order_fen` is needed too")

    def sale(self, key: str, at: datetime) -> redemption.Sale:
        """For the use case."""
        return redemption.Sale(key, at, self.order_fen, self.order)


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
    order: str | None
    order_fen: int | None
    discount_fen: int
    at: datetime
    told_at: datetime | None = Field(description="When it was told, if the till had no network")
    reversible_until: datetime
    replayed: bool
    reversed_at: datetime | None
    coupon_now: receipts.CouponNow = Field(
        description="After a reversal only a `usable` coupon can be used again; `ownerless`: its owner was erased"
    )

    @classmethod
    def of(cls, used: receipts.Used) -> Self:
        """From the use case's answer."""
        return cls(
            id=used.id,
            coupon=UsedCoupon(title=used.title, terms=used.terms, code=used.code, viewer_name=used.viewer_name),
            store=Place(code=used.store_code, name=used.store_name),
            order=used.order,
            order_fen=used.order_fen,
            discount_fen=used.discount_fen,
            at=used.at,
            told_at=used.told_at,
            reversible_until=used.reversible_until,
            replayed=used.replayed,
            reversed_at=used.reversed_at,
            coupon_now=used.coupon_now,
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


class Void(Body):
    """The code as it was typed."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"code": "7ZQ4-M0KD-X9T2-5RHC-8"}]})

    code: Typed


class VoidedView(BaseModel):
    """A coupon that was withdrawn."""

    id: UUID
    code: str
    title: str
    state: Literal["voided"] = "voided"


class NewVisit(Body):
    """The member's QR code as scanned."""

    qr: Scanned


class VisitView(BaseModel):
    """A visit that was recorded."""

    id: UUID
    at: datetime
    name: str


class TillKey(BaseModel):
    """A public key that signs QR codes."""

    algorithm: Literal["Ed25519"] = "Ed25519"
    key: str = Field(description="32 bytes in base64")


class TillKeys(BaseModel):
    """With which a till checks by itself.

    A code is live while `begin - skew <= now < begin + 2 * step + skew`; `begin` is its time step times `step_seconds`.
    """

    keys: list[TillKey]
    step_seconds: int = codes.STEP_SECONDS
    skew_seconds: int = codes.SKEW_SECONDS
    tell_within_seconds: int = int(rules.TELLABLE.total_seconds())
    now: datetime


class OfflineRedemption(Body):
    """A redemption as the till made it."""

    key: Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=PLAIN)]
    qr: Scanned
    order_fen: Fen | None = None
    order: Order | None = None
    at: Moment = Field(description="When it was scanned, by the clock of `GET /v1/till/keys`")

    def sale_told(self, told_at: datetime) -> redemption.Sale:
        """For the use case."""
        return redemption.Sale(self.key, self.at, self.order_fen, self.order, told_at)


class Sync(Body):
    """What a till redeemed without a network."""

    redemptions: Annotated[list[OfflineRedemption], Field(min_length=1, max_length=100)]


class Outcome(BaseModel):
    """What became of one: `redemption` where it stands (also from before: `replayed`), else `refusal`, a problem.

    A `busy` one is to be told again; every other refusal is final.
    """

    key: str
    redemption: RedemptionView | None
    refusal: dict[str, Any] | None


class Outcomes(BaseModel):
    """One for each that was told, in the same order."""

    outcomes: list[Outcome]

    @classmethod
    def of(cls, told: Iterable[offline.Told]) -> Self:
        """From the use case's answers."""
        return cls(
            outcomes=[
                Outcome(
                    key=one.key,
                    redemption=None if one.used is None else RedemptionView.of(one.used),
                    refusal=None if one.refusal is None else one.refusal.problem(),
                )
                for one in told
            ]
        )


class StackingRules(Body):
    """How many coupons that take money off, and how many gifts, one order takes."""

    discounts: Annotated[int, Field(ge=0, le=100)] = 1
    gifts: Annotated[int, Field(ge=0, le=100)] = 1
    order_required: bool = Field(False, description="Every redemption must name its order")

    @classmethod
    def of(cls, rules: stacking.Rules) -> Self:
        """From the use case's answer."""
        return cls(discounts=rules.discounts, gifts=rules.gifts, order_required=rules.order_required)

    def rules(self) -> stacking.Rules:
        """For the use case."""
        return stacking.Rules(self.discounts, self.gifts, self.order_required)


class ClosingSum(BaseModel):
    """How many redemptions or reversals, how many orders, and what they come to; a named order counts once."""

    count: int
    orders: int
    order_fen: int
    discount_fen: int

    @classmethod
    def of(cls, found: closing.Sum) -> Self:
        """From the use case's answer."""
        return cls(**asdict(found))


class ClosingView(BaseModel):
    """A store's day. ``net`` is redemptions less reversals, over any days what came to stand in them."""

    store: Place
    date: date
    timezone: str
    redemptions: ClosingSum
    reversals: ClosingSum
    net: ClosingSum
    visits: int
    told_late: int = Field(description="Redemptions made without a network")
    lines: list[closing.ClosingLine]

    @classmethod
    def of(cls, day: closing.Day) -> Self:
        """From the use case's answer."""

        return cls(
            store=Place(code=day.store_code, name=day.store_name),
            date=day.day,
            timezone=day.timezone,
            redemptions=ClosingSum.of(day.sum("redemption")),
            reversals=ClosingSum.of(day.sum("reversal")),
            net=ClosingSum.of(day.net),
            visits=day.sum("visit").count,
            told_late=day.told_late,
            lines=day.lines,
        )
