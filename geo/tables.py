"""Stores, consents and fixes. Positions are stored in the canonical frame (see ``geo.datum``)."""

from datetime import datetime, time
from uuid import UUID

from geoalchemy2 import Geography, WKBElement
from sqlalchemy import (
    REAL,
    BigInteger,
    CheckConstraint,
    Float,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
)
from sqlalchemy.orm import Mapped, mapped_column

from kernel.ids import new_id
from kernel.postgres import Table


class Store(Table):
    """A shop. Keeps the pair it was given and that pair's datum; ``position`` is derived from them."""

    __tablename__ = "stores"
    __table_args__ = (
        UniqueConstraint("brand_id", "code"),
        CheckConstraint("radius_m BETWEEN 50 AND 50000", name="radius"),
        CheckConstraint("source_datum IN ('wgs84', 'gcj02', 'bd09')", name="datum"),
        # `ST_DWithin(stores.position, …)` reads this.
        Index("ix_stores_position", "position", postgresql_using="gist"),
        # Partial: a full one would also answer `trade_area IS NULL`, and be read from end to end for every viewer.
        Index("ix_stores_trade_area", "trade_area", postgresql_using="gist", postgresql_where="trade_area IS NOT NULL"),
        # Each batch of claims asks which stores are closed for the time being.
        Index("ix_stores_closed", "brand_id", postgresql_where="closed_until IS NOT NULL"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    brand_id: Mapped[str] = mapped_column(ForeignKey("brands.id"))
    code: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    banner: Mapped[str] = mapped_column(Text, comment="the name over the door: the import's column `brand`")
    city: Mapped[str] = mapped_column(Text)
    address: Mapped[str] = mapped_column(Text)
    source_lng: Mapped[float] = mapped_column(Float(53))
    source_lat: Mapped[float] = mapped_column(Float(53))
    source_datum: Mapped[str] = mapped_column(Text)
    position: Mapped[WKBElement] = mapped_column(Geography("POINT", 4326, spatial_index=False))
    radius_m: Mapped[int | None] = mapped_column(Integer, comment="null: the campaign's radius")
    trade_area: Mapped[WKBElement | None] = mapped_column(
        Geography("MULTIPOLYGON", 4326, spatial_index=False), comment="if set, it is the catchment instead of a circle"
    )
    opens: Mapped[time | None]
    closes: Mapped[time | None]
    closed_until: Mapped[datetime | None] = mapped_column(comment="temporarily closed until then")
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class LocationConsent(Table):
    """A viewer's separate consent to the use of their location (PIPL Art. 29), and which text they agreed to."""

    __tablename__ = "location_consents"

    viewer_id: Mapped[UUID] = mapped_column(ForeignKey("members.id", ondelete="CASCADE"), primary_key=True)
    version: Mapped[str] = mapped_column(Text)
    given_at: Mapped[datetime]
    withdrawn_at: Mapped[datetime | None]


class FormerConsent(Table):
    """A consent that another one took the place of, kept as proof. Not withdrawn: it held until the next was given."""

    __tablename__ = "former_location_consents"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    viewer_id: Mapped[UUID] = mapped_column(ForeignKey("members.id", ondelete="CASCADE"), index=True)
    version: Mapped[str] = mapped_column(Text)
    given_at: Mapped[datetime]
    withdrawn_at: Mapped[datetime | None]


class Location(Table):
    """The newest fix of a viewer in a room. Unlogged: a crash of the database may and should forget it."""

    __tablename__ = "locations"
    __table_args__ = (
        # A drop's question: who in this room is within reach of these stores?
        Index("ix_locations_position", "position", postgresql_using="gist"),
        Index("ix_locations_fixed_at", "fixed_at"),
        # Doubt's question: how many in this room have sent these very digits?
        Index("ix_locations_digits", "room_id", "digits"),
        {"prefixes": ["UNLOGGED"]},
    )

    room_id: Mapped[UUID] = mapped_column(primary_key=True)
    viewer_id: Mapped[UUID] = mapped_column(primary_key=True, index=True)
    position: Mapped[WKBElement] = mapped_column(
        Geography("POINT", 4326, spatial_index=False), comment="stays where it is while fixes only tremble"
    )
    accuracy_m: Mapped[float] = mapped_column(REAL)
    fixed_at: Mapped[datetime]
    digits: Mapped[int | None] = mapped_column(BigInteger, comment="hash of the newest fix as it was given")
    repeats: Mapped[int] = mapped_column(
        SmallInteger, server_default="0", comment="how many fixes before it had the very same digits"
    )
    doubt: Mapped[str | None] = mapped_column(
        Text, comment="the signs that together make the viewer implausible, with + between them; see geo.doubt"
    )
    doubted_at: Mapped[datetime | None] = mapped_column(comment="when that was last seen; doubt outlives one good fix")


class Doubt(Table):
    """A sign that a viewer is not where their fixes say, for ops to look at. Holds no position."""

    __tablename__ = "doubts"
    __table_args__ = (
        CheckConstraint("sign IN ('jumped', 'frozen', 'shared')", name="sign"),
        Index("ix_doubts_brand", "brand_id", "last_at"),
    )

    room_id: Mapped[UUID] = mapped_column(primary_key=True)
    viewer_id: Mapped[UUID] = mapped_column(ForeignKey("members.id", ondelete="CASCADE"), primary_key=True, index=True)
    sign: Mapped[str] = mapped_column(Text, primary_key=True)
    brand_id: Mapped[str] = mapped_column(Text)
    first_at: Mapped[datetime]
    last_at: Mapped[datetime] = mapped_column(index=True)
