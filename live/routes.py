"""REST for rooms: lists and pages for everybody, commands for guides, figures for ops."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from msgspec import Meta
from redis.exceptions import RedisError

from kernel.clock import now
from kernel.errors import Refusal
from kernel.http import (
    PLAIN,
    Anyone,
    GuideOrOps,
    InKernel,
    InOnce,
    InSession,
    Ops,
    Page,
    decode_cursor,
    encode_cursor,
    refusals,
)
from kernel.postgres import transaction
from live import (
    comments,
    figures,
    life_routes,
    listing,
    media_routes,
    moderation_routes,
    people_routes,
    pins,
    presence,
    reminders,
    rooms,
    shelf,
    streams,
    views,
    wire,
)
from live.presence import Figures

router = APIRouter(prefix="/v1")
router.include_router(moderation_routes.router)
router.include_router(people_routes.router)
router.include_router(life_routes.router)
router.include_router(media_routes.router)

Cursor = Annotated[str | None, Query(max_length=500, description="`next` of the page before")]
Limit = Annotated[int, Query(ge=1, le=100)]

_SIGNED_IN = ("token_missing", "token_invalid", "token_expired")
_LIST = refusals(*_SIGNED_IN, "invalid")
_COMMAND = (*_SIGNED_IN, "forbidden", "not_found", "invalid")
_RUNNING = (*_COMMAND, "room_ended")


def _viewers(shown: Mapping[UUID, Figures], room: UUID) -> int:
    return shown[room].counts.viewers if room in shown else 0


# ---- rooms ---------------------------------------------------------------------------------------------------------


@router.get("/rooms", tags=["rooms"], summary="Rooms", responses=_LIST)
async def list_rooms(
    kernel: InKernel,
    who: Anyone,
    state: views.State | None = None,
    cursor: Cursor = None,
    limit: Limit = 20,
) -> Page[views.RoomView]:
    """The brand's rooms, the newest first. `viewers` is 0 where live figures cannot be read."""
    before = None if cursor is None else decode_cursor(cursor, tuple[UUID])[0]
    async with transaction(kernel.sessions) as session:
        found = await listing.listed(session, who.brand, state, before, limit)
    shown = await figures.of_rooms(kernel.redis, [room.id for room in found])
    items = [views.room_view(room, _viewers(shown, room.id)) for room in found]
    return Page(items=items, next=encode_cursor(found[-1].id) if len(found) == limit else None)


@router.post(
    "/rooms",
    tags=["rooms"],
    summary="Make a room",
    status_code=201,
    responses=refusals(*_COMMAND, "idempotency_mismatch"),
)
async def create_room(body: views.NewRoom, session: InSession, who: GuideOrOps, once: InOnce) -> views.RoomView:
    """A scheduled room, with its shelf. Takes an `Idempotency-Key`."""

    async def work() -> views.RoomView:
        room = await rooms.create(
            session,
            who,
            body.title,
            store_code=body.store_code,
            scheduled_at=body.scheduled_at,
            products=body.products,
            guide=body.guide,
            display_rate=body.display_rate,
        )
        return views.room_view(await listing.one(session, who.brand, room), 0)

    return await once(views.RoomView, work)


@router.get("/rooms/{room}", tags=["rooms"], summary="A room", responses=refusals(*_SIGNED_IN, "not_found", "invalid"))
async def get_room(room: UUID, kernel: InKernel, who: Anyone, studio: media_routes.InStudio) -> views.RoomPage:
    """The room, where to connect, its shelf, and what is being explained. Without Redis `viewers` is 0 and `sockets`
    is empty: ask again."""
    async with transaction(kernel.sessions) as session:
        found = await listing.one(session, who.brand, room)
        products = await shelf.shelf(session, room)
        pinned = await pins.current(session, room)
        reminded = await reminders.subscribed(session, who, room)
    shown, sockets = await asyncio.gather(figures.of_rooms(kernel.redis, [room]), figures.sockets(kernel.redis))
    return views.RoomPage(
        **dict(views.room_view(found, _viewers(shown, room))),
        sockets=sockets,
        announcement=found.announcement,
        shelf=[views.card_view(pins.product_card(product)) for product in products],
        pin=views.pin_view(pinned),
        reminded=reminded,
        playback=views.playback_view(found, studio, now()),
    )


# ---- commands ------------------------------------------------------------------------------------------------------


@router.post("/rooms/{room}/start", tags=["guide"], summary="Go live", status_code=204, responses=refusals(*_RUNNING))
async def start(room: UUID, session: InSession, who: GuideOrOps) -> None:
    """The room goes live, or on after a pause; starting it twice is the same as once."""
    await rooms.start(session, who, room)


