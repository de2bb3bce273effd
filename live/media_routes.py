"""REST for streams: addresses for guides, and what media servers ask and tell."""

import io
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec
import segno
import structlog
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from kernel.clock import now
from kernel.errors import Refusal
from kernel.http import GuideOrOps, InKernel, InSession, refusals
from live import media, streams, views

router = APIRouter()
log = structlog.get_logger()

MAX_BODY = 16_384
"""Bytes that a media server may need to say whose stream begins."""


class StreamAddress(BaseModel):
    """Where the guide's camera sends to. Programs with one field take ``push_url``, those with two the other two."""

    push_url: str = Field(examples=["rtmp://push.example.com/live/0199…-5a6b7c8d9e0f?txSecret=…&txTime=6A3B1C2D"])
    server: str = Field(examples=["rtmp://push.example.com/live"])
    key: str = Field(examples=["0199…-5a6b7c8d9e0f?txSecret=…&txTime=6A3B1C2D"])
    expires_at: datetime = Field(description="A stream must begin before; once begun it may go on")
    qr: str = Field(description="`push_url` as a QR code (SVG), for the phone beside the screen", examples=["<svg…"])


class Allowed(BaseModel):
    """Yes, in the form that SRS expects; to nginx the status is enough."""

    code: int = 0


async def _studio(kernel: InKernel) -> streams.Studio:
    return streams.Studio.from_settings(kernel.settings)


InStudio = Annotated[streams.Studio, Depends(_studio)]


@router.post(
    "/rooms/{room}/stream",
    tags=["guide"],
    summary="Where to push the stream",
    responses=refusals(
        "token_missing",
        "token_invalid",
        "token_expired",
        "forbidden",
        "not_found",
        "invalid",
        "room_ended",
        "stream_off",
    ),
)
async def stream_address(room: UUID, studio: InStudio, session: InSession, who: GuideOrOps) -> StreamAddress:
    """A signed address that expires. Asking again gives one that lives longer; those given out before stay good."""
    name, key = await streams.issue(session, who, room, studio, now())
    push_url = media.address(studio.push_url, name, key)
    return StreamAddress(
        push_url=push_url,
        server=studio.push_url,
        key=f"{name}?{key}",
        expires_at=key.expires_at,
        qr=_drawn(push_url),
    )


def _drawn(text: str) -> str:
    picture = io.BytesIO()
    # Little correction: the code is long, is read off a clean screen, and should stay coarse.
    segno.make(text, error="l", micro=False).save(picture, kind="svg", border=4, xmldecl=False, omitsize=True)
    return picture.getvalue().decode()


@router.get(
    "/rooms/{room}/stream",
    tags=["guide"],
    summary="Whether the room's picture arrives",
    responses=refusals(
        "token_missing", "token_invalid", "token_expired", "forbidden", "not_found", "invalid", "stream_off"
    ),
)
async def stream_state(room: UUID, studio: InStudio, session: InSession, who: GuideOrOps) -> views.StreamState:
    """What the media server last told, for the guide's own page."""
    found = await streams.picture(session, who, room, studio)
    return views.stream_view(found)


@router.delete(
    "/rooms/{room}/stream",
    tags=["guide"],
    summary="Withdraw the stream's addresses",
    status_code=204,
    responses=refusals(
        "token_missing", "token_invalid", "token_expired", "forbidden", "not_found", "invalid", "room_ended"
    ),
)
async def withdraw_stream(room: UUID, session: InSession, who: GuideOrOps) -> None:
    """For an address that fell into wrong hands: nobody can push with it any more, and viewers get another to play."""
    await streams.withdraw(session, who, room)


# ---- media servers -------------------------------------------------------------------------------------------------

