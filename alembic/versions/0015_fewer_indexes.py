"""Fewer indexes on what every coupon writes, and room for counters to be updated in place"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

COUNTED = ("campaigns", "drops", "campaign_stores")


def upgrade() -> None:
    # Led by the viewer it is the rule and the wallet's index in one. The new one stands before the old one goes.
    op.create_unique_constraint(
        op.f("uq_coupons_viewer_id_campaign_id_n"), "coupons", ["viewer_id", "campaign_id", "n"]
    )
    op.drop_constraint(op.f("uq_coupons_campaign_id_viewer_id_n"), "coupons", type_="unique")
    op.drop_index("ix_coupons_viewer", "coupons")
    op.drop_index("ix_coupons_store", "coupons")
    op.drop_constraint(op.f("pk_drop_viewers"), "drop_viewers", type_="primary")
    op.create_primary_key(op.f("pk_drop_viewers"), "drop_viewers", ["viewer_id", "drop_id"])
    op.drop_index(op.f("ix_drop_viewers_viewer_id"), "drop_viewers")
    op.drop_index("ix_coupons_drop", "coupons")
    for table in COUNTED:
        op.execute(f"ALTER TABLE {table} SET (fillfactor = 50)")


def downgrade() -> None:
    for table in COUNTED:
        op.execute(f"ALTER TABLE {table} RESET (fillfactor)")
    op.create_index(op.f("ix_drop_viewers_viewer_id"), "drop_viewers", ["viewer_id"])
    op.drop_constraint(op.f("pk_drop_viewers"), "drop_viewers", type_="primary")
    op.create_primary_key(op.f("pk_drop_viewers"), "drop_viewers", ["drop_id", "viewer_id"])
    op.create_index("ix_coupons_store", "coupons", ["store_id"])
    op.create_index("ix_coupons_drop", "coupons", ["drop_id"])
    op.create_index("ix_coupons_viewer", "coupons", ["viewer_id", "valid_until"])
    op.create_unique_constraint(
        op.f("uq_coupons_campaign_id_viewer_id_n"), "coupons", ["campaign_id", "viewer_id", "n"]
    )
    op.drop_constraint(op.f("uq_coupons_viewer_id_campaign_id_n"), "coupons", type_="unique")
