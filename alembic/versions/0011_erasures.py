"""Erasures: whose tokens are refused, and until when it is looked for what came in late"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "erasures",
        sa.Column("subject", sa.Uuid(), nullable=False),
        sa.Column("brand_id", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sweeps", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True, comment="of the next sweep; null: no more"),
        sa.PrimaryKeyConstraint("subject", name=op.f("pk_erasures")),
    )
    op.create_index(op.f("ix_erasures_at"), "erasures", ["at"])
    op.create_index("ix_erasures_due", "erasures", ["due_at"], postgresql_where=sa.text("due_at IS NOT NULL"))
    # What the retention job looks for; all other old rows it finds through their room or drop.
    op.create_index(op.f("ix_visits_at"), "visits", ["at"])


def downgrade() -> None:
    op.drop_index(op.f("ix_visits_at"), "visits")
    op.drop_table("erasures")
