"""The one place where coupons come into being, for push and claim drops alike.

The caller locks the campaign and the drop, decides from what it then reads, and writes all grants of its batch with
one statement. Locks are always taken in the order brand (only where it caps coupons over all its campaigns), campaign,
drop, campaign_stores, so that two batches never wait for each other in a circle; and as every grant happens under these
locks, what was read still holds when the grant is written. The constraints of ``coupons.tables`` would refuse anything
else.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import Row, Select, Subquery, Text, any_, bindparam, cast, column, func, or_, text
from sqlalchemy import Uuid as UuidType
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import codes, history, rules
from coupons.cards import CouponCard, DropEnded, DropStock, EndReason, Grant, Issued
from coupons.history import Histories
from coupons.tables import CampaignStore
from coupons.terms import limits_of, quiet_of, terms_of, tiers_of
from geo.matching import FRESH, candidates, open_stores
from geo.tables import Location, Store
from kernel.clock import milliseconds
from kernel.ids import new_id
from kernel.outbox import emit_all

GRANTS_A_ROW = 500
"""Grants told by one outbox row: some 150 kB of JSON."""

# The brand's row is locked first, while the others are still being looked for; a brand without a cap is not locked.
_LOCK = text(
    """
    WITH capped AS MATERIALIZED (
        SELECT b.id FROM drops d JOIN campaigns c ON c.id = d.campaign_id JOIN brands b ON b.id = c.brand_id
        WHERE d.id = :drop AND b.cap_coupons IS NOT NULL FOR NO KEY UPDATE OF b
    )
    SELECT d.id AS drop_id, d.room_id, d.campaign_id, d.mode, d.stock - d.issued AS drop_left,
           d.state AS drop_state, d.end_reason, d.opens_at, d.spread_ms, d.ends_at, d.matched_at,
           d.stock AS drop_stock, d.minute, d.minute_issued, c.per_minute, c.reserve_percent,
           c.brand_id, c.title, c.kind, c.amount_fen, c.threshold_fen, c.percent_off, c.gift, c.state AS campaign_state,
           c.stock - c.issued AS campaign_left, c.per_viewer, c.store_quota, c.all_stores, c.radius_m, c.near_counts,
           c.min_tier, c.holdout_percent, c.claim_from, c.claim_until, c.valid_from, c.valid_until, c.valid_days,
           c.per_day, c.day, c.day_issued, c.segments, c.doubt, c.distance_tiers, c.usable_from, c.usable_until,
           r.state AS room_state, b.timezone, b.quiet_from, b.quiet_until, b.quiet_claims, b.cap_coupons, b.cap_days,
           -- A day and a minute that were left behind give no more coupons, whichever transaction came first.
           greatest(clock_timestamp(), CAST(c.day AS timestamp) AT TIME ZONE b.timezone,
                    d.opens_at + d.minute * interval '1 minute') AS at
    FROM (SELECT count(*) FROM capped) AS brand_first
    CROSS JOIN drops d
    JOIN campaigns c ON c.id = d.campaign_id
    JOIN rooms r ON r.id = d.room_id
    JOIN brands b ON b.id = c.brand_id
    WHERE d.id = :drop
    FOR NO KEY UPDATE OF c, d
    """
)

# One statement for the whole batch. ON CONFLICT cannot strike while the campaign is locked; should it, the coupon is
# not granted and its viewer is told so, which is the safe way to be wrong.
_WRITE = text(
    """
    WITH wanted AS (
        SELECT * FROM unnest(
            CAST(CAST(:ids AS text) AS uuid[]), CAST(CAST(:viewers AS text) AS uuid[]),
            CAST(CAST(:ns AS text) AS smallint[]), CAST(CAST(:stores AS text) AS uuid[]),
            CAST(CAST(:codes AS text) AS text[]), CAST(CAST(:bands AS text) AS integer[]),
            CAST(CAST(:amounts AS text) AS bigint[]), CAST(:keys AS text[])
        ) AS w (id, viewer_id, n, store_id, code, band, amount, key)
    ), made AS (
        INSERT INTO coupons (id, brand_id, campaign_id, viewer_id, n, drop_id, room_id, store_id, code,
                             distance_band_m, amount_fen, claim_key, valid_from, valid_until, issued_at)
        SELECT id, :brand, :campaign, viewer_id, n, :drop, :room, store_id, code, band, amount, key, :valid_from,
               :valid_until, :at
        FROM wanted
        ON CONFLICT DO NOTHING
        RETURNING id, viewer_id, store_id, distance_band_m
    ), lines AS (
        INSERT INTO ledger (coupon_id, transition, at, actor) SELECT id, 'issue', :at, CAST(:actor AS uuid) FROM made
    ), shares AS (
        INSERT INTO campaign_stores AS s (campaign_id, store_id, quota, issued)
        SELECT :campaign, store_id, CAST(:quota AS integer), count(*) FROM made GROUP BY store_id ORDER BY store_id
        ON CONFLICT (campaign_id, store_id) DO UPDATE SET issued = s.issued + excluded.issued
    ), decided AS (
        INSERT INTO drop_viewers AS v (drop_id, viewer_id, store_id, outcome, distance_band_m, at)
        SELECT DISTINCT ON (viewer_id) :drop, viewer_id, store_id, 'issued', distance_band_m, :at FROM made
        ON CONFLICT (drop_id, viewer_id) DO UPDATE
            SET outcome = 'issued', reason = NULL, store_id = excluded.store_id,
                distance_band_m = excluded.distance_band_m, at = excluded.at
            WHERE v.outcome <> 'issued'
    ), campaign AS (
        UPDATE campaigns SET issued = issued + (SELECT count(*) FROM made), day = CAST(:day AS date),
            day_issued = CASE WHEN day = CAST(:day AS date) THEN day_issued ELSE 0 END + (SELECT count(*) FROM made)
        WHERE id = :campaign
    ), drop AS (
        UPDATE drops SET issued = issued + (SELECT count(*) FROM made), minute = CAST(:minute AS integer),
            minute_issued = CASE WHEN minute = CAST(:minute AS integer) THEN minute_issued ELSE 0 END
                + (SELECT count(*) FROM made)
        WHERE id = :drop
    )
    SELECT made.id, s.code, s.name, s.address FROM made JOIN stores s ON s.id = made.store_id
    """
)

_DECIDED = text(
    """
    INSERT INTO drop_viewers (drop_id, viewer_id, store_id, outcome, reason, distance_band_m, at)
    SELECT :drop, w.viewer_id, w.store_id, CASE WHEN w.reason = 'held_out' THEN 'held_out' ELSE 'refused' END,
           w.reason, w.band, :at
    FROM unnest(CAST(CAST(:viewers AS text) AS uuid[]), CAST(CAST(:stores AS text) AS uuid[]),
                CAST(CAST(:reasons AS text) AS text[]), CAST(CAST(:bands AS text) AS integer[]))
        AS w (viewer_id, store_id, reason, band)
    ON CONFLICT DO NOTHING
    """
)

_END = text("UPDATE drops SET state = 'ended', end_reason = :reason WHERE id = :drop AND state = 'open' RETURNING id")


class Wanted(NamedTuple):
    """A coupon to be granted. ``n`` counts the viewer's coupons of this campaign, ``key`` is the claim's id."""

    viewer: UUID
    n: int
    store: UUID
    distance_m: float
    key: str | None


class Decided(NamedTuple):
    """A viewer in range who gets none, and why. For a review: the ``doubt`` of their fix, and the claim's id."""

    viewer: UUID
    store: UUID
    reason: str
    distance_m: float
    doubt: str | None = None
    key: str | None = None


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


