"""Every frame, event, error form and close code of the room socket: the one place where they are defined.

A frame is one JSON text message; its field ``t`` names the type. Times are milliseconds since 1970 (UTC), money is
integer fen, identifiers are UUID strings. Unknown fields are ignored in both directions, so fields may be added;
a type or field is never renamed or given another meaning.

Events travel inside ``batch`` frames. Each event type has one class, a promise about its delivery:

* *certain*: numbered in the room's log, never shed, replayed on resume;
* *latest*: only the newest value matters, older ones are overwritten;
* *lossy*: above the room's display rate a fair sample is shown, every event left out is counted.
"""

from enum import IntEnum, StrEnum
from typing import Annotated, ClassVar, Literal
from uuid import UUID

import msgspec
from msgspec import Meta, Raw, Struct

PROTOCOL_VERSION = 1
VERSIONS = frozenset({PROTOCOL_VERSION})
"""What this server speaks; a ``hello`` of another version is turned away with ``Close.VERSION``."""
MAX_CLIENT_FRAME = 4096
"""Bytes; a longer frame costs the client its connection."""
MAX_TEXT = 200
"""Characters of a comment or announcement."""
MAX_ALLOWED = 50
"""Viewers who may speak in a room that is muted; each of them is in every welcome."""

Id = Annotated[str, Meta(min_length=1, max_length=64)]
"""A command's id, chosen by the client: sending it again is answered again, not carried out again."""
Text = Annotated[str, Meta(max_length=1000)]
Reason = Literal["spam", "fraud", "abuse", "sexual", "illegal", "other"]
"""Why a viewer reports a comment."""
Longitude = Annotated[float, Meta(ge=-180, le=180)]
Latitude = Annotated[float, Meta(ge=-90, le=90)]


class Kind(StrEnum):
    """How an event may be treated on its way; see the module's docstring."""

    CERTAIN = "certain"
    LATEST = "latest"
    LOSSY = "lossy"


class Close(IntEnum):
    """Close codes. 4000–4499: come back (after ``retry_after``); 4500–4999: do not."""

    DRAINING = 4001
    SLOW = 4002
    SILENT = 4003
    UNAVAILABLE = 4004
    TOKEN_EXPIRED = 4100
    HELLO_TIMEOUT = 4500
    BAD_FRAME = 4501
    TOKEN_INVALID = 4502
    ROOM_UNKNOWN = 4503
    ROOM_ENDED = 4504
    FLOOD = 4505
    REPLACED = 4506
    VERSION = 4507
    KICKED = 4508
    BANNED = 4509
    ERASED = 4510


class Frame(Struct, frozen=True, tag_field="t", omit_defaults=True):
    """What all frames share."""


# ---- parts ---------------------------------------------------------------------------------------------------------


class Position(Struct, frozen=True):
    """A place in a room's log: the log's ``epoch`` (new when the log was lost) and the number of its last event."""

    epoch: str
    seq: int


class Person(Struct, frozen=True, omit_defaults=True):
    """Somebody as others see them."""

    id: UUID
    name: str
    role: Literal["viewer", "guide", "clerk", "ops"] = "viewer"
    tier: int = 0


class ProductCard(Struct, frozen=True, omit_defaults=True):
    """A product as shown while it is explained."""

    id: UUID
    title: str
    image: str
    price_fen: int
    list_price_fen: int | None = None
    sold_out: bool = False


class RoomCard(Struct, frozen=True, omit_defaults=True):
    """A room as its viewers see it. ``hushed``: only staff and the viewers in ``allow`` may comment. ``paused_at``: the
    guide is away since then, and will be back; ``state`` stays ``live``. ``scheduled_at``: clients count down to it."""

    id: UUID
    title: str
    state: Literal["scheduled", "live", "ended"]
    guide: Person
    store: str | None = None
    live_at: int | None = None
    slow_seconds: int = 0
    hushed: bool = False
    allow: tuple[UUID, ...] = ()
    scheduled_at: int | None = None
    paused_at: int | None = None
    ended_at: int | None = None


class DropCard(Struct, frozen=True, omit_defaults=True):
    """A drop as announced to the room. ``opens_at`` may lie ahead: clients count down to it. Where there is a
    ``spread`` (ms), each viewer's turn to claim comes within it; ``signature`` shows that the server said so. A push
    drop that opened in quiet hours has ``held_until``: whoever gets a coupon is told then."""

    id: UUID
    mode: Literal["push", "claim"]
    title: str
    terms: str
    stock: int
    left: int
    opens_at: int
    ends_at: int
    radius_m: int
    spread: int = 0
    signature: str | None = None
    held_until: int | None = None


