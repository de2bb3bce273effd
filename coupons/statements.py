"""The SQL of ``coupons.granting``, which alone may run it: what it locks, writes and counts."""

from sqlalchemy import text

from kernel.outbox import TELL
from kernel.postgres import Question

# Whether a drop decided about a viewer: true or null. Who got a coupon is in its row, who got none in `drop_viewers`.
# Two probes, not joins: of a drop that has just begun the planner believes that hardly anybody was decided about, and
# would compare everybody with everybody.
DECIDED_ABOUT = """coalesce(
    (SELECT true FROM drop_viewers v WHERE v.viewer_id = {viewer} AND v.drop_id = {drop}),
    (SELECT true FROM coupons k WHERE k.viewer_id = {viewer} AND k.drop_id = {drop} LIMIT 1))"""

# A drop and all that decides about its coupons: one row, the same for who looks and who locks.
FACTS = """
    SELECT d.id AS drop_id, d.room_id, d.campaign_id, d.mode, d.stock - d.issued AS drop_left,
           d.state AS drop_state, d.end_reason, d.opens_at, d.spread_ms, d.ends_at, d.matched_at,
           d.stock AS drop_stock, d.decided AS drop_decided, c.issued AS campaign_issued,
           d.minute, d.minute_issued, c.per_minute, c.reserve_percent, c.brand_id,
           c.title, c.kind, c.amount_fen, c.threshold_fen, c.percent_off, c.gift, c.state AS campaign_state,
           c.stock - c.issued AS campaign_left, c.per_viewer, c.store_quota, c.all_stores, c.radius_m, c.near_counts,
           c.only_open, c.min_tier, c.holdout_percent, c.claim_from, c.claim_until, c.valid_from, c.valid_until,
           c.valid_days, c.per_day, c.day, c.day_issued, c.segments, c.doubt, c.distance_tiers, c.usable_from,
           c.usable_until, r.state AS room_state,
           b.timezone, b.quiet_from, b.quiet_until, b.quiet_claims, b.cap_coupons, b.cap_days,
           -- A day and a minute that were left behind give no more coupons, whichever transaction came first.
           greatest(clock_timestamp(), CAST(c.day AS timestamp) AT TIME ZONE b.timezone,
                    d.opens_at + d.minute * interval '1 minute') AS at
    FROM {first} drops d
    JOIN campaigns c ON c.id = d.campaign_id
    JOIN rooms r ON r.id = d.room_id
    JOIN brands b ON b.id = c.brand_id
    WHERE d.id = :drop
"""
MOVING = ("drop_left", "matched_at", "drop_decided", "campaign_issued", "minute", "minute_issued", "campaign_left",
          "day", "day_issued", "at")  # fmt: skip
"""Of these facts, those that change with every coupon, or by the clock."""

# The brand's row is locked first, while the others are still being looked for; a brand without a cap is not locked.
LOCK = text(
    """
    WITH capped AS MATERIALIZED (
        SELECT b.id FROM drops d JOIN campaigns c ON c.id = d.campaign_id JOIN brands b ON b.id = c.brand_id
        WHERE d.id = :drop AND b.cap_coupons IS NOT NULL FOR NO KEY UPDATE OF b
    )
    """
    + FACTS.format(first="(SELECT count(*) FROM capped) AS brand_first CROSS JOIN")
    + " FOR NO KEY UPDATE OF c, d"
)

# What the facts say, but for what is `MOVING`, as a short text.
TERMS = f"md5(CAST(to_jsonb({{facts}}) - CAST('{{{{{','.join(MOVING)}}}}}' AS text[]) AS text))"

# What is the same for all coupons comes as an empty array: `unnest` fills up with nulls. Stores come once and are
# referred to by number, for reading an identifier costs a tenth of writing a coupon. In the select list the arrays are
# read as they are needed; in FROM, PostgreSQL would write each of them down first, which costs a twentieth.
_WRITE = """
    known AS MATERIALIZED (SELECT CAST(:known AS uuid[]) AS stores), wanted AS (
        SELECT unnest(CAST(:ids AS uuid[])) AS id,
               unnest(CAST(:viewers AS uuid[])) AS viewer_id,
               unnest(CAST(CAST(:ns AS text) AS smallint[])) AS n,
               unnest(CAST(CAST(:stores AS text) AS smallint[])) AS store,
               unnest(CAST(CAST(:codes AS text) AS text[])) AS code,
               unnest(CAST(CAST(:bands AS text) AS integer[])) AS band,
               unnest(CAST(CAST(:amounts AS text) AS bigint[])) AS amount,
               unnest(CAST(CAST(:keys AS text) AS text[])) AS key
    ), made AS (
        INSERT INTO coupons (id, brand_id, campaign_id, viewer_id, n, drop_id, room_id, store_id, code,
                             distance_band_m, amount_fen, claim_key, valid_from, valid_until, held_until, issued_at)
        SELECT id, :brand, :campaign, viewer_id, coalesce(n, 1), :drop, :room, stores[store], code, band, amount, key,
               :valid_from, :valid_until, :held_until, :at
        FROM wanted, known {where}
        {conflict}
        RETURNING id
    ), lines AS (
        INSERT INTO ledger (coupon_id, transition, at, actor) SELECT id, 'issue', :at, CAST(:actor AS uuid) FROM made
    )
"""
# A conflict cannot strike while the campaign is locked, and looking for it costs a third of writing a coupon. Should it
# strike, the coupon is not granted and its viewer is told so, which is the safe way to be wrong.
WRITE = text(f"WITH {_WRITE.format(where='', conflict='')} SELECT count(*) FROM made")
WRITE_CAREFULLY = text(f"WITH {_WRITE.format(where='', conflict='ON CONFLICT DO NOTHING')} SELECT id FROM made")

