"""Push drops: coupons to everybody in reach, nearest first, in chunks that may be interrupted anywhere.

Matching reads without locks; each chunk then locks the campaign and the drop, looks again at what may have changed
since (another worker, another drop of the campaign), and writes coupons, ledger, decisions and outbox together. Whoever
has a coupon of the drop or is in ``drop_viewers`` is never matched again, so a worker that was killed is simply run
again, and two at once only share the work.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple
from uuid import UUID

from sqlalchemy import Row, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import reviews, rules
from coupons.granting import (
    Decided,
    Named,
    Wanted,
    end_if_sold_out,
    in_one_transaction,
    make,
    name,
    note,
    write,
)
from coupons.history import Histories
from coupons.locking import Area, Locked, lock
from coupons.reach import Match, match
from coupons.statements import DECIDED_ABOUT
from coupons.tables import Coupon
from kernel.postgres import Sessions, transaction

CHUNK = 5000
"""Viewers decided in one transaction; claims of the campaign wait for it, some 150 ms."""

HOLDS = ("campaign_state", "not_started")
"""For these reasons a push drop waits instead of ending."""

_AREA = text(
    """
    SELECT d.room_id AS room, c.brand_id AS brand, c.id AS campaign, c.all_stores, c.radius_m, c.near_counts,
           clock_timestamp() AS at,
           CASE WHEN c.only_open THEN CAST(clock_timestamp() AT TIME ZONE b.timezone AS time) END AS clock,
           c.issued, d.decided
    FROM drops d JOIN campaigns c ON c.id = d.campaign_id JOIN brands b ON b.id = c.brand_id
    WHERE d.id = :drop AND d.state = 'open' AND d.mode = 'push'
    """
)
_CHANGED = text(
    f"""
    SELECT viewer_id, decided, held FROM (
        SELECT w.viewer_id,
               {DECIDED_ABOUT.format(viewer="w.viewer_id", drop=":drop")} AS decided,
               (SELECT count(*) FROM coupons c WHERE c.viewer_id = w.viewer_id AND c.campaign_id = :campaign) AS held
        FROM unnest(CAST(:viewers AS uuid[])) AS w (viewer_id)
    ) AS viewers
    WHERE decided OR held > 0
    """
)
_QUOTAS = text(
    """
    SELECT store_id, quota - issued AS quota_left FROM campaign_stores
    WHERE campaign_id = :campaign AND quota IS NOT NULL
    """
)
_OPEN_HERE = text(
    """
    SELECT id FROM drops
    WHERE room_id = :room AND state = 'open' AND mode = 'push' AND opens_at <= clock_timestamp()
    ORDER BY opens_at, id
    """
)
# Asked after every group of fixes, so one question for all rooms: without an open drop it is over after the index
# `ix_drops_open`. Whoever a drop has decided about is not looked at again, however often they come and go.
_WAITING = text(
    f"""
    SELECT DISTINCT w.room, w.viewer
    FROM unnest(CAST(:rooms AS uuid[]), CAST(:viewers AS uuid[])) AS w (room, viewer)
    JOIN drops d ON d.room_id = w.room
    WHERE d.state = 'open' AND d.mode = 'push' AND d.opens_at <= clock_timestamp()
      AND {DECIDED_ABOUT.format(viewer="w.viewer", drop="d.id")} IS NULL
    """
)
_MATCHED = text(
    """
    UPDATE drops SET matched_at = coalesce(matched_at, clock_timestamp()), match_again = false
    WHERE id = :drop AND (matched_at IS NULL OR match_again)
    """
)
_MATCH_AGAIN = text("UPDATE drops SET match_again = true WHERE id = :drop AND NOT match_again AND state = 'open'")


class _Tally(NamedTuple):
    """How many coupons the campaign had issued, and how many decisions the drop had written. Both only grow."""

    issued: int
    decided: int


class _Found(NamedTuple):
    """Who was matched, and how it stood just before."""

    matches: list[Match]
    before: _Tally
    named: Named


class _Done(NamedTuple):
    """How many were granted, and how it stands: sold out, over, or held until the campaign gives coupons again.
    ``decided`` counts the decisions written; ``left``: somebody was not decided about and shall be matched again, among
    them the ``crowded``, whose store has given all of its own."""

    granted: int
    state: Literal["open", "sold_out", "over", "held"] = "open"
    decided: int = 0
    left: bool = False
    crowded: Sequence[Match] = ()


async def held(session: AsyncSession, campaign: UUID, viewers: Sequence[UUID]) -> dict[UUID, int]:
    """How many coupons of ``campaign`` each of ``viewers`` has; viewers without any are left out."""
    query = (
        select(Coupon.viewer_id, func.count())
        .where(Coupon.campaign_id == campaign, Coupon.viewer_id == func.any(list(viewers)))
        .group_by(Coupon.viewer_id)
    )
    return dict((await session.execute(query)).all())


async def run_push(sessions: Sessions, drop: UUID) -> int:
    """Grant the push drop ``drop`` to whoever is in reach; returns how many coupons this run granted.

    May be killed at any point and run again, also by two workers at once. Passes repeat while stores fill up and
    their viewers go to the next nearest; a drop that ended meanwhile gives no more.
    """
    done = await _grant(sessions, drop, None)
    if done.state != "held":
        async with transaction(sessions) as session:
            await session.execute(_MATCHED, {"drop": drop})
    return done.granted


async def grant_arrivals(sessions: Sessions, room: UUID, viewers: Sequence[UUID]) -> int:
    """Grant the room's open push drops to ``viewers``, whose fixes have just been written; returns how many."""
    if not viewers:
        return 0
    async with sessions() as session:
        drops = (await session.scalars(_OPEN_HERE, {"room": room})).all()
    granted = 0
    for drop in drops:
        done = await _grant(sessions, drop, viewers)
        granted += done.granted
        if done.state == "held":
            # Nobody shall have to wait for their next fix once the hours or the minute are over: the worker comes back.
            async with transaction(sessions) as session:
                await session.execute(_MATCH_AGAIN, {"drop": drop})
    return granted