@dataclass
class Locked:
    """A drop and its campaign as they are while this transaction holds their rows."""

    row: Row[Any]
    _terms: dict[int | None, str] = field(default_factory=dict, init=False, repr=False)

    def terms(self, amount_fen: int | None) -> str:
        """What a coupon with an amount of its own (None: the campaign's) promises, in words."""
        if amount_fen not in self._terms:
            self._terms[amount_fen] = rules.describe(terms_of(self.row, amount_fen))
        return self._terms[amount_fen]

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
        return self.at.astimezone(self._zone).date()

    @property
    def left_today(self) -> int | None:
        """How many the campaign may still give today; None: any number."""
        row = self.row
        return rules.left_of_day(row.per_day, counted_on=row.day, issued=row.day_issued, today=self.day)

    @property
    def minute(self) -> int:
        """The minute of the drop in which it is granted."""
        return rules.minute_of(self.row.opens_at, self.at)

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
        """Why it gives nobody a coupon now: see ``rules.closed``, and the brand's quiet hours."""
        return self._over() or ("quiet_hours" if self.quiet() else None)

    def quiet(self) -> bool:
        """Whether the brand's quiet hours hold this drop now."""
        row = self.row
        if row.mode == "claim" and not row.quiet_claims:
            return False
        quiet = quiet_of(row)
        return quiet is not None and quiet.until(self.at) is not None

    def _over(self) -> str | None:
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
            self.at,
        )

    def validity(self) -> tuple[datetime, datetime]:
        """From when until when a coupon granted now holds."""
        row = self.row
        return rules.validity(
            self.at,
            self._zone,
            valid_from=row.valid_from,
            valid_until=row.valid_until,
            valid_days=row.valid_days,
        )


