"""What remains of a room: figures that outlive Redis, and the summary when it is over.

Peak and likes are counted in Redis while the room is live. The worker carries them into the room's row every few
seconds, and for a while after the end, so that the row is at most that far behind when Redis is emptied.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.redis import Client
from live import listing, presence
from live.presence import Figures
from live.tables import Attendance, PinMark, Product, Reminder, Room

READ_FOR = timedelta(minutes=5)
"""After its end a room's figures are still read for this long: gateways may hand some in late."""
_ONE_AT_A_TIME = 0x6E656172  # an advisory lock's number

# Redis' figure may begin anew at zero, when it was emptied: what it said last stays counted, and it counts on top.
_KEEP = text("""
    WITH read AS (
        SELECT rooms.id, seen.likes, seen.peak
        FROM rooms JOIN unnest(CAST(:rooms AS uuid[]), CAST(:likes AS bigint[]), CAST(:peaks AS integer[]))
             AS seen (id, likes, peak) ON seen.id = rooms.id
        WHERE rooms.likes_read <> seen.likes OR rooms.viewers_peak < seen.peak
        ORDER BY rooms.id
        FOR NO KEY UPDATE OF rooms SKIP LOCKED
    )
    UPDATE rooms
    SET likes = rooms.likes + read.likes - CASE WHEN read.likes >= rooms.likes_read THEN rooms.likes_read ELSE 0 END,
        likes_read = read.likes,
        viewers_peak = greatest(rooms.viewers_peak, read.peak)
    FROM read WHERE rooms.id = read.id
""")


async def keep_figures(session: AsyncSession, redis: Client) -> None:
    """Carry the figures of rooms that are live, or were a moment ago, into their rows. Raises what Redis raises.

    One worker at a time: a figure that was read earlier and is written later would look like a Redis that was emptied.
    """
    if not await session.scalar(select(func.pg_try_advisory_xact_lock(_ONE_AT_A_TIME))):
        return
    lately = Room.ended_at > func.now() - READ_FOR
    rooms = (await session.scalars(select(Room.id).where(or_(Room.state == "live", lately)))).all()
    await keep(session, await presence.figures_of(redis, rooms))


async def keep(session: AsyncSession, read: Mapping[UUID, Figures]) -> None:
    """Carry what was ``read`` into the rooms' rows; a room whose lock somebody holds has its turn the next time."""
    if read:
        await session.execute(
            _KEEP,
            {
                "rooms": list(read),
                "likes": [figures.counts.likes for figures in read.values()],
                "peaks": [figures.peak for figures in read.values()],
            },
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """A room that is over; see ``live.views.Summary``."""

    seconds: int
    viewers_peak: int
    uniques: int
    comments: int
    likes: int
    pins: Sequence[tuple[PinMark, Product]]
    reminders: int


async def summary(session: AsyncSession, who: Principal, room: UUID, read: Figures | None) -> Summary:
    """The summary of ``room``; ``read`` is what Redis says now, if it says anything.

    Raises Refusal ``not_found``, ``forbidden``, ``room_state`` (it has not ended).
    """
    await listing.own(session, who, room)
    found = (await session.scalars(select(Room).where(Room.id == room))).one()
    if found.ended_at is None:
        raise Refusal("room_state", "There is a summary once the room has ended.")
    peak, likes = found.viewers_peak, found.likes
    if read is not None:
        peak = max(peak, read.peak)
        likes += read.counts.likes - (found.likes_read if read.counts.likes >= found.likes_read else 0)
    return Summary(
        seconds=_seconds(found.live_at, found.ended_at, found.paused_ms),
        viewers_peak=peak,
        uniques=await session.scalar(select(func.count()).where(Attendance.room_id == room)) or 0,
        comments=(await listing.comment_counts(session, [room])).get(room, 0),
        likes=likes,
        pins=await listing.chapters(session, room),
        reminders=await session.scalar(select(func.count()).where(Reminder.room_id == room)) or 0,
    )


def _seconds(live_at: datetime | None, ended_at: datetime, paused_ms: int) -> int:
    if live_at is None:
        return 0  # called off
    return max(0, round((ended_at - live_at).total_seconds() - paused_ms / 1000))
