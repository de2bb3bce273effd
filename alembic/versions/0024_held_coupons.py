"""A coupon that a push drop gave in quiet hours is shown to its owner when they end."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

COMMENTS = {
    "drops": "push, opened in quiet hours: when they end",
    "coupons": "given in quiet hours; null: its owner was told of it",
}


def upgrade() -> None:
    for table, says in COMMENTS.items():
        column = sa.Column("held_until", sa.DateTime(timezone=True), nullable=True, comment=says)
        op.add_column(table, column)
    op.execute("COMMENT ON COLUMN brands.quiet_claims IS 'do claims, too, hold only from their end on'")
    op.create_check_constraint(op.f("ck_coupons_held"), "coupons", "held_until <= valid_from")
    op.create_index("ix_coupons_held", "coupons", ["held_until"], postgresql_where="held_until IS NOT NULL")


def downgrade() -> None:
    op.drop_column("coupons", "held_until")
    op.drop_column("drops", "held_until")
    op.execute("COMMENT ON COLUMN brands.quiet_claims IS 'are claims refused then, too'")
