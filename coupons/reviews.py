"""Coupons under review: filed instead of given to doubtful viewers, then granted or refused by ops, or expired.

A review holds no stock: farms of phones could otherwise keep a drop's coupons from honest viewers for hours. Whether
there is one left is asked again at approval, under the same locks as any other grant. See ``docs/decisions/0020``.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple
from uuid import UUID

from msgspec import Struct
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import rules
from coupons.granting import (
    Decided,
    Named,
    Wanted,
    array_of,
    end_if_sold_out,
    make,
    name,
    stores_left,
    write,
)
from coupons.locking import Locked, lock
from coupons.terms import tiers_of
from geo.doubt import STRONG, Sign
from kernel.clock import milliseconds
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.ids import new_id
from kernel.outbox import emit
from kernel.postgres import Sessions, transaction

State = Literal["open", "granted", "declined", "expired"]

CHUNK = 500
SHORTLY_SECONDS = 60
"""When it is worth to approve again what the drop's pace does not allow now."""

_ANSWERS = {"open": "under_review", "declined": "suspect", "expired": "suspect"}
"""What a claim is answered whose viewer's review in this drop is in a state."""

_STANDING = text(
    "SELECT viewer_id, state FROM reviews WHERE drop_id = :drop AND viewer_id = ANY(CAST(:viewers AS uuid[]))"
)
_FILE = text(
    """
    INSERT INTO reviews (id, brand_id, campaign_id, drop_id, room_id, viewer_id, store_id, within_m, claim_key, signs,
                         asked_at, expires_at)
    SELECT w.id, :brand, :campaign, :drop, :room, w.viewer_id, w.store_id, w.within_m, w.key,
           string_to_array(w.doubt, '+'), :at, :expires
    FROM unnest(CAST(:ids AS uuid[]), CAST(:viewers AS uuid[]),
                CAST(:stores AS uuid[]), CAST(CAST(:distances AS text) AS integer[]),
                CAST(:doubts AS text[]), CAST(:keys AS text[]))
        AS w (id, viewer_id, store_id, within_m, doubt, key)
    ON CONFLICT (drop_id, viewer_id) DO NOTHING
    RETURNING viewer_id
    """
)
_SEEN = """
    SELECT r.id, r.drop_id, r.room_id, r.campaign_id, c.title, r.viewer_id, m.name AS viewer_name, s.code AS store,
           s.name AS store_name, r.within_m, r.state, r.asked_at, r.expires_at, r.decided_at, r.decided_by,
           r.coupon_id, r.signs, d.signs AS noted, d.firsts, d.lasts
    FROM reviews r
    JOIN campaigns c ON c.id = r.campaign_id JOIN stores s ON s.id = r.store_id JOIN members m ON m.id = r.viewer_id
    CROSS JOIN LATERAL (
        SELECT array_agg(sign) AS signs, array_agg(first_at) AS firsts, array_agg(last_at) AS lasts
        FROM (SELECT sign, min(first_at) AS first_at, max(last_at) AS last_at FROM doubts
              WHERE viewer_id = r.viewer_id GROUP BY sign) AS seen
    ) AS d
"""
_OPEN = text(
    _SEEN
    + """
    WHERE r.brand_id = :brand AND r.state = 'open'
      AND (CAST(:at AS timestamptz) IS NULL OR (r.asked_at, r.id) > (:at, CAST(:id AS uuid)))
    ORDER BY r.asked_at, r.id LIMIT :limit
    """
)
_SETTLED = text(
    _SEEN
    + """
    WHERE r.brand_id = :brand AND r.state <> 'open'
      AND (CAST(:at AS timestamptz) IS NULL OR (r.decided_at, r.id) < (:at, CAST(:id AS uuid)))
    ORDER BY r.decided_at DESC, r.id DESC LIMIT :limit
    """
)
_ONE = text(_SEEN + " WHERE r.id = :id AND r.brand_id = :brand")
_MINE = text(
    """
    SELECT r.drop_id, c.title, CASE WHEN k.held_until IS NULL THEN r.state ELSE 'open' END AS state, r.expires_at,
           CASE WHEN k.held_until IS NULL THEN r.coupon_id END AS coupon_id
    FROM reviews r JOIN campaigns c ON c.id = r.campaign_id LEFT JOIN coupons k ON k.id = r.coupon_id
    WHERE r.viewer_id = :viewer AND r.brand_id = :brand
    ORDER BY r.asked_at DESC, r.id DESC LIMIT :limit
    """
)
_GRANTED = text(
    """
    SELECT r.room_id, r.drop_id, r.viewer_id, r.coupon_id, c.title
    FROM coupons k JOIN reviews r ON r.drop_id = k.drop_id AND r.viewer_id = k.viewer_id AND r.coupon_id = k.id
    JOIN campaigns c ON c.id = r.campaign_id
    WHERE k.id = ANY(CAST(:coupons AS uuid[]))
    """
)
_DROP_OF = text("SELECT drop_id FROM reviews WHERE id = :id AND brand_id = :brand")
_HOLD = text("SELECT * FROM reviews WHERE id = :id FOR UPDATE")
_CANDIDATE = text(
    """
    SELECT m.tier, (SELECT count(*) FROM coupons c WHERE c.campaign_id = :campaign AND c.viewer_id = :viewer) AS held
    FROM members m WHERE m.id = :viewer AND m.brand_id = :brand
    """
)
_SETTLE = text(
    """
    WITH settled AS (
        UPDATE reviews SET state = :state, decided_at = :at, decided_by = CAST(:by AS uuid),
            coupon_id = CAST(:coupon AS uuid)
        WHERE id = ANY(CAST(:ids AS uuid[])) AND state = 'open'
        RETURNING drop_id, viewer_id, expires_at
    ), noted AS (
        UPDATE drop_viewers v SET reason = 'suspect' FROM settled
        WHERE v.drop_id = settled.drop_id AND v.viewer_id = settled.viewer_id AND v.reason = 'under_review'
    )
    SELECT viewer_id, expires_at FROM settled
    """
)
_DUE = text("SELECT DISTINCT drop_id FROM reviews WHERE state = 'open' AND expires_at <= :now LIMIT 100")
_DUE_IN = text(
    "SELECT id FROM reviews WHERE drop_id = :drop AND state = 'open' AND expires_at <= :now"
    " ORDER BY id LIMIT :chunk FOR UPDATE"
)


