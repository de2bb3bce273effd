"""Moderation: mutes of a whole brand, mute of a room, reported comments, word lists"""

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
    op.create_table(
        "reported_comments",
        sa.Column("comment_id", sa.Uuid(), nullable=False),
        sa.Column("brand_id", sa.Text(), nullable=False),
        sa.Column("room_id", sa.Uuid(), nullable=False),
        sa.Column("reports", sa.Integer(), nullable=False, comment="how many viewers reported it"),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resolved_by", sa.Uuid(), nullable=True),
        sa.CheckConstraint("verdict IN ('delete', 'keep')", name=op.f("ck_reported_comments_verdict")),
        sa.CheckConstraint("(verdict IS NULL) = (resolved_at IS NULL)", name=op.f("ck_reported_comments_resolved")),
        sa.ForeignKeyConstraint(
            ["comment_id"], ["comments.id"], name=op.f("fk_reported_comments_comment_id_comments"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["brand_id"], ["brands.id"], name=op.f("fk_reported_comments_brand_id_brands")),
        sa.ForeignKeyConstraint(
            ["room_id"], ["rooms.id"], name=op.f("fk_reported_comments_room_id_rooms"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("comment_id", name=op.f("pk_reported_comments")),
    )
    op.create_index(op.f("ix_reported_comments_room_id"), "reported_comments", ["room_id"], unique=False)
    for name, condition in (("open", "verdict IS NULL"), ("resolved", "verdict IS NOT NULL")):
        op.create_index(
            f"ix_reported_comments_{name}", "reported_comments", ["brand_id", "comment_id"], unique=False,
            postgresql_where=condition,
        )  # fmt: skip
    op.create_table(
        "reports",
        sa.Column("comment_id", sa.Uuid(), nullable=False),
        sa.Column("viewer_id", sa.Uuid(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["comment_id"], ["reported_comments.comment_id"], name=op.f("fk_reports_comment_id_reported_comments"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("comment_id", "viewer_id", name=op.f("pk_reports")),
    )  # fmt: skip
    op.create_table(
        "brand_words",
        sa.Column("brand_id", sa.Text(), nullable=False),
        sa.Column("words", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("revision", sa.Uuid(), nullable=False, comment="new with every change"),
        sa.Column("by", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["brand_id"], ["brands.id"], name=op.f("fk_brand_words_brand_id_brands")),
        sa.PrimaryKeyConstraint("brand_id", name=op.f("pk_brand_words")),
    )


def downgrade() -> None:
    op.drop_table("brand_words")
    op.drop_table("reports")
    op.drop_table("reported_comments")
    op.drop_column("rooms", "allow")
    op.drop_column("rooms", "hushed")
    op.drop_table("brand_mutes")
