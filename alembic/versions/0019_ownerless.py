"""Coupons whose owner was erased say so: none of them may come back to life"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "coupons",
        sa.Column(
            "ownerless",
            sa.Boolean(),
            server_default=sa.false(),
            nullable=False,
            comment="its owner was erased: whatever becomes of it, nobody uses it again",
        ),
    )


def downgrade() -> None:
    op.drop_column("coupons", "ownerless")
