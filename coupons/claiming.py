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
from coupons.sight import UNKNOWN, Claim, Ours, Sight, Standing, recalled
from geo.matching import FRESH, MAX_ACCURACY_M
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
    session: AsyncSession, locked: Locked | None, claims: Sequence[Claim], sight: Sight | None, ours: Ours
) -> "Answered":
    """Decide ``claims`` of the locked drop in the order given and write what is granted.

    The answers are true once the caller's transaction commits. Two claims of one viewer with the same key are one
    claim, in this batch and across batches. ``sight`` is what was seen of the same claims before the lock, and ``ours``
    what this process has granted of the drop since.
    """
    if locked is None or locked.row.mode != "claim":
        return Answered(["not_found"] * len(claims), 0, [])
    row = locked.row
    batch = _Batch(locked, {} if sight is None else sight.standings)
    brand, here = row.brand_id, row.room_id
    mine = [claim for claim in claims if claim.brand == brand and (claim.room is None or claim.room == here)]
    batch.recall(await recalled(session, locked, {claim.viewer for claim in mine}, sight, ours))
    # Also of a drop that is over: whoever retries hears what the claim was told, that somebody looks at it first.
    batch.reviewed = await reviews.standing(session, locked, (claim.viewer for claim in mine))
    waiting = batch.sift(mine)
    named: Named = {}
    if waiting and sight is not None:
        named, batch.left = sight.named, sight.left
        if any(left is not None for left in sight.left.values()):
            batch.left = await stores_left(session, locked.area, row.store_quota, list(sight.left))
        batch.histories = await locked.histories(session, (claim.viewer for claim in waiting))
    piece = max(PIECE_AT_LEAST, len(waiting) // PIECES)
    batch.grant(await write(session, locked, batch.decide(waiting), named, piece=piece))
    await note(session, locked, batch.decided)
    await reviews.file(session, locked, batch.decided)
    if batch.was_open:
        await end_if_sold_out(session, locked, batch.granted)
    answers = [batch.answers.get((claim.viewer, claim.key), "not_found") for claim in claims]
    return Answered(answers, row.campaign_issued, batch.recipients)


class Answered(NamedTuple):
    """The answers in the order of the claims, and, for ``Ours``: how many coupons the campaign had given before, and to
    whom these were given."""

    answers: list[Answer]
    issued: int
    recipients: list[UUID]


class _Batch:
    """The bookkeeping of one batch: what is left, who has how many, who was answered what."""

    def __init__(self, locked: Locked, standings: dict[UUID, Standing]) -> None:
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
        self.recipients: list[UUID] = []
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
            standing = self._standings.get(viewer, UNKNOWN)
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
        self.recipients = [want.viewer for want, card in zip(self.wanted, cards, strict=True) if card is not None]
        self.granted = len(self.recipients)

    def _refuse_in_range(self, claim: Claim, place: tuple[UUID, float], reason: str) -> None:
        self.answers[claim.viewer, claim.key] = reason
        doubt = self._standings.get(claim.viewer, UNKNOWN).doubt
        self.decided.append(Decided(claim.viewer, place[0], reason, place[1], doubt, claim.key))
