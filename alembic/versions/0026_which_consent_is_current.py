"""A brand says which version of its text on location viewers must have agreed to."""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "brands",
        sa.Column(
            "location_consent",
            sa.Text(),
            nullable=True,
            comment="the version of its text that viewers must have agreed to; null: any",
        ),
    )


def downgrade() -> None:
    op.drop_column("brands", "location_consent")
