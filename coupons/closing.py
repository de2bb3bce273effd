"""A store's day as its till closes it: what was redeemed, taken back and visited, in the brand's time zone.

A redemption belongs to the day it happened, also when it was told later; a reversal to the day somebody took it back.
Customers' names are left out: the sheet leaves the house.
"""

from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from typing import Literal
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import sheet
from geo.tables import Store
from kernel.errors import Refusal
from kernel.identity import Principal, Role
from kernel.tables import Brand

What = Literal["redemption", "reversal", "visit"]

_LINES = text(
    """
    SELECT 'redemption' AS what, r.at, r.told_at, r.id, c.title, s.name AS clerk, r.order_ref,
           r.order_fen, r.discount_fen
    FROM redemptions r JOIN coupons k ON k.id = r.coupon_id JOIN campaigns c ON c.id = k.campaign_id
        LEFT JOIN staff s ON s.id = r.clerk_id
    WHERE r.store_id = :store AND r.at >= :begin AND r.at < :end
    UNION ALL
    SELECT 'reversal', r.reversed_at, NULL, r.id, c.title, s.name, r.order_ref, r.order_fen, r.discount_fen
    FROM redemptions r JOIN coupons k ON k.id = r.coupon_id JOIN campaigns c ON c.id = k.campaign_id
        LEFT JOIN staff s ON s.id = r.reversed_by
    WHERE r.store_id = :store AND r.reversed_at >= :begin AND r.reversed_at < :end
    UNION ALL
    SELECT 'visit', v.at, NULL, v.id, NULL, s.name, NULL, NULL, NULL
    FROM visits v LEFT JOIN staff s ON s.id = v.clerk_id
    WHERE v.store_id = :store AND v.at >= :begin AND v.at < :end
    ORDER BY 2, 4
    """
)


@dataclass(frozen=True, slots=True)
class ClosingLine:
    """Something that happened. Money in fen; ``told_at`` only where the till had no network. ``id`` is the redemption's
    (also for its reversal) or the visit's."""

    what: What
    at: datetime
    told_at: datetime | None
    id: UUID
    title: str | None
    clerk: str | None
    order: str | None
    order_fen: int | None
    discount_fen: int | None


@dataclass(frozen=True, slots=True)
class Sum:
    """How many, and what their orders and discounts come to in fen."""

    count: int
    order_fen: int
    discount_fen: int


@dataclass(frozen=True, slots=True)
class Day:
    """A store's day. An order with two coupons is counted with each of them where its till did not name it."""

    store_code: str
    store_name: str
    day: date
    timezone: str
    lines: list[ClosingLine]

    def sum(self, what: What) -> Sum:
        """Over the lines of one sort; a named order counts once."""
        lines = [line for line in self.lines if line.what == what]
        orders = {line.order or line.id: line.order_fen or 0 for line in lines}
        return Sum(len(lines), sum(orders.values()), sum(line.discount_fen or 0 for line in lines))

    @property
    def told_late(self) -> int:
        """Redemptions that the till made without a network."""
        return sum(line.told_at is not None for line in self.lines)


async def zone(session: AsyncSession, who: Principal) -> ZoneInfo:
    """The brand's time zone."""
    return ZoneInfo(await session.scalar(select(Brand.timezone).where(Brand.id == who.brand)) or "Asia/Shanghai")


async def of_day(session: AsyncSession, who: Principal, store: str | None, day: date | None, now: datetime) -> Day:
    """The day of the clerk's own store, or of the one that ops name.

    Raises Refusal: ``invalid`` (ops name no store, or no such day), ``not_found``, ``forbidden`` (another clerk's).
    """
    query = select(Store.id, Store.code, Store.name).where(Store.brand_id == who.brand)
    if who.role is Role.OPS:
        if store is None:
            raise Refusal("invalid", "Say which store.", field="store")
        found = (await session.execute(query.where(Store.code == store))).one_or_none()
    else:
        found = (await session.execute(query.where(Store.id == who.store))).one_or_none()
    if found is None:
        raise Refusal("not_found", what=str(store))
    if store not in (None, found.code):
        raise Refusal("forbidden", "A clerk closes the till of their own store only.")
    place = await zone(session, who)
    day = day or now.astimezone(place).date()
    if not date(2000, 1, 1) <= day <= date(9000, 1, 1):
        raise Refusal("invalid", "There was no till on that day.", field="date")
    begin, end = (datetime.combine(day + timedelta(days=n), time(), place) for n in (0, 1))
    rows = await session.execute(_LINES, {"store": found.id, "begin": begin, "end": end})
    lines = [replace(ClosingLine(*row), at=row.at.astimezone(place)) for row in rows]
    return Day(found.code, found.name, day, place.key, lines)


def _yuan(fen: int | None) -> str | None:
    return None if fen is None else f"{fen // 100}.{fen % 100:02d}"


def as_csv(day: Day) -> str:
    """The day as CSV that spreadsheets open. Money in yuan."""
    rows: list[tuple[object, ...]] = []

    def row(*cells: object) -> None:
        rows.append(cells)

    row("time", "what", "coupon", "clerk", "order", "order_yuan", "discount_yuan", "told_at", "id")
    for line in day.lines:
        told = line.told_at and line.told_at.astimezone(line.at.tzinfo).isoformat(" ", "seconds")
        row(
            line.at.isoformat(" ", "seconds"), line.what, line.title, line.clerk, line.order, _yuan(line.order_fen),
            _yuan(line.discount_fen), told, str(line.id),
        )  # fmt: skip
    row()
    row("store", day.store_code, day.store_name)
    row("date", day.day.isoformat(), day.timezone)
    whats: tuple[What, ...] = ("redemption", "reversal", "visit")
    for what in whats:
        total = day.sum(what)
        row(f"{what}s", total.count, None, None, None, _yuan(total.order_fen), _yuan(total.discount_fen))
    row("told_late", day.told_late)
    return sheet.as_csv(rows)