async def lock(session: AsyncSession, drop: UUID) -> Locked | None:
    """Lock the brand if it has a cap, the drop's campaign and the drop, in this order; None if there is none."""
    row = (await session.execute(_LOCK, {"drop": drop})).one_or_none()
    return None if row is None else Locked(row)


def _partaking(area: Area) -> Select[Any]:
    """The campaign's stores that are open for business."""
    return open_stores(area.brand, area.at).join(
        CampaignStore,
        (CampaignStore.store_id == Store.id) & (CampaignStore.campaign_id == area.campaign),
        isouter=area.all_stores,
    )


def reach(area: Area, viewers: Sequence[UUID] | None = None) -> Subquery:
    """The nearest store of ``area`` with quota left that each viewer has in reach, as ``geo.matching`` says it."""
    query = candidates(
        area.room,
        _partaking(area).where(or_(CampaignStore.quota.is_(None), CampaignStore.issued < CampaignStore.quota)),
        radius_m=area.radius_m,
        near_counts=area.near_counts,
        fresh_after=area.at - FRESH,
    )
    if viewers is not None:
        query = query.where(Location.viewer_id == any_(_array("reached", viewers)))
    return query.subquery("near")


async def stores_left(session: AsyncSession, locked: Locked, stores: Sequence[UUID]) -> dict[UUID, int | None]:
    """Which of ``stores`` may give coupons of the locked campaign, and how many each has left (None: any number)."""
    asked = func.unnest(_array("stores", stores)).table_valued(column("id", UuidType()), name="asked").render_derived()
    query = (
        _partaking(locked.area)
        .add_columns(CampaignStore.store_id.is_not(None), CampaignStore.quota - CampaignStore.issued)
        .join(asked, asked.c.id == Store.id)  # a hash; `= ANY` would compare every store with every other
    )
    # A store that has given none yet has no row, and all of its quota.
    return {store: left if known else locked.row.store_quota for store, known, left in await session.execute(query)}


def array_of(values: Iterable[object]) -> str:
    """``values`` (identifiers, numbers, words of our own) as PostgreSQL writes an array, for a parameter that is cast.

    Given a list, the driver looks at every element by itself, which costs more than all the rest of a claim. Not for
    texts from outside: nothing is quoted.
    """
    return "{" + ",".join(map(str, values)) + "}"


def _array(name: str, ids: Iterable[UUID]) -> Any:
    # One parameter keeps the statement's text the same for every batch, so that its plan is found again.
    return cast(bindparam(name, array_of(ids), type_=Text, unique=True), ARRAY(UuidType()))


