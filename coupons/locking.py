"""A drop and its campaign, locked: what is granted of them is decided from what they are then.

Locks are always taken in the order brand (only where it caps coupons over all its campaigns), campaign, drop,
campaign_stores, so that two batches never wait for each other in a circle.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, time
from functools import cached_property
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import history, rules, statements
from coupons.history import Histories
from coupons.terms import limits_of, quiet_of, terms_of


@dataclass(frozen=True, slots=True)
class Area:
    """Where and when a campaign's coupons can be had in a room."""

    room: UUID
    brand: str
    campaign: UUID
    all_stores: bool
    radius_m: int
    near_counts: bool
    at: datetime
    clock: time | None = None
    """The time of the brand's day, where only stores within their hours give."""


@dataclass
class Locked:
    """A drop and its campaign as they are while this transaction holds their rows, or as somebody saw them who does
    not hold them."""

    row: Row[Any]
    _terms: dict[int | None, str] = field(default_factory=dict, init=False, repr=False)

    def terms(self, amount_fen: int | None) -> str:
        """What a coupon with an amount of its own (None: the campaign's) promises, in words."""
        if amount_fen not in self._terms:
            self._terms[amount_fen] = rules.describe(terms_of(self.row, amount_fen))
        return self._terms[amount_fen]

    def still_holds(self, seen: "Locked") -> bool:
        """Whether all that was ``seen`` is still so, but for what moves with every coupon and with the clock."""
        return all(
            getattr(seen.row, name) == getattr(self.row, name)
            for name in self.row._fields
            if name not in statements.MOVING
        )

    @cached_property
    def limits(self) -> rules.Limits:
        """Who may have one."""
        return limits_of(self.row, self.row.campaign_id, self.row.cap_coupons)

    @cached_property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.row.timezone)

    @property
    def day(self) -> date:
        """The day of the brand's calendar on which it is granted."""
        return self._day(self.at)

    def _day(self, at: datetime) -> date:
        return at.astimezone(self._zone).date()

    @property
    def left_today(self) -> int | None:
        """How many the campaign may still give today; None: any number."""
        row = self.row
        return rules.left_of_day(row.per_day, counted_on=row.day, issued=row.day_issued, today=self.day)

    @property
    def left_now(self) -> int:
        """How many may still be granted: by the drop, by its campaign, and by its campaign today."""
        return self.left if self.left_today is None else min(self.left, self.left_today)

    @property
    def minute(self) -> int:
        """The minute of the drop in which it is granted."""
        return self._minute(self.at)

    def _minute(self, at: datetime) -> int:
        return rules.minute_of(self.row.opens_at, at)

    @property
    def left_of_minute(self) -> int | None:
        """How many a push drop may still give in this minute; None: any number."""
        row = self.row
        return rules.left_of_minute(row.per_minute, counted_in=row.minute, issued=row.minute_issued, minute=self.minute)

    @property
    def left_unreserved(self) -> int:
        """What is ``left`` of a push drop for those who are in reach now."""
        row = self.row
        kept = rules.reserve(row.drop_stock, row.reserve_percent, matched=row.matched_at is not None)
        return max(0, self.left - kept)

    async def histories(self, session: AsyncSession, viewers: Iterable[UUID]) -> Histories:
        """What the brand's and the campaign's limits need to know of ``viewers``; empty where they do not ask."""
        return await history.of(session, self.row.brand_id, viewers, self.limits, self.row.cap_days, self.at)

    @property
    def area(self) -> Area:
        """Where they can be had."""
        row = self.row
        return Area(row.room_id, row.brand_id, row.campaign_id, row.all_stores, row.radius_m, row.near_counts, self.at)

    @property
    def left(self) -> int:
        """How many may still be granted: by the drop and by its campaign."""
        left: int = min(self.row.drop_left, self.row.campaign_left)
        return left

    @cached_property
    def at(self) -> datetime:
        """When the rows were locked, by the database's clock: one clock decides for every process."""
        moment: datetime = self.row.at
        return moment

    def closed(self) -> str | None:
        """Why it gives nobody a coupon now: see ``rules.closed``. Quiet hours close nothing, but nothing is given in
        them that would end before they do."""
        return self._closed(self.at)

    @cached_property
    def held_until(self) -> datetime | None:
        """Until when their owners are not told of coupons that a push drop gives now; None: at once."""
        return self._quiet_until(self.at) if self.row.mode == "push" else None

    def never_valid(self) -> bool:
        """Whether what it gives now would end before quiet hours do, from which on it would hold."""
        return self._never_valid(self.at)

    def lasts(self, until: datetime) -> bool:
        """Whether it gives and counts then as now if nobody touches it: open or closed, in the same minute and day,
        the coupons valid from the same time on."""
        then = self._closed(until), self._quiet_until(until), self._day(until), self._minute(until)
        return then == (self.closed(), self._quiet_until(self.at), self.day, self.minute)

    def _closed(self, at: datetime) -> str | None:
        return self._over(at) or ("ended" if self._never_valid(at) else None)

    def _quiet_until(self, at: datetime) -> datetime | None:
        """When the quiet hours end that keep its coupons from beginning, if there are any around ``at``."""
        row = self.row
        quiet = quiet_of(row) if row.mode == "push" or row.quiet_claims else None
        return None if quiet is None else quiet.until(at)

    def _never_valid(self, at: datetime) -> bool:
        begin, end = self._quiet_until(at), self.row.valid_until
        return begin is not None and end is not None and end <= begin

    def _over(self, at: datetime) -> str | None:
        row = self.row
        return rules.closed(
            rules.Opening(
                row.drop_state,
                row.end_reason,
                row.opens_at,
                row.ends_at,
                row.room_state,
                row.campaign_state,
                row.claim_from,
                row.claim_until,
                row.valid_until,
            ),
            at,
        )

    @cached_property
    def validity(self) -> tuple[datetime, datetime]:
        """From when until when a coupon granted now holds: not before quiet hours are over."""
        row = self.row
        begins = [begin for begin in (row.valid_from, self._quiet_until(self.at)) if begin is not None]
        return rules.validity(
            self.at,
            self._zone,
            valid_from=max(begins, default=None),
            valid_until=row.valid_until,
            valid_days=row.valid_days,
        )


async def lock(session: AsyncSession, drop: UUID) -> Locked | None:
    """Lock the brand if it has a cap, the drop's campaign and the drop, in this order; None if there is none."""
    row = (await session.execute(statements.LOCK, {"drop": drop})).one_or_none()
    return None if row is None else Locked(row)
