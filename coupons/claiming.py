"""What a batch of claims of one drop gets: read everything once, decide in order of arrival, write once."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import codes, reviews, rules
from coupons.cards import CouponCard
from coupons.granting import (
    Area,
    Decided,
    Locked,
    Named,
    Wanted,
    array_of,
    lock,
    note,
    stores_left,
    tell_stock,
    write,
)
from coupons.history import Histories
from coupons.reach import nearest_first
from geo.catchments import Catchments
from geo.matching import FRESH, MAX_ACCURACY_M
from kernel.clock import milliseconds
from kernel.postgres import Sessions


class NotYet(NamedTuple):
    """The viewer's turn in the drop comes ``at`` then, in ``seconds``."""

    at: datetime
    seconds: float


Answer = CouponCard | NotYet | str
"""A coupon, when to come again, or the code of the refusal."""


class Claim(NamedTuple):
    """``viewer`` wants a coupon. ``key`` is the claim's id, chosen by the client: the same id gets the same coupon."""

    brand: str
    viewer: UUID
    key: str
    room: UUID | None


class _Standing(NamedTuple):
    """What is known of a viewer who claims; ``near`` holds stores in reach and metres, nearest first."""

    tier: int | None
    fixed_at: datetime | None
    accuracy_m: float | None
    doubt: str | None
    near: Sequence[tuple[UUID, float]]


_UNKNOWN = _Standing(None, None, None, None, ())

_AREA = text(
    """
    SELECT d.room_id AS room, c.brand_id AS brand, c.id AS campaign, c.all_stores, c.radius_m, c.near_counts,
           clock_timestamp() AS at
    FROM drops d JOIN campaigns c ON c.id = d.campaign_id
    WHERE d.id = :drop AND d.state = 'open' AND d.mode = 'claim'
    """
)
_STANDINGS = text(
    """
    SELECT w.viewer_id, m.tier, l.fixed_at, l.accuracy_m, l.doubt,
           ST_X(CAST(l.position AS geometry)), ST_Y(CAST(l.position AS geometry))
    FROM unnest(CAST(CAST(:viewers AS text) AS uuid[])) AS w (viewer_id)
    LEFT JOIN members m ON m.id = w.viewer_id AND m.brand_id = :brand
    LEFT JOIN locations l ON l.room_id = :room AND l.viewer_id = w.viewer_id
    """
)
_PARTAKING = text("SELECT store_id FROM campaign_stores WHERE campaign_id = :campaign")
# One probe of the unique index for each viewer, whatever the planner believes: OFFSET keeps it from making joins of
# them. Planned while the campaign was empty, a join reads all of the campaign for every batch, eight times their cost.
FORMER = text(
    """
    SELECT c.viewer_id, c.drop_id, c.claim_key, c.id, c.code, c.state, c.amount_fen, c.valid_from, c.valid_until,
           c.distance_band_m, s.code AS store, s.name AS store_name, s.address AS store_address
    FROM unnest(CAST(CAST(:viewers AS text) AS uuid[])) AS w (viewer_id)
    CROSS JOIN LATERAL (
        SELECT * FROM coupons WHERE viewer_id = w.viewer_id AND campaign_id = :campaign OFFSET 0
    ) AS c
    CROSS JOIN LATERAL (SELECT code, name, address FROM stores WHERE id = c.store_id OFFSET 0) AS s
    """
)


PIECES = 4
"""A batch is decided in so many pieces, each while the one before is written; smaller ones than ``PIECE_AT_LEAST`` cost
more than they gain."""
PIECE_AT_LEAST = 100


@dataclass(frozen=True, slots=True)
class Sight:
    """Where the viewers of a batch stand, seen before the drop is locked: places change slowly, and the drop must not
    be held while they are looked up. Whether their stores are open and have coupons left is asked under the lock."""

    area: Area
    standings: dict[UUID, _Standing]
    stores: list[UUID]
    """Every store that somebody is in reach of."""


async def look(sessions: Sessions, catchments: Catchments, drop: UUID, claims: Sequence[Claim]) -> Sight | None:
    """Tier, fix and stores in reach of everybody in ``claims``; None if ``drop`` gives nothing that could be near."""
    async with sessions() as session:
        await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})  # spares two round trips
        row = (await session.execute(_AREA, {"drop": drop})).one_or_none()
        if row is None:
            return None
        area = Area(**row._mapping)
        asked = {"viewers": _viewers(claims), "brand": area.brand, "room": area.room}
        found = (await session.execute(_STANDINGS, asked)).all()
        partaking = None
        if not area.all_stores:
            partaking = set(await session.scalars(_PARTAKING, {"campaign": area.campaign}))
    near, stores = await _in_reach(catchments, area, found, partaking)
    return Sight(
        area,
        {
            viewer: _Standing(tier, fixed_at, accuracy_m, doubt, near.get(place, ()))
            for place, (viewer, tier, fixed_at, accuracy_m, doubt, *_) in enumerate(found)
        },
        stores,
    )