async def write(
    session: AsyncSession, locked: Locked, wanted: Sequence[Wanted], actor: UUID | None = None
) -> list[CouponCard | None]:
    """Grant ``wanted`` and tell the outbox; returns the coupon of each, None where the database would not have it.

    Exactly what the answer holds exists once the transaction commits. Moves the counters in the database, not those
    of ``locked``. ``actor`` is who granted them, if that was a person.
    """
    if not wanted:
        return []
    row = locked.row
    valid_from, valid_until = locked.validity()
    ids = [new_id() for _ in wanted]
    made_codes = codes.new_codes(len(wanted))
    bands = [rules.distance_band(w.distance_m) for w in wanted]
    tiers = tiers_of(row)
    amounts = [rules.amount_at(w.distance_m, tiers, None) for w in wanted]
    values = {
        "ids": array_of(ids),
        "viewers": array_of(w.viewer for w in wanted),
        "ns": array_of(w.n for w in wanted),
        "stores": array_of(w.store for w in wanted),
        "codes": array_of(made_codes),
        "bands": array_of(bands),
        "amounts": array_of("NULL" if fen is None else fen for fen in amounts),
        "day": locked.day,
        "minute": locked.minute,
        "keys": [w.key for w in wanted],
        "brand": row.brand_id,
        "campaign": row.campaign_id,
        "drop": row.drop_id,
        "room": row.room_id,
        "quota": row.store_quota,
        "valid_from": valid_from,
        "valid_until": valid_until,
        "at": locked.at,
        "actor": actor,
    }
    stores = {made.id: made for made in await session.execute(_WRITE, values)}
    begin, end = milliseconds(valid_from), milliseconds(valid_until)
    cards = [
        CouponCard(
            id=coupon,
            title=row.title,
            terms=locked.terms(amount),
            code=codes.display(code),
            store=store.code,
            store_name=store.name,
            store_address=store.address,
            valid_from=begin,
            valid_until=end,
            distance_m=band,
            drop=row.drop_id,
        )
        if (store := stores.get(coupon)) is not None
        else None
        for coupon, code, band, amount in zip(ids, made_codes, bands, amounts, strict=True)
    ]
    grants = [Grant(want.viewer, card) for want, card in zip(wanted, cards, strict=True) if card is not None]
    await emit_all(session, row.room_id, [("coupons.issued", event) for event in _issued(row.drop_id, grants)])
    return cards


def _issued(drop: UUID, grants: Sequence[Grant]) -> Iterable[Issued]:
    """``grants`` in events of bounded size, none of which names a viewer twice."""
    rest = list(grants)
    while rest:
        taken: dict[UUID, Grant] = {}
        later = []
        for grant in rest:
            if len(taken) < GRANTS_A_ROW and grant.viewer not in taken:
                taken[grant.viewer] = grant
            else:
                later.append(grant)
        yield Issued(drop, list(taken.values()))
        rest = later


async def note(session: AsyncSession, locked: Locked, decided: Sequence[Decided]) -> None:
    """Keep what was decided about viewers in range who get none; a viewer who was granted one stays granted."""
    if decided:
        values = {
            "drop": locked.row.drop_id,
            "viewers": array_of(d.viewer for d in decided),
            "stores": array_of(d.store for d in decided),
            "reasons": array_of(d.reason for d in decided),
            "bands": array_of(rules.distance_band(d.distance_m) for d in decided),
            "at": locked.at,
        }
        await session.execute(_DECIDED, values)


async def tell_stock(session: AsyncSession, locked: Locked, granted: int) -> bool:
    """Tell the room what is left after ``granted`` more; ends the drop and returns True if that is nothing."""
    row, left = locked.row, locked.left - granted
    if left > 0:
        if granted:
            await emit_all(session, row.room_id, [("coupons.drop_stock", DropStock(row.drop_id, left))])
        return False
    await end(session, row.drop_id, row.room_id, "sold_out")
    return True


async def end(session: AsyncSession, drop: UUID, room: UUID, reason: EndReason) -> bool:
    """End an open drop, whose row the caller has locked, and tell the room; False if it had ended before."""
    ended = (await session.execute(_END, {"drop": drop, "reason": reason})).first()
    if ended is not None:
        await emit_all(session, room, [("coupons.drop_ended", DropEnded(drop, reason))])
    return ended is not None
