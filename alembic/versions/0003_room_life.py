"""The life of a room: pauses, guides and streams that are lost, reminders, figures that outlive Redis"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)
_CHECKS = {
    "pause_cause": "pause_cause IN ('guide', 'loss')",
    "paused": "(paused_at IS NULL) = (pause_cause IS NULL)",
    "paused_live": "paused_at IS NULL OR state = 'live'",
    "stream_state": "stream_state IN ('on', 'off')",
    "stream_lost": "(stream_lost_at IS NOT NULL) = (stream_state IS NOT DISTINCT FROM 'off')",
}


def _columns() -> list[sa.Column]:
    cause = "what was lost comes back by itself, a guide by `start`"
    seen = "when a gateway last had a socket of the room's guide"
    read = "Redis' own figure when `likes` was brought up to date"
    return [
        sa.Column("paused_at", _MOMENT, nullable=True),
        sa.Column("pause_cause", sa.Text(), nullable=True, comment=cause),
        sa.Column(
            "paused_ms", sa.BigInteger(), server_default="0", nullable=False, comment="of all pauses that are over"
        ),
        sa.Column("guide_seen_at", _MOMENT, nullable=True, comment=seen),
        sa.Column("stream_state", sa.Text(), nullable=True, comment="null: no stream that counts"),
        sa.Column("stream_lost_at", _MOMENT, nullable=True),
        sa.Column("viewers_peak", sa.Integer(), server_default="0", nullable=False),
        sa.Column("likes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("likes_read", sa.BigInteger(), server_default="0", nullable=False, comment=read),
    ]


def upgrade() -> None:
    for column in _columns():
        op.add_column("rooms", column)
    for name, condition in _CHECKS.items():
        op.create_check_constraint(op.f(f"ck_rooms_{name}"), "rooms", condition)
    op.create_index(
        "ix_rooms_scheduled_at", "rooms", ["scheduled_at"], unique=False,
        postgresql_where="state = 'scheduled'",
    )  # fmt: skip
    op.create_table(
        "reminders",
        sa.Column("room_id", sa.Uuid(), nullable=False),
        sa.Column("viewer_id", sa.Uuid(), nullable=False),
        sa.Column("at", _MOMENT, server_default=sa.text("now()"), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column(
            "taken_until", _MOMENT, nullable=True, comment="a worker is sending it, or it is not to be tried before"
        ),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("settled_at", _MOMENT, nullable=True),
        sa.CheckConstraint("outcome IN ('sent', 'refused', 'unknown', 'failed')", name=op.f("ck_reminders_outcome")),
        sa.ForeignKeyConstraint(["room_id"], ["rooms.id"], name=op.f("fk_reminders_room_id_rooms"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("room_id", "viewer_id", name=op.f("pk_reminders")),
    )
    op.create_index(
        "ix_reminders_open", "reminders", ["room_id"], unique=False, postgresql_where="outcome IS NULL"
    )  # fmt: skip


def downgrade() -> None:
    op.drop_table("reminders")
    op.drop_index("ix_rooms_scheduled_at", table_name="rooms")
    for name in _CHECKS:
        op.drop_constraint(op.f(f"ck_rooms_{name}"), "rooms", type_="check")
    for column in reversed(_columns()):
        op.drop_column("rooms", column.name)