async def grant_everywhere(sessions: Sessions, arrivals: Sequence[tuple[UUID, UUID]]) -> int:
    """Grant the open push drops to ``arrivals`` (room, viewer), whose fixes were just written; returns how many."""
    if not arrivals:
        return 0
    values = {
        "rooms": [room for room, _ in arrivals],
        "viewers": [viewer for _, viewer in arrivals],
    }
    waiting: dict[UUID, list[UUID]] = defaultdict(list)
    async with sessions() as session:
        for room, viewer in await session.execute(_WAITING, values):
            waiting[room].append(viewer)
    return sum([await grant_arrivals(sessions, room, viewers) for room, viewers in waiting.items()])


async def _grant(sessions: Sessions, drop: UUID, viewers: Sequence[UUID] | None) -> _Done:
    total, left = 0, True
    while left and (found := await _matches(sessions, drop, viewers)).matches:
        done, left, crowded = _Done(0), False, list[Match]()
        # A campaign that had issued nothing, and to which only this run adds: then nobody need be looked at again.
        ours = None if found.before.issued else found.before
        for start in range(0, len(found.matches), CHUNK):
            chunk = found.matches[start : start + CHUNK]
            sold_out = done.state == "sold_out"
            work = partial(_grant_chunk, drop=drop, chunk=chunk, ours=ours, named=found.named, sold_out=sold_out)
            done = await in_one_transaction(sessions, work)
            total += done.granted
            ours = ours and _Tally(ours.issued + done.granted, ours.decided + done.decided)
            left |= done.left
            crowded += done.crowded
            if done.state in ("over", "held"):
                return _Done(total, done.state)
        if done.state == "sold_out":
            await _note_missed(sessions, drop, crowded)
            break
    return _Done(total)


async def _note_missed(sessions: Sessions, drop: UUID, missed: Sequence[Match]) -> None:
    """``missed`` waited for another store when the drop was sold out: nobody matches them again, but they count."""
    for start in range(0, len(missed), CHUNK):
        async with transaction(sessions) as session:
            if (locked := await lock(session, drop)) is not None:
                some = missed[start : start + CHUNK]
                await note(session, locked, [Decided(m.viewer, m.store, "sold_out", m.distance_m) for m in some])


async def _matches(sessions: Sessions, drop: UUID, viewers: Sequence[UUID] | None) -> _Found:
    async with sessions() as session:
        row = (await session.execute(_AREA, {"drop": drop})).one_or_none()
        if row is None:
            return _Found([], _Tally(0, 0), {})
        *where, issued, decided = row
        asked = drop if decided else None  # a drop that has decided about nobody need not be asked
        found = _Found(await match(session, Area(*where), drop=asked, viewers=viewers), _Tally(issued, decided), {})
        await name(session, {one.store for one in found.matches}, found.named)
        return found


