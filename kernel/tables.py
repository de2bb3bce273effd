"""Tables that belong to no single domain: brands, the outbox, and the answers kept for retries."""

from datetime import datetime, time
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Identity, Index, LargeBinary, SmallInteger, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from kernel.postgres import Table


class Brand(Table):
    """A tenant. Every row of every other table belongs to exactly one, directly or through its parent."""

    __tablename__ = "brands"
    __table_args__ = (
        CheckConstraint("(quiet_from IS NULL) = (quiet_until IS NULL) AND quiet_from <> quiet_until", name="quiet"),
        CheckConstraint("(cap_coupons IS NULL) = (cap_days IS NULL)", name="cap"),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True, comment="short name in addresses and tokens")
    name: Mapped[str] = mapped_column(Text)
    timezone: Mapped[str] = mapped_column(Text, server_default="Asia/Shanghai")
    quiet_from: Mapped[time | None]
    quiet_until: Mapped[time | None]
    quiet_claims: Mapped[bool] = mapped_column(
        server_default="false", comment="do claims, too, hold only from their end on"
    )
    cap_coupons: Mapped[int | None] = mapped_column(SmallInteger, comment="a viewer's, of all campaigns, in `cap_days`")
    cap_days: Mapped[int | None] = mapped_column(SmallInteger)
    guide_drops_a_day: Mapped[int | None] = mapped_column(SmallInteger, comment="of each guide; null: no limit")
    location_consent: Mapped[str | None] = mapped_column(
        Text, comment="the version of its text that viewers must have agreed to; null: any"
    )
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class OutboxEvent(Table):
    """Something that happened, written in the transaction that made it happen, waiting to be told."""

    __tablename__ = "outbox"
    __table_args__ = (
        # The relay's question: what in this lane is not told yet, oldest first?
        Index("ix_outbox_waiting", "lane", "id", postgresql_where="published_at IS NULL"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    lane: Mapped[int] = mapped_column(SmallInteger)
    topic: Mapped[str] = mapped_column(Text)
    room_id: Mapped[UUID]
    payload: Mapped[bytes] = mapped_column(LargeBinary, comment="JSON")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    published_at: Mapped[datetime | None]


class OutboxLane(Table):
    """One row a lane. Whoever holds the row's lock relays that lane, so a room's events keep their order."""

    __tablename__ = "outbox_lanes"

    lane: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)


class IdempotencyKey(Table):
    """The answer once given to a creating request, so that a retry gets the same."""

    __tablename__ = "idempotency_keys"

    brand_id: Mapped[str] = mapped_column(Text, primary_key=True)
    subject: Mapped[UUID] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary, comment="SHA-256 of route and body")
    answer: Mapped[bytes | None] = mapped_column(LargeBinary, comment="JSON; null only inside the first transaction")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)


class Erasure(Table):
    """A member who was erased. Kept until the last token issued to them has ended, so that it can be refused; leads to
    nothing that was kept without a name."""

    __tablename__ = "erasures"
    __table_args__ = (Index("ix_erasures_due", "due_at", postgresql_where="due_at IS NOT NULL"),)

    subject: Mapped[UUID] = mapped_column(primary_key=True)
    brand_id: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(index=True)
    sweeps: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    due_at: Mapped[datetime | None] = mapped_column(comment="of the next sweep; null: no more")