@router.post("/rooms/{room}/end", tags=["guide"], summary="End", status_code=204, responses=refusals(*_COMMAND))
async def end(room: UUID, session: InSession, who: GuideOrOps) -> None:
    """The room is over for good."""
    await rooms.end(session, who, room)


@router.post(
    "/rooms/{room}/pin",
    tags=["guide"],
    summary="Explain a product",
    status_code=204,
    responses=refusals(*_RUNNING, "room_not_live", "not_on_shelf", "sold_out_product"),
)
async def pin(room: UUID, body: views.PinProduct, session: InSession, who: GuideOrOps) -> None:
    """Shows the product's card to everybody, in place of the one before."""
    await rooms.pin(session, who, room, body.product, body.ttl)


@router.post(
    "/rooms/{room}/unpin", tags=["guide"], summary="Explain nothing", status_code=204, responses=refusals(*_COMMAND)
)
async def unpin(room: UUID, session: InSession, who: GuideOrOps) -> None:
    """Takes the product's card down."""
    await rooms.unpin(session, who, room)


@router.post(
    "/rooms/{room}/announce",
    tags=["guide"],
    summary="Announce",
    status_code=204,
    responses=refusals(*_RUNNING, "too_long"),
)
async def announce(room: UUID, body: views.Announcement, session: InSession, who: GuideOrOps) -> None:
    """Shows a text to everybody, and to those who come later."""
    await rooms.announce(session, who, room, body.text)


@router.post("/rooms/{room}/slow", tags=["guide"], summary="Slow mode", status_code=204, responses=refusals(*_RUNNING))
async def slow(room: UUID, body: views.SlowMode, session: InSession, who: GuideOrOps) -> None:
    """Each viewer may comment once in so many seconds."""
    await rooms.slow(session, who, room, body.seconds)


@router.post(
    "/rooms/{room}/display", tags=["guide"], summary="Comments shown", status_code=204, responses=refusals(*_RUNNING)
)
async def display(room: UUID, body: views.Display, session: InSession, who: GuideOrOps) -> None:
    """Each viewer is shown at most so many comments a second; of more a fair sample, the rest is counted. Staff's and
    one's own are always shown. Gateways follow at once."""
    await rooms.display(session, who, room, body.rate)


@router.post(
    "/rooms/{room}/mute", tags=["guide"], summary="Mute a viewer", status_code=204, responses=refusals(*_RUNNING)
)
async def mute(room: UUID, body: views.MuteViewer, session: InSession, who: GuideOrOps) -> None:
    """The viewer's comments are refused for so many seconds, in this room or in all rooms of the brand."""
    await rooms.mute(session, who, room, body.viewer, body.seconds, body.scope)


@router.delete(
    "/rooms/{room}/comments/{comment}",
    tags=["guide"],
    summary="Take a comment down",
    status_code=204,
    responses=refusals(*_COMMAND),
)
async def delete_comment(room: UUID, comment: UUID, session: InSession, who: GuideOrOps) -> None:
    """The comment disappears from every screen; it stays on record."""
    await rooms.delete_comment(session, who, room, comment)


@router.put(
    "/rooms/{room}/shelf", tags=["guide"], summary="Fill the shelf", status_code=204, responses=refusals(*_RUNNING)
)
async def set_shelf(room: UUID, body: views.Shelf, session: InSession, who: GuideOrOps) -> None:
    """Exactly these products, in this order."""
    await rooms.set_shelf(session, who, room, body.products)


# ---- looking back --------------------------------------------------------------------------------------------------

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_Microseconds = Annotated[int, Meta(ge=0, le=253_402_300_799_000_000)]
_Sku = Annotated[str, Meta(max_length=64, pattern=PLAIN)]
_Mark = Annotated[int, Meta(ge=0, le=2**63 - 1)]