async def _grant_chunk(
    session: AsyncSession,
    careful: bool,
    *,
    drop: UUID,
    chunk: Sequence[Match],
    ours: _Tally | None,
    named: Named,
    sold_out: bool,
) -> _Done:
    """Decide about ``chunk`` in one transaction. ``sold_out`` in this run: only note who missed it, and why.

    ``ours`` is the tally as it is if nobody in ``chunk`` had a coupon when they were matched, and nobody but this run
    has granted or decided anything since; None if somebody may have had one.
    """
    locked = await lock(session, drop)
    if locked is None:
        return _Done(0, "over")
    if not sold_out:
        if (closed := locked.closed()) is not None:
            return _Done(0, "held" if closed in HOLDS else "over")
        if locked.left > 0 and 0 in (locked.left_today, locked.left_of_minute):
            return _Done(0, "held")
    changed = await _changed(session, locked, chunk, ours)
    quotas = await _quotas(session, locked)
    histories = await locked.histories(session, (m.viewer for m in chunk))
    deciding = _Deciding(locked, changed, quotas, histories, sold_out)
    cards = await write(session, locked, make(locked, deciding.about(chunk), named), careful=careful)
    # The constraints took none of these back so far; if they ever do, it is decided all the same, and the run ends.
    lost = [want for want, card in zip(deciding.wanted, cards, strict=True) if card is None]
    decided = deciding.decided + [Decided(want.viewer, want.store, "limit_reached", want.distance_m) for want in lost]
    await note(session, locked, decided)
    await reviews.file(session, locked, decided)
    granted = len(cards) - len(lost)
    written = granted + len(decided)
    settled = written + sum(now.decided is True for now in changed.values())
    sold_out = sold_out or await end_if_sold_out(session, locked, granted)
    return _Done(granted, "sold_out" if sold_out else "open", written, settled < len(chunk), deciding.crowded)


async def _changed(
    session: AsyncSession, locked: Locked, chunk: Sequence[Match], ours: _Tally | None
) -> dict[UUID, Row[tuple[UUID, bool, int]]]:
    """Whom of ``chunk`` the drop has decided about since the match, and who has coupons of the campaign."""
    row = locked.row
    if ours == _Tally(row.campaign_issued, row.drop_decided):
        return {}
    values = {"drop": row.drop_id, "campaign": row.campaign_id, "viewers": [m.viewer for m in chunk]}
    return {now.viewer_id: now for now in (await session.execute(_CHANGED, values)).all()}


async def _quotas(session: AsyncSession, locked: Locked) -> dict[UUID, int]:
    if locked.row.store_quota is None:
        return {}
    rows = await session.execute(_QUOTAS, {"campaign": locked.row.campaign_id})
    return dict(rows.all())


@dataclass
class _Deciding:
    """What is known when a chunk is decided about, and what comes of it."""

    locked: Locked
    changed: dict[UUID, Row[tuple[UUID, bool, int]]]
    quotas: dict[UUID, int]
    """Of each store that has given some: how many it may still give. Counted down."""
    histories: Histories
    sold_out: bool
    """The drop has ended for it: also if its campaign should have got more since, nobody gets one."""
    wanted: list[Wanted] = field(default_factory=list)
    decided: list[Decided] = field(default_factory=list)
    crowded: list[Match] = field(default_factory=list)

    def about(self, chunk: Sequence[Match]) -> Iterator[Wanted]:
        """Who of ``chunk`` gets one. Viewers whose store has filled up since the match are left for the next pass,
        those for whom the minute or the day has none left for the next one."""
        locked, wanted, decided = self.locked, self.wanted, self.decided
        limits, quota = locked.limits, locked.row.store_quota
        periods = [left for left in (locked.left_of_minute, locked.left_today) if left is not None]
        left_now = min(periods, default=None)
        left_unreserved = 0 if self.sold_out else locked.left_unreserved
        for one in chunk:
            viewer, store, doubt = one.viewer, one.store, one.doubt
            now = self.changed.get(viewer)
            if now is not None and now.decided:
                continue
            has = 0 if now is None else now.held
            had = self.histories.get(viewer, rules.NEWCOMER)
            reason = rules.barred(limits, tier=one.tier, held=has, history=had)
            reason = reason or rules.passed_over(limits, viewer, doubt)
            reason = reason or rules.exhausted(len(wanted), left=left_unreserved, left_today=left_now)
            if reason == "sold_out_today":
                continue
            if reason is not None:
                decided.append(Decided(viewer, store, reason, one.distance_m))
                continue
            reviewed = rules.to_review(limits, doubt)
            if quota is not None:
                left = self.quotas.get(store, quota)
                if left <= 0:
                    self.crowded.append(one)
                    continue
                self.quotas[store] = left - 1 if reviewed is None else left
            if reviewed is not None:
                decided.append(Decided(viewer, store, reviewed, one.distance_m, doubt))
                continue
            want = Wanted(viewer, has + 1, store, one.distance_m, None)
            wanted.append(want)
            yield want
