"""From in the room to money in the till: how many came how far, by drop, room, guide or store."""

from typing import Any, Literal
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

By = Literal["room", "store", "guide", "drop"]


class Stages(msgspec.Struct, frozen=True):
    """How many people came how far, each counted once however many coupons they had; money in fen.

    ``in_range``: in reach of a store when a drop decided. ``offered``: of those, who could have had a coupon.
    ``held_out``: the comparison group. ``visited``: came to the store of their coupon, to redeem it or just so.
    ``coupons`` and ``coupons_redeemed`` count coupons, as the audit does.
    """

    in_room: int
    in_range: int
    offered: int
    held_out: int
    issued: int
    seen: int
    visited: int
    redeemed: int
    amount_fen: int
    discount_fen: int
    coupons: int
    coupons_redeemed: int


class Row(msgspec.Struct, frozen=True):
    """The stages of one room, store, guide or drop."""

    id: UUID
    name: str
    stages: Stages


class StoreCoupons(msgspec.Struct, frozen=True):
    """A store on the map (canonical frame) and its coupons."""

    id: UUID
    code: str
    name: str
    city: str
    lng: float
    lat: float
    issued: int
    redeemed: int


# ``spot`` is what the figures are grouped by, for each of the three sources.
_SPOTS: dict[By, tuple[str, str, str, str]] = {
    "room": ("d.room_id", "k.room_id", "a.room_id", "SELECT id, title AS name FROM rooms WHERE brand_id = :brand"),
    "drop": (
        "d.id",
        "k.drop_id",
        "dd.id",
        "SELECT d.id, c.title AS name FROM drops d JOIN campaigns c ON c.id = d.campaign_id WHERE c.brand_id = :brand",
    ),
    "guide": (
        "r.guide_id",
        "r.guide_id",
        "r.guide_id",
        "SELECT id, name FROM staff WHERE brand_id = :brand AND role = 'guide'",
    ),
    "store": ("v.store_id", "k.store_id", "NULL::uuid", "SELECT id, name FROM stores WHERE brand_id = :brand"),
}

_STAGES = """
    WITH names AS ({names}),
    presence AS (
        SELECT {at_attendance} AS spot, count(DISTINCT a.viewer_id) AS in_room
        FROM attendance a JOIN rooms r ON r.id = a.room_id {join_drops}
        WHERE r.brand_id = :brand AND (CAST(:room AS uuid) IS NULL OR r.id = :room)
        GROUP BY 1
    ), decided AS (
        SELECT {at_decision} AS spot, count(DISTINCT v.viewer_id) AS in_range,
               count(DISTINCT v.viewer_id) FILTER (
                   WHERE v.outcome = 'issued' OR v.reason IN ('sold_out', 'sold_out_today')
               ) AS offered,
               count(DISTINCT v.viewer_id) FILTER (WHERE v.outcome = 'held_out') AS held_out
        FROM decisions v JOIN drops d ON d.id = v.drop_id JOIN rooms r ON r.id = d.room_id
        WHERE r.brand_id = :brand AND (CAST(:room AS uuid) IS NULL OR r.id = :room)
        GROUP BY 1
    ), given AS (
        SELECT {at_coupon} AS spot, count(*) AS coupons, count(DISTINCT k.viewer_id) AS issued,
               count(*) FILTER (WHERE k.state = 'redeemed') AS coupons_redeemed,
               count(DISTINCT k.viewer_id) FILTER (WHERE k.state = 'redeemed') AS redeemed,
               -- Who came to the store has seen it, even if their phone did not say so.
               count(DISTINCT k.viewer_id) FILTER (WHERE k.seen_at IS NOT NULL OR k.state = 'redeemed' OR w.came)
                   AS seen,
               count(DISTINCT k.viewer_id) FILTER (WHERE k.state = 'redeemed' OR w.came) AS visited,
               coalesce(sum(u.order_fen), 0)::bigint AS amount_fen,
               coalesce(sum(u.discount_fen), 0)::bigint AS discount_fen
        FROM coupons k JOIN rooms r ON r.id = k.room_id
        LEFT JOIN redemptions u ON u.coupon_id = k.id AND u.reversed_at IS NULL
        CROSS JOIN LATERAL (
            SELECT EXISTS (
                SELECT 1 FROM visits t
                WHERE t.viewer_id = k.viewer_id AND t.store_id = k.store_id AND t.at >= k.issued_at
            ) AS came
        ) w
        WHERE k.brand_id = :brand AND (CAST(:room AS uuid) IS NULL OR k.room_id = :room)
        GROUP BY 1
    )
    SELECT n.id, n.name, coalesce(p.in_room, 0) AS in_room, coalesce(d.in_range, 0) AS in_range,
           coalesce(d.offered, 0) AS offered, coalesce(d.held_out, 0) AS held_out, coalesce(g.issued, 0) AS issued,
           coalesce(g.seen, 0) AS seen, coalesce(g.visited, 0) AS visited, coalesce(g.redeemed, 0) AS redeemed,
           coalesce(g.amount_fen, 0) AS amount_fen, coalesce(g.discount_fen, 0) AS discount_fen,
           coalesce(g.coupons, 0) AS coupons, coalesce(g.coupons_redeemed, 0) AS coupons_redeemed
    FROM names n
    LEFT JOIN presence p ON p.spot = n.id
    LEFT JOIN decided d ON d.spot = n.id
    LEFT JOIN given g ON g.spot = n.id
    WHERE {which}
    ORDER BY coalesce(g.coupons, 0) DESC, n.id
    LIMIT :limit
"""

