"""What must hold of campaigns, drops and coupons, each as a sentence and as SQL that finds the rows that break it.

``coupons.ledger.audit`` asks all of them. A test plants a lie for each: an invariant without one fails it.
"""

from typing import NamedTuple

from coupons import rules
from geo.doubt import STRONG


class Invariant(NamedTuple):
    """``broken`` yields the identifiers of what is wrong, over the whole database; ``of`` is the table it is about."""

    name: str
    says: str
    of: str
    broken: str


INVARIANTS = (
    Invariant(
        "campaign_issued",
        "A campaign counts as issued exactly the coupons it has, whatever became of them.",
        "campaigns",
        """
        SELECT c.id FROM campaigns c
        LEFT JOIN (SELECT campaign_id, count(*) AS n FROM coupons GROUP BY campaign_id) k ON k.campaign_id = c.id
        WHERE c.issued <> coalesce(k.n, 0)
        """,
    ),
    Invariant(
        "campaign_stock",
        "No campaign gave more coupons than its stock.",
        "campaigns",
        "SELECT id FROM campaigns WHERE issued > stock OR issued < 0",
    ),
    Invariant(
        "drop_issued",
        "A drop counts as issued exactly the coupons it gave.",
        "drops",
        """
        SELECT d.id FROM drops d
        LEFT JOIN (SELECT drop_id, count(*) AS n FROM coupons GROUP BY drop_id) k ON k.drop_id = d.id
        WHERE d.issued <> coalesce(k.n, 0)
        """,
    ),
    Invariant(
        "drop_stock",
        "No drop gave more coupons than it had.",
        "drops",
        "SELECT id FROM drops WHERE issued > stock OR issued < 0",
    ),
    Invariant(
        "store_issued",
        "Where stores have a quota, a store's count in a campaign is the number of its coupons there.",
        "campaign_stores",
        """
        WITH counted AS (SELECT id FROM campaigns WHERE store_quota IS NOT NULL)
        SELECT coalesce(s.store_id, k.store_id)
        FROM (SELECT * FROM campaign_stores WHERE campaign_id IN (SELECT id FROM counted)) s
        FULL JOIN (
            SELECT campaign_id, store_id, count(*) AS n FROM coupons
            WHERE campaign_id IN (SELECT id FROM counted) GROUP BY campaign_id, store_id
        ) k ON k.campaign_id = s.campaign_id AND k.store_id = s.store_id
        WHERE coalesce(s.issued, 0) <> coalesce(k.n, 0)
        """,
    ),
    Invariant(
        "store_quota",
        "No store gave more coupons of a campaign than its quota.",
        "campaign_stores",
        "SELECT store_id FROM campaign_stores WHERE issued > quota",
    ),
    Invariant(
        "campaign_returned",
        "What a campaign got back is what expired, where expired coupons may be given again.",
        "campaigns",
        """
        SELECT c.id FROM campaigns c
        LEFT JOIN (
            SELECT campaign_id, count(*) AS n FROM coupons WHERE state = 'expired' GROUP BY campaign_id
        ) k ON k.campaign_id = c.id AND c.return_expired
        WHERE c.returned <> coalesce(k.n, 0)
        """,
    ),
    Invariant(
        "store_returned",
        "What a store's quota got back is what expired there, likewise.",
        "campaign_stores",
        """
        SELECT s.store_id FROM campaign_stores s JOIN campaigns c ON c.id = s.campaign_id
        LEFT JOIN (
            SELECT campaign_id, store_id, count(*) AS n FROM coupons WHERE state = 'expired'
            GROUP BY campaign_id, store_id
        ) k ON k.campaign_id = s.campaign_id AND k.store_id = s.store_id AND c.return_expired
        WHERE s.returned <> coalesce(k.n, 0) AND c.store_quota IS NOT NULL
        """,
    ),
    Invariant(
        "viewer_limit",
        "Nobody has more coupons of a campaign than its limit, nor two with the same number.",
        "coupons",
        """
        SELECT k.viewer_id FROM coupons k JOIN campaigns c ON c.id = k.campaign_id
        GROUP BY c.id, c.per_viewer, k.viewer_id
        HAVING count(*) > c.per_viewer OR max(k.n) > c.per_viewer OR count(DISTINCT k.n) < count(*)
        """,
    ),
    # Days as the brand's calendar has them, while the brand stays in its time zone.
    Invariant(
        "campaign_day",
        "No campaign gave more on a day of the brand's calendar than it may, and its count of the day is right.",
        "campaigns",
        """
        SELECT c.id FROM campaigns c JOIN brands b ON b.id = c.brand_id JOIN coupons k ON k.campaign_id = c.id
        WHERE c.per_day IS NOT NULL
        GROUP BY c.id, b.timezone, CAST(k.issued_at AT TIME ZONE b.timezone AS date)
        HAVING count(*) > c.per_day
        UNION
        SELECT c.id FROM campaigns c JOIN brands b ON b.id = c.brand_id
        LEFT JOIN coupons k ON k.campaign_id = c.id AND CAST(k.issued_at AT TIME ZONE b.timezone AS date) = c.day
        WHERE c.per_day IS NOT NULL GROUP BY c.id HAVING count(k.id) <> c.day_issued
        """,
    ),
    Invariant(
        "drop_minute",
        "No push drop gave more in one of its minutes than it may, and its count of the minute is right.",
        "drops",
        """
        SELECT d.id FROM drops d JOIN campaigns c ON c.id = d.campaign_id JOIN coupons k ON k.drop_id = d.id
        WHERE d.mode = 'push' AND c.per_minute IS NOT NULL
        GROUP BY d.id, c.per_minute, floor(extract(epoch FROM k.issued_at - d.opens_at) / 60)
        HAVING count(*) > c.per_minute
        UNION
        SELECT d.id FROM drops d JOIN campaigns c ON c.id = d.campaign_id
        LEFT JOIN coupons k
            ON k.drop_id = d.id AND floor(extract(epoch FROM k.issued_at - d.opens_at) / 60) = d.minute
        WHERE d.mode = 'push' AND c.per_minute IS NOT NULL GROUP BY d.id HAVING count(k.id) <> d.minute_issued
        """,
    ),
    Invariant(
        "coupon_state",
        "Every coupon is issued, redeemed, expired or voided, and has a time of redemption only if redeemed.",
        "coupons",
        """
        SELECT id FROM coupons
        WHERE state NOT IN ('issued', 'redeemed', 'expired', 'voided')
           OR (state = 'redeemed') <> (redeemed_at IS NOT NULL)
        """,
    ),
    Invariant(
        "coupon_amount",
        "A coupon with an amount of its own has one of its campaign's distance tiers.",
        "coupons",
        """
        SELECT k.id FROM coupons k JOIN campaigns c ON c.id = k.campaign_id
        WHERE k.amount_fen IS NOT NULL AND NOT coalesce(
            c.distance_tiers @> jsonb_build_array(jsonb_build_object('amount_fen', k.amount_fen)), false)
        """,
    ),
    Invariant(
        "coupon_parents",
        "A coupon's drop, campaign, room and brand exist and belong together.",
        "coupons",
        """
        SELECT k.id FROM coupons k
        LEFT JOIN drops d ON d.id = k.drop_id
        LEFT JOIN campaigns c ON c.id = k.campaign_id
        WHERE d.campaign_id IS DISTINCT FROM k.campaign_id OR d.room_id IS DISTINCT FROM k.room_id
           OR c.brand_id IS DISTINCT FROM k.brand_id
        """,
    ),
    # Which stores take part is settled before a campaign runs.
    Invariant(
        "coupon_store",
        "A coupon's store is one of its brand, and of its campaign where not all of them take part.",
        "coupons",
        """
        SELECT k.id FROM coupons k JOIN campaigns c ON c.id = k.campaign_id
        LEFT JOIN stores s ON s.id = k.store_id
        LEFT JOIN campaign_stores p ON p.campaign_id = k.campaign_id AND p.store_id = k.store_id
        WHERE s.brand_id IS DISTINCT FROM c.brand_id OR NOT (c.all_stores OR p.store_id IS NOT NULL)
        """,
    ),
    Invariant(
        "coupon_held",
        "Whoever got a coupon in quiet hours was told of it within a minute of their end, by a running worker.",
        "coupons",
        "SELECT id FROM coupons WHERE held_until < now() - interval '1 minute'",
    ),
    Invariant(
        "coupon_code",
        "Every code is well formed and names one coupon.",
        "coupons",
        """
        SELECT min(id::text) FROM coupons GROUP BY code HAVING count(*) > 1
        UNION ALL SELECT id::text FROM coupons WHERE code !~ '^[0-9A-HJKMNP-TV-Z]{16}$'
        """,
    ),
    Invariant(
        "claim_twice",
        "One claim of one viewer led to one coupon.",
        "coupons",
        """
        SELECT min(id::text) FROM coupons WHERE claim_key IS NOT NULL
        GROUP BY drop_id, viewer_id, claim_key HAVING count(*) > 1
        """,
    ),
    # The months of the ledger each have a key of their own, and webhooks take an id for one event.
    Invariant(
        "ledger_ids",
        "No two ledger lines have the same identifier.",
        "ledger",
        "SELECT id FROM ledger GROUP BY id HAVING count(*) > 1",
    ),
    # Lines in the order they were written: issue first, then only steps that the state before allows.
    Invariant(
        "ledger_order",
        "Every ledger line is a step that the line before it allows, the first being the issue.",
        "ledger",
        """
        SELECT coupon_id FROM (
            SELECT coupon_id, transition, told_at,
                   lag(transition) OVER (PARTITION BY coupon_id ORDER BY id) AS former
            FROM ledger WHERE transition <> 'remind'
        ) AS l
        WHERE NOT CASE transition
            WHEN 'issue' THEN former IS NULL
            WHEN 'reverse' THEN coalesce(former = 'redeem', false)
            -- A till without a network may have used it before it expired, and told so afterwards.
            WHEN 'redeem' THEN
                coalesce(former IN ('issue', 'reverse') OR (former = 'expire' AND told_at IS NOT NULL), false)
            ELSE coalesce(former IN ('issue', 'reverse'), false)
        END
        """,
    ),
    Invariant(
        "ledger_state",
        "A coupon's state is what its last ledger line made it, and no line is without its coupon.",
        "coupons",
        """
        SELECT coalesce(k.id, l.coupon_id) FROM coupons k
        FULL JOIN (
            SELECT DISTINCT ON (coupon_id) coupon_id, transition FROM ledger
            WHERE transition <> 'remind' ORDER BY coupon_id, id DESC
        ) l ON l.coupon_id = k.id
        WHERE k.state IS DISTINCT FROM CASE l.transition
            WHEN 'issue' THEN 'issued' WHEN 'reverse' THEN 'issued' WHEN 'redeem' THEN 'redeemed'
            WHEN 'expire' THEN 'expired' WHEN 'void' THEN 'voided'
        END
        """,
    ),
    Invariant(
        "reminded_once",
        "Of a coupon that is about to expire its brand was told once, and of none that nobody has.",
        "ledger",
        """
        SELECT l.coupon_id FROM ledger l LEFT JOIN coupons k ON k.id = l.coupon_id WHERE l.transition = 'remind'
        GROUP BY l.coupon_id HAVING count(*) > 1 OR count(k.id) = 0
        """,
    ),
    # A minute for clocks of processes that differ from the database's.
    Invariant(
        "ledger_times",
        "No coupon's line is dated before its issue, and none expired before its time.",
        "ledger",
        """
        SELECT l.coupon_id FROM ledger l JOIN ledger i ON i.coupon_id = l.coupon_id AND i.transition = 'issue'
        WHERE l.transition <> 'issue' AND l.at < i.at - interval '1 minute'
        UNION
        SELECT l.coupon_id FROM ledger l JOIN coupons k ON k.id = l.coupon_id
        WHERE l.transition = 'expire' AND l.at < k.valid_until - interval '1 minute'
        """,
    ),
    Invariant(
        "ledger_redemptions",
        "Each redemption and each reversal has exactly one ledger line, and each such line its redemption.",
        "redemptions",
        """
        SELECT coalesce(r.id, l.redemption_id) FROM (
            SELECT id, coupon_id, 'redeem' AS transition FROM redemptions
            UNION ALL SELECT id, coupon_id, 'reverse' FROM redemptions WHERE reversed_at IS NOT NULL
        ) AS r
        FULL JOIN (
            SELECT redemption_id, coupon_id, transition, count(*) AS n FROM ledger
            WHERE transition IN ('redeem', 'reverse') GROUP BY redemption_id, coupon_id, transition
        ) AS l ON l.redemption_id = r.id AND l.coupon_id = r.coupon_id AND l.transition = r.transition
        WHERE r.id IS NULL OR l.n IS DISTINCT FROM 1
        """,
    ),
    Invariant(
        "redeemed_once",
        "A coupon is redeemed exactly when one redemption of it stands.",
        "coupons",
        """
        SELECT coalesce(k.id, r.coupon_id) FROM (SELECT id FROM coupons WHERE state = 'redeemed') k
        FULL JOIN (
            SELECT coupon_id, count(*) AS n FROM redemptions WHERE reversed_at IS NULL GROUP BY coupon_id
        ) r ON r.coupon_id = k.id
        WHERE k.id IS NULL OR r.n IS DISTINCT FROM 1
        """,
    ),
    Invariant(
        "redeemed_store",
        "A coupon was redeemed at its own store.",
        "redemptions",
        "SELECT r.id FROM redemptions r JOIN coupons k ON k.id = r.coupon_id WHERE r.store_id <> k.store_id",
    ),
    # The coupon of somebody who was erased ends with them, perhaps before a till's clock says that it was used.
    Invariant(
        "redeemed_in_time",
        "A coupon was used while it held, and a use taken back within an hour.",
        "redemptions",
        f"""
        SELECT r.id FROM redemptions r JOIN coupons k ON k.id = r.coupon_id
        WHERE r.at < k.valid_from OR (r.at >= k.valid_until AND NOT k.ownerless)
           OR r.reversed_at NOT BETWEEN r.at AND r.at + interval '{rules.REVERSIBLE.total_seconds()} seconds'
        """,
    ),
    Invariant(
        "ownerless",
        "No coupon of somebody who was erased can still be used.",
        "coupons",
        "SELECT id FROM coupons WHERE ownerless AND state = 'issued' AND valid_until > now()",
    ),
    Invariant(
        "redemption_discount",
        "No redemption took off more than its coupon promised for an order of that amount, or than the order came to.",
        "redemptions",
        """
        SELECT r.id FROM redemptions r JOIN coupons k ON k.id = r.coupon_id JOIN campaigns c ON c.id = k.campaign_id
        WHERE r.discount_fen < 0 OR r.discount_fen > r.order_fen OR r.order_fen < c.threshold_fen
           OR r.discount_fen > CASE c.kind
                WHEN 'amount' THEN coalesce(k.amount_fen, c.amount_fen)
                WHEN 'percent' THEN
                    least(coalesce(r.order_fen, 0) * c.percent_off / 100, coalesce(k.amount_fen, c.amount_fen))
                ELSE 0
              END
        """,
    ),
    Invariant(
        "review_granted",
        "A granted review has its coupon, given to whom it was asked for by whom the ledger says.",
        "reviews",
        """
        SELECT r.id FROM reviews r
        LEFT JOIN coupons k ON k.id = r.coupon_id AND k.drop_id = r.drop_id AND k.viewer_id = r.viewer_id
        LEFT JOIN ledger l ON l.coupon_id = k.id AND l.transition = 'issue' AND l.actor = r.decided_by
        WHERE r.state = 'granted' AND l.id IS NULL
        """,
    ),
    Invariant(
        "review_passed_by",
        "Nobody got a coupon of a drop past a review that was not granted.",
        "reviews",
        """
        SELECT r.id FROM reviews r JOIN coupons k ON k.drop_id = r.drop_id AND k.viewer_id = r.viewer_id
        WHERE r.state <> 'granted' AND k.issued_at >= r.asked_at
        """,
    ),
    Invariant(
        "review_signs",
        "One weak sign of doubt alone withholds nothing from anybody.",
        "reviews",
        f"""
        SELECT id FROM reviews WHERE cardinality(signs) < 2 AND NOT signs && ARRAY['{"', '".join(STRONG)}']
        """,
    ),
    Invariant(
        "held_out",
        "Who was held out of a campaign for comparison has no coupon of it.",
        "drop_viewers",
        """
        SELECT k.id FROM drop_viewers v
        JOIN drops d ON d.id = v.drop_id
        JOIN coupons k ON k.campaign_id = d.campaign_id AND k.viewer_id = v.viewer_id
        WHERE v.outcome = 'held_out'
        """,
    ),
)
