"""The one place where coupons come into being, for push and claim drops alike.

The caller locks the campaign and the drop (``coupons.locking``), decides from what it then reads, and writes all grants
of its batch at once. As every grant happens under these locks, what was read still holds when the grant is written. The
constraints of ``coupons.tables`` would refuse anything else.
"""

from collections import Counter as Tally
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice, repeat
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from sqlalchemy import Select, bindparam
from sqlalchemy import Uuid as UuidType
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import codes, rules, statements
from coupons.cards import CouponCard, DropEnded, DropStock, EndReason, Grant, Issued
from coupons.locking import Area, Locked
from coupons.tables import CampaignStore
from coupons.terms import tiers_of
from geo.matching import open_stores
from geo.tables import Store
from kernel.clock import milliseconds
from kernel.ids import new_ids
from kernel.outbox import emit_all, told_by
from kernel.postgres import Sessions, transaction
from kernel.tasks import meanwhile

Result = TypeVar("Result")
Named = dict[UUID, Sequence[str]]
"""Code, name and address of stores, as cards show them."""

PIECE = 500
"""Coupons that one outbox row tells of (some 150 kB of JSON). And so many a statement writes that were not made before:
meanwhile their cards are made, and the next ones are decided and made."""


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """A coupon to be granted. ``n`` counts the viewer's coupons of this campaign, ``key`` is the claim's id."""

    viewer: UUID
    n: int
    store: UUID
    distance_m: float
    key: str | None


class Decided(msgspec.Struct, frozen=True, gc=False):
    """A viewer in range who gets none, and why. For a review: the ``doubt`` of their fix, and the claim's id."""

    viewer: UUID
    store: UUID
    reason: str
    distance_m: float
    doubt: str | None = None
    key: str | None = None


def partaking(area: Area) -> Select[Any]:
    """The campaign's stores that are open for business."""
    return open_stores(area.brand, area.at, area.clock).join(
        CampaignStore,
        (CampaignStore.store_id == Store.id) & (CampaignStore.campaign_id == area.campaign),
        isouter=area.all_stores,
    )


async def stores_left(
    session: AsyncSession, area: Area, quota: int | None, stores: Sequence[UUID]
) -> dict[UUID, int | None]:
    """Which of ``stores`` may give coupons of the campaign now, and how many each has left (None: any number). Whether
    they are within their hours was asked when the viewer was.

    ``quota`` is the campaign's for each store. Numbers hold only while the campaign is locked.
    """
    values = {
        "stores": list(stores),
        "campaign": area.campaign,
        "brand": area.brand,
        "all_stores": area.all_stores,
        "quota": quota,
        "at": area.at,
    }
    # A store that has given none yet has all of its quota.
    left: dict[UUID, int | None] = dict.fromkeys(stores, quota)
    for store, giving, known, quota_left in (await session.execute(statements.SPECIAL, values)).all():
        if not giving:
            del left[store]
        elif known:
            left[store] = quota_left
    return left


def array_of(values: Iterable[object]) -> str:
    """``values`` (numbers, words of our own) as PostgreSQL writes an array, for a parameter that is cast.

    Given a list, the driver looks at every element by itself, which costs twice what PostgreSQL takes to read a text.
    Identifiers are better off in a list: PostgreSQL reads each byte of one by itself. Not for texts from outside:
    nothing is quoted.
    """
    return "{" + ",".join(map(str, values)) + "}"


def _array_of_texts(texts: Sequence[str | None]) -> str:
    """As ``array_of``, for texts from outside."""
    known = [text for text in texts if text is not None]
    if len(known) < len(texts):
        return array_of("NULL" if text is None else _quoted(text) for text in texts)
    return "{" + _quoted("\0".join(known)).replace("\0", '","') + "}"  # none of them holds a zero byte


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def array(name: str, ids: Iterable[UUID]) -> Any:
    """``ids`` as a parameter of a composed statement."""
    # One parameter keeps the statement's text the same for every batch, so that its plan is found again.
    return bindparam(name, list(ids), type_=ARRAY(UuidType()), unique=True)


async def name(session: AsyncSession, stores: Iterable[UUID], named: Named) -> None:
    """Look up those of ``stores`` that ``named`` does not know. Before a drop is locked: it need not wait for that."""
    if unknown := set(stores) - named.keys():
        rows = (await session.execute(statements.STORES, {"stores": list(unknown)})).all()
        named.update((store, rest) for store, *rest in rows)


def make(facts: Locked, wanted: Iterable[Wanted], named: Named, *, piece: int | None = None) -> Iterator["Made"]:
    """Coupons for ``wanted``, to be written, so many at a time (None: ``PIECE``). Needs no lock: of ``facts`` only the
    campaign's terms are used. ``named`` knows every store that gives one. Each piece is made, and its ``wanted`` are
    asked for, when it is asked for: a generator decides while the piece before is written."""
    tiers, rest = tiers_of(facts.row), iter(wanted)
    while some := list(islice(rest, piece or PIECE)):
        yield Made(some, tiers, named)


