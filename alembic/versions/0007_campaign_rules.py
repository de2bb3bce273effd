"""Rules of brands and campaigns: cap, quiet claims, coupons a day, hours at the till, segments, doubt, distance"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_CHECKS = {
    "brands": {
        "quiet": "(quiet_from IS NULL) = (quiet_until IS NULL) AND quiet_from <> quiet_until",
        "cap": "(cap_coupons IS NULL) = (cap_days IS NULL)",
    },
    "campaigns": {
        "per_day": "day_issued >= 0 AND (per_day IS NULL OR day_issued <= per_day)",
        "usable": "(usable_from IS NULL) = (usable_until IS NULL)",
        "segments": "segments <@ ARRAY['new', 'once', 'often', 'vip']",
        "reserve": "reserve_percent BETWEEN 0 AND 90",
        "doubt": "doubt IN ('allow', 'refuse')",
    },
}


def _columns() -> dict[str, list[sa.Column]]:
    per_day = "coupons a day of the brand's calendar; null: no limit"
    usable = "hours of the brand's day in which tills take it"
    tiers = "amounts by distance, nearest first: {within_m, amount_fen}; farther away: amount_fen"
    per_minute = "coupons a minute of each push drop; null: no limit"
    reserve = "of a push drop, for those who come into reach later"
    again = "push: somebody who came later waits"
    minute = "push: the newest of its minutes that gave coupons, from 0"
    own = "its own, by distance; null: the campaign's"
    return {
        "brands": [
            sa.Column(
                "quiet_claims",
                sa.Boolean(),
                server_default="false",
                nullable=False,
                comment="are claims refused then, too",
            ),
            sa.Column(
                "cap_coupons", sa.SmallInteger(), nullable=True, comment="a viewer's, of all campaigns, in `cap_days`"
            ),
            sa.Column("cap_days", sa.SmallInteger(), nullable=True),
            sa.Column("guide_drops_a_day", sa.SmallInteger(), nullable=True, comment="of each guide; null: no limit"),
        ],
        "campaigns": [
            sa.Column("per_day", sa.Integer(), nullable=True, comment=per_day),
            sa.Column("per_minute", sa.Integer(), nullable=True, comment=per_minute),
            sa.Column("reserve_percent", sa.SmallInteger(), server_default="0", nullable=False, comment=reserve),
            sa.Column("day", sa.Date(), nullable=True, comment="the newest day that gave coupons"),
            sa.Column("day_issued", sa.Integer(), server_default="0", nullable=False, comment="coupons given on `day`"),
            sa.Column("segments", sa.ARRAY(sa.Text()), nullable=True, comment="who may have it; null: everybody"),
            sa.Column(
                "doubt", sa.Text(), server_default="allow", nullable=False, comment="what an implausible fix does"
            ),
            sa.Column("distance_tiers", postgresql.JSONB(), nullable=True, comment=tiers),
            sa.Column("usable_from", sa.Time(), nullable=True, comment=usable),
            sa.Column("usable_until", sa.Time(), nullable=True),
        ],
        "drops": [
            sa.Column("match_again", sa.Boolean(), server_default="false", nullable=False, comment=again),
            sa.Column("minute", sa.Integer(), nullable=True, comment=minute),
            sa.Column(
                "minute_issued", sa.Integer(), server_default="0", nullable=False, comment="coupons given in `minute`"
            ),
        ],
        "coupons": [sa.Column("amount_fen", sa.BigInteger(), nullable=True, comment=own)],
    }


def upgrade() -> None:
    for table, columns in _columns().items():
        for column in columns:
            op.add_column(table, column)
    for table, checks in _CHECKS.items():
        for name, condition in checks.items():
            op.create_check_constraint(op.f(f"ck_{table}_{name}"), table, condition)
    op.create_index("ix_drops_by", "drops", ["by", "created_at"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_drops_by", table_name="drops")
    for table, checks in _CHECKS.items():
        for name in checks:
            op.drop_constraint(op.f(f"ck_{table}_{name}"), table, type_="check")
    for table, columns in _columns().items():
        for column in reversed(columns):
            op.drop_column(table, column.name)
