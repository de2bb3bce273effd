"""Campaigns whose coupons only stores give that are within their opening hours."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    column = sa.Column(
        "only_open", sa.Boolean, nullable=False, server_default="false", comment="only stores within their hours give"
    )
    op.add_column("campaigns", column)


def downgrade() -> None:
    op.drop_column("campaigns", "only_open")