async def write(
    session: AsyncSession, locked: Locked, pieces: Iterable["Made"], actor: UUID | None = None, *, careful: bool = False
) -> list[CouponCard | None]:
    """Grant what was made and tell the outbox; returns the coupon of each, None where the database would not have it.

    Exactly what the answer holds exists once the transaction commits. Moves the counters in the database, not those
    of ``locked``. ``actor`` is who granted them, if that was a person.

    One row that the database would not have is an IntegrityError and the end of the transaction, unless it is
    ``careful``: then it costs one coupon, and every other one half as much again. See ``in_one_transaction``.
    """
    written = _Written(locked)
    await (_write_carefully if careful else _write)(session, written, iter(pieces), actor)
    if written.stores:
        await _count_and_tell(session, written)
    return written.cards


async def in_one_transaction(
    sessions: Sessions, work: Callable[[AsyncSession, bool], Coroutine[Any, Any, Result]]
) -> Result:
    """Commit what ``work`` does in a session. Where a constraint strikes it is done anew, and told to be careful.

    Under its locks none can strike but by a defect, or somebody's hand in the database.
    """
    try:
        async with transaction(sessions) as session:
            return await work(session, False)
    except IntegrityError:
        async with transaction(sessions) as session:
            return await work(session, True)


class _Written:
    """What was written so far: the coupon of each who was to get one, the stores of those who did, the events.
    Of what is held (``coupons.holding``) nobody is told yet."""

    def __init__(self, locked: Locked) -> None:
        self.locked = locked
        self.cards: list[CouponCard | None] = []
        self.stores: list[UUID] = []
        self.events: list[msgspec.Raw] = []

    def add(self, made: "Made", cards: Sequence[CouponCard | None]) -> None:
        """``cards`` of ``made``, None where there is none."""
        self.cards += cards
        self.stores += [store for store, card in zip(made.stores, cards, strict=True) if card is not None]
        if self.locked.held_until is None:
            self.events += made.told(self.locked.row.drop_id, cards)


async def _write(session: AsyncSession, written: _Written, pieces: Iterator["Made"], actor: UUID | None) -> None:
    """Write all of ``pieces``, or an IntegrityError."""
    made = next(pieces, None)
    while made is not None:
        async with meanwhile(session.execute(statements.WRITE, made.values(written.locked, actor))):
            written.add(made, made.cards(written.locked))
            made = next(pieces, None)


async def _write_carefully(
    session: AsyncSession, written: _Written, pieces: Iterator["Made"], actor: UUID | None
) -> None:
    """As ``_write``, but one wrong row costs one coupon."""
    for made in pieces:
        kept = set(await session.scalars(statements.WRITE_CAREFULLY, made.values(written.locked, actor)))
        written.add(made, [card if card.id in kept else None for card in made.cards(written.locked)])


async def _count_and_tell(session: AsyncSession, written: _Written) -> None:
    """Move the counters for what was ``written``, and tell the owners, and their room what is left. A store's coupons
    are counted beside its quota."""
    row = written.locked.row
    shares = Tally(written.stores if row.store_quota is not None else ())
    values = {"stores": list(shares), "counts": array_of(shares.values()), "quota": row.store_quota, "noted": 0}
    left = written.locked.left - len(written.stores)
    await session.execute(statements.COUNT_AND_TELL, values | _counters(written) | told_by(_events(written, left)))


def _counters(written: _Written) -> dict[str, Any]:
    row = written.locked.row
    return {
        "n": len(written.stores),
        "day": written.locked.day,
        "minute": written.locked.minute,
        "campaign": row.campaign_id,
        "drop": row.drop_id,
    }


def _events(written: _Written, left: int) -> list[tuple[UUID, str, Any]]:
    """What the owners are told, and their room, of whose drop so many are ``left``."""
    row = written.locked.row
    events: list[tuple[UUID, str, Any]] = [(row.room_id, "coupons.issued", event) for event in written.events]
    if left > 0 and row.drop_state == "open":
        events.append((row.room_id, "coupons.drop_stock", DropStock(row.drop_id, left)))
    return events


async def write_if_found(
    sessions: Sessions, seen: Locked, made: "Made", decided: Sequence[Decided], *, since: int, until: datetime
) -> list[CouponCard] | None:
    """Lock, write, note, count, tell and commit, in one question: a transaction of its own.

    None, and nothing is written, unless drop and campaign are found as they were ``seen`` but for exactly ``since``
    coupons that were granted meanwhile, and before ``until``. Some must be left afterwards. The campaign's stores have
    no quota, its brand has no cap. Raises IntegrityError where a constraint strikes.
    """
    row, written, cards = seen.row, _Written(seen), made.cards(seen)
    written.add(made, cards)
    expected = {
        "terms": row.terms,
        "until": until,
        "issued": row.campaign_issued + since,
        "campaign_left": row.campaign_left - since,
    }
    told = told_by(_events(written, seen.left - since - len(cards)))
    values = made.values(seen, None) | _noted(seen, decided) | _counters(written) | told | expected
    return cards if await statements.WRITE_IF_FOUND.ask(sessions, values) else None