class CouponCard(Struct, frozen=True, omit_defaults=True):
    """A coupon as its owner sees it. ``store`` is where it is redeemed; ``distance_m`` is a band's upper edge."""

    id: UUID
    title: str
    terms: str
    code: str
    store: str
    store_name: str
    valid_until: int
    state: Literal["issued", "redeemed", "expired", "voided"] = "issued"
    valid_from: int | None = None
    store_address: str | None = None
    distance_m: int | None = None
    drop: UUID | None = None


class Counts(Struct, frozen=True, omit_defaults=True):
    """Live figures of a room."""

    viewers: int = 0
    likes: int = 0
    uniques: int = 0


class Error(Struct, frozen=True, omit_defaults=True):
    """A refusal: ``code`` is one of ``kernel.errors.CATALOGUE``; ``retry_after`` is in seconds; ``field`` is the one of
    the command that is wrong, where one is."""

    code: str
    message: str
    retry_after: float | None = None
    field: str | None = None


# ---- client → server -----------------------------------------------------------------------------------------------


class Hello(Frame, frozen=True, tag="hello"):
    """First frame, within 10 s. ``resume`` is the position after the last batch that the client has seen; ``v`` is the
    version of the protocol that the client speaks."""

    token: str
    resume: Position | None = None
    v: int = 1  # left out means 1, whatever the newest version is


class Opening(Frame, frozen=True, tag="hello"):
    """What ``hello`` says in the same way in every version: even one that we cannot read can be told which we speak."""

    v: int = 1


class Comment(Frame, frozen=True, tag="comment"):
    """Say something to the room."""

    id: Id
    text: Text


class Like(Frame, frozen=True, tag="like"):
    """``n`` taps on the heart since the last such frame. Not answered."""

    n: Annotated[int, Meta(ge=1, le=100)] = 1


class Tap(Frame, frozen=True, tag="tap"):
    """The viewer opened a product's card. Not answered."""

    product: UUID


class Seen(Frame, frozen=True, tag="seen"):
    """A coupon was shown to the viewer. Not answered."""

    coupon: UUID


class Locate(Frame, frozen=True, tag="locate"):
    """A fix. ``accuracy`` in metres, null where the source gives none (then it decides nothing)."""

    lng: Longitude
    lat: Latitude
    datum: Literal["wgs84", "gcj02", "bd09"]
    accuracy: Annotated[float, Meta(ge=0)] | None = None
    id: Id | None = None


class Claim(Frame, frozen=True, tag="claim"):
    """Try for a coupon of an open claim drop."""

    id: Id
    drop: UUID


class Report(Frame, frozen=True, tag="report"):
    """Viewer: this comment is wrong; ops will look at it. Counts once per viewer and comment."""

    id: Id
    comment: UUID
    reason: Reason


class Renew(Frame, frozen=True, tag="renew"):
    """A fresh token of the same person in the same brand and role: the socket lives as long as this one. Refused with
    ``token_invalid`` if it is somebody else's or ends before the one in use."""

    id: Id
    token: str


class Ping(Frame, frozen=True, tag="ping"):
    """Answered by ``pong``; for clients that cannot see WebSocket pings and want to know the server's clock."""


class Start(Frame, frozen=True, tag="start"):
    """Guide: the room goes live, or on after a pause."""

    id: Id


class Pause(Frame, frozen=True, tag="pause"):
    """Guide: back soon; the room stays live and goes on with ``start``."""

    id: Id


class Pin(Frame, frozen=True, tag="pin"):
    """Guide: this product is being explained now; unpins by itself after ``ttl`` seconds, if given."""

    id: Id
    product: UUID
    ttl: Annotated[int, Meta(ge=1, le=86_400)] | None = None


class Unpin(Frame, frozen=True, tag="unpin"):
    """Guide: nothing is being explained now."""

    id: Id


class Announce(Frame, frozen=True, tag="announce"):
    """Guide: show this to everybody; empty takes the announcement down."""

    id: Id
    text: Text


