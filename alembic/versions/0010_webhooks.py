"""Webhooks: where a brand's CRM hears of its coupons; expired coupons that may be given again; reminders"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

COMMENTS = (
    ("campaigns", "stock", "coupons that may ever be issued; each that is returned adds one"),
    ("campaign_stores", "quota", "as a campaign's stock"),
)


def _moment(name: str, **more: object) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), **{"nullable": True, **more})  # type: ignore[arg-type]


def upgrade() -> None:
    now = sa.text("now()")
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("brand_id", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False, comment="what a signature is made with, so it cannot be a hash"),
        sa.Column("old_key_id", sa.Text(), nullable=True),
        sa.Column("old_secret", sa.Text(), nullable=True, comment="signs beside the new one until old_until"),
        _moment("old_until"),
        sa.Column("state", sa.Text(), server_default="active", nullable=False),
        sa.Column("pause_reason", sa.Text(), nullable=True),
        sa.Column("cursor", sa.BigInteger(), server_default="0", nullable=False),
        _moment("delivered_at", comment="the last call that was answered with a success"),
        sa.Column(
            "failures", sa.Integer(), server_default="0", nullable=False, comment="calls since then that were not"
        ),
        _moment("failing_since"),
        sa.Column("last_status", sa.SmallInteger(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        _moment("due_at", server_default=now, nullable=False, comment="not called before"),
        sa.Column("taken_by", sa.Uuid(), nullable=True),
        _moment("taken_until"),
        sa.Column("created_by", sa.Uuid(), nullable=False),
        _moment("created_at", server_default=now, nullable=False),
        sa.CheckConstraint("state IN ('active', 'paused')", name=op.f("ck_webhooks_state")),
        sa.CheckConstraint("(state = 'paused') = (pause_reason IS NOT NULL)", name=op.f("ck_webhooks_pause_reason")),
        sa.CheckConstraint("pause_reason IN ('ops', 'gone', 'failing')", name=op.f("ck_webhooks_why_paused")),
        sa.ForeignKeyConstraint(["brand_id"], ["brands.id"], name=op.f("fk_webhooks_brand_id_brands")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index("ix_webhooks_brand_id", "webhooks", ["brand_id"], unique=False)
    op.create_table(
        "coupon_reminders",
        sa.Column("coupon_id", sa.Uuid(), nullable=False),
        _moment("due_at", nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        _moment("taken_until", comment="a worker is sending it, or it is not to be tried before"),
        sa.Column("outcome", sa.Text(), nullable=True),
        _moment("settled_at"),
        sa.CheckConstraint(
            "outcome IN ('sent', 'refused', 'unknown', 'failed')", name=op.f("ck_coupon_reminders_outcome")
        ),
        sa.ForeignKeyConstraint(
            ["coupon_id"], ["coupons.id"], name=op.f("fk_coupon_reminders_coupon_id_coupons"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("coupon_id", name=op.f("pk_coupon_reminders")),
    )
    op.create_index(
        "ix_coupon_reminders_open",
        "coupon_reminders",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("outcome IS NULL"),
    )
    op.add_column(
        "campaigns",
        sa.Column(
            "return_expired",
            sa.Boolean(),
            server_default="false",
            nullable=False,
            comment="expired coupons may be given again",
        ),
    )
    for table in ("campaigns", "campaign_stores"):
        op.add_column(table, sa.Column("returned", sa.Integer(), server_default="0", nullable=False))
        op.create_check_constraint(op.f(f"ck_{table}_returned"), table, "returned BETWEEN 0 AND issued")
    for table, column, comment in COMMENTS:
        op.alter_column(table, column, comment=comment)


def downgrade() -> None:
    for table, column, _ in COMMENTS:
        op.alter_column(table, column, comment=None)
    for table in ("campaigns", "campaign_stores"):
        op.drop_constraint(op.f(f"ck_{table}_returned"), table)
        op.drop_column(table, "returned")
    op.drop_column("campaigns", "return_expired")
    op.drop_table("coupon_reminders")
    op.drop_table("webhooks")