class Notice(Struct, frozen=True, omit_defaults=True, tag_field="t", tag="review"):
    """What a viewer is told of a coupon under review; ``until``, in milliseconds, while it is open."""

    drop: UUID
    title: str
    state: State
    until: int | None = None
    coupon: UUID | None = None


class Told(Struct, frozen=True):
    """A notice and whose it is."""

    viewer: UUID
    review: Notice


class Reviewed(Struct, frozen=True):
    """``coupons.reviewed``: no viewer twice."""

    notices: list[Told]


class Review(NamedTuple):
    """A review as ops see it. ``within_m`` is an upper bound of the distance; the times of signs may be forgotten."""

    id: UUID
    drop: UUID
    room: UUID
    campaign: UUID
    title: str
    viewer: UUID
    viewer_name: str
    store: str
    store_name: str
    within_m: int
    state: State
    asked_at: datetime
    expires_at: datetime
    decided_at: datetime | None
    decided_by: UUID | None
    coupon: UUID | None
    signs: Sequence[Sign]


def _review(row: Row[Any]) -> Review:
    times = dict(zip(row.noted or (), zip(row.firsts or (), row.lasts or (), strict=True), strict=True))
    signs = [Sign(sign, sign in STRONG, *times.get(sign, (row.asked_at, row.asked_at))) for sign in row.signs]
    return Review._make((*row[:16], signs))


# ---- filing --------------------------------------------------------------------------------------------------------


async def standing(session: AsyncSession, locked: Locked, viewers: Iterable[UUID]) -> dict[UUID, str]:
    """What those of ``viewers`` are answered about whom a review of the locked drop exists that was not granted."""
    if locked.limits.doubt != "review":
        return {}
    found = await session.execute(_STANDING, {"drop": locked.row.drop_id, "viewers": list(set(viewers))})
    return {row.viewer_id: _ANSWERS[row.state] for row in found if row.state in _ANSWERS}


