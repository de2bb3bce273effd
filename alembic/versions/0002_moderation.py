"""Moderation: mutes of a whole brand, mute of a room"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "brand_mutes",
        sa.Column("brand_id", sa.Text(), nullable=False),
        sa.Column("viewer_id", sa.Uuid(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("by", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["brand_id"], ["brands.id"], name=op.f("fk_brand_mutes_brand_id_brands")),
        sa.PrimaryKeyConstraint("brand_id", "viewer_id", name=op.f("pk_brand_mutes")),
    )
    hushed = sa.Column(
        "hushed", sa.Boolean(), server_default="false", nullable=False, comment="only staff and `allow` may comment"
    )
    op.add_column("rooms", hushed)
    op.add_column("rooms", sa.Column("allow", sa.ARRAY(sa.Uuid()), server_default="{}", nullable=False))


def downgrade() -> None:
    op.drop_column("rooms", "allow")
    op.drop_column("rooms", "hushed")
    op.drop_table("brand_mutes")