class Drop(Frame, frozen=True, tag="drop"):
    """Guide: release coupons of a campaign into the room, open for ``seconds`` after ``delay`` seconds."""

    id: Id
    campaign: UUID
    mode: Literal["push", "claim"]
    stock: Annotated[int, Meta(ge=1)] | None = None
    seconds: Annotated[int, Meta(ge=1, le=86_400)] = 300
    delay: Annotated[int, Meta(ge=0, le=3_600)] = 0


class Mute(Frame, frozen=True, tag="mute"):
    """Guide: this viewer's comments are refused for ``seconds``; 0 lifts the mute. ``scope`` ``brand``: in all rooms of
    the brand."""

    id: Id
    viewer: UUID
    seconds: Annotated[int, Meta(ge=0, le=3_650 * 86_400)]
    scope: Literal["room", "brand"] = "room"


class Kick(Frame, frozen=True, tag="kick"):
    """Guide: close this viewer's sockets to the room, on all gateways. They may join anew; staff cannot be kicked."""

    id: Id
    viewer: UUID


class Ban(Frame, frozen=True, tag="ban"):
    """Guide: this viewer's sockets close and they may not come in for ``seconds``; 0 lifts the ban. ``scope``
    ``brand``: in all rooms of the brand. Staff cannot be banned."""

    id: Id
    viewer: UUID
    seconds: Annotated[int, Meta(ge=0, le=3_650 * 86_400)]
    scope: Literal["room", "brand"] = "room"


class Delete(Frame, frozen=True, tag="delete"):
    """Guide: take a comment down everywhere."""

    id: Id
    comment: UUID


class Slow(Frame, frozen=True, tag="slow"):
    """Guide: each viewer may comment once in ``seconds``; 0 ends slow mode."""

    id: Id
    seconds: Annotated[int, Meta(ge=0, le=120)]


class Hush(Frame, frozen=True, tag="hush"):
    """Guide: from now on only staff and the viewers in ``allow`` may comment; with ``on`` false everybody may again."""

    id: Id
    on: bool
    allow: Annotated[tuple[UUID, ...], Meta(max_length=MAX_ALLOWED)] = ()


class End(Frame, frozen=True, tag="end"):
    """Guide: the room is over."""

    id: Id


GuideCommand = Start | Pause | Pin | Unpin | Announce | Drop | Mute | Kick | Ban | Delete | Slow | Hush | End
ClientFrame = Hello | Comment | Like | Tap | Seen | Locate | Claim | Report | Renew | Ping | GuideCommand


# ---- events (inside ``batch``) -------------------------------------------------------------------------------------


class Event(Frame, frozen=True):
    """What all events share; ``kind`` is the class of the type."""

    kind: ClassVar[Kind]


class Pinned(Event, frozen=True, tag="pin"):
    """This product is being explained now, until ``until`` if that is given."""

    kind = Kind.CERTAIN
    product: ProductCard
    at: int
    until: int | None = None


class Unpinned(Event, frozen=True, tag="unpin"):
    """Nothing is being explained now."""

    kind = Kind.CERTAIN
    at: int


class Announced(Event, frozen=True, tag="announce"):
    """The room's announcement; empty text takes it down."""

    kind = Kind.CERTAIN
    text: str
    at: int


class RoomChanged(Event, frozen=True, tag="room"):
    """The room as it is from now on: another time or title, gone live, paused, ended, slow mode, muted."""

    kind = Kind.CERTAIN
    room: RoomCard


class Muted(Event, frozen=True, tag="mute"):
    """Comments of ``viewer`` are refused in this room until ``until``, whether the room or the brand muted them; null:
    they may speak."""

    kind = Kind.CERTAIN
    viewer: UUID
    until: int | None


class Kicked(Event, frozen=True, tag="kick"):
    """The sockets that ``viewer`` had in this room were closed. They may be back."""

    kind = Kind.CERTAIN
    viewer: UUID


class Banned(Event, frozen=True, tag="ban"):
    """``viewer`` may not be in this room until ``until``, whether the room or the brand banned them; null: they may."""

    kind = Kind.CERTAIN
    viewer: UUID
    until: int | None


class Deleted(Event, frozen=True, tag="delete"):
    """Take this comment off the screen."""

    kind = Kind.CERTAIN
    comment: UUID


class DropOpened(Event, frozen=True, tag="drop"):
    """A drop was announced or opened."""

    kind = Kind.CERTAIN
    drop: DropCard


