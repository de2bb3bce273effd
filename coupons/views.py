"""Bodies of requests and answers of the coupons' REST routes."""

from datetime import datetime, time
from typing import Annotated, Any, Literal, Self
from uuid import UUID

import msgspec
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)

from coupons import cards, foresight
from coupons.tables import Campaign
from coupons.wallet import QrCode
from kernel.http import Body, Code, Label

_ID = "019c2f6e-1a2b-7c3d-8e4f-5a6b7c8d9e0f"

MAX_FEN = 100_000_000_00
"""A hundred million yuan: more than any order, far below what the database holds."""
MAX_STOCK = 100_000_000

Fen = Annotated[int, Field(ge=0, le=MAX_FEN)]
Stock = Annotated[int, Field(ge=1, le=MAX_STOCK)]
Segment = Literal["new", "once", "often", "vip"]
Doubt = Literal["allow", "review", "refuse"]


def _written(value: object) -> object:
    if not isinstance(value, (str, datetime)):
        raise ValueError("a date and time with its offset, as a string")  # noqa: TRY004 - pydantic wants this one
    return value


def _in_calendar(value: datetime) -> datetime:
    """Refuse what would leave the calendar once it is moved to another time zone."""
    if not 2000 <= value.year <= 2200:
        raise ValueError("between the years 2000 and 2200")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_written), AfterValidator(_in_calendar)]


def _clock(value: object) -> object:
    return f"{value:%H:%M}" if isinstance(value, time) else value


