"""Doubts: signs that a viewer is elsewhere, kept for review; fixes remember their digits"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

COMMENTS = {
    "position": (None, "stays where it is while fixes only tremble"),
    "doubt": (
        "`jumped` or `frozen`: why the fix is implausible, if it is",
        "the signs that together make the viewer implausible, with + between them; see geo.doubt",
    ),
}


def upgrade() -> None:
    op.create_table(
        "doubts",
        sa.Column("room_id", sa.Uuid(), nullable=False),
        sa.Column("viewer_id", sa.Uuid(), nullable=False),
        sa.Column("sign", sa.Text(), nullable=False),
        sa.Column("brand_id", sa.Text(), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("sign IN ('jumped', 'frozen', 'shared')", name=op.f("ck_doubts_sign")),
        sa.ForeignKeyConstraint(
            ["viewer_id"], ["members.id"], name=op.f("fk_doubts_viewer_id_members"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("room_id", "viewer_id", "sign", name=op.f("pk_doubts")),
    )
    op.create_index("ix_doubts_brand", "doubts", ["brand_id", "last_at"])
    op.create_index(op.f("ix_doubts_last_at"), "doubts", ["last_at"])
    op.create_index(op.f("ix_doubts_viewer_id"), "doubts", ["viewer_id"])
    comment = "hash of the newest fix as it was given"
    op.add_column("locations", sa.Column("digits", sa.BigInteger(), nullable=True, comment=comment))
    op.create_index("ix_locations_digits", "locations", ["room_id", "digits"])
    _comment(1)


def downgrade() -> None:
    _comment(0)
    op.drop_index("ix_locations_digits", "locations")
    op.drop_column("locations", "digits")
    op.drop_table("doubts")


def _comment(which: int) -> None:
    for column, comments in COMMENTS.items():
        text = f"'{comments[which]}'" if comments[which] else "NULL"
        op.execute(f"COMMENT ON COLUMN locations.{column} IS {text}")
