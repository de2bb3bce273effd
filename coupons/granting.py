"""The one place where coupons come into being, for push and claim drops alike.

The caller locks the campaign and the drop, decides from what it then reads, and writes all grants of its batch at
once. Locks are always taken in the order brand (only where it caps coupons over all its campaigns), campaign,
drop, campaign_stores, so that two batches never wait for each other in a circle; and as every grant happens under these
locks, what was read still holds when the grant is written. The constraints of ``coupons.tables`` would refuse anything
else.
"""

from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import Row, Select, Text, bindparam, cast, text
from sqlalchemy import Uuid as UuidType
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import codes, history, rules
from coupons.cards import CouponCard, DropEnded, DropStock, EndReason, Grant, Issued
from coupons.history import Histories
from coupons.tables import CampaignStore
from coupons.terms import limits_of, quiet_of, terms_of, tiers_of
from geo.matching import open_stores
from geo.tables import Store
from kernel.clock import milliseconds
from kernel.ids import new_ids
from kernel.outbox import emit_all
from kernel.tasks import meanwhile

GRANTS_A_ROW = 500
"""Grants told by one outbox row: some 150 kB of JSON."""
PIECE = 1000
"""Coupons that one statement writes: meanwhile the next ones are made, and what was written is put into words."""

# The brand's row is locked first, while the others are still being looked for; a brand without a cap is not locked.
_LOCK = text(
    """
    WITH capped AS MATERIALIZED (
        SELECT b.id FROM drops d JOIN campaigns c ON c.id = d.campaign_id JOIN brands b ON b.id = c.brand_id
        WHERE d.id = :drop AND b.cap_coupons IS NOT NULL FOR NO KEY UPDATE OF b
    )
    SELECT d.id AS drop_id, d.room_id, d.campaign_id, d.mode, d.stock - d.issued AS drop_left,
           d.state AS drop_state, d.end_reason, d.opens_at, d.ends_at, d.matched_at,
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

# What is the same for all coupons comes as an empty array: `unnest` fills up with nulls.
_STATEMENT = """
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
        SELECT id, :brand, :campaign, viewer_id, coalesce(n, 1), :drop, :room, store_id, code, band, amount, key,
               :valid_from, :valid_until, :at
        FROM wanted
        {conflict}
        RETURNING id, viewer_id, store_id, distance_band_m
    ), lines AS (
        INSERT INTO ledger (coupon_id, transition, at) SELECT id, 'issue', :at FROM made
    ), decided AS (
        INSERT INTO drop_viewers AS v (drop_id, viewer_id, store_id, outcome, distance_band_m, at)
        SELECT DISTINCT ON (viewer_id) :drop, viewer_id, store_id, 'issued', distance_band_m, :at FROM made
        ON CONFLICT (drop_id, viewer_id) DO UPDATE
            SET outcome = 'issued', reason = NULL, store_id = excluded.store_id,
                distance_band_m = excluded.distance_band_m, at = excluded.at
            WHERE v.outcome <> 'issued'
    )
    SELECT {answer} FROM made