Clock = Annotated[str, BeforeValidator(_clock), StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
"""A time of the brand's day, as `21:30`."""


class DistanceTier(Body):
    """What is taken off for viewers up to so many metres away from their store."""

    within_m: Annotated[int, Field(ge=1, le=100_000)]
    amount_fen: Annotated[int, Field(ge=1, le=MAX_FEN)]


class NewCampaign(Body):
    """The terms of a campaign. Amounts in fen."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "title": "新品尝鲜 满30减8",
                    "kind": "amount",
                    "amount_fen": 800,
                    "threshold_fen": 3000,
                    "stock": 500,
                    "per_viewer": 1,
                    "radius_m": 3000,
                    "valid_days": 7,
                }
            ]
        }
    )

    key: Code | None = Field(None, description="The brand's own name for it, which no other campaign has")
    wechat_card: Code | None = Field(
        None, description="WeChat's id of the card, with codes of one's own, that its coupons are put into wallets as"
    )
    title: Label
    kind: Literal["amount", "percent", "gift"]
    amount_fen: Annotated[int, Field(ge=1, le=MAX_FEN)] | None = Field(
        None, description="What is taken off, for `amount`; the most that is, for `percent`"
    )
    threshold_fen: Fen = Field(0, description="The order must reach it")
    percent_off: Annotated[int, Field(ge=1, le=99)] | None = Field(None, description="20 is 8 折")
    gift: Label | None = None
    stock: Stock
    per_viewer: Annotated[int, Field(ge=1, le=100)] = 1
    store_quota: Stock | None = Field(None, description="Coupons each store may give; null: no limit")
    return_expired: bool = Field(
        False,
        description="Whether expired coupons go back, a day later: each adds one to the stock and its store's quota",
    )
    store_codes: Annotated[list[Code], Field(min_length=1, max_length=5000)] | None = Field(
        None, description="The stores that take part; null: every store of the brand"
    )
    radius_m: Annotated[int, Field(ge=50, le=50_000)] = 3000
    near_counts: bool = Field(True, description="Whether a fix at the edge of a store's reach counts as inside")
    only_open: bool = Field(
        False, description="Whether only stores within their opening hours give; one without hours counts as open"
    )
    min_tier: Annotated[int, Field(ge=0, le=3)] = 0
    holdout_percent: Annotated[int, Field(ge=0, le=50)] = Field(0, description="Share that gets none, to compare with")
    per_day: Stock | None = Field(None, description="Coupons a day of the brand's calendar; null: no limit")
    per_minute: Stock | None = Field(None, description="Coupons a minute of each push drop; null: no limit")
    reserve_percent: Annotated[int, Field(ge=0, le=90)] = Field(
        0, description="Share of a push drop that is kept for viewers who come into reach later"
    )
    segments: Annotated[list[Segment], Field(min_length=1, max_length=4)] | None = Field(
        None, description="Who may have it, by purchases known here (`new`: none, `once`, `often`) and `vip` by tier"
    )
    doubt: Doubt = Field("allow", description="What a location that looks implausible does; with `review`, ops decide")
    distance_tiers: Annotated[list[DistanceTier], Field(min_length=1, max_length=10)] | None = Field(
        None, description="Amounts by distance, nearest first; farther away it is `amount_fen`"
    )
    usable_from: Clock | None = Field(None, description="Tills take the coupon only from this time of day…")
    usable_until: Clock | None = Field(None, description="…until this one; may span midnight")
    claim_from: Moment | None = None
    claim_until: Moment | None = None
    valid_from: Moment | None = None
    valid_until: Moment | None = Field(None, description="One of `valid_until` and `valid_days` is needed")
    valid_days: Annotated[int, Field(ge=0, le=3650)] | None = Field(
        None,
        description="Whole days after the day of issue, or of `valid_from` if that is later; the last ends at midnight",
    )

    def columns(self) -> dict[str, Any]:
        """The columns of the campaign's row."""
        columns = self.model_dump(exclude={"store_codes"})
        for name in ("usable_from", "usable_until"):
            if columns[name] is not None:
                columns[name] = time.fromisoformat(columns[name])
        return columns


class CampaignView(BaseModel):
    """A campaign. ``terms`` is how a shopper reads it."""

    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={
            "examples": [
                {
                    "id": _ID,
                    "key": "new-2026-06",
                    "wechat_card": None,
                    "title": "新品尝鲜 满30减8",
                    "terms": "满30减8",
                    "kind": "amount",
                    "amount_fen": 800,
                    "threshold_fen": 3000,
                    "percent_off": None,
                    "gift": None,
                    "stock": 500,
                    "issued": 120,
                    "per_viewer": 1,
                    "store_quota": None,
                    "return_expired": False,
                    "returned": 0,
                    "store_codes": None,
                    "radius_m": 3000,
                    "near_counts": True,
                    "only_open": False,
                    "min_tier": 0,
                    "holdout_percent": 0,
                    "per_day": None,
                    "per_minute": None,
                    "reserve_percent": 0,
                    "segments": None,
                    "doubt": "allow",
                    "distance_tiers": None,
                    "usable_from": None,
                    "usable_until": None,
                    "claim_from": None,
                    "claim_until": None,
                    "valid_from": None,
                    "valid_until": None,
                    "valid_days": 7,
                    "state": "running",
                    "created_at": "2026-06-18T11:00:00Z",
                }
            ]
        },
    )

    id: UUID
    key: str | None
    wechat_card: str | None
    title: str
    terms: str
    kind: Literal["amount", "percent", "gift"]
    amount_fen: int | None
    threshold_fen: int
    percent_off: int | None
    gift: str | None
    stock: int
    issued: int
    per_viewer: int
    store_quota: int | None
    return_expired: bool
    returned: int = Field(description="Expired coupons that went back into the stock")
    store_codes: list[str] | None
    radius_m: int
    near_counts: bool
    only_open: bool
    min_tier: int
    holdout_percent: int
    per_day: int | None
    per_minute: int | None
    reserve_percent: int
    segments: list[Segment] | None
    doubt: Doubt
    distance_tiers: list[DistanceTier] | None
    usable_from: Clock | None
    usable_until: Clock | None
    claim_from: datetime | None
    claim_until: datetime | None
    valid_from: datetime | None
    valid_until: datetime | None
    valid_days: int | None
    state: Literal["draft", "running", "paused", "ended"]
    created_at: datetime

    @classmethod
    def of(cls, campaign: Campaign, terms: str, store_codes: list[str] | None) -> Self:
        """From the row, its terms in words, and the codes of its stores (None: all)."""
        own = {name: getattr(campaign, name) for name in cls.model_fields if name not in ("terms", "store_codes")}
        return cls(**own, terms=terms, store_codes=store_codes)


