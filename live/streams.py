"""A room's stream: who may push it and who plays it, and what the media server says of it.

The media server asks before it takes a stream and tells when one ended. A room's stream runs while at least one
connection publishes it. It may be more than one: when a guide's phone changes its network, the new connection is
announced before the media server has noticed that the old one is dead, and a media server that turns a second one away
has asked us before and tells us afterwards that it "ended".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID, uuid4

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.settings import PREFIX, SettingMissing, Settings
from live import media, rooms
from live.hosting import commanded, locked, put
from live.listing import own
from live.media import Standing, StreamKey
from live.tables import Publication, Room

SETTLED = timedelta(seconds=60)
"""A connection that published for so long was the only one: media servers end dead ones sooner."""
SILENT = timedelta(seconds=45)
"""A connection whose media server reports it every 10 s and has not for so long is gone, and so may the server be."""
MAX_CLIENT = 200


@dataclass(frozen=True, slots=True)
class Studio:
    """Addresses and keys of the media server, as the settings have them."""

    push_url: str
    key: str
    play_urls: Mapping[media.Way, str]
    play_key: str
    ttl: timedelta

    @classmethod
    def from_settings(cls, settings: Settings) -> "Studio":
        """Raises SettingMissing when what is set is not enough to be safe."""
        key, play_key = settings.stream_key.get_secret_value(), settings.stream_play_key.get_secret_value()
        if settings.stream_push_url and not key:
            raise SettingMissing(f"anybody could push a stream: set {PREFIX}STREAM_KEY too")
        if key and key == play_key:
            raise SettingMissing(
                f"whoever may play could push, because both are signed in the same way: set {PREFIX}STREAM_PLAY_KEY to "
                f"another key than {PREFIX}STREAM_KEY"
            )
        ttl = timedelta(seconds=settings.stream_ttl_seconds)
        return cls(settings.stream_push_url, key, settings.stream_play_url, play_key, ttl)

    def playback(self, name: str, at: datetime) -> dict[media.Way, str] | None:
        """Where to play the stream ``name``, by ``hls``, ``flv`` and ``rtmp``; None where nothing is played."""
        key = media.sign(self.play_key, name, at + self.ttl) if self.play_key else None
        return media.playback(self.play_urls, name, key) or None


@dataclass(frozen=True, slots=True)
class Call:
    """What a media server says of a connection: the stream's name, the key that came with it, its own name for it."""

    name: str
    key: StreamKey | None
    client: str
    update: bool = False
    """It goes on: a sign of life, not a beginning."""


Arrival = Literal["waiting", "arriving", "lost"]
"""Of the picture: nothing came yet that counts, it comes, or it came and broke off."""


@dataclass(frozen=True, slots=True)
class Picture:
    """Whether a room's picture arrives, and since when that is so; nobody knows since when one has been waited for."""

    state: Arrival = "waiting"
    since: datetime | None = None


async def issue(
    session: AsyncSession, who: Principal, room: UUID, studio: Studio, at: datetime
) -> tuple[str, StreamKey]:
    """The name of the room's stream and a key to push it.

    Raises Refusal ``stream_off``, ``room_ended`` and those of ``commanded``.
    """
    found = await commanded(session, who, room, "scheduled", "live")
    if not studio.push_url:
        raise Refusal("stream_off")
    name = media.stream_name(room, found.stream_nonce)
    return name, media.sign(studio.key, name, at + studio.ttl)


async def pictures(session: AsyncSession, of: Sequence[UUID]) -> dict[UUID, Picture]:
    """Whether the picture of each of these rooms arrives; a room that is not there is left out."""
    # The oldest connection: a second one is the same picture, by way of another network.
    began = select(func.min(Publication.since)).where(Publication.room_id == Room.id).correlate(Room).scalar_subquery()
    rows = await session.execute(select(Room.id, Room.stream_state, Room.stream_lost_at, began).where(Room.id.in_(of)))
    return {room: _picture(state, lost, since) for room, state, lost, since in rows}


def _picture(state: str | None, lost: datetime | None, since: datetime | None) -> Picture:
    if state == "on":
        return Picture("arriving", since)
    return Picture("lost", lost) if state == "off" else Picture()