@router.get("/rooms/{room}/comments", tags=["guide"], summary="Comments", responses=refusals(*_COMMAND))
async def list_comments(
    room: UUID, session: InSession, who: GuideOrOps, cursor: Cursor = None, limit: Limit = 50
) -> Page[views.KeptComment]:
    """The room's kept comments, newest first. A comment is kept a few seconds after it was said."""
    await listing.own(session, who, room)
    before = None
    if cursor is not None:
        at, comment = decode_cursor(cursor, tuple[_Microseconds, UUID])
        before = (_EPOCH + at * _MICROSECOND, comment)
    found = await comments.said(session, room, before, limit)
    last = encode_cursor((found[-1].at - _EPOCH) // _MICROSECOND, found[-1].id) if len(found) == limit else None
    return Page(items=[views.comment_view(comment) for comment in found], next=last)


@router.get("/rooms/{room}/chapters", tags=["guide"], summary="What was explained when", responses=refusals(*_COMMAND))
async def list_chapters(
    room: UUID, session: InSession, who: GuideOrOps, cursor: Cursor = None, limit: Limit = 50
) -> Page[views.Chapter]:
    """The room's pin marks, oldest first."""
    await listing.own(session, who, room)
    after = 0 if cursor is None else decode_cursor(cursor, tuple[_Mark])[0]
    found = await listing.chapters(session, room, after, limit)
    last = encode_cursor(found[-1][0].id) if len(found) == limit else None
    return Page(items=[views.chapter_view(mark, product) for mark, product in found], next=last)


# ---- products ------------------------------------------------------------------------------------------------------


@router.get("/products", tags=["products"], summary="Products", responses=refusals(*_SIGNED_IN, "forbidden", "invalid"))
async def list_products(
    session: InSession, who: GuideOrOps, cursor: Cursor = None, limit: Limit = 50
) -> Page[views.ProductView]:
    """The brand's products, by sku."""
    after = "" if cursor is None else decode_cursor(cursor, tuple[_Sku])[0]
    found = await shelf.products(session, who.brand, after, limit)
    last = encode_cursor(found[-1].sku) if len(found) == limit else None
    return Page(items=[views.product_view(product) for product in found], next=last)


@router.post(
    "/products",
    tags=["products"],
    summary="Add or change a product",
    responses=refusals(*_SIGNED_IN, "forbidden", "invalid", "idempotency_mismatch"),
)
async def save_product(body: views.NewProduct, session: InSession, who: GuideOrOps, once: InOnce) -> views.ProductView:
    """The product with this sku, as told. Rooms that are explaining it show the change from the next pin on."""

    async def work() -> views.ProductView:
        return views.product_view(await shelf.save_product(session, who.brand, **body.model_dump()))

    return await once(views.ProductView, work)


@router.patch("/products/{product}", tags=["products"], summary="Sold out, or back", responses=refusals(*_COMMAND))
async def change_product(
    product: UUID, body: views.ProductChange, session: InSession, who: GuideOrOps
) -> views.ProductView:
    """A product that sells out while it is explained is unpinned."""
    return views.product_view(await shelf.set_sold_out(session, who.brand, product, body.sold_out))


# ---- ops -----------------------------------------------------------------------------------------------------------


@router.get(
    "/ops/rooms",
    tags=["ops"],
    summary="Rooms with their figures",
    responses=refusals(*_SIGNED_IN, "forbidden", "invalid"),
)
async def ops_rooms(
    kernel: InKernel,
    who: Ops,
    state: views.State | None = None,
    cursor: Cursor = None,
    limit: Limit = 20,
) -> Page[views.RoomFigures]:
    """The brand's rooms, newest first, with live figures."""
    before = None if cursor is None else decode_cursor(cursor, tuple[UUID])[0]
    pictures = {}
    async with transaction(kernel.sessions) as session:
        found = await listing.listed(session, who.brand, state, before, limit)
        ids = [room.id for room in found]
        kept = await listing.comment_counts(session, ids)
        if kernel.settings.stream_push_url:
            pictures = await streams.pictures(session, [room.id for room in found if room.state == "live"])
    figures_of = await figures.of_rooms(kernel.redis, ids)
    items = []
    for room in found:
        shown = figures_of[room.id].counts if room.id in figures_of else wire.Counts()
        items.append(
            views.RoomFigures(
                room=views.room_view(room, shown.viewers),
                viewers=shown.viewers,
                uniques=shown.uniques,
                likes=shown.likes,
                comments=kept.get(room.id, 0),
                stream=views.stream_view(pictures[room.id]) if room.id in pictures else None,
            )
        )
    return Page(items=items, next=encode_cursor(found[-1].id) if len(found) == limit else None)


@router.get(
    "/ops/gateways", tags=["ops"], summary="Gateways", responses=refusals(*_SIGNED_IN, "forbidden", "unavailable")
)
async def ops_gateways(kernel: InKernel, _: Ops) -> Page[views.GatewayFigures]:
    """What each gateway last said of itself; one that is gone disappears within 15 s."""
    try:
        gateways = await presence.gateways(kernel.redis)
    except (RedisError, OSError) as error:
        raise Refusal("unavailable", retry_after=2) from error
    return Page(items=[views.gateway_view(gateway) for gateway in gateways])
