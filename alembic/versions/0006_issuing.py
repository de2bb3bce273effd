"""Issuing: no foreign keys on the tables that every claim writes, and events that are not compressed"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

DROPPED = {
    "coupons": ("brand_id_brands", "campaign_id_campaigns", "drop_id_drops", "room_id_rooms", "store_id_stores"),
    "drop_viewers": ("drop_id_drops", "store_id_stores"),
}


def upgrade() -> None:
    for table, keys in DROPPED.items():
        for key in keys:
            op.drop_constraint(op.f(f"fk_{table}_{key}"), table, type_="foreignkey")
    # An event is written, read once, and deleted hours later: compressing it costs more than it saves.
    op.execute("ALTER TABLE outbox ALTER COLUMN payload SET STORAGE EXTERNAL")


def downgrade() -> None:
    op.execute("ALTER TABLE outbox ALTER COLUMN payload SET STORAGE EXTENDED")
    for table, keys in DROPPED.items():
        for key in keys:
            column, _, parent = key.rpartition("_")
            op.create_foreign_key(op.f(f"fk_{table}_{key}"), table, parent, [column], ["id"])