"""
# A conflict cannot strike while the campaign is locked, and looking for it costs a third of writing a coupon. Should it
# strike, the coupon is not granted and its viewer is told so, which is the safe way to be wrong.
_WRITE = text(_STATEMENT.format(conflict="", answer="count(*)"))
_WRITE_CAREFULLY = text(_STATEMENT.format(conflict="ON CONFLICT DO NOTHING", answer="id"))

_COUNT = text(
    """
    WITH shares AS (
        INSERT INTO campaign_stores AS s (campaign_id, store_id, quota, issued)
        SELECT :campaign, store_id, CAST(:quota AS integer), n
        FROM unnest(CAST(CAST(:stores AS text) AS uuid[]), CAST(CAST(:counts AS text) AS integer[])) AS g (store_id, n)
        ORDER BY store_id
        ON CONFLICT (campaign_id, store_id) DO UPDATE SET issued = s.issued + excluded.issued
    ), campaign AS (
        UPDATE campaigns SET issued = issued + CAST(:n AS integer), day = CAST(:day AS date),
            day_issued = CASE WHEN day = CAST(:day AS date) THEN day_issued ELSE 0 END + CAST(:n AS integer)
        WHERE id = :campaign
    )
    UPDATE drops SET issued = issued + CAST(:n AS integer), minute = CAST(:minute AS integer),
        minute_issued = CASE WHEN minute = CAST(:minute AS integer) THEN minute_issued ELSE 0 END + CAST(:n AS integer)
    WHERE id = :drop
    """
)
_STORES = text(
    """
    SELECT s.id, s.code, s.name, s.address
    FROM unnest(CAST(CAST(:stores AS text) AS uuid[])) AS w (id) JOIN stores s ON s.id = w.id
    """
)
# `partaking` for some stores, as a text: composing it costs each batch of claims more than asking it.
_LEFT = text(
    """
    SELECT s.id, p.store_id IS NOT NULL, p.quota - p.issued, s.code, s.name, s.address
    FROM unnest(CAST(CAST(:stores AS text) AS uuid[])) AS w (id)
    JOIN stores s ON s.id = w.id AND s.brand_id = :brand
    LEFT JOIN campaign_stores p ON p.store_id = s.id AND p.campaign_id = :campaign
    WHERE (s.closed_until IS NULL OR s.closed_until <= :at) AND (CAST(:all_stores AS boolean) OR p.store_id IS NOT NULL)
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
    """A viewer in range who gets none, and why."""

    viewer: UUID
    store: UUID
    reason: str
    distance_m: float


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
    named: dict[UUID, Sequence[str]] = field(default_factory=dict, init=False, repr=False)
    """Code, name and address of stores that were asked about."""
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
        return self._over() or ("quiet_hours" if self._quiet() else None)

    def _quiet(self) -> bool:
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


def partaking(area: Area) -> Select[Any]:
    """The campaign's stores that are open for business."""
    return open_stores(area.brand, area.at).join(
        CampaignStore,
        (CampaignStore.store_id == Store.id) & (CampaignStore.campaign_id == area.campaign),
        isouter=area.all_stores,
    )


async def stores_left(session: AsyncSession, locked: Locked, stores: Sequence[UUID]) -> dict[UUID, int | None]:
    """Which of ``stores`` may give coupons of the locked campaign, and how many each has left (None: any number)."""
    row = locked.row
    values = {
        "stores": array_of(stores),
        "campaign": row.campaign_id,
        "brand": row.brand_id,
        "all_stores": row.all_stores,
        "at": locked.at,
    }
    left: dict[UUID, int | None] = {}
    for store, known, store_left, *named in (await session.execute(_LEFT, values)).all():
        # A store that has given none yet has no row, and all of its quota.
        left[store] = store_left if known else row.store_quota
        locked.named[store] = named
    return left


def array_of(values: Iterable[object]) -> str:
    """``values`` (identifiers, numbers, words of our own) as PostgreSQL writes an array, for a parameter that is cast.

    Given a list, the driver looks at every element by itself, which costs more than all the rest of a claim. Not for
    texts from outside: nothing is quoted.
    """
    return "{" + ",".join(map(str, values)) + "}"


def array(name: str, ids: Iterable[UUID]) -> Any:
    """``ids`` as a parameter of a composed statement."""
    # One parameter keeps the statement's text the same for every batch, so that its plan is found again.
    return cast(bindparam(name, array_of(ids), type_=Text, unique=True), ARRAY(UuidType()))


async def write(session: AsyncSession, locked: Locked, wanted: Sequence[Wanted]) -> list[CouponCard | None]:
    """Grant ``wanted`` and tell the outbox; returns the coupon of each, None where the database would not have it.

    Exactly what the answer holds exists once the transaction commits. Moves the counters in the database, not those
    of ``locked``.
    """
    if not wanted:
        return []
    if unknown := {want.store for want in wanted} - locked.named.keys():
        rows = (await session.execute(_STORES, {"stores": array_of(unknown)})).all()
        locked.named.update((store, named) for store, *named in rows)
    attempt = await session.begin_nested()
    try:
        cards, events = await _write(session, locked, wanted)
    except IntegrityError:
        await attempt.rollback()
        made = _Made(locked, wanted)
        kept = set(await session.scalars(_WRITE_CAREFULLY, made.values))
        cards = [card if card.id in kept else None for card in made.cards()]
        events = _told(locked, wanted, cards)
    else:
        await attempt.commit()
    await _count(session, locked, [want.store for want, card in zip(wanted, cards, strict=True) if card is not None])
    await emit_all(session, locked.row.room_id, [("coupons.issued", event) for event in events])
    return cards


