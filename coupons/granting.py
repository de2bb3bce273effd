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
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import Row, Select, Text, bindparam, cast
from sqlalchemy import Uuid as UuidType
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import codes, history, rules, statements
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

Named = dict[UUID, Sequence[str]]
"""Code, name and address of stores, as cards show them."""

GRANTS_A_ROW = 500
"""Grants told by one outbox row: some 150 kB of JSON."""
PIECE = 500
"""Coupons that one statement writes: meanwhile their cards are made, and the next ones are decided."""


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
    named: Named = field(default_factory=dict, init=False, repr=False)
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
    row = (await session.execute(statements.LOCK, {"drop": drop})).one_or_none()
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
        "quota": row.store_quota,
        "at": locked.at,
    }
    # A store that has given none yet has all of its quota.
    left: dict[UUID, int | None] = dict.fromkeys(stores, row.store_quota)
    for store, giving, known, quota_left in (await session.execute(statements.SPECIAL, values)).all():
        if not giving:
            del left[store]
        elif known:
            left[store] = quota_left
    return left


def array_of(values: Iterable[object]) -> str:
    """``values`` (identifiers, numbers, words of our own) as PostgreSQL writes an array, for a parameter that is cast.

    Given a list, the driver looks at every element by itself, which costs more than all the rest of a claim. Not for
    texts from outside: nothing is quoted.
    """
    return "{" + ",".join(map(str, values)) + "}"


def _quoted(text: str | None) -> str:
    """A text from outside as an element of ``array_of``."""
    return "NULL" if text is None else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def array(name: str, ids: Iterable[UUID]) -> Any:
    """``ids`` as a parameter of a composed statement."""
    # One parameter keeps the statement's text the same for every batch, so that its plan is found again.
    return cast(bindparam(name, array_of(ids), type_=Text, unique=True), ARRAY(UuidType()))


async def write(
    session: AsyncSession,
    locked: Locked,
    wanted: Iterable[Wanted],
    actor: UUID | None = None,
    *,
    piece: int | None = None,
) -> list[CouponCard | None]:
    """Grant ``wanted`` and tell the outbox; returns the coupon of each, None where the database would not have it.

    Exactly what the answer holds exists once the transaction commits. Moves the counters in the database, not those
    of ``locked``. ``actor`` is who granted them, if that was a person. Each ``piece`` of ``wanted`` (None: of the usual
    size) is only asked for while the one before is written: a generator decides meanwhile.
    """
    taken: list[Wanted] = []
    pieces = _pieces(wanted, piece or PIECE, taken)
    if (first := next(pieces, None)) is None:
        return []
    attempt = await session.begin_nested()
    try:
        cards = await _write(session, locked, first, pieces, actor)
    except IntegrityError:
        await attempt.rollback()
        list(pieces)  # what was not asked for yet
        made = await _make(session, locked, taken, actor)
        kept = set(await session.scalars(statements.WRITE_CAREFULLY, made.values))
        cards = [card if card.id in kept else None for card in made.cards()]
    else:
        await attempt.commit()
    granted = [Grant(want.viewer, card) for want, card in zip(taken, cards, strict=True) if card is not None]
    stores = [want.store for want, card in zip(taken, cards, strict=True) if card is not None]
    async with meanwhile(_count(session, locked, stores)):
        events = [msgspec.Raw(msgspec.json.encode(event)) for event in _issued(locked.row.drop_id, granted)]
    await emit_all(session, locked.row.room_id, [("coupons.issued", event) for event in events])
    return cards


async def _write(
    session: AsyncSession,
    locked: Locked,
    first: list[Wanted],
    pieces: Iterator[list[Wanted]],
    actor: UUID | None,
) -> list[CouponCard | None]:
    """Write ``first`` and ``pieces``, all of them or an IntegrityError; their coupons."""
    cards: list[CouponCard | None] = []
    piece: list[Wanted] | None = first
    while piece is not None:
        made = await _make(session, locked, piece, actor)
        async with meanwhile(session.execute(statements.WRITE, made.values)):
            cards += made.cards()
            piece = next(pieces, None)
    return cards


def _pieces(wanted: Iterable[Wanted], size: int, taken: list[Wanted]) -> Iterator[list[Wanted]]:
    """``wanted`` in pieces, each of which is added to ``taken`` when it is asked for."""
    rest = iter(wanted)
    while piece := list(islice(rest, size)):
        taken += piece
        yield piece


async def _make(session: AsyncSession, locked: Locked, wanted: Sequence[Wanted], actor: UUID | None) -> "_Made":
    if unknown := {want.store for want in wanted} - locked.named.keys():
        rows = (await session.execute(statements.STORES, {"stores": array_of(unknown)})).all()
        locked.named.update((store, named) for store, *named in rows)
    return _Made(locked, wanted, actor)


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
    await session.execute(statements.COUNT, values)


class _Made:
    """Coupons that are about to be written."""

    def __init__(self, locked: Locked, wanted: Sequence[Wanted], actor: UUID | None) -> None:
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
            "keys": array_of(_quoted(want.key) for want in wanted)
            if any(want.key is not None for want in wanted)
            else "{}",
            "brand": row.brand_id,
            "campaign": row.campaign_id,
            "drop": row.drop_id,
            "room": row.room_id,
            "valid_from": self._valid_from,
            "valid_until": self._valid_until,
            "at": locked.at,
            "actor": actor,
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
            "n": len(decided),
            "viewers": array_of(d.viewer for d in decided),
            "stores": array_of(d.store for d in decided),
            "reasons": array_of(d.reason for d in decided),
            "bands": array_of(rules.distance_band(d.distance_m) for d in decided),
            "at": locked.at,
        }
        await session.execute(statements.DECIDED, values)


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
    ended = (await session.execute(statements.END, {"drop": drop, "reason": reason})).first()
    if ended is not None:
        await emit_all(session, room, [("coupons.drop_ended", DropEnded(drop, reason))])
    return ended is not None
