"""What REST takes and gives for rooms. Cards keep the form of the wire (times in ms); all else is ISO 8601, UTC."""

from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from kernel.http import PLAIN, Body, Code, Label
from live import wire
from live.listing import Listed
from live.media import stream_name
from live.muting import MAX_MUTE
from live.pins import MAX_TTL, product_card
from live.presence import GatewayStats
from live.rooms import DISPLAY_RATE, MAX_DISPLAY_RATE, MAX_SLOW
from live.sanctions import Scope
from live.shelf import MAX_SHELF
from live.streams import Arrival, Picture, Studio
from live.summary import Summary as RoomSummary
from live.tables import Comment, PinMark, Product

_ID = "019c2f6e-1a2b-7c3d-8e4f-5a6b7c8d9e0f"
State = Literal["scheduled", "live", "ended"]


def _plausible(moment: datetime) -> datetime:
    if not 2000 <= moment.year <= 2200:
        raise ValueError("a year between 2000 and 2200 is expected")
    return moment.astimezone(UTC)


# ---- requests ------------------------------------------------------------------------------------------------------

Fen = Annotated[int, Field(ge=0, le=10**12)]
Planned = Annotated[AwareDatetime, AfterValidator(_plausible)]
Products = Annotated[list[UUID], Field(max_length=MAX_SHELF, examples=[[_ID]])]


DisplayRate = Annotated[
    int, Field(ge=1, le=MAX_DISPLAY_RATE, description="Comments a second that a viewer is shown at most", examples=[30])
]


class NewRoom(Body):
    """A room to be; it begins as ``scheduled``."""

    title: Label = Field(examples=["周五新品试喝"])
    store_code: Code | None = Field(None, description="Where it streams from", examples=["SH001"])
    scheduled_at: Planned | None = Field(None, examples=["2026-06-18T12:00:00Z"])
    products: Products = Field([], description="The shelf, in order")
    guide: UUID | None = Field(None, description="Ops only: whose room it is; otherwise the caller's own")
    display_rate: DisplayRate = DISPLAY_RATE


class RoomPlan(Body):
    """What changes of a room that has not started; what is left out stays."""

    title: Label = Field("", examples=["周五新品试喝"])
    scheduled_at: Planned | None = Field(None, description="Null: no time yet", examples=["2026-06-18T12:00:00Z"])


class PinProduct(Body):
    """The product that is explained from now on."""

    product: UUID = Field(examples=[_ID])
    ttl: Annotated[int, Field(ge=1, le=MAX_TTL)] | None = Field(
        None, description="Seconds, then it unpins by itself", examples=[120]
    )


class Announcement(Body):
    """What everybody is to read; empty takes it down."""

    text: Annotated[str, StringConstraints(max_length=1000)] = Field(
        description="At most 200 characters", examples=["今晚八点半抢券"]
    )


class SlowMode(Body):
    """Seconds between two comments of one viewer; 0 ends slow mode."""

    seconds: int = Field(ge=0, le=MAX_SLOW, examples=[10])


class Display(Body):
    """How many comments a second each viewer is shown at most, those of staff and one's own aside."""

    rate: DisplayRate


class MuteViewer(Body):
    """Whose comments are refused, where, and for how long; 0 lifts the mute."""

    viewer: UUID = Field(examples=[_ID])
    seconds: int = Field(ge=0, le=MAX_MUTE, examples=[86_400])
    scope: Scope = Field("room", description="`brand`: in all rooms of the brand, those to come included")


class Shelf(Body):
    """The products of a room, in order."""

    products: Products


class NewProduct(Body):
    """A product; one that has this ``sku`` already is changed."""

    sku: Code = Field(examples=["LATTE-01"])
    title: Label = Field(examples=["桂花拿铁"])
    image: Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=PLAIN)] = Field(
        description="Address of a picture, absolute or on this host", examples=["/art/latte.svg"]
    )
    price_fen: Fen = Field(examples=[2900])
    list_price_fen: Fen | None = Field(None, examples=[3600])


class ProductChange(Body):
    """What changes of a product."""

    sold_out: bool = Field(examples=[True])


# ---- answers -------------------------------------------------------------------------------------------------------


class Person(BaseModel):
    """Somebody, briefly."""

    id: UUID
    name: str = Field(examples=["阿May"])


class StoreName(BaseModel):
    """A store, briefly."""

    id: UUID
    code: str = Field(examples=["SH001"])
    name: str = Field(examples=["静安寺店"])


