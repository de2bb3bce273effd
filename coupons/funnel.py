"""From in the room to money in the till: how many came how far, by drop, room, guide or store."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, get_args
from uuid import UUID

from pydantic import ConfigDict
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from coupons.orders import COUNTED

By = Literal["room", "store", "guide", "drop"]
SPOTS: tuple[By, ...] = get_args(By)
MOST = 5000
"""Funnels of one answer; a file holds them all."""
EVERY = 1_000_000


def _example(**figures: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [figures]})


@dataclass(frozen=True, kw_only=True)
class Funnel:
    """How many people came how far, each counted once however many coupons they had; money in fen.

    ``in_range``: in reach of a store when a drop decided. ``offered``: of those, who could have had a coupon.
    ``held_out``: the comparison group. ``visited``: came to the store of their coupon, to redeem it or just so.
    ``coupons`` and ``coupons_redeemed`` count coupons, as the audit does. ``amount_fen`` has each order once, with one
    coupon of those on it (see ``coupons.orders``), so that rooms, stores, guides and drops each add up to the whole.
    """

    __pydantic_config__ = _example(
        in_room=812, in_range=412, offered=380, held_out=20, issued=300, seen=270, visited=61, redeemed=48,
        amount_fen=201600, discount_fen=38400, coupons=310, coupons_redeemed=49,
    )  # fmt: skip

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


@dataclass(frozen=True, kw_only=True)
class FunnelRow(Funnel):
    """The funnel of one room, store, guide or drop."""

    id: UUID
    name: str

    @property
    def stages(self) -> Funnel:
        """Its figures alone."""
        return Funnel(**{name: getattr(self, name) for name in STAGES})


STAGES = tuple(field.name for field in fields(Funnel))


@dataclass(frozen=True, kw_only=True)
class StoreCoupons:
    """A store on the map (canonical frame) and its coupons."""

    __pydantic_config__ = _example(
        id="019c2f6e-1a2b-7c3d-8e4f-5a6b7c8d9e10", code="SH001", name="静安寺店", city="上海", lng=121.445, lat=31.223,
        issued=40, redeemed=9,
    )  # fmt: skip

    id: UUID
    code: str
    name: str
    city: str
    lng: float
    lat: float
    issued: int
    redeemed: int


class _Spot(NamedTuple):
    """What figures are grouped by: in coupons (``k``, rooms ``r``), in decisions (``v``, drops ``d``, rooms ``r``); who
    was in the room, counted by it; and what it is called."""

    coupons: str
    decisions: str
    presence: str
    names: str


_EVERYTHING = "CAST('00000000-0000-0000-0000-000000000000' AS uuid)"


def chosen(spot: str) -> str:
    """SQL that holds where ``spot`` is one of ``:spots``, or those are null."""
    return f"(CAST(:spots AS uuid[]) IS NULL OR {spot} IN (SELECT unnest(CAST(:spots AS uuid[]))))"


_OURS = "a.room_id IN (SELECT id FROM rooms WHERE brand_id = :brand)"

_SPOTS: dict[str, _Spot] = {
    "room": _Spot(
        "k.room_id",
        "d.room_id",
        f"""
        SELECT a.room_id AS spot, count(*) AS in_room FROM attendance a
        WHERE {_OURS} AND {chosen("a.room_id")} GROUP BY 1
        """,
        "SELECT id, title AS name FROM rooms WHERE brand_id = :brand",
    ),
    "drop": _Spot(
        "k.drop_id",
        "v.drop_id",
        f"""
        SELECT d.id AS spot, a.n AS in_room
        FROM drops d JOIN (
            SELECT a.room_id, count(*) AS n FROM attendance a
            WHERE {_OURS} AND a.room_id IN (SELECT d.room_id FROM drops d WHERE {chosen("d.id")}) GROUP BY 1
        ) a USING (room_id)
        """,
        "SELECT d.id, c.title AS name FROM drops d JOIN campaigns c ON c.id = d.campaign_id WHERE c.brand_id = :brand",
    ),
    "guide": _Spot(
        "r.guide_id",
        "r.guide_id",
        f"""
        SELECT spot, count(*) AS in_room FROM (
            SELECT DISTINCT r.guide_id AS spot, a.viewer_id FROM attendance a JOIN rooms r ON r.id = a.room_id
            WHERE {_OURS}
        ) AS people GROUP BY 1
        """,
        "SELECT id, name FROM staff WHERE brand_id = :brand AND role = 'guide'",
    ),
    # Who stands where is known of those only about whom a drop decided.
    "store": _Spot(
        "k.store_id",
        "v.store_id",
        "SELECT CAST(NULL AS uuid) AS spot, 0 AS in_room",
        "SELECT id, name FROM stores WHERE brand_id = :brand",
    ),
    "brand": _Spot(
        _EVERYTHING,
        _EVERYTHING,
        f"""
        SELECT {_EVERYTHING} AS spot, count(*) AS in_room
        FROM (SELECT DISTINCT a.viewer_id FROM attendance a WHERE {_OURS}) AS people
        """,
        f"SELECT {_EVERYTHING} AS id, name FROM brands WHERE id = :brand",
    ),
}

# Each table is read once, and each person put together before each spot is: counting distinct people of a thousand
# rooms sorts everything, and asking of each coupon whether its owner came asks 200,000 times. Whom a drop gave a coupon
# is told by the coupons, whom it gave none by its decisions.
_STAGES = """
    WITH names AS ({names}), presence AS ({presence}), counted AS ({counted}),
    arrivals AS (
        SELECT viewer_id, store_id, max(at) AS at FROM visits WHERE brand_id = :brand GROUP BY 1, 2
    ), facts AS (
        SELECT {coupons} AS spot, k.viewer_id, 1 AS coupon, CAST(k.state = 'redeemed' AS int) AS used,
               CAST(w.at IS NOT NULL AS int) AS came, CAST(k.seen_at IS NOT NULL AS int) AS seen,
               0 AS held_out, 0 AS too_late, u.order_fen, u.discount_fen
        FROM coupons k JOIN rooms r ON r.id = k.room_id
        LEFT JOIN counted u ON u.coupon_id = k.id
        LEFT JOIN arrivals w ON w.viewer_id = k.viewer_id AND w.store_id = k.store_id AND w.at >= k.issued_at
        WHERE k.brand_id = :brand AND {of_coupons}
        UNION ALL
        SELECT {decisions}, v.viewer_id, 0, 0, 0, 0, CAST(v.outcome = 'held_out' AS int),
               CAST(coalesce(v.reason, '') IN ('sold_out', 'sold_out_today') AS int), NULL, NULL
        FROM drop_viewers v JOIN drops d ON d.id = v.drop_id JOIN rooms r ON r.id = d.room_id
        WHERE v.outcome <> 'issued' AND r.brand_id = :brand AND {of_decisions}
    ), people AS (
        SELECT spot, sum(coupon) AS coupons, sum(used) AS used, max(came) AS came, max(seen) AS seen,
               max(held_out) AS held_out, max(too_late) AS too_late,
               CAST(sum(order_fen) AS bigint) AS order_fen, CAST(sum(discount_fen) AS bigint) AS discount_fen
        FROM facts GROUP BY spot, viewer_id
    ), stages AS (
        SELECT spot, count(*) AS in_range, count(*) FILTER (WHERE coupons > 0 OR too_late > 0) AS offered,
               count(*) FILTER (WHERE held_out > 0) AS held_out, count(*) FILTER (WHERE coupons > 0) AS issued,
               -- Who came to the store has seen it, even if their phone did not say so.
               count(*) FILTER (WHERE seen > 0 OR came > 0 OR used > 0) AS seen,
               count(*) FILTER (WHERE came > 0 OR used > 0) AS visited, count(*) FILTER (WHERE used > 0) AS redeemed,
               CAST(sum(order_fen) AS bigint) AS amount_fen, CAST(sum(discount_fen) AS bigint) AS discount_fen,
               CAST(sum(coupons) AS bigint) AS coupons, CAST(sum(used) AS bigint) AS coupons_redeemed
        FROM people GROUP BY spot
    )
    SELECT n.id, n.name, coalesce(p.in_room, 0) AS in_room, {stages}
    FROM names n LEFT JOIN presence p ON p.spot = n.id LEFT JOIN stages s ON s.spot = n.id
    WHERE {of_names} AND coalesce(p.in_room, s.in_range) IS NOT NULL
    ORDER BY coalesce(s.coupons, 0) DESC, n.id
    LIMIT :limit
