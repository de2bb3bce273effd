"""The till: orders and how many coupons they take, redemptions told later, a store's day"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TOLD = "null: at once; else the till had no network"


def upgrade() -> None:
    op.add_column("redemptions", sa.Column("order_ref", sa.Text(), comment="the order, as the store names it"))
    op.add_column("redemptions", sa.Column("told_at", sa.DateTime(timezone=True), comment=TOLD))
    op.add_column("ledger", sa.Column("told_at", sa.DateTime(timezone=True), comment=TOLD))
    op.alter_column("redemptions", "at", comment="when it happened at the till")
    op.create_index(
        "ix_redemptions_order",
        "redemptions",
        ["store_id", "order_ref"],
        postgresql_where=sa.text("order_ref IS NOT NULL AND reversed_at IS NULL"),
    )
    op.create_index("ix_redemptions_day", "redemptions", ["store_id", "at"])
    op.create_index(
        "ix_redemptions_reversed",
        "redemptions",
        ["store_id", "reversed_at"],
        postgresql_where=sa.text("reversed_at IS NOT NULL"),
    )
    op.create_table(
        "till_rules",
        sa.Column("brand_id", sa.Text(), nullable=False),
        sa.Column("discounts", sa.SmallInteger(), nullable=False),
        sa.Column("gifts", sa.SmallInteger(), nullable=False),
        sa.Column("order_required", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["brand_id"], ["brands.id"], name=op.f("fk_till_rules_brand_id_brands")),
        sa.PrimaryKeyConstraint("brand_id", name=op.f("pk_till_rules")),
    )


def downgrade() -> None:
    op.drop_table("till_rules")
    for index in ("reversed", "day", "order"):
        op.drop_index(f"ix_redemptions_{index}", "redemptions")
    op.alter_column("redemptions", "at", comment=None)
    op.drop_column("ledger", "told_at")
    op.drop_column("redemptions", "told_at")
    op.drop_column("redemptions", "order_ref")
