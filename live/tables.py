"""Rooms, their shelf, and what happened in them."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Integer,
    SmallInteger,
    Text,
    UniqueConstraint,
    Uuid,
    column,
    func,
    table,
)
from sqlalchemy.orm import Mapped, mapped_column

from kernel.ids import new_id
from kernel.postgres import Table

# What rooms read of tables that belong to domains the room service must not import.
staff = table("staff", column("id", Uuid), column("brand_id", Text), column("name", Text), column("role", Text))
members = table("members", column("id", Uuid), column("name", Text))
shops = table("stores", column("id", Uuid), column("brand_id", Text), column("code", Text), column("name", Text))


class Product(Table):
    """Something the brand sells, as far as a room shows it."""

    __tablename__ = "products"
    __table_args__ = (UniqueConstraint("brand_id", "sku"), CheckConstraint("price_fen >= 0", name="price"))

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    brand_id: Mapped[str] = mapped_column(ForeignKey("brands.id"))
    sku: Mapped[str] = mapped_column(Text)
    title: Mapped[str] = mapped_column(Text)
    image: Mapped[str] = mapped_column(Text, comment="address of a picture, absolute or on the API's host")
    price_fen: Mapped[int] = mapped_column(BigInteger)
    list_price_fen: Mapped[int | None] = mapped_column(BigInteger)
    sold_out: Mapped[bool] = mapped_column(server_default="false")


class Room(Table):
    """One live session. ``state`` only moves forward: scheduled → live → ended; a live room may be paused."""

    __tablename__ = "rooms"
    __table_args__ = (
        CheckConstraint("state IN ('scheduled', 'live', 'ended')", name="state"),
        CheckConstraint("slow_seconds BETWEEN 0 AND 120", name="slow"),
        CheckConstraint("display_rate BETWEEN 1 AND 1000", name="display_rate"),
        CheckConstraint("pause_cause IN ('guide', 'loss')", name="pause_cause"),
        CheckConstraint("(paused_at IS NULL) = (pause_cause IS NULL)", name="paused"),
        CheckConstraint("paused_at IS NULL OR state = 'live'", name="paused_live"),
        CheckConstraint("stream_state IN ('on', 'off')", name="stream_state"),
        CheckConstraint("(stream_lost_at IS NOT NULL) = (stream_state IS NOT DISTINCT FROM 'off')", name="stream_lost"),
        Index("ix_rooms_brand_state", "brand_id", "state"),
        # The worker's question, twice a second: whose comments may be waiting? (`live.comments.rooms_to_drain`)
        Index("ix_rooms_live", "id", postgresql_where="state = 'live'"),
        Index("ix_rooms_ended_at", "ended_at"),
        # Whose subscribers are to be reminded now? (`live.reminders`)
        Index("ix_rooms_scheduled_at", "scheduled_at", postgresql_where="state = 'scheduled'"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    brand_id: Mapped[str] = mapped_column(ForeignKey("brands.id"))
    guide_id: Mapped[UUID] = mapped_column(ForeignKey("staff.id"), index=True)
    store_id: Mapped[UUID | None] = mapped_column(ForeignKey("stores.id"))
    title: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text, server_default="scheduled")
    announcement: Mapped[str] = mapped_column(Text, server_default="")
    slow_seconds: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    hushed: Mapped[bool] = mapped_column(server_default="false", comment="only staff and `allow` may comment")
    allow: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid), server_default="{}")
    display_rate: Mapped[int] = mapped_column(SmallInteger, server_default="30", comment="comments/s a viewer is shown")
    scheduled_at: Mapped[datetime | None]
    live_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    paused_at: Mapped[datetime | None]
    pause_cause: Mapped[str | None] = mapped_column(
        Text, comment="what was lost comes back by itself, a guide by `start`"
    )
    paused_ms: Mapped[int] = mapped_column(BigInteger, server_default="0", comment="of all pauses that are over")
    guide_seen_at: Mapped[datetime | None] = mapped_column(
        comment="when a gateway last had a socket of the room's guide"
    )
    stream_state: Mapped[str | None] = mapped_column(Text, comment="null: no stream that counts")
    stream_lost_at: Mapped[datetime | None]
    viewers_peak: Mapped[int] = mapped_column(server_default="0")
    likes: Mapped[int] = mapped_column(BigInteger, server_default="0")
    likes_read: Mapped[int] = mapped_column(
        BigInteger, server_default="0", comment="Redis' own figure when `likes` was brought up to date"
    )
    stream_nonce: Mapped[UUID] = mapped_column(
        server_default=func.gen_random_uuid(),
        comment="half of the stream's name; a new one ends all addresses given out",
    )


class Reminder(Table):
    """A viewer who wants to be told when a room is about to start. ``outcome`` is null until that was settled."""

    __tablename__ = "reminders"
    __table_args__ = (
        CheckConstraint("outcome IN ('sent', 'refused', 'unknown', 'failed')", name="outcome"),
        # Not yet settled, by room: a room's many that are must not be looked through every few seconds.
        Index("ix_reminders_open", "room_id", postgresql_where="outcome IS NULL"),
    )

    room_id: Mapped[UUID] = mapped_column(ForeignKey("rooms.id", ondelete="CASCADE"), primary_key=True)
    viewer_id: Mapped[UUID] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    taken_until: Mapped[datetime | None] = mapped_column(
        comment="a worker is sending it, or it is not to be tried before"
    )
    outcome: Mapped[str | None] = mapped_column(Text)
    settled_at: Mapped[datetime | None]


class Publication(Table):
    """A connection on which a room's stream reaches the media server, as far as that has told."""

    __tablename__ = "publications"
    __table_args__ = (Index("ix_publications_heard_at", "heard_at"),)

    room_id: Mapped[UUID] = mapped_column(ForeignKey("rooms.id", ondelete="CASCADE"), primary_key=True)
    client: Mapped[str] = mapped_column(Text, primary_key=True, comment="the media server's own name for it")
    since: Mapped[datetime] = mapped_column(server_default=func.now())
    heard_at: Mapped[datetime | None] = mapped_column(comment="last sign of life; null: its server gives none")