class RoomView(BaseModel):
    """A room; ``viewers`` are those connected now."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": _ID,
                    "title": "周五新品试喝",
                    "state": "live",
                    "guide": {"id": _ID, "name": "阿May"},
                    "store": {"id": _ID, "code": "SH001", "name": "静安寺店"},
                    "slow_seconds": 0,
                    "display_rate": 30,
                    "scheduled_at": "2026-06-18T12:00:00Z",
                    "live_at": "2026-06-18T12:01:07Z",
                    "ended_at": None,
                    "paused_at": None,
                    "viewers": 412,
                    "reminders": 57,
                }
            ]
        }
    )

    id: UUID
    title: str
    state: State
    guide: Person
    store: StoreName | None
    slow_seconds: int = Field(description="Seconds between two comments of one viewer; 0: no slow mode")
    display_rate: DisplayRate
    scheduled_at: datetime | None
    live_at: datetime | None
    ended_at: datetime | None
    paused_at: datetime | None = Field(description="Since when the guide is away; the state stays `live`")
    viewers: int
    reminders: int = Field(description="Viewers who wanted to be told when it starts")


class ProductCard(BaseModel):
    """A product as rooms show it (``live.wire.ProductCard``)."""

    id: UUID = Field(examples=[_ID])
    title: str = Field(examples=["桂花拿铁"])
    image: str = Field(examples=["/art/latte.svg"])
    price_fen: int = Field(examples=[2900])
    list_price_fen: int | None = Field(examples=[3600])
    sold_out: bool = Field(examples=[False])


class ProductView(ProductCard):
    """A product as the brand keeps it."""

    sku: str = Field(examples=["LATTE-01"])


class Pin(BaseModel):
    """What is being explained (``live.wire.PinState``); times in ms since 1970."""

    product: ProductCard
    at: int = Field(examples=[1_781_784_067_000])
    until: int | None = Field(examples=[None])


class Playback(BaseModel):
    """Where to play a room's stream, each way that the media server has; signed where it asks for that."""

    hls: str | None = Field(None, examples=["https://play.example.com/live/0199….m3u8?txSecret=…&txTime=6A3B1C2D"])
    flv: str | None = Field(None, examples=["https://play.example.com/live/0199….flv?txSecret=…&txTime=6A3B1C2D"])
    rtmp: str | None = Field(None, examples=["rtmp://play.example.com/live/0199…?txSecret=…&txTime=6A3B1C2D"])


class RoomPage(RoomView):
    """A room with all that its page needs."""

    sockets: list[str] = Field(
        description="Gateways, least busy first; connect to `{base}/v1/rooms/{id}/live`",
        examples=[["ws://127.0.0.1:8090"]],
    )
    announcement: str
    shelf: list[ProductCard]
    pin: Pin | None
    reminded: bool = Field(description="Whether the caller wanted to be told when it starts")
    playback: Playback | None = Field(
        description="Null without a media server, and once the room has ended; there may be nothing to play yet"
    )


class KeptComment(BaseModel):
    """A comment as it was kept."""

    id: UUID
    author: Person
    role: str = Field(examples=["viewer"])
    text: str = Field(examples=["这款多少钱？"])
    at: datetime
    deleted_at: datetime | None


class Chapter(BaseModel):
    """A stretch in which one product was explained; ``taps``: how often its card was opened meanwhile."""

    product: ProductCard
    pinned_at: datetime
    until: datetime | None
    unpinned_at: datetime | None
    taps: int = Field(examples=[17])


class Summary(BaseModel):
    """A room that is over, in figures."""

    seconds: int = Field(description="From the start to the end, pauses left out", examples=[5400])
    viewers_peak: int = Field(description="The most viewers at one time", examples=[412])
    uniques: int = Field(description="Different viewers", examples=[980])
    comments: int = Field(description="Kept comments, those taken down included", examples=[2204])
    likes: int = Field(examples=[15_310])
    pins: list[Chapter] = Field(description="What was explained when, oldest first")
    reminders: int = Field(description="Viewers who wanted to be told when it starts", examples=[57])


class StreamState(BaseModel):
    """Whether the room's picture reaches the media server."""

    state: Arrival = Field(
        description="`waiting`: none came yet that counts. `lost`: it broke off, and viewers are told after 15 s"
    )
    since: datetime | None = Field(description="Null while one is waited for")


class RoomFigures(BaseModel):
    """A room with its figures: connected now, different viewers so far, taps on the heart, comments kept."""

    room: RoomView
    viewers: int = Field(examples=[412])
    uniques: int = Field(examples=[980])
    likes: int = Field(examples=[15_310])
    comments: int = Field(examples=[2204])
    stream: StreamState | None = Field(description="Of a room that is live, where there is a media server")


