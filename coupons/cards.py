"""Coupons and drops as they leave this package: to their owners, and as payloads of outbox events.

The field names are those of the room socket's cards, so that an event travels from the outbox to a phone unchanged.
Times are milliseconds since 1970.
"""

from typing import Literal
from uuid import UUID

from msgspec import Struct

EndReason = Literal["sold_out", "time", "stopped"]


class DropCard(Struct, frozen=True, omit_defaults=True):
    """A drop as announced to a room. ``held_until``: it was opened in quiet hours, and what it gives is told then."""

    id: UUID
    mode: str
    title: str
    terms: str
    stock: int
    left: int
    opens_at: int
    ends_at: int
    radius_m: int
    spread: int = 0
    signature: str | None = None
    held_until: int | None = None


class DropView(DropCard, frozen=True, omit_defaults=True, kw_only=True):
    """A drop as guides and ops see it."""

    room: UUID
    campaign: UUID
    state: str
    issued: int
    end_reason: str | None = None
    matched_at: int | None = None


class CouponCard(Struct, frozen=True, omit_defaults=True, gc=False):
    """A coupon as its owner sees it. ``distance_m`` is a band's upper edge."""

    id: UUID
    title: str
    terms: str
    code: str
    store: str
    store_name: str
    valid_until: int
    state: str = "issued"
    valid_from: int | None = None
    store_address: str | None = None
    distance_m: int | None = None
    drop: UUID | None = None


class Grant(Struct, frozen=True, gc=False):
    """A coupon and whose it is."""

    viewer: UUID
    coupon: CouponCard


class Issued(Struct, frozen=True):
    """``coupons.issued``: at most 500 grants, and no viewer twice."""

    drop: UUID
    grants: list[Grant]


class DropOpened(Struct, frozen=True):
    """``coupons.drop_opened``."""

    drop: DropCard


class DropEnded(Struct, frozen=True, tag_field="t", tag="drop_end"):
    """``coupons.drop_ended``."""

    drop: UUID
    reason: EndReason


class DropStock(Struct, frozen=True, tag_field="t", tag="drop_stock"):
    """``coupons.drop_stock``."""

    drop: UUID
    left: int
