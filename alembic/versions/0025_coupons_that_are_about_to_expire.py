"""The ledger says of which coupons a brand's CRM was told that they are about to expire."""

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

NAME = op.f("ck_ledger_transition")


def upgrade() -> None:
    op.drop_constraint(NAME, "ledger")
    op.create_check_constraint(
        NAME, "ledger", "transition IN ('issue', 'remind', 'redeem', 'reverse', 'expire', 'void')"
    )


def downgrade() -> None:
    op.execute("DELETE FROM ledger WHERE transition = 'remind'")
    op.drop_constraint(NAME, "ledger")
    op.create_check_constraint(NAME, "ledger", "transition IN ('issue', 'redeem', 'reverse', 'expire', 'void')")
