"""Signs that a viewer is not where their fixes say: what they are, what they weigh, and the list of them for ops.

* ``jumped`` (strong): faster than ``TOP_SPEED`` between two fixes, in one room or in two, both accuracies allowed for.
  No accident does that, and no train: China's fastest run at 350 km/h.
* ``frozen`` (weak): the very same digits ``FROZEN_AFTER`` times in a row. A phone at rest trembles in the last ones;
  one that is located by its Wi-Fi may not.
* ``shared`` (weak): the very same digits from ``SHARED_BY`` viewers of a room within ``SHARED_WITHIN``. Farms of phones
  do that, and so may the guests of one hotel.

A viewer is doubted (``locations.doubt``, in all rooms that they are in) on a strong sign, or on two different ones, for
``LASTS`` after the last; one weak sign alone only puts them on the list. The campaign says what doubt means for its
coupons. Who left a room is forgotten there, so there is nothing to compare a fix with that comes after: what was noted
before goes on to count. See ``docs/decisions/0041``.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import blake2b
from struct import pack
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from geo.datum import Datum
from geo.matching import FRESH

TOP_SPEED = 110
"""Metres a second: 396 km/h."""
FROZEN_AFTER = 20
"""Repetitions."""
SHARED_BY = 8
"""Viewers."""
SHARED_WITHIN = timedelta(minutes=5)
LASTS = FRESH
STRONG = ("jumped",)


class Sign(NamedTuple):
    """One sign, and from when to when it was seen."""

    sign: str
    strong: bool
    first_at: datetime
    last_at: datetime


class Doubted(NamedTuple):
    """A viewer of a room, and what speaks against their fixes."""

    viewer: UUID
    name: str
    room: UUID
    last_at: datetime
    signs: Sequence[Sign]


_LISTED = text(
    """
    SELECT d.viewer_id, m.name, d.room_id, max(d.last_at) AS at, array_agg(d.sign ORDER BY d.sign) AS signs,
           array_agg(d.first_at ORDER BY d.sign) AS firsts, array_agg(d.last_at ORDER BY d.sign) AS lasts
    FROM doubts d JOIN members m ON m.id = d.viewer_id
    WHERE d.brand_id = :brand
    GROUP BY d.viewer_id, m.name, d.room_id
    HAVING CAST(:at AS timestamptz) IS NULL
        OR (max(d.last_at), d.viewer_id, d.room_id) < (:at, CAST(:viewer AS uuid), CAST(:room AS uuid))
    ORDER BY at DESC, d.viewer_id DESC, d.room_id DESC
    LIMIT :limit
    """
)


def digits(lng: float, lat: float, datum: Datum) -> int:
    """A fix as it was given, to the last bit, as a number that fits a ``bigint``."""
    return int.from_bytes(blake2b(pack("<dd", lng, lat) + datum.encode(), digest_size=8).digest(), signed=True)


async def listed(
    session: AsyncSession, brand: str, before: tuple[datetime, UUID, UUID] | None, limit: int
) -> list[Doubted]:
    """Viewers of ``brand`` with signs against them, the latest first; ``before`` is the time, viewer and room of the
    last one of the page before."""
    at, viewer, room = before or (None, None, None)
    asked = {"brand": brand, "at": at, "viewer": viewer, "room": room, "limit": limit}
    return [
        Doubted(
            row.viewer_id,
            row.name,
            row.room_id,
            row.at,
            [
                Sign(s, s in STRONG, first, last)
                for s, first, last in zip(row.signs, row.firsts, row.lasts, strict=True)
            ],
        )
        for row in await session.execute(_LISTED, asked)
    ]
