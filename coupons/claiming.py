"""What a batch of claims of one drop gets: read everything once, decide in order of arrival, write once."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import codes, reviews, rules
from coupons.cards import CouponCard
from coupons.granting import Decided, Named, Wanted, end_if_sold_out, note, stores_left, write
from coupons.history import Histories
from coupons.locking import Locked
from coupons.sight import Claim, Ours, Sight, Standings, recalled
from kernel.clock import milliseconds


class NotYet(NamedTuple):
    """The viewer's turn in the drop comes ``at`` then, in ``seconds``."""

    at: datetime
    seconds: float


Answer = CouponCard | NotYet | str
"""A coupon, when to come again, or the code of the refusal."""


PIECES = 4
"""A batch is decided in so many pieces, each while the one before is written; smaller ones than ``PIECE_AT_LEAST`` cost
more than they gain."""
PIECE_AT_LEAST = 100


async def answer_batch(
    session: AsyncSession,
    locked: Locked | None,
    claims: Sequence[Claim],
    sight: Sight | None,
    ours: Ours,
    *,
    careful: bool = False,
) -> "Answered":
    """Decide ``claims`` of the locked drop in the order given and write what is granted.

    The answers are true once the caller's transaction commits. Two claims of one viewer with the same key are one
    claim, in this batch and across batches. ``sight`` is what was seen of the same claims before the lock, and ``ours``
    what this process has granted of the drop since. ``careful``: see ``granting.write``.
    """
    if locked is None or locked.row.mode != "claim":
        return Answered(["not_found"] * len(claims), 0, [])
    row = locked.row
    batch = _Batch(locked, claims, sight)
    mine = batch.mine()
    batch.recall(await recalled(session, locked, (claims[place].viewer for place in mine), sight, ours))
    # Also of a drop that is over: whoever retries hears what the claim was told, that somebody looks at it first.
    batch.reviewed = await reviews.standing(session, locked, (claims[place].viewer for place in mine))
    waiting = batch.sift(mine)
    named: Named = {}
    if waiting and sight is not None:
        named, batch.left = sight.named, dict.fromkeys(sight.giving)
        if row.store_quota is not None:
            batch.left = await stores_left(session, locked.area, row.store_quota, sight.giving)
        batch.histories = await locked.histories(session, (claims[place].viewer for place in waiting))
    piece = max(PIECE_AT_LEAST, len(waiting) // PIECES)
    batch.grant(await write(session, locked, batch.decide(waiting), named, piece=piece, careful=careful))
    await note(session, locked, batch.decided)
    await reviews.file(session, locked, batch.decided)
    if batch.was_open:
        await end_if_sold_out(session, locked, batch.granted)
    return Answered(batch.answers(), row.campaign_issued, batch.recipients)


class Answered(NamedTuple):
    """The answers in the order of the claims, and, for ``Ours``: how many coupons the campaign had given before, and to
    whom these were given."""

    answers: list[Answer]
    issued: int
    recipients: list[UUID]


class _Batch:
    """The bookkeeping of one batch: what is left, who has how many, who was answered what. A claim is known by its
    place in the batch."""

    def __init__(self, locked: Locked, claims: Sequence[Claim], sight: Sight | None) -> None:
        self._locked, self._claims = locked, claims
        self._standings = Standings.unknown(len(claims)) if sight is None else sight.standings
        self._answers: list[Answer] = ["not_found"] * len(claims)
        self._same: list[tuple[int, int]] = []
        """Claims that were made before in this batch, and where."""
        self._known: dict[tuple[UUID, str], CouponCard] = {}
        """What retries are answered with."""
        self._held: dict[UUID, int] = {}
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
        self._wanted: list[int] = []
        self.recipients: list[UUID] = []
        self.decided: list[Decided] = []

    def mine(self) -> list[int]:
        """The claims that this drop has to answer: of its brand and, if they say one, its room, each once."""
        brand, here = self._locked.row.brand_id, self._locked.row.room_id
        first: dict[tuple[UUID, str], int] = {}
        places = []
        for place, (of_brand, viewer, key, room) in enumerate(self._claims):
            if of_brand == brand and (room is None or room == here):
                if (before := first.setdefault((viewer, key), place)) == place:
                    places.append(place)
                else:
                    self._same.append((place, before))
        return places

    def recall(self, former: Iterable[Row[Any]]) -> None:
        """Count what the viewers have of this campaign, and know retries by what they got."""
        row = self._locked.row
        for coupon in former:
            self._held[coupon.viewer_id] = self._held.get(coupon.viewer_id, 0) + 1
            if coupon.drop_id == row.drop_id and coupon.claim_key is not None:
                self._known[coupon.viewer_id, coupon.claim_key] = CouponCard(
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

    def sift(self, places: Iterable[int]) -> list[int]:
        """Answer what needs no look at where viewers are; returns the other claims, in order.

        A storm on a drop that is over is answered here, at the price of one index lookup each.
        """
        if not self._known and self._closed is None and not self._may_be_early:
            return list(places)
        waiting = []
        for place in places:
            claim = self._claims[place]
            known = self._known.get((claim.viewer, claim.key))
            if known is not None:
                self._answers[place] = known
            elif self._may_be_early and self._locked.at < (turn := self._turn(claim)):
                self._answers[place] = NotYet(turn, (turn - self._locked.at).total_seconds())
            elif self._closed is not None:
                held = self._held.get(claim.viewer, 0)
                full = self._closed == "sold_out" and held >= self._locked.limits.per_viewer
                self._answers[place] = "limit_reached" if full else self.reviewed.get(claim.viewer, self._closed)
            else:
                waiting.append(place)
        return waiting

    def _turn(self, claim: Claim) -> datetime:
        row = self._locked.row
        if not row.spread_ms:
            return self._opens_at
        return self._opens_at + rules.turn_of(row.drop_id, claim.viewer, row.spread_ms)

    def decide(self, places: Iterable[int]) -> Iterator[Wanted]:
        """Who gets one, of which store: the nearest that is open and has some left. Each is ``_wanted`` as well."""
        limits, allowed, standings = self._locked.limits, self._locked.left, self._standings
        for place in places:
            claim = self._claims[place]
            viewer = claim.viewer
            held = self._held.get(viewer, 0)
            had = self.histories.get(viewer, rules.NEWCOMER) if self.histories else rules.NEWCOMER
            reason = rules.barred(limits, tier=standings.tier[place], held=held, history=had)
            reason = reason or (self.reviewed.get(viewer) if self.reviewed else None)
            if reason is not None:
                self._answers[place] = reason
                continue
            nearest, giving = rules.nearest_giving(standings.near[place], self.left)
            if nearest is None:
                self._answers[place] = standings.unplaced(place, self._locked.at)
                continue
            doubt = standings.doubt.get(place)
            reason = rules.passed_over(limits, viewer, doubt)
            reason = reason or rules.exhausted(self.granted, left=allowed, left_today=self._left_today)
            if reason is not None or giving is None:
                self._refuse_in_range(place, nearest, reason or "sold_out")
                continue
            if (reason := rules.to_review(limits, doubt)) is not None:
                self._refuse_in_range(place, giving, reason)
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
            self._wanted.append(place)
            yield Wanted(viewer, held + 1, store, distance, claim.key)

    def grant(self, cards: Sequence[CouponCard | None]) -> None:
        """Answer those who were ``_wanted`` with their coupons."""
        for place, card in zip(self._wanted, cards, strict=True):
            self._answers[place] = card or "limit_reached"
        self.recipients = [
            self._claims[place].viewer for place, card in zip(self._wanted, cards, strict=True) if card is not None
        ]
        self.granted = len(self.recipients)

    def answers(self) -> list[Answer]:
        """To each claim, in order."""
        for place, before in self._same:
            self._answers[place] = self._answers[before]
        return self._answers

    def _refuse_in_range(self, place: int, where: tuple[UUID, float], reason: str) -> None:
        self._answers[place] = reason
        claim, doubt = self._claims[place], self._standings.doubt.get(place)
        self.decided.append(Decided(claim.viewer, where[0], reason, where[1], doubt, claim.key))