async def picture(session: AsyncSession, who: Principal, room: UUID, studio: Studio) -> Picture:
    """Whether the room's picture arrives. Refusal ``stream_off``, ``forbidden``, ``not_found``."""
    await own(session, who, room)
    if not studio.push_url:
        raise Refusal("stream_off")
    return (await pictures(session, [room]))[room]


async def withdraw(session: AsyncSession, who: Principal, room: UUID) -> None:
    """All addresses of the room's stream that were given out are worthless from now on; the stream counts as ended.

    Raises Refusal ``room_ended`` and those of ``commanded``.
    """
    await commanded(session, who, room, "scheduled", "live")
    await put(session, room, stream_nonce=uuid4())
    if (await session.execute(delete(Publication).where(Publication.room_id == room).returning(1))).first():
        await rooms.stream_lost(session, room)


async def published(session: AsyncSession, studio: Studio, call: Call, at: datetime) -> None:
    """The connection publishes the room's stream, or still does. Telling it twice is telling it once.

    A scheduled room stays scheduled: that is the rehearsal. Raises Refusal ``stream_key_invalid``,
    ``stream_key_expired`` (at the beginning only: a stream may run longer than its key), ``room_ended``.
    """
    room = _proven(studio, call, at, late=call.update)
    found = await _locked(session, room, call.name)
    if found.state == "ended":
        raise Refusal("room_ended")
    if call.update:
        mine = (Publication.room_id == room, Publication.client == call.client)
        alive = update(Publication).where(*mine).values(heard_at=func.now()).returning(1)
        if (await session.execute(alive)).first():
            return
    row = insert(Publication).values(room_id=room, client=call.client, heard_at=func.now() if call.update else None)
    await session.execute(row.on_conflict_do_nothing())
    await rooms.stream_found(session, room)


async def unpublished(session: AsyncSession, studio: Studio, call: Call, at: datetime) -> None:
    """The connection does not publish any more. One that never did changes nothing.

    Raises Refusal ``stream_key_invalid``: only who could have begun a stream can end it.
    """
    room = _proven(studio, call, at, late=True)
    found = await _locked(session, room, call.name)
    mine = (Publication.room_id == room, Publication.client == call.client)
    times = (Publication.since, func.now() - Publication.since > SETTLED)
    ended = (await session.execute(delete(Publication).where(*mine).returning(*times))).one_or_none()
    if ended is None:
        return
    since, settled = ended
    if settled:
        # Whatever began before it has ended long ago, even if nobody told us.
        await session.execute(delete(Publication).where(Publication.room_id == room, Publication.since < since))
    await _lost_if_none(session, room, found.state)


async def forget_silent(session: AsyncSession) -> int:
    """Take connections for ended whose media server used to report them and fell silent; returns how many."""
    silent = Publication.heard_at < func.now() - SILENT
    waiting = (await session.scalars(select(Publication.room_id).where(silent).distinct().limit(100))).all()
    gone = 0
    for room in sorted(waiting):
        state = (await locked(session, room)).state
        ended = delete(Publication).where(Publication.room_id == room, silent).returning(1)
        if found := len((await session.execute(ended)).all()):
            gone += found
            await _lost_if_none(session, room, state)
    return gone


async def _lost_if_none(session: AsyncSession, room: UUID, state: str) -> None:
    left = await session.scalar(select(Publication.client).where(Publication.room_id == room).limit(1))
    if left is None and state != "ended":
        await rooms.stream_lost(session, room)


def _proven(studio: Studio, call: Call, at: datetime, *, late: bool) -> UUID:
    """The room that the call may speak of; without a look at the database, because anybody may call."""
    room = media.room_of(call.name)
    if room is None or call.key is None or not studio.key or not call.client:
        raise Refusal("stream_key_invalid")
    standing = media.standing(studio.key, call.name, call.key, at)
    if standing is Standing.FORGED:
        raise Refusal("stream_key_invalid")
    if standing is Standing.EXPIRED and not late:
        raise Refusal("stream_key_expired")
    return room


async def _locked(session: AsyncSession, room: UUID, name: str) -> Room:
    """The room, locked until the transaction ends, if its stream still has this name."""
    found = await locked(session, room)
    if media.stream_name(room, found.stream_nonce) != name:
        raise Refusal("stream_key_invalid")
    return found
