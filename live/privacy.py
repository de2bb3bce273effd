"""What somebody said and did in rooms: taken out, or erased, on the screens that show it too."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from msgspec import Raw
from sqlalchemy import ColumnElement, Select, Uuid, any_, delete, literal, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.outbox import emit_everywhere
from kernel.redis import Client, Script
from live import wire
from live.bus import ROOM_TTL_SECONDS, key
from live.hosting import TOPIC, LiveEvent, change
from live.tables import Ban, BrandBan, BrandMute, Comment, Mute, Reminder, Room

ON_SCREENS = 200
"""So many of somebody's newest comments in a room are taken down one by one; older ones have left every screen."""
_REMEMBERED = timedelta(seconds=ROOM_TTL_SECONDS)
_strike = Script(Path(__file__).parent / "strike.lua")

EXPORTED = {
    "rooms": """
        SELECT r.id AS room, r.title, a.first_at, a.last_at, a.joins
        FROM rooms r JOIN attendance a ON a.room_id = r.id AND a.viewer_id = :member
        WHERE r.brand_id = :brand ORDER BY a.first_at
    """,
    "comments": """
        SELECT id, room_id AS room, author_name AS name, text, at, deleted_at FROM comments
        WHERE author_id = :member ORDER BY at, id
    """,
    "reports": "SELECT comment_id AS comment, reason, at FROM reports WHERE viewer_id = :member ORDER BY at",
    "sanctions": """
        SELECT * FROM (
            SELECT 'mute' AS kind, room_id AS room, until, at FROM mutes WHERE viewer_id = :member
            UNION ALL SELECT 'mute', NULL, until, at FROM brand_mutes WHERE viewer_id = :member
            UNION ALL SELECT 'ban', room_id, until, at FROM bans WHERE viewer_id = :member
            UNION ALL SELECT 'ban', NULL, until, at FROM brand_bans WHERE viewer_id = :member
        ) AS all_of_them ORDER BY at
    """,
    "room_reminders": """
        SELECT room_id AS room, at, attempts, outcome, settled_at FROM reminders WHERE viewer_id = :member ORDER BY at
    """,
    "may_speak_in": """
        SELECT id AS room, title FROM rooms WHERE brand_id = :brand AND allow @> ARRAY[CAST(:member AS uuid)]
    """,
}
"""Subject → what is kept of a member of ``brand`` about it, one row an entry."""

# Through the brand's rooms, because these tables are in order of rooms.
_ATTENDANCE = text(
    """
    UPDATE attendance a SET viewer_id = :pseudonym FROM rooms r
    WHERE r.brand_id = :brand AND a.room_id = r.id AND a.viewer_id = :member
    """
)
_ON_SCREENS = text(
    """
    SELECT room_id, id FROM (
        SELECT room_id, id, row_number() OVER (PARTITION BY room_id ORDER BY at DESC) AS place FROM comments
        WHERE author_id = :member AND deleted_at IS NULL AND room_id = ANY(CAST(:rooms AS uuid[]))
    ) AS newest WHERE place <= :most ORDER BY room_id, place
    """
)


async def erase(session: AsyncSession, brand: str, member: UUID, pseudonym: UUID, at: datetime) -> None:
    """Delete what ``member`` said, and what was held against them; their visits to rooms stay under ``pseudonym``, and
    their reports of others count on, of nobody."""
    rooms = await _remembered(session, brand, member, at)
    shown = await session.execute(_ON_SCREENS, {"member": member, "rooms": rooms, "most": ON_SCREENS})
    taken_down = [(room, TOPIC, _deleted(comment)) for room, comment in shown]
    await emit_everywhere(session, taken_down)
    await _may_not_speak(session, brand, member)
    await session.execute(delete(Comment).where(Comment.author_id == member))
    anonymous = text("UPDATE reports SET viewer_id = gen_random_uuid() WHERE viewer_id = :member")
    await session.execute(anonymous, {"member": member})
    for table in (Mute, BrandMute, Ban, BrandBan, Reminder):
        await session.execute(delete(table).where(table.viewer_id == member))
    await session.execute(_ATTENDANCE, {"member": member, "brand": brand, "pseudonym": pseudonym})


async def _remembered(session: AsyncSession, brand: str, member: UUID, at: datetime) -> Sequence[UUID]:
    """The rooms with a log in which ``member`` spoke or may speak, locked in the order in which all lock them."""
    spoke = select(Comment.room_id).where(Comment.author_id == member)
    query = _with_log(brand, at).where(or_(Room.id.in_(spoke), _may_speak(member)))
    return (await session.scalars(query.order_by(Room.id).with_for_update(key_share=True))).all()


def _with_log(brand: str, at: datetime) -> Select[UUID]:
    return select(Room.id).where(Room.brand_id == brand, or_(Room.ended_at.is_(None), Room.ended_at > at - _REMEMBERED))


def _may_speak(member: UUID) -> ColumnElement[bool]:
    return literal(member, Uuid) == any_(Room.allow)


def _deleted(comment: UUID) -> LiveEvent:
    return LiveEvent(Raw(wire.encoder.encode(wire.Deleted(comment=comment))))


async def _may_not_speak(session: AsyncSession, brand: str, member: UUID) -> None:
    query = select(Room.id, Room.allow, Room.state).where(Room.brand_id == brand, _may_speak(member))
    for room, allow, state in (await session.execute(query)).all():
        left = [one for one in allow if one != member]
        if state == "ended":
            await session.execute(update(Room).where(Room.id == room).values(allow=left))
        else:
            await change(session, room, allow=left)


async def strike(session: AsyncSession, redis: Client, brand: str, member: UUID, at: datetime) -> int:
    """Take ``member`` out of what Redis shows to whoever comes into a room; returns how many comments that were.

    Raises what Redis raises. May be done again at any time.
    """
    # Nobody can write these bytes into a comment: a quotation mark inside a text is escaped.
    author = f'"by":{{"id":"{member}"'
    struck = 0
    for room in (await session.scalars(_with_log(brand, at))).all():
        keys = [key(room, "recent"), key(room, "slots")]
        struck += int(await _strike(redis, keys, [author, f"mute:{member}", f"ban:{member}"]))
    return struck
