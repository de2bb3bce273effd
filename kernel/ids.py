"""Identifiers: UUID version 7 (RFC 9562), so that rows written together lie together."""

import secrets
import time
from typing import NewType
from uuid import UUID

import numpy as np
import uuid_utils
from asyncpg.pgproto.pgproto import UUID as QuickUUID

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


def new_ids(n: int) -> list[UUID]:
    """``n`` of them in ascending order, at the price of few; written in C, but otherwise the same.

    As RFC 9562 has it: 48 bits of milliseconds, a counter of 12 bits, 62 random bits. Where the counter is used up, the
    next millisecond goes on.
    """
    place = np.arange(n, dtype=np.uint64)
    begin = np.uint64(time.time_ns() // 1_000_000)
    halves = np.empty((n, 2), ">u8")
    halves[:, 0] = (begin + (place >> 12)) << 16 | 7 << 12 | place & 0xFFF
    halves[:, 1] = np.frombuffer(secrets.token_bytes(8 * n), ">u8") >> 2 | 1 << 63
    return ids_in(halves.tobytes())


def ids_in(packed: bytes) -> list[UUID]:
    """The identifiers in ``packed``, 16 bytes each."""
    return [QuickUUID(packed[start : start + 16]) for start in range(0, len(packed), 16)]
