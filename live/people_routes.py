"""REST for who is in a room, and who may not be: roster, kicks and bans."""

from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from msgspec import Meta
from redis.exceptions import RedisError

from kernel.clock import now
from kernel.errors import Refusal
from kernel.http import GuideOrOps, InKernel, InSession, Ops, Page, decode_cursor, encode_cursor, refusals
from kernel.postgres import transaction
from live import bans, listing, roster
from live import people_views as views

router = APIRouter()

Cursor = Annotated[str | None, Query(max_length=500, description="`next` of the page before")]
Limit = Annotated[int, Query(ge=1, le=100)]

_SIGNED_IN = ("token_missing", "token_invalid", "token_expired")
_OPS = refusals(*_SIGNED_IN, "forbidden", "invalid")
_COMMAND = (*_SIGNED_IN, "forbidden", "not_found", "invalid")
_RUNNING = refusals(*_COMMAND, "room_ended")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_Microseconds = Annotated[int, Meta(ge=0, le=253_402_300_799_000_000)]


@router.get(
    "/rooms/{room}/roster", tags=["guide"], summary="Who is there", responses=refusals(*_COMMAND, "unavailable")
)
async def get_roster(room: UUID, kernel: InKernel, who: GuideOrOps) -> views.RosterView:
    """Viewers over all gateways, up to three seconds old. The first request in a while takes about a second: gateways
    name people only while somebody asks."""
    async with transaction(kernel.sessions) as session:  # closed before the gateways are waited for
        await listing.own(session, who, room)
    try:
        return views.roster_view(await roster.ask(kernel.redis, room))
    except (RedisError, OSError) as error:
        raise Refusal("unavailable", retry_after=2) from error


@router.post("/rooms/{room}/kick", tags=["guide"], summary="Kick a viewer", status_code=204, responses=_RUNNING)
async def kick(room: UUID, body: views.KickViewer, session: InSession, who: GuideOrOps) -> None:
    """The viewer's sockets in this room close, on all gateways; they may join anew. Staff cannot be kicked."""
    await bans.kick(session, who, room, body.viewer)


@router.post("/rooms/{room}/ban", tags=["guide"], summary="Ban a viewer", status_code=204, responses=_RUNNING)
async def ban(room: UUID, body: views.BanViewer, session: InSession, who: GuideOrOps) -> None:
    """The viewer's sockets close and they may not come in for so many seconds; 0 lifts it. Staff cannot be banned."""
    await bans.ban(session, who, room, body.viewer, body.seconds, body.scope)


@router.get("/ops/bans", tags=["ops"], summary="Who may not come in", responses=_OPS)
async def list_bans(session: InSession, who: Ops, cursor: Cursor = None, limit: Limit = 50) -> Page[views.BanView]:
    """The bans that hold, of the brand and of its rooms that have not ended, newest first."""
    before = None
    if cursor is not None:
        at, viewer, room = decode_cursor(cursor, tuple[_Microseconds, UUID, UUID])
        before = (_EPOCH + at * _MICROSECOND, viewer, room)
    found = await bans.standing(session, who.brand, now(), before, limit)
    last = None
    if len(found) == limit:
        last = encode_cursor((found[-1].at - _EPOCH) // _MICROSECOND, found[-1].viewer, found[-1].room)
    return Page(items=[views.ban_view(one) for one in found], next=last)


@router.post("/ops/bans", tags=["ops"], summary="Ban from all rooms", status_code=204, responses=_OPS)
async def ban_brand(body: views.BanInBrand, session: InSession, who: Ops) -> None:
    """The viewer may not be in any room of the brand, those to come included; 0 lifts it."""
    await bans.ban_brand(session, who, body.viewer, body.seconds)