_SAID = {
    "required": True,
    "content": {
        "application/x-www-form-urlencoded": {
            "schema": {"type": "object"},
            "example": {"call": "publish", "name": "0199…", "clientid": "1", "txSecret": "…", "txTime": "6A3B1C2D"},
        },
        "application/json": {
            "schema": {"type": "object"},
            "example": {
                "action": "on_publish", "stream": "0199…", "client_id": "9308h583",
                "param": "?txSecret=…&txTime=6A3B1C2D",
            },
        },
    },
}  # fmt: skip


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise Refusal("bad_request", "A media server has less to say.")
    return body


@router.post(
    "/streams/publish",
    tags=["media servers"],
    summary="May this stream begin?",
    responses=refusals("stream_key_invalid", "stream_key_expired", "not_found", "room_ended", "bad_request"),
    openapi_extra={"requestBody": _SAID},
)
async def publish(request: Request, studio: InStudio, session: InSession) -> Allowed:
    """For `on_publish` of nginx-rtmp (and its `on_update`) and SRS, and the begin of Tencent Cloud's notifications.

    2xx allows the stream and lets a paused room go on; the key in the stream's address is what proves the caller.
    """
    call = read(await _body(request), _BEGINS)
    try:
        await streams.published(session, studio, call, now())
    except Refusal as refusal:
        log.info("stream_refused", reason=refusal.code, room=str(media.room_of(call.name)), client=call.client)
        raise
    if not call.update:
        log.info("stream_published", room=str(media.room_of(call.name)), client=call.client)
    return Allowed()


@router.post(
    "/streams/unpublish",
    tags=["media servers"],
    summary="A stream ended",
    responses=refusals("stream_key_invalid", "not_found", "bad_request"),
    openapi_extra={"requestBody": _SAID},
)
async def unpublish(request: Request, studio: InStudio, session: InSession) -> Allowed:
    """For `on_publish_done` of nginx-rtmp, `on_unpublish` of SRS, and the end of Tencent Cloud's notifications.

    Counts only for a connection that published before, and with that stream's key: nobody else can end a stream.
    """
    call = read(await _body(request), _ENDS)
    await streams.unpublished(session, studio, call, now())
    log.info("stream_unpublished", room=str(media.room_of(call.name)), client=call.client)
    return Allowed()


_BEGINS = frozenset({"publish", "update_publish", "on_publish", "1"})
_ENDS = frozenset({"publish_done", "on_unpublish", "0"})
# Each server's names for: what happened, the stream, the query of its address, the connection.
_DIALECTS = (("action", "stream", "param", "client_id"), ("event_type", "stream_id", "stream_param", "sequence"))


def read(body: bytes, events: frozenset[str]) -> streams.Call:
    """What a media server said: a form (nginx-rtmp) or JSON (SRS, Tencent Cloud).

    Raises Refusal ``bad_request`` for anything else, and when it tells of something that is not one of ``events``.
    """
    said = _json(body) if body.lstrip().startswith(b"{") else _form(body)
    event, call = said
    if event not in events or len(call.client) > streams.MAX_CLIENT or not call.client.isprintable():
        raise Refusal("bad_request", "This is not what a media server says here.")
    return call


def _form(body: bytes) -> tuple[str, streams.Call]:
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=64)
    except ValueError as error:
        raise Refusal("bad_request") from error
    # The query of the pusher's address stands behind what the server says, and could repeat it.
    said: dict[str, str] = {}
    for name, value in pairs:
        said.setdefault(name, value)
    event = said.get("call", "")
    key = media.offered_in(pairs)
    return event, streams.Call(said.get("name", ""), key, said.get("clientid", ""), update=event == "update_publish")


def _json(body: bytes) -> tuple[str, streams.Call]:
    try:
        said = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal("bad_request") from error
    dialect = _DIALECTS[0] if "stream" in said else _DIALECTS[1]
    event, name, query, client = (_text(said, field) for field in dialect)
    return event, streams.Call(name, media.offered(query), client)


def _text(said: Mapping[str, Any], field: str) -> str:
    """SRS' older versions number their connections."""
    value = said.get(field, "")
    return str(value) if isinstance(value, str | int) else ""
