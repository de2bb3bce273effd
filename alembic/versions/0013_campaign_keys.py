"""Campaigns have a name of the brand's own, by which imports find them, and may be WeChat cards; openings are
spread and signed"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    comment = "the brand's own name for it: imports find it by this"
    op.add_column("campaigns", sa.Column("key", sa.Text(), nullable=True, comment=comment))
    op.create_unique_constraint(op.f("uq_campaigns_brand_id_key"), "campaigns", ["brand_id", "key"])
    comment = "WeChat's id of the card that its coupons are"
    op.add_column("campaigns", sa.Column("wechat_card", sa.Text(), nullable=True, comment=comment))
    comment = "claim: turns begin within so long after opens_at"
    op.add_column(
        "drops", sa.Column("spread_ms", sa.SmallInteger(), server_default="0", nullable=False, comment=comment)
    )
    comment = "of the opening; null: no key was there"
    op.add_column("drops", sa.Column("signature", sa.Text(), nullable=True, comment=comment))


def downgrade() -> None:
    op.drop_column("drops", "signature")
    op.drop_column("drops", "spread_ms")
    op.drop_column("campaigns", "wechat_card")
    op.drop_constraint(op.f("uq_campaigns_brand_id_key"), "campaigns")
    op.drop_column("campaigns", "key")