class DropEnded(Event, frozen=True, tag="drop_end"):
    """A drop is over: ``sold_out``, ``time`` or ``stopped``."""

    kind = Kind.CERTAIN
    drop: UUID
    reason: Literal["sold_out", "time", "stopped"]


class CountsChanged(Event, frozen=True, tag="counts"):
    """How many watch, how many liked."""

    kind = Kind.LATEST
    counts: Counts


class DropStock(Event, frozen=True, tag="drop_stock"):
    """What is left of a drop."""

    kind = Kind.LATEST
    drop: UUID
    left: int


class Commented(Event, frozen=True, tag="comment"):
    """Somebody said something. ``id`` is the server's; the sender learns it from its ``ack``."""

    kind = Kind.LOSSY
    id: UUID
    by: Person
    text: str
    at: int


class Joined(Event, frozen=True, tag="join"):
    """Somebody came in."""

    kind = Kind.LOSSY
    by: Person


RoomEvent = (
    Pinned | Unpinned | Announced | RoomChanged | Muted | Kicked | Banned | Deleted | DropOpened | DropEnded
    | CountsChanged | DropStock | Commented | Joined
)  # fmt: skip


# ---- server → client -----------------------------------------------------------------------------------------------


class PinState(Struct, frozen=True, omit_defaults=True):
    """What is pinned, in the snapshot."""

    product: ProductCard
    at: int
    until: int | None = None


class Welcome(Frame, frozen=True, tag="welcome"):
    """The snapshot, true at ``log``. ``recovered``: every certain event since the client's position follows at once
    (``missed`` of them, in ``batch`` frames); otherwise the snapshot replaces what the client knew."""

    you: Person
    room: RoomCard
    log: Position
    now: int
    pin: PinState | None = None
    announcement: str = ""
    counts: Counts = Counts()
    drops: list[DropCard] = []
    recent: list[Commented] = []
    coupons: list[CouponCard] = []
    muted_until: int | None = None
    recovered: bool = False
    missed: int = 0


class Batch(Frame, frozen=True, tag="batch"):
    """Events of one tick, oldest first. ``seq`` is the log's position after them, given when it moved."""

    e: list[Raw]
    seq: int | None = None


class Ack(Frame, frozen=True, tag="ack"):
    """Answer to the command ``id``: done (``ok``) or refused (``error``). What it made, where it made something."""

    id: str
    ok: bool = False
    error: Error | None = None
    comment: UUID | None = None
    coupon: CouponCard | None = None
    drop: UUID | None = None
    stores: int | None = None


class CouponGranted(Frame, frozen=True, tag="coupon"):
    """A coupon for this viewer. Certain: ``seq`` is its place in the room's log."""

    coupon: CouponCard
    seq: int | None = None


class Review(Frame, frozen=True, tag="review"):
    """To this viewer: their coupon of ``drop`` is under review (``open``, at the latest until ``until``), or what came
    of it. ``granted``: the coupon itself is sent too. Certain, as ``coupon``."""

    drop: UUID
    title: str
    state: Literal["open", "granted", "declined", "expired"]
    until: int | None = None
    coupon: UUID | None = None
    seq: int | None = None


class Shed(Frame, frozen=True, tag="shed"):
    """To guides: of ``total`` comments in the last second, viewers were shown ``shown``."""

    shown: int
    total: int


class Expiring(Frame, frozen=True, tag="expiring"):
    """The token ends at ``expires_at``, and with it this socket, unless a ``renew`` comes first. Sent once in a token's
    life: two minutes before its end, or when a tenth of its life is left, if that is later."""

    expires_at: int


class Pong(Frame, frozen=True, tag="pong"):
    """The server's clock."""

    now: int


class Bye(Frame, frozen=True, tag="bye"):
    """Sent before a close: ``code`` as in the close frame, ``retry_after`` in seconds."""

    code: int
    reason: str
    retry_after: float | None = None


ServerFrame = Welcome | Batch | Ack | CouponGranted | Review | Shed | Expiring | Pong | Bye

encoder = msgspec.json.Encoder()
client_frames = msgspec.json.Decoder(ClientFrame)
openings = msgspec.json.Decoder(Opening)
server_frames = msgspec.json.Decoder(ServerFrame)
room_events = msgspec.json.Decoder(RoomEvent)
