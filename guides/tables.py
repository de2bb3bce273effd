"""People: members who watch, staff who host or stand at the till, and which stores a guide serves."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, SmallInteger, Text, UniqueConstraint, Uuid, column, func, table
from sqlalchemy.orm import Mapped, mapped_column

from kernel.ids import new_id
from kernel.postgres import Table

# What the roster reads of stores, whose tables it must not import: `geo` stands beside `guides`.
shops = table("stores", column("id", Uuid), column("brand_id", Text), column("code", Text), column("name", Text))


class Member(Table):
    """A viewer, known by the mini-program's ``openid``. ``tier`` 0 is everybody, 3 the highest."""

    __tablename__ = "members"
    __table_args__ = (
        UniqueConstraint("brand_id", "openid"),
        CheckConstraint("tier BETWEEN 0 AND 3", name="tier"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    brand_id: Mapped[str] = mapped_column(ForeignKey("brands.id"))
    openid: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    tier: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    orders: Mapped[int] = mapped_column(server_default="0", comment="purchases known of; 0 is new to the brand")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Staff(Table):
    """A guide, clerk or ops account. A clerk stands at exactly one store's till."""

    __tablename__ = "staff"
    __table_args__ = (
        UniqueConstraint("brand_id", "account"),
        CheckConstraint("role IN ('guide', 'clerk', 'ops')", name="role"),
        CheckConstraint("(role = 'clerk') = (store_id IS NOT NULL)", name="clerk_store"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    brand_id: Mapped[str] = mapped_column(ForeignKey("brands.id"))
    account: Mapped[str] = mapped_column(Text, comment="the staff number or WeCom user id they sign in with")
    name: Mapped[str] = mapped_column(Text)
    role: Mapped[str] = mapped_column(Text)
    store_id: Mapped[UUID | None] = mapped_column(ForeignKey("stores.id"), index=True)
    openid: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class GuideStore(Table):
    """A guide serves a store."""

    __tablename__ = "guide_stores"

    guide_id: Mapped[UUID] = mapped_column(ForeignKey("staff.id"), primary_key=True)
    store_id: Mapped[UUID] = mapped_column(ForeignKey("stores.id"), primary_key=True, index=True)


class Binding(Table):
    """A member belongs to the guide who brought them; the newest binding counts."""

    __tablename__ = "bindings"

    member_id: Mapped[UUID] = mapped_column(ForeignKey("members.id"), primary_key=True)
    guide_id: Mapped[UUID] = mapped_column(ForeignKey("staff.id"), index=True)
    bound_at: Mapped[datetime] = mapped_column(server_default=func.now())
