"""What was said in a room: kept for replay and audit, listed for the guide, taken down."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import structlog
from redis.exceptions import RedisError
from sqlalchemy import exists, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.clock import now
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.postgres import Sessions, transaction
from kernel.redis import Client
from live import wire
from live.bus import Kept, key
from live.hosting import commanded, tell
from live.tables import Attendance, Comment, Reported, Room

log = structlog.get_logger()

BATCH = 500
"""Comments stored by one statement."""
DRAINED_FOR = timedelta(hours=1)
"""After its end, and after somebody waited in it, a room's comments are still looked for this long: gateways may hand
some in late."""
_LAST_MILLISECOND = 253_402_300_799_999
_TOMBSTONE = ""
"""The role of nobody: marks a row that stands for a comment which was taken down before it was stored."""


_kept = msgspec.json.Decoder(Kept)


# Joined, so that a comment on a room that is gone does not spoil the batch. A comment that was taken down before it
# came here is filled in and stays taken down; one that is here already (a batch stored twice) is left as it is.
_STORE = text("""
    INSERT INTO comments AS known (id, room_id, author_id, author_name, author_role, text, at)
    SELECT kept.id, rooms.id, kept.author, kept.name, kept.role, kept.text, kept.at
    FROM unnest(CAST(:ids AS uuid[]), CAST(:authors AS uuid[]), CAST(:names AS text[]),
                CAST(:roles AS text[]), CAST(:texts AS text[]), CAST(:ats AS timestamptz[]))
         AS kept (id, author, name, role, text, at)
    JOIN rooms ON rooms.id = :room
    ORDER BY kept.id
    ON CONFLICT (id) DO UPDATE
    SET author_id = excluded.author_id, author_name = excluded.author_name, author_role = excluded.author_role,
        text = excluded.text, at = excluded.at
    WHERE known.author_role = '' AND known.room_id = excluded.room_id
""")


async def store(session: AsyncSession, room: UUID, comments: Sequence[Kept]) -> None:
    """Keep ``comments`` of ``room``; those that are kept already stay as they are."""
    once = {comment.id: comment for comment in comments}.values()  # a statement may touch a row only once
    await session.execute(
        _STORE,
        {
            "ids": [comment.id for comment in once],
            "room": room,
            "authors": [comment.author for comment in once],
            # PostgreSQL has no NUL in text; one such comment must not hold up all that come behind it.
            "names": [comment.name.replace("\0", "") for comment in once],
            "roles": [comment.role.replace("\0", "") for comment in once],
            "texts": [comment.text.replace("\0", "") for comment in once],
            "ats": [_moment(comment.at) for comment in once],
        },
    )


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(min(max(milliseconds, 0), _LAST_MILLISECOND) / 1000, UTC)


async def rooms_to_drain(session: AsyncSession, moment: datetime) -> list[UUID]:
    """The rooms that may have comments waiting at ``moment``: those live, those that ended a while ago, and those
    scheduled where somebody waits or did a while ago."""
    lately = moment - DRAINED_FOR
    waited_in = exists().where(Attendance.room_id == Room.id, Attendance.last_at > lately)
    # Two questions in one, each by its index: the rooms of all times are not looked through twice a second.
    found = await session.scalars(
        select(Room.id)
        .where(or_(Room.state == "live", Room.ended_at > lately))
        .union_all(select(Room.id).where(Room.state == "scheduled", waited_in))
    )
    return list(found)


async def store_kept(sessions: Sessions, redis: Client, rooms: Sequence[UUID]) -> int:
    """Move what waits in the kept streams of ``rooms`` into the database; returns how many comments that were.

    A stream is trimmed only after the commit, so a crash in between stores a batch twice, which changes nothing.
    What Redis raises for one room is raised after the others are done: of a Cluster one node may be away.
    """
    stored = 0
    failed: list[RedisError] = []
    for room in rooms:
        try:
            stored += await _drain(sessions, redis, room)
        except RedisError as error:
            failed.append(error)
    if failed:
        raise failed[0]
    return stored


async def _drain(sessions: Sessions, redis: Client, room: UUID) -> int:
    stored = 0
    while entries := await redis.xrange(key(room, "kept"), count=BATCH):
        comments = [comment for entry, fields in entries if (comment := _read(room, entry, fields)) is not None]
        async with transaction(sessions) as session:
            await store(session, room, comments)
        stored += len(comments)
        milli, _, number = _text(entries[-1][0]).partition("-")
        await redis.xtrim(key(room, "kept"), minid=f"{milli}-{int(number) + 1}", approximate=False)
        if len(entries) < BATCH:
            break
    return stored


def _read(room: UUID, entry: Any, fields: Any) -> Kept | None:
    try:
        return _kept.decode((fields or {}).get(b"r", b""))
    except msgspec.MsgspecError:
        # Only gateways write here, so this is a defect to be seen; yet all that lies behind it must still be kept.
        log.exception("kept_comment_unreadable", room=str(room), entry=_text(entry))
        return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


async def said(session: AsyncSession, room: UUID, before: tuple[datetime, UUID] | None, limit: int) -> list[Comment]:
    """Up to ``limit`` kept comments of ``room``, newest first, older than the position ``before``."""
    query = select(Comment).where(Comment.room_id == room, Comment.author_role != _TOMBSTONE)
    if before is not None:
        at, comment = before
        # The first condition follows from the second, but only it can be looked up in ix_comments_room_at.
        query = query.where(Comment.at <= at, or_(Comment.at < at, Comment.id < comment))
    found = await session.scalars(query.order_by(Comment.at.desc(), Comment.id.desc()).limit(limit))
    return list(found)


async def delete_comment(session: AsyncSession, who: Principal, room: UUID, comment: UUID) -> None:
    """Take ``comment`` down everywhere; does nothing if it is down. Raises Refusal ``not_found`` and as ``commanded``.

    A guide is faster than the worker: a comment that is not stored yet leaves a tombstone, which ``store`` fills in.
    """
    await commanded(session, who, room)
    at = now()
    laid = await session.scalars(
        insert(Comment)
        .values(
            id=comment, room_id=room, author_id=UUID(int=0), author_name="", author_role=_TOMBSTONE, text="",
            at=at, deleted_at=at, deleted_by=who.subject,
        )
        .on_conflict_do_nothing()
        .returning(Comment.id)
    )  # fmt: skip
    if laid.first() is None:
        taken = await session.scalars(
            update(Comment)
            .where(Comment.id == comment, Comment.room_id == room, Comment.deleted_at.is_(None))
            .values(deleted_at=at, deleted_by=who.subject)
            .returning(Comment.id)
            .execution_options(synchronize_session=False)
        )
        if taken.first() is None:
            if await session.scalar(select(Comment.room_id).where(Comment.id == comment)) != room:
                raise Refusal("not_found", what=str(comment))
            return
    # Whoever takes a comment down has answered those who reported it.
    await session.execute(
        update(Reported)
        .where(Reported.comment_id == comment, Reported.verdict.is_(None))
        .values(verdict="delete", resolved_at=at, resolved_by=who.subject)
        .execution_options(synchronize_session=False)
    )
    await tell(session, room, wire.Deleted(comment=comment), {})