"""
_MOST = """
    SELECT {coupons} FROM coupons k JOIN rooms r ON r.id = k.room_id WHERE k.brand_id = :brand
    GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT :limit
"""
MEMORY = text("SET LOCAL work_mem = '64MB'")
"""For people of thousands of rooms to be put together without a disk; the transaction is the request's own."""

_STORES = text(
    """
    WITH page AS (
        SELECT id, code, name, city, position FROM stores
        WHERE brand_id = :brand AND (CAST(:after AS text) IS NULL OR code > :after)
        ORDER BY code LIMIT :limit
    ), given AS (
        SELECT store_id, count(*) AS n FROM coupons
        WHERE brand_id = :brand AND store_id IN (SELECT id FROM page) GROUP BY 1
    ), used AS (
        SELECT store_id, count(*) AS n FROM redemptions
        WHERE reversed_at IS NULL AND store_id IN (SELECT id FROM page) GROUP BY 1
    )
    SELECT s.id, s.code, s.name, s.city, ST_X(s.position::geometry) AS lng, ST_Y(s.position::geometry) AS lat,
           coalesce(g.n, 0) AS issued, coalesce(u.n, 0) AS redeemed
    FROM page s LEFT JOIN given g ON g.store_id = s.id LEFT JOIN used u ON u.store_id = s.id
    ORDER BY s.code
    """
)