async def _write(
    session: AsyncSession, locked: Locked, wanted: Sequence[Wanted]
) -> tuple[list[CouponCard | None], list[msgspec.Raw]]:
    """Write ``wanted``, all of them or an IntegrityError; the coupons, and the payloads of the events about them."""
    pieces = [wanted[start : start + PIECE] for start in range(0, len(wanted), PIECE)]
    cards: list[CouponCard | None] = []
    events: list[msgspec.Raw] = []
    made = _Made(locked, pieces[0])
    for place, piece in enumerate(pieces):
        async with meanwhile(session.execute(_WRITE, made.values)):
            here = made.cards()
            events += _told(locked, piece, here)
            cards += here
            if place + 1 < len(pieces):
                made = _Made(locked, pieces[place + 1])
    return cards, events


async def _count(session: AsyncSession, locked: Locked, stores: Sequence[UUID]) -> None:
    """Move the counters for one coupon of each of ``stores``, which may repeat."""
    row, shares = locked.row, Tally(stores)
    values = {
        "stores": array_of(shares),
        "counts": array_of(shares.values()),
        "n": len(stores),
        "day": locked.day,
        "minute": locked.minute,
        "campaign": row.campaign_id,
        "drop": row.drop_id,
        "quota": row.store_quota,
    }
    await session.execute(_COUNT, values)


def _told(locked: Locked, wanted: Sequence[Wanted], cards: Sequence[CouponCard | None]) -> list[msgspec.Raw]:
    grants = [Grant(want.viewer, card) for want, card in zip(wanted, cards, strict=True) if card is not None]
    return [msgspec.Raw(msgspec.json.encode(event)) for event in _issued(locked.row.drop_id, grants)]


class _Made:
    """Coupons that are about to be written."""

    def __init__(self, locked: Locked, wanted: Sequence[Wanted]) -> None:
        row = locked.row
        tiers = tiers_of(row)
        self._locked = locked
        self._stores = [want.store for want in wanted]
        self._ids = new_ids(len(wanted))
        self._codes = codes.new_codes(len(wanted))
        self._bands = [rules.distance_band(want.distance_m) for want in wanted]
        self._amounts: list[int | None] = [None] * len(wanted)
        if tiers:
            self._amounts = [rules.amount_at(want.distance_m, tiers, None) for want in wanted]
        self._valid_from, self._valid_until = locked.validity()
        self.values = {
            "ids": array_of(self._ids),
            "viewers": array_of(want.viewer for want in wanted),
            "ns": array_of(want.n for want in wanted) if any(want.n > 1 for want in wanted) else "{}",
            "stores": array_of(self._stores),
            "codes": array_of(self._codes),
            "bands": array_of(self._bands),
            "amounts": array_of("NULL" if fen is None else fen for fen in self._amounts) if tiers else "{}",
            "keys": [want.key for want in wanted] if any(want.key is not None for want in wanted) else [],
            "brand": row.brand_id,
            "campaign": row.campaign_id,
            "drop": row.drop_id,
            "room": row.room_id,
            "valid_from": self._valid_from,
            "valid_until": self._valid_until,
            "at": locked.at,
        }

    def cards(self) -> list[CouponCard]:
        """They as their owners see them."""
        begin, end = milliseconds(self._valid_from), milliseconds(self._valid_until)
        title, drop, terms = self._locked.row.title, self._locked.row.drop_id, self._locked.terms
        named = self._locked.named
        cards: list[CouponCard] = []
        shown = codes.display_all(self._codes)
        for coupon, code, store, band, amount in zip(
            self._ids, shown, self._stores, self._bands, self._amounts, strict=True
        ):
            key, name, address = named[store]
            # By position, in the order of the fields: by name it takes twice as long.
            cards.append(
                CouponCard(
                    coupon,
                    title,
                    terms(amount),
                    code,
                    key,
                    name,
                    end,
                    "issued",
                    begin,
                    address,
                    band,
                    drop,
                )
            )
        return cards


def _issued(drop: UUID, grants: Sequence[Grant]) -> Iterator[Issued]:
    """``grants`` in events of bounded size, none of which names a viewer twice."""
    rest = list(grants)
    while rest:
        taken, rest = rest[:GRANTS_A_ROW], rest[GRANTS_A_ROW:]
        once: dict[UUID, Grant] = {}
        for grant in taken:
            once.setdefault(grant.viewer, grant)
        if len(once) < len(taken):
            rest = [grant for grant in taken if once[grant.viewer] is not grant] + rest
        yield Issued(drop, list(once.values()))


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