class Made:
    """Coupons that are about to be written: their identifiers, codes and amounts."""

    def __init__(self, wanted: Sequence[Wanted], tiers: Sequence[tuple[int, int]], named: Named) -> None:
        self._named = named
        self._viewers = [want.viewer for want in wanted]
        self.stores = [want.store for want in wanted]
        self._ids = new_ids(len(wanted))
        self._codes = codes.new_codes(len(wanted))
        distances = [want.distance_m for want in wanted]
        self._bands = rules.distance_bands(distances)
        self._amounts = [rules.amount_at(distance, tiers, None) for distance in distances] if tiers else None
        numbers = {store: number for number, store in enumerate(dict.fromkeys(self.stores), 1)}
        ns, keys = [want.n for want in wanted], [want.key for want in wanted]
        self._columns = {
            "ids": self._ids,
            "viewers": self._viewers,
            "ns": "{}" if max(ns) == 1 else array_of(ns),
            "known": list(numbers),
            "stores": array_of(map(numbers.__getitem__, self.stores)),
            "codes": array_of(self._codes),
            "bands": array_of(self._bands),
            "amounts": array_of("NULL" if fen is None else fen for fen in self._amounts or ()),
            "keys": "{}" if keys.count(None) == len(keys) else _array_of_texts(keys),
        }

    def values(self, locked: Locked, actor: UUID | None) -> dict[str, Any]:
        """They as parameters of ``WRITE``."""
        row = locked.row
        valid_from, valid_until = locked.validity
        return self._columns | {
            "brand": row.brand_id,
            "campaign": row.campaign_id,
            "drop": row.drop_id,
            "room": row.room_id,
            "valid_from": valid_from,
            "valid_until": valid_until,
            "held_until": locked.held_until,
            "at": locked.at,
            "actor": actor,
        }

    def cards(self, locked: Locked) -> list[CouponCard]:
        """They as their owners see them."""
        begin, end = map(milliseconds, locked.validity)
        title, drop, named = locked.row.title, locked.row.drop_id, self._named
        amounts = self._amounts or repeat(None, len(self._ids))
        terms = map(locked.terms, amounts)
        return [
            # By position, in the order of the fields: by name it takes twice as long.
            CouponCard(coupon, title, promise, code, key, called, end, "issued", begin, address, band, drop)
            for coupon, promise, code, (key, called, address), band in zip(
                self._ids,
                terms,
                codes.display_all(self._codes),
                map(named.__getitem__, self.stores),
                self._bands,
                strict=True,
            )
        ]

    def told(self, drop: UUID, cards: Sequence[CouponCard | None]) -> list[msgspec.Raw]:
        """The events that tell their owners of each coupon in ``cards``."""
        pairs = zip(self._viewers, cards, strict=True)
        return told_to(drop, [Grant(viewer, card) for viewer, card in pairs if card is not None])


def told_to(drop: UUID, grants: list[Grant]) -> list[msgspec.Raw]:
    """``coupons.issued`` for each of ``grants``; no event names a viewer twice."""
    events = []
    while grants:
        once, grants = _each_once(grants)
        pieces = (once[start : start + PIECE] for start in range(0, len(once), PIECE))
        events += [msgspec.Raw(msgspec.json.encode(Issued(drop, piece))) for piece in pieces]
    return events


def _each_once(grants: list[Grant]) -> tuple[list[Grant], list[Grant]]:
    """The first of each viewer's, and the others."""
    if len({grant.viewer for grant in grants}) == len(grants):
        return grants, []
    once: dict[UUID, Grant] = {}
    for grant in grants:
        once.setdefault(grant.viewer, grant)
    return list(once.values()), [grant for grant in grants if once[grant.viewer] is not grant]


async def note(session: AsyncSession, locked: Locked, decided: Sequence[Decided]) -> None:
    """Keep what was decided about viewers in range who get none; a viewer who was granted one stays granted."""
    if decided:
        await session.execute(statements.NOTE, _noted(locked, decided))


def _noted(locked: Locked, decided: Sequence[Decided]) -> dict[str, Any]:
    return {
        "drop": locked.row.drop_id,
        "at": locked.at,
        "noted": len(decided),
        "noted_viewers": [d.viewer for d in decided],
        "noted_stores": [d.store for d in decided],
        "reasons": array_of(d.reason for d in decided),
        "noted_bands": array_of(rules.distance_bands([d.distance_m for d in decided])),
    }


async def end_if_sold_out(session: AsyncSession, locked: Locked, granted: int) -> bool:
    """End the drop and return True if nothing is left after ``granted`` more."""
    if locked.left > granted:
        return False
    await end(session, locked.row.drop_id, locked.row.room_id, "sold_out")
    return True


async def end(session: AsyncSession, drop: UUID, room: UUID, reason: EndReason) -> bool:
    """End an open drop, whose row the caller has locked, and tell the room; False if it had ended before."""
    ended = (await session.execute(statements.END, {"drop": drop, "reason": reason})).first()
    if ended is not None:
        await emit_all(session, room, [("coupons.drop_ended", DropEnded(drop, reason))])
    return ended is not None
