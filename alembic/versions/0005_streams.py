"""Streams: the changeable half of a stream's name, and who is publishing"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    nonce = sa.Column(
        "stream_nonce",
        sa.Uuid(),
        server_default=sa.text("gen_random_uuid()"),
        nullable=False,
        comment="half of the stream's name; a new one ends all addresses given out",
    )
    op.add_column("rooms", nonce)
    op.create_table(
        "publications",
        sa.Column("room_id", sa.Uuid(), nullable=False),
        sa.Column("client", sa.Text(), nullable=False, comment="the media server's own name for it"),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "heard_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="last sign of life; null: its server gives none",
        ),
        sa.ForeignKeyConstraint(
            ["room_id"], ["rooms.id"], name=op.f("fk_publications_room_id_rooms"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("room_id", "client", name=op.f("pk_publications")),
    )
    op.create_index("ix_publications_heard_at", "publications", ["heard_at"], unique=False)


def downgrade() -> None:
    op.drop_table("publications")
    op.drop_column("rooms", "stream_nonce")
