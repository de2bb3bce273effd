"""REST for moderation: what guides and ops do about what is said, and what viewers report."""

from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from msgspec import Meta

from kernel.clock import now
from kernel.http import GuideOrOps, InSession, Ops, Page, Viewer, decode_cursor, encode_cursor, refusals
from live import moderation_views as views
from live import muting, reports, rooms, word_lists

router = APIRouter()

Cursor = Annotated[str | None, Query(max_length=500, description="`next` of the page before")]
Limit = Annotated[int, Query(ge=1, le=100)]

_SIGNED_IN = ("token_missing", "token_invalid", "token_expired")
_OPS = refusals(*_SIGNED_IN, "forbidden", "invalid")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_Microseconds = Annotated[int, Meta(ge=0, le=253_402_300_799_000_000)]


# ---- the room ------------------------------------------------------------------------------------------------------


@router.post(
    "/rooms/{room}/hush",
    tags=["guide"],
    summary="Mute the room",
    status_code=204,
    responses=refusals(*_SIGNED_IN, "forbidden", "not_found", "invalid", "room_ended"),
)
async def hush(room: UUID, body: views.Hush, session: InSession, who: GuideOrOps) -> None:
    """Only staff and the viewers named may comment, until it is turned off."""
    await rooms.hush(session, who, room, body.on, body.allow)


# ---- mutes ---------------------------------------------------------------------------------------------------------


@router.get("/ops/mutes", tags=["ops"], summary="Who may not speak", responses=_OPS)
async def list_mutes(session: InSession, who: Ops, cursor: Cursor = None, limit: Limit = 50) -> Page[views.MuteView]:
    """The mutes that hold, of the brand and of its rooms that have not ended, newest first."""
    before = None
    if cursor is not None:
        at, viewer, room = decode_cursor(cursor, tuple[_Microseconds, UUID, UUID])
        before = (_EPOCH + at * _MICROSECOND, viewer, room)
    found = await muting.standing(session, who.brand, now(), before, limit)
    last = None
    if len(found) == limit:
        last = encode_cursor((found[-1].at - _EPOCH) // _MICROSECOND, found[-1].viewer, found[-1].room)
    return Page(items=[views.mute_view(one) for one in found], next=last)


@router.post("/ops/mutes", tags=["ops"], summary="Mute in all rooms", status_code=204, responses=_OPS)
async def mute_brand(body: views.MuteInBrand, session: InSession, who: Ops) -> None:
    """The viewer's comments are refused in all rooms of the brand, those to come included."""
    await muting.mute_brand(session, who, body.viewer, body.seconds)


# ---- reports -------------------------------------------------------------------------------------------------------


@router.post(
    "/rooms/{room}/reports",
    tags=["rooms"],
    summary="Report a comment",
    status_code=204,
    responses=refusals(*_SIGNED_IN, "forbidden", "not_found", "invalid"),
)
async def report(room: UUID, body: views.NewReport, session: InSession, who: Viewer) -> None:
    """Ops will look at the comment. Reporting it again changes nothing."""
    await reports.report(session, who, room, body.comment, body.reason)


@router.get("/ops/reports", tags=["ops"], summary="Reported comments", responses=_OPS)
async def list_reports(
    session: InSession, who: Ops, state: views.CaseState = "open", cursor: Cursor = None, limit: Limit = 50
) -> Page[views.CaseView]:
    """Comments that viewers reported, the newest comment first: those to be decided, or those that were."""
    before = None if cursor is None else decode_cursor(cursor, tuple[UUID])[0]
    found = await reports.cases(session, who.brand, resolved=state == "resolved", before=before, limit=limit)
    last = encode_cursor(found[-1].comment.id) if len(found) == limit else None
    return Page(items=[views.case_view(case) for case in found], next=last)


@router.post(
    "/ops/reports/{comment}/resolve",
    tags=["ops"],
    summary="Decide on a reported comment",
    status_code=204,
    responses=refusals(*_SIGNED_IN, "forbidden", "not_found", "invalid", "already_resolved"),
)
async def resolve(comment: UUID, body: views.Resolution, session: InSession, who: Ops) -> None:
    """The comment is taken down everywhere, or stays. Deciding the same again changes nothing."""
    await reports.resolve(session, who, comment, body.verdict)


# ---- words ---------------------------------------------------------------------------------------------------------


@router.get("/ops/words", tags=["ops"], summary="Unwanted words", responses=refusals(*_SIGNED_IN, "forbidden"))
async def get_words(session: InSession, who: Ops) -> views.WordsView:
    """The brand's own list of words that no comment may contain; `own` is false while the shipped list holds."""
    return views.words_view(await word_lists.words_of(session, who.brand))


@router.put("/ops/words", tags=["ops"], summary="Replace the unwanted words", responses=_OPS)
async def put_words(body: views.NewWords, session: InSession, who: Ops) -> views.WordsView:
    """Exactly these words from now on, in place of the shipped ones; every gateway knows them within two seconds."""
    return views.words_view(await word_lists.set_words(session, who, body.words))


@router.delete(
    "/ops/words",
    tags=["ops"],
    summary="Back to the shipped words",
    status_code=204,
    responses=refusals(*_SIGNED_IN, "forbidden"),
)
async def delete_words(session: InSession, who: Ops) -> None:
    """The brand has no list of its own any more."""
    await word_lists.forget_words(session, who.brand)