_COUNT = """
    campaign AS (
        UPDATE campaigns SET issued = issued + CAST(:n AS integer), day = CAST(:day AS date),
            day_issued = CASE WHEN day = CAST(:day AS date) THEN day_issued ELSE 0 END + CAST(:n AS integer)
        WHERE id = :campaign {where}
    ), of_drop AS (
        UPDATE drops SET issued = issued + CAST(:n AS integer),
            decided = decided + CAST(:n AS integer) + CAST(:noted AS integer),
            minute = CAST(:minute AS integer),
            minute_issued = CASE WHEN minute = CAST(:minute AS integer) THEN minute_issued ELSE 0 END
                + CAST(:n AS integer)
        WHERE id = :drop {where}
    )
"""
# Shares only of a campaign with a quota for each store, which never changes: moving them for every store that gave one
# in a batch costs a quarter of what writing its coupons does.
COUNT_AND_TELL = text(
    f"""
    WITH told AS ({TELL.format(where="")}), shares AS (
        INSERT INTO campaign_stores AS s (campaign_id, store_id, quota, issued)
        SELECT :campaign, store_id, CAST(:quota AS integer), n
        FROM unnest(CAST(:stores AS uuid[]), CAST(CAST(:counts AS text) AS integer[])) AS g (store_id, n)
        ORDER BY store_id
        ON CONFLICT (campaign_id, store_id) DO UPDATE SET issued = s.issued + excluded.issued
    ), {_COUNT.format(where="")}
    SELECT pg_notify(:channel, '')
    """
)
STORES = text(
    """
    SELECT s.id, s.code, s.name, s.address
    FROM unnest(CAST(:stores AS uuid[])) AS w (id) JOIN stores s ON s.id = w.id
    """
)
# `partaking` for some stores, as a text: composing it costs each batch of claims more than asking it. Most stores are
# open, take part and have no number of their own: only the others are told.
SPECIAL = text(
    """
    SELECT * FROM (
        SELECT w.id, s.id IS NOT NULL AND (CAST(:all_stores AS boolean) OR p.store_id IS NOT NULL) AS giving,
               p.store_id IS NOT NULL AS known, p.quota - p.issued AS quota_left
        FROM unnest(CAST(:stores AS uuid[])) AS w (id)
        LEFT JOIN stores s ON s.id = w.id AND s.brand_id = :brand
            AND (s.closed_until IS NULL OR s.closed_until <= :at)
        LEFT JOIN campaign_stores p ON p.store_id = w.id AND p.campaign_id = :campaign
    ) AS stores
    WHERE NOT giving OR (known AND (quota_left IS NOT NULL OR CAST(:quota AS integer) IS NOT NULL))
    """
)

_NOTE = """
    INSERT INTO drop_viewers (drop_id, viewer_id, store_id, outcome, reason, distance_band_m, at)
    SELECT :drop, w.viewer_id, w.store_id, CASE WHEN w.reason = 'held_out' THEN 'held_out' ELSE 'refused' END,
           w.reason, w.band, :at
    FROM unnest(CAST(:noted_viewers AS uuid[]), CAST(:noted_stores AS uuid[]),
                CAST(CAST(:reasons AS text) AS text[]), CAST(CAST(:noted_bands AS text) AS integer[]))
        AS w (viewer_id, store_id, reason, band)
    {where}
    ON CONFLICT DO NOTHING
"""
NOTE = text(
    f"""
    WITH counted AS (UPDATE drops SET decided = decided + CAST(:noted AS integer) WHERE id = :drop)
    {_NOTE.format(where="")}
    """
)

_FOUND = "EXISTS (SELECT FROM found)"
# Lock, write, note, count and tell in one question that commits by itself, if drop and campaign say what they said and
# exactly so many coupons were given and are left as is expected. As by `LOCK`, whoever has to wait for the rows reads
# what they say by then. No brand is locked, for those with a cap are not written like this.
WRITE_IF_FOUND = Question(
    f"""
    WITH facts AS MATERIALIZED ({FACTS.format(first="")} FOR NO KEY UPDATE OF c, d), found AS MATERIALIZED (
        SELECT FROM facts f
        WHERE {TERMS.format(facts="f")} = :terms AND f.at < :until AND f.campaign_issued = CAST(:issued AS integer)
            AND f.campaign_left = CAST(:campaign_left AS integer)
    ), {_WRITE.format(where="WHERE " + _FOUND, conflict="")}, noted AS ({_NOTE.format(where="WHERE " + _FOUND)}),
    told AS ({TELL.format(where="WHERE " + _FOUND)}), {_COUNT.format(where="AND " + _FOUND)}
    SELECT pg_notify(:channel, '') FROM found
    """
)

END = text("UPDATE drops SET state = 'ended', end_reason = :reason WHERE id = :drop AND state = 'open' RETURNING id")
