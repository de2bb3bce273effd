"""A drop counts its decisions, so that a push notices whether anybody else has decided since it matched"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "drops",
        sa.Column(
            "decided",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="decisions written so far: whoever matched before can tell whether there are newer ones",
        ),
    )
    op.execute(
        "UPDATE drops SET decided = (SELECT count(*) FROM drop_viewers v WHERE v.drop_id = drops.id)"
        " WHERE state = 'open'"
    )


def downgrade() -> None:
    op.drop_column("drops", "decided")