async def _in_reach(
    catchments: Catchments, area: Area, found: Sequence[Sequence[Any]], partaking: set[UUID] | None
) -> tuple[dict[int, list[tuple[UUID, float]]], list[UUID]]:
    """For each place in ``found`` (rows of ``_STANDINGS``) the stores in reach, nearest first; and all these stores."""
    fresh_after = area.at - FRESH
    placed = [
        place
        for place, (_, _, fixed_at, accuracy, *_) in enumerate(found)
        if fixed_at is not None and fixed_at > fresh_after and accuracy <= MAX_ACCURACY_M
    ]
    if not placed:
        return {}, []
    reach = await catchments.of(area.brand, area.radius_m)
    lng, lat, accuracy = np.array([(found[place][5], found[place][6], found[place][3]) for place in placed]).T
    matches = reach.match(lng, lat, accuracy)
    kept = nearest_first(matches, near_counts=area.near_counts)
    stores = [reach.stores[store] for store in matches.store[kept].tolist()]
    pairs = list(zip(stores, matches.distance_m[kept].tolist(), strict=True))
    fixes, begins = np.unique(matches.fix[kept], return_index=True)
    bounds = pairwise([*begins.tolist(), len(pairs)])
    near = {placed[fix]: pairs[start:end] for fix, (start, end) in zip(fixes.tolist(), bounds, strict=True)}
    if partaking is not None:
        near = {place: [pair for pair in those if pair[0] in partaking] for place, those in near.items()}
    return near, list(dict.fromkeys(stores))