class StockChange(Body):
    """Set the stock to ``target`` if it still is ``current``."""

    current: Stock
    target: Stock


class NewDrop(Body):
    """Release coupons of a campaign into a room."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"campaign": _ID, "mode": "claim", "stock": 100, "seconds": 300}]}
    )

    campaign: UUID
    mode: Literal["push", "claim"]
    stock: Stock | None = Field(None, description="null: all that the campaign has left")
    seconds: Annotated[int, Field(ge=1, le=86_400)] = 300
    delay: Annotated[int, Field(ge=0, le=3_600)] = Field(0, description="Seconds until it opens")


class PreviewOf(Body):
    """The campaign of a drop that is being thought about."""

    campaign: UUID


class DropView(BaseModel):
    """A drop; times in milliseconds since 1970, as on the socket."""

    id: UUID
    mode: Literal["push", "claim"]
    title: str
    terms: str
    stock: int
    left: int
    opens_at: int
    ends_at: int
    radius_m: int
    spread: int = Field(0, description="Milliseconds after `opens_at` within which each viewer's turn to claim comes")
    signature: str | None = Field(None, description="Ed25519, in base64, by the key of `/v1/coupon-key`")
    room: UUID
    campaign: UUID
    state: Literal["open", "ended"]
    issued: int
    end_reason: Literal["sold_out", "time", "stopped"] | None
    matched_at: int | None
    held_until: int | None = Field(None, description="It opened in quiet hours: what it gives is told and holds then")

    @classmethod
    def of(cls, drop: cards.DropView) -> Self:
        """From the use case's answer."""
        return cls(**msgspec.structs.asdict(drop))


class StoreViewers(BaseModel):
    """A store and how many eligible viewers are in its reach."""

    code: str
    name: str
    viewers: int


class Preview(BaseModel):
    """What a push drop would do now. ``reasons`` counts, by refusal code, those with a fix who would get none.

    ``held_until`` (milliseconds since 1970) is the end of the brand's quiet hours: viewers would be told then.
    """

    located: int
    in_range: int
    eligible: int
    reasons: dict[str, int]
    stores: list[StoreViewers]
    held_until: int | None

    @classmethod
    def of(cls, preview: foresight.Preview) -> Self:
        """From the use case's answer."""
        return cls.model_validate(msgspec.to_builtins(preview))


class CouponView(BaseModel):
    """A coupon as its owner sees it; times in milliseconds since 1970, as on the socket."""

    id: UUID
    title: str
    terms: str
    code: str = Field(description="With its check symbol, in groups: `XXXX-XXXX-XXXX-XXXX-C`")
    store: str = Field(description="The code of the store that redeems it")
    store_name: str
    store_address: str | None
    state: Literal["issued", "redeemed", "expired", "voided"]
    valid_from: int | None
    valid_until: int
    distance_m: int | None = Field(description="Upper edge of the distance band it was given in")
    drop: UUID | None

    @classmethod
    def of(cls, card: cards.CouponCard) -> Self:
        """From the use case's answer."""
        return cls(**msgspec.structs.asdict(card))


class QrView(BaseModel):
    """A QR code to show until ``expires_at``, then to be fetched again."""

    payload: str
    svg: str
    expires_at: datetime

    @classmethod
    def of(cls, qr: QrCode) -> Self:
        """From the use case's answer."""
        return cls(payload=qr.payload, svg=qr.svg, expires_at=qr.expires_at)


class CouponKey(BaseModel):
    """With which anybody can check QR codes, without asking us."""

    algorithm: Literal["Ed25519"] = "Ed25519"
    key: str = Field(description="32 bytes in base64")
    step_seconds: int