class ShelfItem(Table):
    """A product on a room's shelf."""

    __tablename__ = "shelf_items"
    __table_args__ = (UniqueConstraint("room_id", "place", deferrable=True, initially="DEFERRED"),)

    room_id: Mapped[UUID] = mapped_column(ForeignKey("rooms.id", ondelete="CASCADE"), primary_key=True)
    product_id: Mapped[UUID] = mapped_column(ForeignKey("products.id"), primary_key=True)
    place: Mapped[int] = mapped_column(SmallInteger)


class PinMark(Table):
    """A stretch of the session in which one product was explained: a chapter of the replay."""

    __tablename__ = "pin_marks"
    __table_args__ = (
        # At most one product is being explained in a room.
        Index("uq_pin_marks_open", "room_id", unique=True, postgresql_where="unpinned_at IS NULL"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    room_id: Mapped[UUID] = mapped_column(ForeignKey("rooms.id", ondelete="CASCADE"), index=True)
    product_id: Mapped[UUID] = mapped_column(ForeignKey("products.id"))
    pinned_at: Mapped[datetime]
    until: Mapped[datetime | None]
    unpinned_at: Mapped[datetime | None]
    taps: Mapped[int] = mapped_column(server_default="0")


class Comment(Table):
    """A comment, kept for replay and audit."""

    __tablename__ = "comments"
    __table_args__ = (Index("ix_comments_room_at", "room_id", "at"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    room_id: Mapped[UUID] = mapped_column(ForeignKey("rooms.id", ondelete="CASCADE"))
    author_id: Mapped[UUID] = mapped_column(index=True)
    author_name: Mapped[str] = mapped_column(Text)
    author_role: Mapped[str] = mapped_column(Text)
    text: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]
    deleted_by: Mapped[UUID | None]


class Reported(Table):
    """A comment that viewers reported, and the verdict on it, once there is one."""

    __tablename__ = "reported_comments"
    __table_args__ = (
        CheckConstraint("verdict IN ('delete', 'keep')", name="verdict"),
        CheckConstraint("(verdict IS NULL) = (resolved_at IS NULL)", name="resolved"),
        Index("ix_reported_comments_open", "brand_id", "comment_id", postgresql_where="verdict IS NULL"),
        Index("ix_reported_comments_resolved", "brand_id", "comment_id", postgresql_where="verdict IS NOT NULL"),
    )

    comment_id: Mapped[UUID] = mapped_column(ForeignKey("comments.id", ondelete="CASCADE"), primary_key=True)
    brand_id: Mapped[str] = mapped_column(ForeignKey("brands.id"))
    room_id: Mapped[UUID] = mapped_column(ForeignKey("rooms.id", ondelete="CASCADE"), index=True)
    reports: Mapped[int] = mapped_column(comment="how many viewers reported it")
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]
    verdict: Mapped[str | None] = mapped_column(Text)
    resolved_at: Mapped[datetime | None]
    resolved_by: Mapped[UUID | None]


class Report(Table):
    """A viewer's report of a comment."""

    __tablename__ = "reports"

    comment_id: Mapped[UUID] = mapped_column(
        ForeignKey("reported_comments.comment_id", ondelete="CASCADE"), primary_key=True
    )
    viewer_id: Mapped[UUID] = mapped_column(primary_key=True)
    reason: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime]


class Mute(Table):
    """A viewer who may not comment in a room until ``until``."""

    __tablename__ = "mutes"

    room_id: Mapped[UUID] = mapped_column(ForeignKey("rooms.id", ondelete="CASCADE"), primary_key=True)
    viewer_id: Mapped[UUID] = mapped_column(primary_key=True)
    until: Mapped[datetime]
    by: Mapped[UUID]
    at: Mapped[datetime] = mapped_column(server_default=func.now())


class BrandWords(Table):
    """A brand's own list of words that no comment may contain, in place of the shipped one."""

    __tablename__ = "brand_words"

    brand_id: Mapped[str] = mapped_column(ForeignKey("brands.id"), primary_key=True)
    words: Mapped[list[str]] = mapped_column(ARRAY(Text))
    revision: Mapped[UUID] = mapped_column(comment="new with every change")
    by: Mapped[UUID]
    at: Mapped[datetime]


class BrandMute(Table):
    """A viewer who may not comment in any room of the brand until ``until``."""

    __tablename__ = "brand_mutes"

    brand_id: Mapped[str] = mapped_column(ForeignKey("brands.id"), primary_key=True)
    viewer_id: Mapped[UUID] = mapped_column(primary_key=True)
    until: Mapped[datetime]
    by: Mapped[UUID]
    at: Mapped[datetime] = mapped_column(server_default=func.now())


class Ban(Table):
    """A viewer who may not be in a room until ``until``."""

    __tablename__ = "bans"

    room_id: Mapped[UUID] = mapped_column(ForeignKey("rooms.id", ondelete="CASCADE"), primary_key=True)
    viewer_id: Mapped[UUID] = mapped_column(primary_key=True)
    until: Mapped[datetime]
    by: Mapped[UUID]
    at: Mapped[datetime] = mapped_column(server_default=func.now())


class BrandBan(Table):
    """A viewer who may not be in any room of the brand until ``until``."""

    __tablename__ = "brand_bans"

    brand_id: Mapped[str] = mapped_column(ForeignKey("brands.id"), primary_key=True)
    viewer_id: Mapped[UUID] = mapped_column(primary_key=True)
    until: Mapped[datetime]
    by: Mapped[UUID]
    at: Mapped[datetime] = mapped_column(server_default=func.now())


class Attendance(Table):
    """A viewer was in a room; written in batches by the gateways."""

    __tablename__ = "attendance"

    room_id: Mapped[UUID] = mapped_column(ForeignKey("rooms.id", ondelete="CASCADE"), primary_key=True)
    viewer_id: Mapped[UUID] = mapped_column(primary_key=True)
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]
    joins: Mapped[int] = mapped_column(Integer, server_default="1")