async def file(session: AsyncSession, locked: Locked, decided: Iterable[Decided]) -> None:
    """Put those of ``decided`` on the list that somebody has to look at, and tell their viewers so."""
    asked = [one for one in decided if one.reason == "under_review"]
    if not asked:
        return
    row, tiers = locked.row, tiers_of(locked.row)
    expires = (locked.held_until or locked.at) + rules.REVIEWABLE  # ops sleep as well
    values = {
        "ids": [new_id() for _ in asked],
        "viewers": [one.viewer for one in asked],
        "stores": [one.store for one in asked],
        "distances": array_of(rules.blurred(one.distance_m, tiers) for one in asked),
        "doubts": [one.doubt for one in asked],
        "keys": [one.key for one in asked],
        "brand": row.brand_id,
        "campaign": row.campaign_id,
        "drop": row.drop_id,
        "room": row.room_id,
        "at": locked.at,
        "expires": expires,
    }
    viewers = (await session.scalars(_FILE, values)).all()
    await _tell(session, locked, "open", viewers, until=milliseconds(expires))


async def _tell(
    session: AsyncSession,
    locked: Locked,
    state: State,
    viewers: Sequence[UUID],
    *,
    until: int | None = None,
    coupon: UUID | None = None,
) -> None:
    notice = Notice(locked.row.drop_id, locked.row.title, state, until, coupon)
    if viewers and locked.held_until is None:
        event = Reviewed([Told(viewer, notice) for viewer in viewers])
        await emit(session, "coupons.reviewed", locked.row.room_id, event)


async def tell_granted(session: AsyncSession, coupons: Sequence[UUID]) -> None:
    """Those of ``coupons`` that were approved in quiet hours, which are over: tell their viewers so."""
    for row in await session.execute(_GRANTED, {"coupons": list(coupons)}):
        notice = Notice(row.drop_id, row.title, "granted", coupon=row.coupon_id)
        await emit(session, "coupons.reviewed", row.room_id, Reviewed([Told(row.viewer_id, notice)]))


# ---- looking -------------------------------------------------------------------------------------------------------


async def listed(
    session: AsyncSession, who: Principal, *, settled: bool, after: tuple[datetime, UUID] | None, limit: int
) -> list[Review]:
    """Reviews of ``who``'s brand: open ones, the oldest first, or ``settled`` ones, the latest first.

    ``after``: the time (``asked_at``, or ``decided_at``) and id of the last one of the page before.
    """
    at, identity = after or (None, None)
    asked = {"brand": who.brand, "at": at, "id": identity, "limit": limit}
    return [_review(row) for row in await session.execute(_SETTLED if settled else _OPEN, asked)]


async def mine(session: AsyncSession, who: Principal, limit: int) -> list[Notice]:
    """What became of the coupons of viewer ``who`` that were put under review, the newest first."""
    return [
        Notice(
            row.drop_id,
            row.title,
            row.state,
            milliseconds(row.expires_at) if row.state == "open" else None,
            row.coupon_id,
        )
        for row in await session.execute(_MINE, {"viewer": who.subject, "brand": who.brand, "limit": limit})
    ]


# ---- deciding ------------------------------------------------------------------------------------------------------


async def approve(session: AsyncSession, who: Principal, review: UUID) -> Review:
    """Grant the coupon, if it can be had still; approving again changes nothing.

    The drop may have ended meanwhile: what counts is that it and its campaign have coupons left. Refusal
    ``not_found``, ``review_settled``; and, which leaves the review open, what a claim would be refused with:
    ``campaign_state``, ``not_started``, ``ended``, ``sold_out``, ``sold_out_today``, ``busy`` (the drop's pace),
    ``limit_reached``, ``tier``, ``segment``, ``cap_reached``, ``out_of_range`` (the store is closed).
    """
    locked, held = await _hold(session, who, review)
    if held.state != "granted":
        _require_open(held, locked.at)
        want = await _wanted(session, locked, held)
        named: Named = {}
        await name(session, [want.store], named)
        card = (await write(session, locked, make(locked, [want], named), who.subject, careful=True))[0]
        if card is None:
            raise Refusal("limit_reached")
        if locked.row.drop_state == "open":
            await end_if_sold_out(session, locked, 1)
        await _settle(session, locked, "granted", [review], who.subject, card.id)
    return await _one(session, who, review)


