"""Reviews: coupons that would go to doubtful viewers wait for somebody of ops"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def _moment(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _doubts(allowed: str) -> None:
    op.drop_constraint(op.f("ck_campaigns_doubt"), "campaigns")
    op.create_check_constraint(op.f("ck_campaigns_doubt"), "campaigns", f"doubt IN ({allowed})")


def upgrade() -> None:
    _doubts("'allow', 'review', 'refuse'")
    op.create_table(
        "reviews",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("brand_id", sa.Text(), nullable=False),
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("drop_id", sa.Uuid(), nullable=False),
        sa.Column("room_id", sa.Uuid(), nullable=False),
        sa.Column("viewer_id", sa.Uuid(), nullable=False),
        sa.Column("store_id", sa.Uuid(), nullable=False),
        sa.Column("within_m", sa.Integer(), nullable=False, comment="the distance, as coarse as band and amount allow"),
        sa.Column("claim_key", sa.Text(), nullable=True, comment="the claim's id: its retry finds the coupon"),
        sa.Column(
            "signs",
            postgresql.ARRAY(sa.Text()),
            nullable=False,
            comment="what made the fix implausible; see geo.doubt",
        ),
        sa.Column("state", sa.Text(), server_default="open", nullable=False),
        _moment("asked_at"),
        _moment("expires_at"),
        _moment("decided_at", nullable=True),
        sa.Column("decided_by", sa.Uuid(), nullable=True, comment="null: nobody, it expired"),
        sa.Column("coupon_id", sa.Uuid(), nullable=True),
        sa.CheckConstraint("state IN ('open', 'granted', 'declined', 'expired')", name=op.f("ck_reviews_state")),
        sa.CheckConstraint("(state = 'open') = (decided_at IS NULL)", name=op.f("ck_reviews_decided")),
        sa.CheckConstraint(
            "(state IN ('granted', 'declined')) = (decided_by IS NOT NULL)", name=op.f("ck_reviews_decided_by")
        ),
        sa.CheckConstraint("(state = 'granted') = (coupon_id IS NOT NULL)", name=op.f("ck_reviews_coupon")),
        sa.ForeignKeyConstraint(
            ["viewer_id"], ["members.id"], name=op.f("fk_reviews_viewer_id_members"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reviews")),
        sa.UniqueConstraint("drop_id", "viewer_id", name=op.f("uq_reviews_drop_id_viewer_id")),
    )
    op.create_index(op.f("ix_reviews_viewer_id"), "reviews", ["viewer_id"])
    still = sa.text("state = 'open'")
    op.create_index("ix_reviews_open", "reviews", ["brand_id", "asked_at", "id"], postgresql_where=still)
    op.create_index("ix_reviews_expiring", "reviews", ["expires_at"], postgresql_where=still)
    op.create_index(
        "ix_reviews_settled",
        "reviews",
        ["brand_id", "decided_at", "id"],
        postgresql_where=sa.text("state <> 'open'"),
    )


def downgrade() -> None:
    op.drop_table("reviews")
    op.execute("UPDATE campaigns SET doubt = 'refuse' WHERE doubt = 'review'")
    _doubts("'allow', 'refuse'")
