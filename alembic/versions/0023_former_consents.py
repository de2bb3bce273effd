"""A consent that another one takes the place of is kept, as proof of what was agreed to and when."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "former_location_consents",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("viewer_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("given_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["viewer_id"],
            ["members.id"],
            name=op.f("fk_former_location_consents_viewer_id_members"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_former_location_consents")),
    )
    op.create_index(op.f("ix_former_location_consents_viewer_id"), "former_location_consents", ["viewer_id"])


def downgrade() -> None:
    op.drop_table("former_location_consents")
