"""A store's day as its till closes it: what was redeemed, taken back and visited, in the brand's time zone.

A redemption belongs to the day it happened, also when it was told later; a reversal to the day somebody took it back,
so that no reversal changes a day before. Each line says what it changed in the orders that stand (see
``coupons.orders``), so over any days redemptions less reversals are what came to stand in them.
Customers' names are left out: the sheet leaves the house.
"""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import Row, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import orders, sheet
from geo.tables import Store
from kernel.errors import Refusal
from kernel.identity import Principal, Role

What = Literal["redemption", "reversal", "visit"]

# One statement, so that it sees one moment. Beside what happened in the day, the coupons on orders of former days from
# which the day took one back: no day has more than 25 hours, and ix_redemptions_day wants to know it.
_LINES = text(
    """
    SELECT 'redemption' AS what, r.at, r.told_at, r.id, c.title, s.name AS clerk, r.order_ref AS "order",
           r.order_fen, r.discount_fen, r.at AS sold_at, r.reversed_at
    FROM redemptions r JOIN coupons k ON k.id = r.coupon_id JOIN campaigns c ON c.id = k.campaign_id
        LEFT JOIN staff s ON s.id = r.clerk_id
    WHERE r.store_id = :store AND r.at >= :begin AND r.at < :end
    UNION ALL
    SELECT 'reversal', r.reversed_at, NULL, r.id, c.title, s.name, r.order_ref, r.order_fen, r.discount_fen,
           r.at, r.reversed_at
    FROM redemptions r JOIN coupons k ON k.id = r.coupon_id JOIN campaigns c ON c.id = k.campaign_id
        LEFT JOIN staff s ON s.id = r.reversed_by
    WHERE r.store_id = :store AND r.reversed_at >= :begin AND r.reversed_at < :end
    UNION ALL
    SELECT 'visit', v.at, NULL, v.id, NULL, s.name, NULL, NULL, NULL, NULL, NULL
    FROM visits v LEFT JOIN staff s ON s.id = v.clerk_id
    WHERE v.store_id = :store AND v.at >= :begin AND v.at < :end
    UNION ALL
    SELECT 'beside', r.at, NULL, r.id, NULL, NULL, r.order_ref, r.order_fen, NULL, r.at, r.reversed_at
    FROM redemptions b JOIN redemptions r ON r.store_id = b.store_id AND r.order_ref = b.order_ref
        AND r.at BETWEEN b.at - interval '25 hours' AND b.at + interval '25 hours'
    WHERE b.store_id = :store AND b.reversed_at >= :begin AND b.reversed_at < :end AND b.at < :begin
    ORDER BY 2, 4
    """
)


@dataclass(frozen=True, slots=True)
class ClosingLine:
    """Something that happened. Money in fen; ``told_at`` only where the till had no network. ``id`` is the redemption's
    (also for its reversal) or the visit's.

    ``order_fen`` is what the till said. ``orders`` and ``turnover_fen`` are what the line changed, below zero where it
    took back an order, which is the one of ``order_date``.
    """

    what: What
    at: datetime
    told_at: datetime | None
    id: UUID
    title: str | None
    clerk: str | None
    order: str | None
    order_fen: int | None
    discount_fen: int | None
    order_date: date | None
    orders: int | None
    turnover_fen: int | None


@dataclass(frozen=True, slots=True)
class Sum:
    """How many lines; and how many orders they made or took back, what those and the discounts come to in fen."""

    count: int
    orders: int
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
        """Over the lines of one sort, none below zero; a named order counts once."""
        lines = [line for line in self.lines if line.what == what]
        return Sum(
            len(lines),
            abs(sum(line.orders or 0 for line in lines)),
            abs(sum(line.turnover_fen or 0 for line in lines)),
            sum(line.discount_fen or 0 for line in lines),
        )

    @property
    def net(self) -> Sum:
        """What came to stand: redemptions less reversals, below zero where more of former days was taken back."""
        made, reversed_ = self.sum("redemption"), self.sum("reversal")
        return Sum(
            made.count - reversed_.count,
            made.orders - reversed_.orders,
            made.order_fen - reversed_.order_fen,
            made.discount_fen - reversed_.discount_fen,
        )

    @property
    def told_late(self) -> int:
        """Redemptions that the till made without a network."""
        return sum(line.told_at is not None for line in self.lines)


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
    place = await orders.zone(session, who)
    day = day or now.astimezone(place).date()
    if not date(2000, 1, 1) <= day <= date(9000, 1, 1):
        raise Refusal("invalid", "There was no till on that day.", field="date")
    begin, end = orders.bounds(day, place)
    rows = (await session.execute(_LINES, {"store": found.id, "begin": begin, "end": end})).all()
    changed = orders.changes({row.id: _redeemed(row, place) for row in rows if row.what != "visit"}.values())
    lines = [_line(row, place, changed.get(row.id)) for row in rows if row.what != "beside"]
    return Day(found.code, found.name, day, place.key, lines)


def _redeemed(row: Row[Any], place: ZoneInfo) -> orders.Redeemed:
    day = row.sold_at.astimezone(place).date()
    return orders.Redeemed(row.id, row.sold_at, row.reversed_at, row.order, day, row.order_fen)


def _line(row: Row[Any], place: ZoneInfo, changed: orders.Changes | None) -> ClosingLine:
    change = changed and (changed.reversed if row.what == "reversal" else changed.made)
    return ClosingLine(
        what=row.what,
        at=row.at.astimezone(place),
        told_at=row.told_at,
        id=row.id,
        title=row.title,
        clerk=row.clerk,
        order=row.order,
        order_fen=row.order_fen,
        discount_fen=row.discount_fen,
        order_date=row.sold_at and row.sold_at.astimezone(place).date(),
        orders=change and change.orders,
        turnover_fen=change and change.turnover_fen,
    )


def as_csv(day: Day) -> str:
    """The day as CSV that spreadsheets open. Money in yuan."""
    rows: list[tuple[object, ...]] = []

    def row(*cells: object) -> None:
        rows.append(cells)

    row(
        "time", "what", "coupon", "clerk", "order", "order_yuan", "discount_yuan", "told_at", "id",
        "order_date", "orders", "turnover_yuan",
    )  # fmt: skip
    for line in day.lines:
        told = line.told_at and line.told_at.astimezone(line.at.tzinfo).isoformat(" ", "seconds")
        row(
            line.at.isoformat(" ", "seconds"), line.what, line.title, line.clerk, line.order,
            sheet.yuan(line.order_fen), sheet.yuan(line.discount_fen), told, str(line.id),
            line.order_date and line.order_date.isoformat(), line.orders, sheet.yuan(line.turnover_fen),
        )  # fmt: skip
    row()
    row("store", day.store_code, day.store_name)
    row("date", day.day.isoformat(), day.timezone)
    whats: tuple[What, ...] = ("redemption", "reversal", "visit")
    for name, total in [*((f"{what}s", day.sum(what)) for what in whats), ("net", day.net)]:
        money = sheet.yuan(total.order_fen), sheet.yuan(total.discount_fen)
        row(name, total.count, None, None, None, *money, None, None, None, total.orders)
    row("told_late", day.told_late)
    return sheet.as_csv(rows)