async def decline(session: AsyncSession, who: Principal, review: UUID) -> Review:
    """Refuse the coupon; doing it again changes nothing. Refusal ``not_found``, ``review_settled``."""
    locked, held = await _hold(session, who, review)
    if held.state != "declined":
        _require_open(held, locked.at)
        await _settle(session, locked, "declined", [review], who.subject)
    return await _one(session, who, review)


async def expire_due(sessions: Sessions, now: datetime) -> int:
    """Expire reviews that nobody looked at in time; returns how many.

    Two workers at once wait for each other drop by drop, and settle each review once.
    """
    async with transaction(sessions) as session:
        drops = (await session.scalars(_DUE, {"now": now})).all()
    expired = 0
    for drop in drops:
        async with transaction(sessions) as session:
            locked = await lock(session, drop)
            assert locked is not None
            due = (await session.scalars(_DUE_IN, {"drop": drop, "now": now, "chunk": CHUNK})).all()
            expired += await _settle(session, locked, "expired", due, None)
    return expired


async def _hold(session: AsyncSession, who: Principal, review: UUID) -> tuple[Locked, Row[Any]]:
    """The review and its drop, both locked: the drop first, as whoever files one does it."""
    drop = await session.scalar(_DROP_OF, {"id": review, "brand": who.brand})
    locked = None if drop is None else await lock(session, drop)
    held = (await session.execute(_HOLD, {"id": review})).one_or_none()
    if locked is None or held is None:
        raise Refusal("not_found", what=str(review))
    return locked, held


def _require_open(held: Row[Any], at: datetime) -> None:
    if held.state != "open" or held.expires_at <= at:
        raise Refusal("review_settled", state=held.state if held.state != "open" else "expired")


async def _wanted(session: AsyncSession, locked: Locked, held: Row[Any]) -> Wanted:
    asked = {"campaign": held.campaign_id, "viewer": held.viewer_id, "brand": held.brand_id}
    viewer = (await session.execute(_CANDIDATE, asked)).one_or_none()
    histories = await locked.histories(session, [held.viewer_id])
    had = histories.get(held.viewer_id, rules.NEWCOMER)
    n = 0 if viewer is None else viewer.held
    reason = _withheld(locked) or rules.barred(
        locked.limits, tier=None if viewer is None else viewer.tier, held=n, history=had
    )
    if reason is not None:
        raise Refusal(reason, retry_after=SHORTLY_SECONDS if reason == "busy" else None)
    left = await stores_left(session, locked.area, locked.row.store_quota, [held.store_id])
    if held.store_id not in left:
        raise Refusal("out_of_range", "The store is closed for the time being.")
    if left[held.store_id] == 0:
        raise Refusal("sold_out", "The store has given its share.")
    return Wanted(held.viewer_id, n + 1, held.store_id, held.within_m, held.claim_key)


def _withheld(locked: Locked) -> str | None:
    """Why the campaign gives nobody a coupon now. Whoever asked in time is not late because ops are."""
    row = locked.row
    soon = locked.at + timedelta(seconds=1)
    asked_in_time = rules.Opening(
        "open", None, row.opens_at, soon, "live", row.campaign_state, row.claim_from, None, row.valid_until
    )
    reason = rules.closed(asked_in_time, locked.at) or ("ended" if locked.never_valid() else None)
    reason = reason or rules.exhausted(0, left=locked.left, left_today=locked.left_today)
    return reason or ("busy" if row.mode == "push" and locked.left_of_minute == 0 else None)


async def _settle(
    session: AsyncSession,
    locked: Locked,
    state: State,
    ids: Sequence[UUID],
    by: UUID | None,
    coupon: UUID | None = None,
) -> int:
    values = {"state": state, "at": locked.at, "by": by, "coupon": coupon, "ids": list(ids)}
    viewers = [row.viewer_id for row in await session.execute(_SETTLE, values)]
    await _tell(session, locked, state, viewers, coupon=coupon)
    return len(viewers)


async def _one(session: AsyncSession, who: Principal, review: UUID) -> Review:
    return _review((await session.execute(_ONE, {"id": review, "brand": who.brand})).one())