_STORES = text(
    """
    SELECT s.id, s.code, s.name, s.city, ST_X(s.position::geometry) AS lng, ST_Y(s.position::geometry) AS lat,
           coalesce(k.issued, 0) AS issued, coalesce(k.redeemed, 0) AS redeemed
    FROM stores s
    LEFT JOIN (
        SELECT store_id, count(*) AS issued, count(*) FILTER (WHERE state = 'redeemed') AS redeemed
        FROM coupons WHERE brand_id = :brand GROUP BY store_id
    ) k ON k.store_id = s.id
    WHERE s.brand_id = :brand AND (CAST(:after AS text) IS NULL OR s.code > :after)
    ORDER BY s.code
    LIMIT :limit
    """
)


def _statement(by: By, which: str) -> Any:
    at_decision, at_coupon, at_attendance, names = _SPOTS[by]
    return text(
        _STAGES.format(
            names=names,
            at_decision=at_decision,
            at_coupon=at_coupon,
            at_attendance=at_attendance,
            join_drops="JOIN drops dd ON dd.room_id = a.room_id" if by == "drop" else "",
            which=which,
        )
    )


def spot_of_decision(by: By) -> str:
    """What the decisions of drops (``decisions v``, ``drops d``, ``rooms r``) are grouped by, as SQL."""
    return _SPOTS[by][0]


def _row(row: Any) -> Row:
    return Row(row.id, row.name, Stages(**{name: getattr(row, name) for name in Stages.__struct_fields__}))


async def of_room(session: AsyncSession, brand: str, room: UUID) -> Stages:
    """The stages of one room, whose existence is the caller's to check."""
    values = {"brand": brand, "room": room, "limit": 1}
    row = (await session.execute(_statement("room", "n.id = :room"), values)).one_or_none()
    return _row(row).stages if row is not None else Stages(*[0] * len(Stages.__struct_fields__))


async def by(session: AsyncSession, brand: str, spot: By, limit: int = 200) -> list[Row]:
    """The stages by room, store, guide or drop where anything happened, most coupons first."""
    which = "coalesce(p.in_room, d.in_range, g.issued) IS NOT NULL"
    rows = await session.execute(_statement(spot, which), {"brand": brand, "room": None, "limit": limit})
    return [_row(row) for row in rows]


async def stores(session: AsyncSession, brand: str, after: str | None, limit: int) -> list[StoreCoupons]:
    """The brand's stores on the map with their coupons, in the order of their codes, behind the code ``after``."""
    rows = await session.execute(_STORES, {"brand": brand, "after": after, "limit": limit})
    return [StoreCoupons(**row._mapping) for row in rows]
