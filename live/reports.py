"""What viewers report, and what ops makes of it: once per viewer and comment, and one verdict per comment."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.clock import milliseconds, now
from kernel.errors import Refusal
from kernel.identity import Principal, Role
from live.comments import delete_comment
from live.hosting import commanded
from live.tables import Comment, Report, Reported, Room
from live.wire import Reason

Verdict = Literal["delete", "keep"]
UNSTORED_FOR = timedelta(minutes=1)
"""A comment this young may be on its way to the database still."""


class Case(NamedTuple):
    """A reported comment with what is to be known for a verdict; ``reasons`` are counts."""

    comment: Comment
    room_title: str
    reported: Reported
    reasons: dict[str, int]


async def report(session: AsyncSession, who: Principal, room: UUID, comment: UUID, reason: Reason) -> None:
    """Note that ``who`` finds ``comment`` of ``room`` wrong; once, whatever they report it for again. A comment that
    was taken down already needs no report, so nothing is done.

    Raises Refusal ``forbidden`` (only viewers report), ``invalid`` (their own comment), ``not_found`` (with
    ``retry_after`` while the comment may not be stored yet).
    """
    if who.role is not Role.VIEWER:
        raise Refusal("forbidden")
    row = (
        await session.execute(
            select(Comment.author_id, Comment.deleted_at)
            .join(Room, Room.id == Comment.room_id)
            .where(Comment.id == comment, Comment.room_id == room, Room.brand_id == who.brand)
        )
    ).one_or_none()
    at = now()
    if row is None:
        raise Refusal("not_found", what=str(comment), retry_after=2.0 if _just_said(comment, at) else None)
    if row.deleted_at is not None:
        return
    if row.author_id == who.subject:
        raise Refusal("invalid", "This comment is your own.", field="comment")
    # The case before the report that refers to it. Its row is locked until the commit, so that counts are exact.
    case = insert(Reported).values(
        comment_id=comment, brand_id=who.brand, room_id=room, reports=0, first_at=at, last_at=at
    )
    await session.execute(case.on_conflict_do_nothing())
    mine = insert(Report).values(comment_id=comment, viewer_id=who.subject, reason=reason, at=at)
    if (await session.scalars(mine.on_conflict_do_nothing().returning(Report.viewer_id))).first() is not None:
        await session.execute(
            update(Reported)
            .where(Reported.comment_id == comment)
            .values(reports=Reported.reports + 1, last_at=at)
            .execution_options(synchronize_session=False)
        )


def _just_said(comment: UUID, at: datetime) -> bool:
    # A UUID of version 7 begins with its milliseconds.
    age = milliseconds(at) - (comment.int >> 80)
    return comment.version == 7 and age < UNSTORED_FOR.total_seconds() * 1000


async def cases(
    session: AsyncSession, brand: str, *, resolved: bool, before: UUID | None, limit: int
) -> Sequence[Case]:
    """Up to ``limit`` reported comments of ``brand``, the newest comment first, older than ``before``.

    Looked up in ix_reported_comments_open or ix_reported_comments_resolved.
    """
    query = (
        select(Comment, Room.title, Reported)
        .join(Reported, Reported.comment_id == Comment.id)
        .join(Room, Room.id == Comment.room_id)
        .where(Reported.brand_id == brand, Reported.verdict.is_not(None) if resolved else Reported.verdict.is_(None))
    )
    if before is not None:
        query = query.where(Reported.comment_id < before)  # identifiers are in order of time
    rows = (await session.execute(query.order_by(Reported.comment_id.desc()).limit(limit))).all()
    reasons: dict[UUID, dict[str, int]] = {comment.id: {} for comment, _, _ in rows}
    counted = await session.execute(
        select(Report.comment_id, Report.reason, func.count())
        .where(Report.comment_id.in_(reasons))
        .group_by(Report.comment_id, Report.reason)
        .order_by(Report.reason)
    )
    for comment_id, reason, count in counted:
        reasons[comment_id][reason] = count
    return [Case(comment, title, reported, reasons[comment.id]) for comment, title, reported in rows]


async def resolve(session: AsyncSession, who: Principal, comment: UUID, verdict: Verdict) -> None:
    """Decide on a reported comment: it is taken down everywhere, or stays and leaves the list of open cases.

    A comment that was kept may still be taken down; one that was taken down does not come back. Raises Refusal
    ``forbidden``, ``not_found``, ``already_resolved``.
    """
    if who.role is not Role.OPS:
        raise Refusal("forbidden")
    room = await session.scalar(
        select(Reported.room_id).where(Reported.comment_id == comment, Reported.brand_id == who.brand)
    )
    if room is None:
        raise Refusal("not_found", what=str(comment))
    await commanded(session, who, room)  # the room before the case, as ``delete_comment`` has it
    former = await session.scalar(select(Reported.verdict).where(Reported.comment_id == comment).with_for_update())
    if former == "delete" and verdict != former:
        raise Refusal("already_resolved")
    if former == verdict:
        return
    if verdict == "delete":
        await delete_comment(session, who, room, comment)
    await session.execute(
        update(Reported)
        .where(Reported.comment_id == comment)
        .values(verdict=verdict, resolved_at=now(), resolved_by=who.subject)
        .execution_options(synchronize_session=False)
    )