def _statement(spot: str) -> Any:
    where = _SPOTS[spot]._asdict()
    stages = ", ".join(f"coalesce(s.{name}, 0) AS {name}" for name in STAGES if name != "in_room")
    of = {f"of_{name}": chosen(where[name]) for name in ("coupons", "decisions")} | {"of_names": chosen("n.id")}
    return text(_STAGES.format(**where, **of, stages=stages, counted=COUNTED))


def spot_of_coupons(by: By) -> str:
    """What coupons (``coupons k``, ``rooms r``) are grouped by, as SQL."""
    return _SPOTS[by].coupons


def spot_of_decisions(by: By) -> str:
    """What the decisions of drops (``drop_viewers v``, ``drops d``, ``rooms r``) are grouped by, as SQL."""
    return _SPOTS[by].decisions


async def _rows(
    session: AsyncSession, spot: str, brand: str, spots: Sequence[UUID] | None = None, limit: int = 1
) -> list[FunnelRow]:
    await session.execute(MEMORY)
    rows = await session.execute(_statement(spot), {"brand": brand, "spots": spots, "limit": limit})
    return [FunnelRow(**row._mapping) for row in rows]


async def of_room(session: AsyncSession, brand: str, room: UUID) -> Funnel:
    """The funnel of one room, whose existence is the caller's to check."""
    return _only(await _rows(session, "room", brand, [room]))


async def of_brand(session: AsyncSession, brand: str) -> Funnel:
    """The funnel of all rooms together: who was in several counts once."""
    return _only(await _rows(session, "brand", brand))


def _only(rows: Sequence[FunnelRow]) -> Funnel:
    return rows[0].stages if rows else Funnel(**dict.fromkeys(STAGES, 0))


async def by(session: AsyncSession, brand: str, spot: By, limit: int = 200) -> list[FunnelRow]:
    """The funnels by room, store, guide or drop where anything happened, most coupons first."""
    # Which they are is told by counting coupons, which is quick; only of those people are put together.
    asked = text(_MOST.format(coupons=_SPOTS[spot].coupons))
    most = (await session.scalars(asked, {"brand": brand, "limit": limit})).all()
    return await _rows(session, spot, brand, most if len(most) == limit else None, limit)


async def stores(session: AsyncSession, brand: str, after: str | None, limit: int) -> list[StoreCoupons]:
    """The brand's stores on the map with their coupons, in the order of their codes, behind the code ``after``."""
    rows = await session.execute(_STORES, {"brand": brand, "after": after, "limit": limit})
    return [StoreCoupons(**row._mapping) for row in rows]
