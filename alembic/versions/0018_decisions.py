"""What a drop decided about whoever got a coupon is said by the coupon: a view shows both, and issuing writes one"""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

# A viewer has one row of a drop: who was refused first and got one later got one, and so did who got several. Rows of
# `drop_viewers` that say 'issued' are those that versions before this one wrote, and may still write beside it.
_VIEW = """
    CREATE VIEW decisions AS
    SELECT v.drop_id, v.viewer_id, v.store_id, v.outcome, v.reason, v.distance_band_m, v.at
    FROM drop_viewers v
    WHERE v.outcome <> 'issued'
      AND NOT EXISTS (SELECT FROM coupons k WHERE k.drop_id = v.drop_id AND k.viewer_id = v.viewer_id)
    UNION ALL
    (
        SELECT DISTINCT ON (k.viewer_id, k.drop_id) k.drop_id, k.viewer_id, k.store_id, 'issued', NULL,
               k.distance_band_m, k.issued_at
        FROM coupons k
        ORDER BY k.viewer_id, k.drop_id, k.n
    )
"""


def upgrade() -> None:
    op.execute(_VIEW)


def downgrade() -> None:
    op.execute("DROP VIEW decisions")
    op.execute(
        "INSERT INTO drop_viewers AS v (drop_id, viewer_id, store_id, outcome, distance_band_m, at)"
        " SELECT DISTINCT ON (viewer_id, drop_id) drop_id, viewer_id, store_id, 'issued', distance_band_m, issued_at"
        " FROM coupons ORDER BY viewer_id, drop_id, n"
        " ON CONFLICT (viewer_id, drop_id) DO UPDATE SET outcome = 'issued', reason = NULL,"
        " store_id = excluded.store_id, distance_band_m = excluded.distance_band_m, at = excluded.at"
        " WHERE v.outcome <> 'issued'"
    )
