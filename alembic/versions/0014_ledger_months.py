"""The ledger is partitioned by the month, in UTC, in which a line's transition happened"""

from datetime import date

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

COLUMNS = "id, coupon_id, transition, at, actor, redemption_id, told_at"
AHEAD = 3


def upgrade() -> None:
    _set_aside()
    _create(sa.PrimaryKeyConstraint("id", "at", name=op.f("pk_ledger")), postgresql_partition_by="RANGE (at)")
    op.execute("CREATE TABLE ledger_default PARTITION OF ledger DEFAULT")
    for month in _months():
        op.execute(
            f"CREATE TABLE ledger_{month:%Y_%m} PARTITION OF ledger"
            f" FOR VALUES FROM ('{month} 00:00+00') TO ('{_after(month)} 00:00+00')"
        )
    _move()


def downgrade() -> None:
    _set_aside()
    _create(sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger")))
    _move()


def _set_aside() -> None:
    # Constraints, indexes and sequences of a schema share their names.
    op.execute("ALTER TABLE ledger RENAME TO ledger_former")
    op.execute("ALTER INDEX pk_ledger RENAME TO pk_ledger_former")
    op.execute("ALTER INDEX ix_ledger_coupon RENAME TO ix_ledger_former_coupon")
    op.execute("ALTER SEQUENCE ledger_id_seq RENAME TO ledger_former_id_seq")


def _create(key: sa.PrimaryKeyConstraint, **how: str) -> None:
    op.create_table(
        "ledger",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("coupon_id", sa.Uuid(), nullable=False),
        sa.Column("transition", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("actor", sa.Uuid(), nullable=True, comment="null: the system"),
        sa.Column("redemption_id", sa.Uuid(), nullable=True),
        sa.Column(
            "told_at", sa.DateTime(timezone=True), nullable=True, comment="null: at once; else the till had no network"
        ),
        sa.CheckConstraint(
            "transition IN ('issue', 'redeem', 'reverse', 'expire', 'void')", name=op.f("ck_ledger_transition")
        ),
        key,
        **how,
    )


def _move() -> None:
    op.execute(f"INSERT INTO ledger ({COLUMNS}) SELECT {COLUMNS} FROM ledger_former ORDER BY id")
    # Identifiers go on where they were: webhooks remember how far they have read.
    op.execute("SELECT setval('ledger_id_seq', last_value, is_called) FROM ledger_former_id_seq")
    op.execute("DROP TABLE ledger_former")
    op.create_index("ix_ledger_coupon", "ledger", ["coupon_id", "id"], unique=False)


def _months() -> list[date]:
    """Those that have lines, this one, and the next ones."""
    found = op.get_bind().execute(
        sa.text(
            "SELECT date_trunc('month', at AT TIME ZONE 'UTC')::date FROM ledger_former WHERE isfinite(at)"
            " UNION SELECT (date_trunc('month', now() AT TIME ZONE 'UTC') + n * interval '1 month')::date"
            f" FROM generate_series(0, {AHEAD}) AS n ORDER BY 1"
        )
    )
    return list(found.scalars())


def _after(month: date) -> date:
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)
