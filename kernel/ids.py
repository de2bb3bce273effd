"""Identifiers: UUID version 7 (RFC 9562), so that rows written together lie together."""

from typing import NewType
from uuid import UUID

import uuid_utils

BrandId = NewType("BrandId", str)
RoomId = NewType("RoomId", UUID)
ViewerId = NewType("ViewerId", UUID)
StoreId = NewType("StoreId", UUID)
ProductId = NewType("ProductId", UUID)
CampaignId = NewType("CampaignId", UUID)
DropId = NewType("DropId", UUID)
CouponId = NewType("CouponId", UUID)
Fen = NewType("Fen", int)
"""Money in hundredths of a yuan; never a float."""
Metres = NewType("Metres", float)


def new_id() -> UUID:
    """A fresh time-ordered identifier."""
    return UUID(int=uuid_utils.uuid7().int)
