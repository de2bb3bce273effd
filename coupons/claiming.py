"""What a batch of claims of one drop gets: read everything once, decide in order of arrival, write once."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Row
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import codes, reviews, rules
from coupons.cards import CouponCard
from coupons.granting import (
    Decided,
    Made,
    Named,
    Wanted,
    end_if_sold_out,
    make,
    note,
    stores_left,
    write,
    write_if_found,
)
from coupons.history import Histories
from coupons.locking import Locked
from coupons.sight import Claim, Ours, Sight, Standings, recalled
from kernel.clock import milliseconds
from kernel.postgres import Sessions

PLANNED_FOR = timedelta(seconds=1)
"""A plan that finds its drop later is not carried out as it is."""


class NotYet(NamedTuple):
    """The viewer's turn in the drop comes ``at`` then, in ``seconds``."""

    at: datetime
    seconds: float


Answer = CouponCard | NotYet | str
"""A coupon, when to come again, or the code of the refusal."""


async def answer_batch(
    session: AsyncSession,
    locked: Locked | None,
    claims: Sequence[Claim],
    sight: Sight | None,
    ours: Ours,
    plan: "Plan | None" = None,
    *,
    careful: bool = False,
) -> "Answered":
    """Decide ``claims`` of the locked drop in the order given and write what is granted.

    The answers are true once the caller's transaction commits. Two claims of one viewer with the same key are one
    claim, in this batch and across batches. ``sight`` is what was seen of the same claims before the lock, ``plan``
    what was decided from it, and ``ours`` what this process has granted of the drop since. ``careful``: see
    ``granting.write``.
    """
    if locked is None or locked.row.mode != "claim":
        return Answered(["not_found"] * len(claims), 0, [])
    former = await recalled(session, locked, (claim.viewer for claim in claims), sight, ours)
    if plan is not None and not careful and plan.holds(locked, former):
        batch, made = plan.batch, iter(plan.made)
    else:
        batch = _Batch(locked, claims, sight)
        await _ask(session, locked, batch, former)
        made = make(locked, batch.decide(), batch.named)
    batch.grant(await write(session, locked, made, careful=careful))
    await note(session, locked, batch.decided)
    await reviews.file(session, locked, batch.decided)
    if batch.was_open:
        await end_if_sold_out(session, locked, batch.granted)
    return Answered(batch.answers(), locked.row.campaign_issued, batch.recipients)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a batch was decided before its drop was locked, and the coupons that were made for it."""

    sight: Sight
    batch: "_Batch"
    made: list[Made]

    def since(self, ours: Ours) -> int | None:
        """How many coupons the drop will have given since it was seen, if this process alone gives any and what it has
        on its way succeeds. None if the plan may not hold then, or the drop would be sold out."""
        facts, batch = self.sight.facts, self.batch
        issued, granted = ours.after(facts.row.campaign_issued)
        since = issued - facts.row.campaign_issued
        same = facts.lasts(facts.at + PLANNED_FOR) and granted.isdisjoint(batch.viewers())
        return since if same and 0 < batch.granted < facts.left_now - since else None

    def holds(self, locked: Locked, former: Sequence[Row[Any]]) -> bool:
        """Whether the same would be decided now: under the lock, with ``former`` coupons of those who claim."""
        return (
            locked.still_holds(self.sight.facts)
            and locked.closed() is None
            and self.batch.granted <= locked.left_now
            and {coupon.id for coupon in former} == {coupon.id for coupon in self.sight.former}
        )


async def carry_out(sessions: Sessions, plan: Plan, since: int, ours: Ours) -> "Answered | None":
    """Write what was planned and commit, in one question, if the drop is found as it was seen but for ``since`` coupons
    given meanwhile; else nothing is written, and the answer is None. ``ours`` knows from the start what is on its way.
    """
    facts, batch = plan.sight.facts, plan.batch
    (made,) = plan.made
    issued = facts.row.campaign_issued + since
    ours.add(issued, batch.wanting())
    cards = None
    try:
        until = facts.at + PLANNED_FOR
        cards = await write_if_found(sessions, facts, made, batch.decided, since=since, until=until)
    except IntegrityError:
        pass  # a defect, or somebody's hand in the database: see `granting.in_one_transaction`
    finally:
        if cards is None:
            ours.take_back(issued)
    if cards is None:
        return None
    batch.grant(cards)
    return Answered(batch.answers(), issued, batch.recipients)


def foresee(claims: Sequence[Claim], sight: Sight) -> Plan | None:
    """Decide ``claims`` as if there were enough for all of them, from what was seen before the lock.

    None where that would not hold for long, or depends on more than was seen: numbers that stores have left, what
    viewers had of other campaigns, reviews, turns.
    """
    facts = sight.facts
    limits, batch = facts.limits, _Batch(facts, claims, sight)
    asked_under_the_lock = facts.row.store_quota is not None or limits.cap is not None or limits.segments
    if asked_under_the_lock or limits.doubt == "review" or not batch.was_open or batch.may_be_early:
        return None
    batch.recall(sight.former)
    batch.sift()
    batch.allowed, batch.left_today = len(claims), None
    return Plan(sight, batch, list(make(facts, batch.decide(), batch.named, piece=len(claims))))


async def _ask(session: AsyncSession, locked: Locked, batch: "_Batch", former: Sequence[Row[Any]]) -> None:
    """Learn what ``batch`` depends on and what could not be seen before the lock."""
    batch.recall(former)
    # Also of a drop that is over: whoever retries hears what the claim was told, that somebody looks at it first.
    batch.reviewed = await reviews.standing(session, locked, batch.viewers())
    batch.sift()
    if batch.waiting:
        if batch.left and locked.row.store_quota is not None:
            batch.left = await stores_left(session, locked.area, locked.row.store_quota, list(batch.left))
        batch.histories = await locked.histories(session, batch.viewers())


class Answered(NamedTuple):
    """The answers in the order of the claims, and, for ``Ours``: how many coupons the campaign had given before, and to
    whom these were given."""

    answers: list[Answer]
    issued: int
    recipients: list[UUID]


class _Batch:
    """The bookkeeping of one batch: what is left, who has how many, who was answered what. A claim is known by its
    place in the batch."""

    def __init__(self, facts: Locked, claims: Sequence[Claim], sight: Sight | None) -> None:
        self._facts, self._claims = facts, claims
        self._standings = Standings.unknown(len(claims)) if sight is None else sight.standings
        self.named: Named = {} if sight is None else sight.named
        self.left: dict[UUID, int | None] = {} if sight is None else dict.fromkeys(sight.giving)
        """Of each open store that takes part: how many it may still give, None for any number."""
        self._answers: list[Answer] = ["not_found"] * len(claims)
        self._same: list[tuple[int, int]] = []
        """Claims that were made before in this batch, and where."""
        self._known: dict[tuple[UUID, str], CouponCard] = {}
        """What retries are answered with."""
        self._held: dict[UUID, int] = {}
        self._untold: set[UUID] = set()
        """Viewers who have one that is held until the morning, of which they do not know."""
        self.histories: Histories = {}
        self.reviewed: dict[UUID, str] = {}
        """What viewers whose claim is or was under review are told."""
        self.allowed = facts.left
        self.left_today = facts.left_today
        self._closed = facts.closed()
        self.was_open = self._closed is None
        self._opens_at: datetime = max(facts.row.opens_at, facts.row.claim_from or facts.row.opens_at)
        # Once the last turn has come nobody's is computed.
        last_turn = self._opens_at + timedelta(milliseconds=facts.row.spread_ms or 0)
        self.may_be_early = self._closed in (None, "not_started") and facts.at < last_turn
        self.waiting = self._mine()
        """Claims without an answer yet."""
        self.granted = 0
        self._wanted: list[int] = []
        self.recipients: list[UUID] = []
        self.decided: list[Decided] = []

    def _mine(self) -> list[int]:
        """The claims that this drop has to answer: of its brand and, if they say one, its room, each once."""
        brand, here, claims = self._facts.row.brand_id, self._facts.row.room_id, self._claims
        places = [
            place
            for place, claim in enumerate(claims)
            if claim.brand == brand and (claim.room is None or claim.room == here)
        ]
        if len({claims[place].viewer for place in places}) == len(places):
            return places
        first: dict[tuple[UUID, str], int] = {}
        for place in places:
            before = first.setdefault((claims[place].viewer, claims[place].key), place)
            if before != place:
                self._same.append((place, before))
        return list(first.values())

    def viewers(self) -> list[UUID]:
        """Who waits for an answer."""
        return [self._claims[place].viewer for place in self.waiting]

    def recall(self, former: Iterable[Row[Any]]) -> None:
        """Count what the viewers have of this campaign, and know retries by what they got."""
        row = self._facts.row
        for coupon in former:
            self._held[coupon.viewer_id] = self._held.get(coupon.viewer_id, 0) + 1
            if coupon.held_until is not None:
                self._untold.add(coupon.viewer_id)
            if coupon.drop_id == row.drop_id and coupon.claim_key is not None:
                self._known[coupon.viewer_id, coupon.claim_key] = CouponCard(
                    id=coupon.id,
                    title=row.title,
                    terms=self._facts.terms(coupon.amount_fen),
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

    def sift(self) -> None:
        """Answer what needs no look at where viewers are, and leave the others ``waiting``, in order.

        A storm on a drop that is over is answered here, at the price of one index lookup each.
        """
        if not self._known and self.was_open and not self.may_be_early:
            return
        places, self.waiting = self.waiting, []
        for place in places:
            claim = self._claims[place]
            known = self._known.get((claim.viewer, claim.key))
            if known is not None:
                self._answers[place] = known
            elif self.may_be_early and self._facts.at < (turn := self._turn(claim)):
                self._answers[place] = NotYet(turn, (turn - self._facts.at).total_seconds())
            elif self._closed is not None:
                held = self._held.get(claim.viewer, 0)
                full = self._closed == "sold_out" and held >= self._facts.limits.per_viewer
                reason = self._full(claim.viewer) if full else self.reviewed.get(claim.viewer, self._closed)
                self._answers[place] = reason
            else:
                self.waiting.append(place)

    def _full(self, viewer: UUID) -> str:
        """What ``viewer`` is told who has as many as they may have, and perhaps does not know yet."""
        return "quiet_hours" if viewer in self._untold else "limit_reached"

    def _turn(self, claim: Claim) -> datetime:
        row = self._facts.row
        if not row.spread_ms:
            return self._opens_at
        return self._opens_at + rules.turn_of(row.drop_id, claim.viewer, row.spread_ms)

    def decide(self) -> Iterator[Wanted]:
        """Who of those who wait gets one, of which store: the nearest that is open and has some left."""
        limits, standings = self._facts.limits, self._standings
        for place in self.waiting:
            claim = self._claims[place]
            viewer = claim.viewer
            held = self._held.get(viewer, 0)
            had = self.histories.get(viewer, rules.NEWCOMER) if self.histories else rules.NEWCOMER
            reason = rules.barred(limits, tier=standings.tier[place], held=held, history=had)
            reason = reason or (self.reviewed.get(viewer) if self.reviewed else None)
            if reason is not None:
                self._answers[place] = self._full(viewer) if reason == "limit_reached" else reason
                continue
            nearest, giving = rules.nearest_giving(standings.near[place], self.left)
            if nearest is None:
                self._answers[place] = standings.unplaced(place, self._facts.at)
                continue
            doubt = standings.doubt.get(place)
            reason = rules.passed_over(limits, viewer, doubt)
            reason = reason or rules.exhausted(self.granted, left=self.allowed, left_today=self.left_today)
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

    def wanting(self) -> list[UUID]:
        """Who is to get one, in the order of their coupons."""
        return [self._claims[place].viewer for place in self._wanted]

    def grant(self, cards: Sequence[CouponCard | None]) -> None:
        """Answer those who were ``_wanted`` with their coupons."""
        for place, card in zip(self._wanted, cards, strict=True):
            self._answers[place] = card or "limit_reached"
        pairs = zip(self.wanting(), cards, strict=True)
        self.recipients = [viewer for viewer, card in pairs if card is not None]
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
