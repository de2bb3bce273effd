"""An index by drop of what drops decided and retention forgets; issuing does not write to it"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_drop_viewers_forgotten", "drop_viewers", ["drop_id"], postgresql_where=sa.text("outcome <> 'issued'")
    )


def downgrade() -> None:
    op.drop_index("ix_drop_viewers_forgotten", "drop_viewers")
