"""Stores that are closed for the time being have an index of their own.

Each batch of claims asks which they are, before it asks anything else.
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_stores_closed", "stores", ["brand_id"], postgresql_where=sa.text("closed_until IS NOT NULL"))


def downgrade() -> None:
    op.drop_index("ix_stores_closed", "stores")