class GatewayFigures(BaseModel):
    """What a gateway last said of itself; delays are those of certain events on their way to viewers."""

    id: str
    url: str = Field(examples=["ws://127.0.0.1:8090"])
    viewers: int = Field(examples=[412])
    rooms: int = Field(examples=[3])
    frames: int = Field(description="Sent since it started", examples=[81_230])
    events: int = Field(description="Delivered since it started, each to each viewer", examples=[1_204_000])
    shed: int = Field(description="Left out since it started", examples=[0])
    delay_ms_p50: float = Field(examples=[3.1])
    delay_ms_p99: float = Field(examples=[18.4])
    joins: int = Field(examples=[980])
    ready: bool = Field(description="False: it lets nobody in, because it drains or has lost Redis")
    at: datetime = Field(description="When it said so")
    delay_ms_p95: float = Field(examples=[11.0])
    latest_ms_p95: float = Field(
        description="Of counts and stock, which wait up to 250 ms on purpose", examples=[251.0]
    )
    lossy_ms_p95: float = Field(description="Of comments", examples=[14.0])
    bus_ms_p95: float = Field(description="From publishing to hearing it there", examples=[1.2])
    bus_healthy: bool = Field(description="Whether it hears its rooms")
    bus_gaps: int = Field(description="Numbers that were missing and were read again, since it started", examples=[0])
    slow_viewers: int = Field(description="Sockets that do not keep up now", examples=[0])
    slow_closes: int = Field(description="Closed because they did not, since it started", examples=[0])
    write_buffer_bytes: int = Field(description="What waits for slow viewers", examples=[0])
    loop_lag_ms: float = Field(description="How late its event loop woke last", examples=[0.4])
    resumes: dict[str, int] = Field(
        description="Who came back: told all they missed, or anew", examples=[{"recovered": 31, "fresh": 1}]
    )
    claims: dict[str, int] = Field(
        description="Claims over its sockets, by outcome", examples=[{"ok": 120, "sold_out": 14}]
    )


def room_view(room: Listed, viewers: int) -> RoomView:
    """``room`` for a list."""
    store = None
    if room.store_id is not None and room.store_code is not None and room.store_name is not None:
        store = StoreName(id=room.store_id, code=room.store_code, name=room.store_name)
    return RoomView.model_validate(
        {
            "id": room.id,
            "title": room.title,
            "state": room.state,
            "guide": Person(id=room.guide_id, name=room.guide_name),
            "store": store,
            "slow_seconds": room.slow_seconds,
            "display_rate": room.display_rate,
            "scheduled_at": room.scheduled_at,
            "live_at": room.live_at,
            "ended_at": room.ended_at,
            "paused_at": room.paused_at,
            "viewers": viewers,
            "reminders": room.reminders,
        }
    )


def playback_view(room: Listed, studio: Studio, at: datetime) -> Playback | None:
    """Where to play the room's stream."""
    if room.state == "ended":
        return None
    found = studio.playback(stream_name(room.id, room.stream_nonce), at)
    return None if found is None else Playback.model_validate(found)


def stream_view(picture: Picture) -> StreamState:
    """Whether a picture arrives."""
    return StreamState(state=picture.state, since=picture.since)


def card_view(card: wire.ProductCard) -> ProductCard:
    """A card of the wire."""
    return ProductCard.model_validate(msgspec.structs.asdict(card))


def product_view(product: Product) -> ProductView:
    """``product`` with its sku."""
    return ProductView.model_validate(msgspec.structs.asdict(product_card(product)) | {"sku": product.sku})


def pin_view(pin: wire.PinState | None) -> Pin | None:
    """What is being explained."""
    return None if pin is None else Pin(product=card_view(pin.product), at=pin.at, until=pin.until)


def comment_view(comment: Comment) -> KeptComment:
    """A kept comment."""
    return KeptComment(
        id=comment.id,
        author=Person(id=comment.author_id, name=comment.author_name),
        role=comment.author_role,
        text=comment.text,
        at=comment.at,
        deleted_at=comment.deleted_at,
    )


def chapter_view(mark: PinMark, product: Product) -> Chapter:
    """A pin mark."""
    return Chapter(
        product=card_view(product_card(product)),
        pinned_at=mark.pinned_at,
        until=mark.until,
        unpinned_at=mark.unpinned_at,
        taps=mark.taps,
    )


def gateway_view(gateway: GatewayStats) -> GatewayFigures:
    """A gateway's own figures."""
    said = msgspec.structs.asdict(gateway)
    return GatewayFigures.model_validate(said | {"at": datetime.fromtimestamp(gateway.at, UTC)})


def summary_view(room: RoomSummary) -> Summary:
    """A room that is over."""
    return Summary(
        seconds=room.seconds,
        viewers_peak=room.viewers_peak,
        uniques=room.uniques,
        comments=room.comments,
        likes=room.likes,
        pins=[chapter_view(mark, product) for mark, product in room.pins],
        reminders=room.reminders,
    )