async def answer_batch(
    session: AsyncSession, drop: UUID, claims: Sequence[Claim], sight: Sight | None, named: Named | None = None
) -> list[Answer]:
    """Decide ``claims`` in the order given and write what is granted; true once the caller's transaction commits.

    Two claims of one viewer with the same key are one claim, in this batch and across batches. ``sight`` is what
    ``look`` saw of the same claims a moment ago. ``named`` holds what is known of stores' names, and gets what is not.
    """
    locked = await lock(session, drop)
    if locked is None or locked.row.mode != "claim":
        return ["not_found"] * len(claims)
    if named is not None:
        locked.named = named
    batch = _Batch(locked, {} if sight is None else sight.standings)
    brand, here = locked.row.brand_id, locked.row.room_id
    ours = [claim for claim in claims if claim.brand == brand and (claim.room is None or claim.room == here)]
    batch.recall(await session.execute(FORMER, {"campaign": locked.row.campaign_id, "viewers": _viewers(ours)}))
    # Also of a drop that is over: whoever retries hears what the claim was told, that somebody looks at it first.
    batch.reviewed = await reviews.standing(session, locked, (claim.viewer for claim in ours))
    waiting = batch.sift(ours)
    if waiting:
        batch.left = await stores_left(session, locked, [] if sight is None else sight.stores)
        batch.histories = await locked.histories(session, (claim.viewer for claim in waiting))
    cards = await write(session, locked, batch.decide(waiting), piece=max(PIECE_AT_LEAST, len(waiting) // PIECES))
    batch.grant(cards)
    await note(session, locked, batch.decided)
    await reviews.file(session, locked, batch.decided)
    if batch.was_open:
        await tell_stock(session, locked, batch.granted)
    return [batch.answers.get((claim.viewer, claim.key), "not_found") for claim in claims]


def _viewers(claims: Iterable[Claim]) -> str:
    return array_of({claim.viewer for claim in claims})


class _Batch:
    """The bookkeeping of one batch: what is left, who has how many, who was answered what."""

    def __init__(self, locked: Locked, standings: dict[UUID, _Standing]) -> None:
        self._locked = locked
        self._held: dict[UUID, int] = {}
        self._standings = standings
        self.left: dict[UUID, int | None] = {}
        """Of each open store that takes part: how many it may still give, None for any number."""
        self.histories: Histories = {}
        self.reviewed: dict[UUID, str] = {}
        """What viewers whose claim is or was under review are told."""
        self._left_today = locked.left_today
        self._closed = locked.closed()
        self._opens_at: datetime = max(locked.row.opens_at, locked.row.claim_from or locked.row.opens_at)
        self.was_open = self._closed is None
        # Once the last turn has come nobody's is computed.
        last_turn = self._opens_at + timedelta(milliseconds=locked.row.spread_ms or 0)
        self._may_be_early = self._closed in (None, "not_started") and locked.at < last_turn
        self.granted = 0
        self.answers: dict[tuple[UUID, str], Answer] = {}
        self.wanted: list[Wanted] = []
        self.decided: list[Decided] = []

    def recall(self, former: Iterable[Row[Any]]) -> None:
        """Count what the viewers have of this campaign, and answer retries with what they got."""
        row = self._locked.row
        for coupon in former:
            self._held[coupon.viewer_id] = self._held.get(coupon.viewer_id, 0) + 1
            if coupon.drop_id == row.drop_id and coupon.claim_key is not None:
                self.answers[coupon.viewer_id, coupon.claim_key] = CouponCard(
                    id=coupon.id,
                    title=row.title,
                    terms=self._locked.terms(coupon.amount_fen),
                    code=codes.display(coupon.code),
                    state=coupon.state,
                    store=coupon.store,
                    store_name=coupon.store_name,
                    store_address=coupon.store_address,
                    valid_from=milliseconds(coupon.valid_from),
                    valid_until=milliseconds(coupon.valid_until),
                    distance_m=coupon.distance_band_m,
                    drop=coupon.drop_id,
                )

    def sift(self, claims: Iterable[Claim]) -> list[Claim]:
        """Answer what needs no look at places; returns the other claims, each once, in order.

        A storm on a drop that is over is answered here, at the price of one index lookup each.
        """
        waiting = {}
        for claim in claims:
            identity = (claim.viewer, claim.key)
            if identity in self.answers or identity in waiting:
                continue
            if self._may_be_early and self._locked.at < (turn := self._turn(claim)):
                self.answers[identity] = NotYet(turn, (turn - self._locked.at).total_seconds())
            elif self._closed is not None:
                held = self._held.get(claim.viewer, 0)
                full = self._closed == "sold_out" and held >= self._locked.limits.per_viewer
                self.answers[identity] = "limit_reached" if full else self.reviewed.get(claim.viewer, self._closed)
            else:
                waiting[identity] = claim
        return list(waiting.values())

    def _turn(self, claim: Claim) -> datetime:
        row = self._locked.row
        if not row.spread_ms:
            return self._opens_at
        return self._opens_at + rules.turn_of(row.drop_id, claim.viewer, row.spread_ms)

    def decide(self, claims: Iterable[Claim]) -> Iterator[Wanted]:
        """Who gets one, of which store: the nearest that is open and has some left. Each is ``wanted`` as well."""
        limits, allowed = self._locked.limits, self._locked.left
        for claim in claims:
            viewer = claim.viewer
            standing = self._standings.get(viewer, _UNKNOWN)
            held = self._held.get(viewer, 0)
            had = self.histories.get(viewer, rules.NEWCOMER) if self.histories else rules.NEWCOMER
            reason = rules.barred(limits, tier=standing.tier, held=held, history=had)
            reason = reason or self.reviewed.get(viewer)
            if reason is not None:
                self.answers[viewer, claim.key] = reason
                continue
            nearest, giving = rules.nearest_giving(standing.near, self.left)
            if nearest is None:
                self.answers[viewer, claim.key] = rules.unplaced(
                    standing.fixed_at,
                    standing.accuracy_m,
                    fresh_after=self._locked.at - FRESH,
                    max_accuracy_m=MAX_ACCURACY_M,
                )
                continue
            reason = rules.passed_over(limits, viewer, standing.doubt)
            reason = reason or rules.exhausted(self.granted, left=allowed, left_today=self._left_today)
            if reason is not None or giving is None:
                self._refuse_in_range(claim, nearest, reason or "sold_out")
                continue
            if (reason := rules.to_review(limits, standing.doubt)) is not None:
                self._refuse_in_range(claim, giving, reason)
                self.reviewed[viewer] = reason
                continue
            store, distance = giving
            left = self.left[store]
            if left is not None:
                self.left[store] = left - 1
            self._held[viewer] = held + 1
            if limits.cap is not None:
                self.histories[viewer] = had._replace(recent=had.recent + 1)
            self.granted += 1
            want = Wanted(viewer, held + 1, store, distance, claim.key)
            self.wanted.append(want)
            yield want

    def grant(self, cards: Sequence[CouponCard | None]) -> None:
        """Answer those who were ``wanted`` with their coupons."""
        for want, card in zip(self.wanted, cards, strict=True):
            assert want.key is not None
            self.answers[want.viewer, want.key] = card or "limit_reached"
            self.granted -= card is None

    def _refuse_in_range(self, claim: Claim, place: tuple[UUID, float], reason: str) -> None:
        self.answers[claim.viewer, claim.key] = reason
        doubt = self._standings.get(claim.viewer, _UNKNOWN).doubt
        self.decided.append(Decided(claim.viewer, place[0], reason, place[1], doubt, claim.key))
