"""Campaigns, drops, coupons, and the append-only ledger that proves them."""

from datetime import date, datetime, time
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    Text,
    UniqueConstraint,
    false,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from kernel.ids import new_id
from kernel.postgres import Table

_COUNTS = {"postgresql_with": {"fillfactor": 50}}
"""For rows that every batch updates: half of each page is left free, so that no index needs to hear of it."""


class Campaign(Table):
    """A coupon's terms, stock, stores and limits. ``CHECK (issued <= stock)`` is what makes over-issue impossible."""

    __tablename__ = "campaigns"
    __table_args__ = (
        CheckConstraint("kind IN ('amount', 'percent', 'gift')", name="kind"),
        CheckConstraint("state IN ('draft', 'running', 'paused', 'ended')", name="state"),
        CheckConstraint("issued BETWEEN 0 AND stock", name="stock"),
        CheckConstraint("returned BETWEEN 0 AND issued", name="returned"),
        CheckConstraint("per_viewer BETWEEN 1 AND 100", name="per_viewer"),
        CheckConstraint("radius_m BETWEEN 50 AND 50000", name="radius"),
        CheckConstraint("holdout_percent BETWEEN 0 AND 50", name="holdout"),
        CheckConstraint("valid_until IS NOT NULL OR valid_days IS NOT NULL", name="validity"),
        CheckConstraint("day_issued >= 0 AND (per_day IS NULL OR day_issued <= per_day)", name="per_day"),
        CheckConstraint("(usable_from IS NULL) = (usable_until IS NULL)", name="usable"),
        CheckConstraint("segments <@ ARRAY['new', 'once', 'often', 'vip']", name="segments"),
        CheckConstraint("reserve_percent BETWEEN 0 AND 90", name="reserve"),
        CheckConstraint("doubt IN ('allow', 'review', 'refuse')", name="doubt"),
        UniqueConstraint("brand_id", "key"),
        _COUNTS,
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    brand_id: Mapped[str] = mapped_column(ForeignKey("brands.id"), index=True)
    key: Mapped[str | None] = mapped_column(Text, comment="the brand's own name for it: imports find it by this")
    wechat_card: Mapped[str | None] = mapped_column(Text, comment="WeChat's id of the card that its coupons are")
    title: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    amount_fen: Mapped[int | None] = mapped_column(BigInteger, comment="off, for `amount`; the cap, for `percent`")
    threshold_fen: Mapped[int] = mapped_column(BigInteger, server_default="0")
    percent_off: Mapped[int | None] = mapped_column(SmallInteger)
    gift: Mapped[str | None] = mapped_column(Text)
    stock: Mapped[int] = mapped_column(comment="coupons that may ever be issued; each that is returned adds one")
    issued: Mapped[int] = mapped_column(server_default="0")
    return_expired: Mapped[bool] = mapped_column(server_default="false", comment="expired coupons may be given again")
    returned: Mapped[int] = mapped_column(server_default="0")
    per_viewer: Mapped[int] = mapped_column(SmallInteger, server_default="1")
    store_quota: Mapped[int | None] = mapped_column(Integer, comment="coupons each store may give; null: no limit")
    all_stores: Mapped[bool] = mapped_column(server_default="true", comment="else only those in campaign_stores")
    radius_m: Mapped[int] = mapped_column(server_default="3000")
    near_counts: Mapped[bool] = mapped_column(server_default="true", comment="does a fix at the edge count as inside")
    only_open: Mapped[bool] = mapped_column(server_default="false", comment="only stores within their hours give")
    min_tier: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    holdout_percent: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    per_day: Mapped[int | None] = mapped_column(comment="coupons a day of the brand's calendar; null: no limit")
    per_minute: Mapped[int | None] = mapped_column(comment="coupons a minute of each push drop; null: no limit")
    reserve_percent: Mapped[int] = mapped_column(
        SmallInteger, server_default="0", comment="of a push drop, for those who come into reach later"
    )
    day: Mapped[date | None] = mapped_column(comment="the newest day that gave coupons")
    day_issued: Mapped[int] = mapped_column(server_default="0", comment="coupons given on `day`")
    segments: Mapped[list[str] | None] = mapped_column(ARRAY(Text), comment="who may have it; null: everybody")
    doubt: Mapped[str] = mapped_column(Text, server_default="allow", comment="what an implausible fix does")
    distance_tiers: Mapped[list[dict[str, int]] | None] = mapped_column(
        JSONB(none_as_null=True),
        comment="amounts by distance, nearest first: {within_m, amount_fen}; farther away: amount_fen",
    )
    claim_from: Mapped[datetime | None]
    claim_until: Mapped[datetime | None]
    valid_from: Mapped[datetime | None]
    valid_until: Mapped[datetime | None]
    valid_days: Mapped[int | None] = mapped_column(SmallInteger, comment="from issue; instead of valid_until")
    usable_from: Mapped[time | None] = mapped_column(comment="hours of the brand's day in which tills take it")
    usable_until: Mapped[time | None]
    state: Mapped[str] = mapped_column(Text, server_default="draft")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class CampaignStore(Table):
    """A store that takes part in a campaign, or that has a quota in it. Coupons are counted beside a quota only: a
    campaign without one counts none by store."""

    __tablename__ = "campaign_stores"
    __table_args__ = (
        CheckConstraint("issued >= 0 AND (quota IS NULL OR issued <= quota)", name="quota"),
        CheckConstraint("returned BETWEEN 0 AND issued", name="returned"),
        _COUNTS,
    )

    campaign_id: Mapped[UUID] = mapped_column(ForeignKey("campaigns.id"), primary_key=True)
    store_id: Mapped[UUID] = mapped_column(ForeignKey("stores.id"), primary_key=True, index=True)
    quota: Mapped[int | None] = mapped_column(comment="as a campaign's stock")
    issued: Mapped[int] = mapped_column(server_default="0")
    returned: Mapped[int] = mapped_column(server_default="0")


class Drop(Table):
    """One release of a campaign into one room."""

    __tablename__ = "drops"
    __table_args__ = (
        CheckConstraint("mode IN ('push', 'claim')", name="mode"),
        CheckConstraint("state IN ('open', 'ended')", name="state"),
        CheckConstraint("issued BETWEEN 0 AND stock", name="stock"),
        Index("ix_drops_open", "ends_at", postgresql_where="state = 'open'"),
        Index("ix_drops_by", "by", "created_at"),
        _COUNTS,
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    campaign_id: Mapped[UUID] = mapped_column(ForeignKey("campaigns.id"), index=True)
    room_id: Mapped[UUID] = mapped_column(ForeignKey("rooms.id"), index=True)
    by: Mapped[UUID] = mapped_column(comment="the guide or ops who released it")
    mode: Mapped[str] = mapped_column(Text)
    stock: Mapped[int]
    issued: Mapped[int] = mapped_column(server_default="0")
    state: Mapped[str] = mapped_column(Text, server_default="open")
    end_reason: Mapped[str | None] = mapped_column(Text)
    opens_at: Mapped[datetime]
    spread_ms: Mapped[int] = mapped_column(
        SmallInteger, server_default="0", comment="claim: turns begin within so long after opens_at"
    )
    signature: Mapped[str | None] = mapped_column(Text, comment="of the opening; null: no key was there")
    ends_at: Mapped[datetime]
    matched_at: Mapped[datetime | None] = mapped_column(comment="push: when the first match of everybody was done")
    match_again: Mapped[bool] = mapped_column(server_default="false", comment="push: somebody who came later waits")
    held_until: Mapped[datetime | None] = mapped_column(comment="push, opened in quiet hours: when they end")
    minute: Mapped[int | None] = mapped_column(comment="push: the newest of its minutes that gave coupons, from 0")
    minute_issued: Mapped[int] = mapped_column(server_default="0", comment="coupons given in `minute`")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    decided: Mapped[int] = mapped_column(
        server_default="0",
        comment="decisions written so far: whoever matched before can tell whether there are newer ones",
    )


class DropViewer(Table):
    """Why a drop gave a viewer in range none.

    Who got one is in ``coupons``: both are the base of the funnel and of the holdout's comparison, and the view
    ``decisions`` shows them as a row for a viewer of a drop. Without foreign keys, as ``Coupon``.
    """

    __tablename__ = "drop_viewers"
    __table_args__ = (
        PrimaryKeyConstraint("viewer_id", "drop_id"),
        CheckConstraint("outcome IN ('issued', 'held_out', 'refused')", name="outcome"),
        # What is forgotten goes drop by drop.
        Index("ix_drop_viewers_forgotten", "drop_id", postgresql_where="outcome <> 'issued'"),
    )

    drop_id: Mapped[UUID]
    viewer_id: Mapped[UUID]
    store_id: Mapped[UUID | None]
    outcome: Mapped[str] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text, comment="the refusal's code")
    distance_band_m: Mapped[int | None]
    at: Mapped[datetime] = mapped_column(server_default=func.now())


class Review(Table):
    """A coupon that would have gone to a doubtful viewer: somebody of ops grants it, refuses it, or lets it expire.

    It holds no stock. Without foreign keys but the viewer's, as ``Coupon``.
    """

    __tablename__ = "reviews"
    __table_args__ = (
        UniqueConstraint("drop_id", "viewer_id"),
        CheckConstraint("state IN ('open', 'granted', 'declined', 'expired')", name="state"),
        CheckConstraint("(state = 'open') = (decided_at IS NULL)", name="decided"),
        CheckConstraint("(state IN ('granted', 'declined')) = (decided_by IS NOT NULL)", name="decided_by"),
        CheckConstraint("(state = 'granted') = (coupon_id IS NOT NULL)", name="coupon"),
        Index("ix_reviews_open", "brand_id", "asked_at", "id", postgresql_where="state = 'open'"),
        Index("ix_reviews_settled", "brand_id", "decided_at", "id", postgresql_where="state <> 'open'"),
        Index("ix_reviews_expiring", "expires_at", postgresql_where="state = 'open'"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    brand_id: Mapped[str] = mapped_column(Text)
    campaign_id: Mapped[UUID]
    drop_id: Mapped[UUID]
    room_id: Mapped[UUID]
    viewer_id: Mapped[UUID] = mapped_column(ForeignKey("members.id", ondelete="CASCADE"), index=True)
    store_id: Mapped[UUID]
    within_m: Mapped[int] = mapped_column(comment="the distance, as coarse as band and amount allow")
    claim_key: Mapped[str | None] = mapped_column(Text, comment="the claim's id: its retry finds the coupon")
    signs: Mapped[list[str]] = mapped_column(ARRAY(Text), comment="what made the fix implausible; see geo.doubt")
    state: Mapped[str] = mapped_column(Text, server_default="open")
    asked_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    decided_at: Mapped[datetime | None]
    decided_by: Mapped[UUID | None] = mapped_column(comment="null: nobody, it expired")
    coupon_id: Mapped[UUID | None]


class Coupon(Table):
    """One campaign's promise to one viewer, tied to a store.

    Without foreign keys: checking five of them was half of the cost of writing a coupon. All of them come from rows
    that the writing transaction has locked or read, nothing deletes those, and ``nearcast audit`` looks for orphans.
    """

    __tablename__ = "coupons"
    __table_args__ = (
        # The rule, and by its first column the wallet's index: each index is a third of what writing the row costs.
        UniqueConstraint("viewer_id", "campaign_id", "n"),
        UniqueConstraint("code"),
        CheckConstraint("state IN ('issued', 'redeemed', 'expired', 'voided')", name="state"),
        CheckConstraint("(state = 'redeemed') = (redeemed_at IS NOT NULL)", name="redeemed"),
        CheckConstraint("held_until <= valid_from", name="held"),
        Index("ix_coupons_expiring", "valid_until", postgresql_where="state = 'issued'"),
        Index("ix_coupons_held", "held_until", postgresql_where="held_until IS NOT NULL"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    brand_id: Mapped[str] = mapped_column(Text)
    campaign_id: Mapped[UUID]
    viewer_id: Mapped[UUID]
    n: Mapped[int] = mapped_column(SmallInteger, comment="the viewer's n-th coupon of this campaign, from 1")
    drop_id: Mapped[UUID]
    room_id: Mapped[UUID]
    store_id: Mapped[UUID]
    code: Mapped[str] = mapped_column(Text, comment="80 random bits in Crockford base32, without the check character")
    state: Mapped[str] = mapped_column(Text, server_default="issued")
    amount_fen: Mapped[int | None] = mapped_column(BigInteger, comment="its own, by distance; null: the campaign's")
    distance_band_m: Mapped[int | None] = mapped_column(comment="upper edge in metres of the band the viewer was in")
    claim_key: Mapped[str | None] = mapped_column(Text, comment="the claim's id: a retry finds this coupon")
    valid_from: Mapped[datetime]
    valid_until: Mapped[datetime]
    issued_at: Mapped[datetime]
    held_until: Mapped[datetime | None] = mapped_column(comment="given in quiet hours; null: its owner was told of it")
    seen_at: Mapped[datetime | None]
    redeemed_at: Mapped[datetime | None]
    ownerless: Mapped[bool] = mapped_column(
        server_default=false(), comment="its owner was erased: whatever becomes of it, nobody uses it again"
    )


class Redemption(Table):
    """A use of a coupon at a till. ``key`` is the till's: a retry with it is the same redemption."""

    __tablename__ = "redemptions"
    __table_args__ = (
        UniqueConstraint("store_id", "key"),
        # Whatever the code does, one coupon has at most one standing redemption.
        Index("uq_redemptions_standing", "coupon_id", unique=True, postgresql_where="reversed_at IS NULL"),
        # Which coupons an order has already; a store's day, by what happened in it.
        Index(
            "ix_redemptions_order",
            "store_id",
            "order_ref",
            postgresql_where="order_ref IS NOT NULL AND reversed_at IS NULL",
        ),
        Index("ix_redemptions_day", "store_id", "at"),
        Index("ix_redemptions_reversed", "store_id", "reversed_at", postgresql_where="reversed_at IS NOT NULL"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    coupon_id: Mapped[UUID] = mapped_column(ForeignKey("coupons.id"), index=True)
    store_id: Mapped[UUID] = mapped_column(ForeignKey("stores.id"))
    clerk_id: Mapped[UUID]
    key: Mapped[str] = mapped_column(Text)
    order_ref: Mapped[str | None] = mapped_column(Text, comment="the order, as the store names it")
    order_fen: Mapped[int | None] = mapped_column(BigInteger)
    discount_fen: Mapped[int] = mapped_column(BigInteger, server_default="0")
    at: Mapped[datetime] = mapped_column(comment="when it happened at the till")
    told_at: Mapped[datetime | None] = mapped_column(comment="null: at once; else the till had no network")
    reversed_at: Mapped[datetime | None]
    reversed_by: Mapped[UUID | None]


class TillRules(Table):
    """How many coupons one order of a brand may take; without a row, one discount and one gift."""

    __tablename__ = "till_rules"

    brand_id: Mapped[str] = mapped_column(ForeignKey("brands.id"), primary_key=True)
    discounts: Mapped[int] = mapped_column(SmallInteger)
    gifts: Mapped[int] = mapped_column(SmallInteger)
    order_required: Mapped[bool]


class Visit(Table):
    """A member showed their code at a store's till without using a coupon."""

    __tablename__ = "visits"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    brand_id: Mapped[str] = mapped_column(ForeignKey("brands.id"))
    store_id: Mapped[UUID] = mapped_column(ForeignKey("stores.id"), index=True)
    viewer_id: Mapped[UUID] = mapped_column(index=True)
    clerk_id: Mapped[UUID]
    at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)


class CouponReminder(Table):
    """The owner of a coupon wants to be told before it expires. ``outcome`` is null until that was settled."""

    __tablename__ = "coupon_reminders"
    __table_args__ = (
        CheckConstraint("outcome IN ('sent', 'refused', 'unknown', 'failed')", name="outcome"),
        Index("ix_coupon_reminders_open", "due_at", postgresql_where="outcome IS NULL"),
    )

    coupon_id: Mapped[UUID] = mapped_column(ForeignKey("coupons.id", ondelete="CASCADE"), primary_key=True)
    due_at: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    taken_until: Mapped[datetime | None] = mapped_column(
        comment="a worker is sending it, or it is not to be tried before"
    )
    outcome: Mapped[str | None] = mapped_column(Text)
    settled_at: Mapped[datetime | None]


class Webhook(Table):
    """Where a brand's CRM hears of its coupons, how far it has heard, and who is calling it now.

    ``cursor`` is the last ledger line that it answered for (or that was none of its business). Whoever calls holds
    ``taken_by`` until ``taken_until``: one call at a time, so that events arrive in the order of the ledger.
    """

    __tablename__ = "webhooks"
    __table_args__ = (
        CheckConstraint("state IN ('active', 'paused')", name="state"),
        CheckConstraint("(state = 'paused') = (pause_reason IS NOT NULL)", name="pause_reason"),
        CheckConstraint("pause_reason IN ('ops', 'gone', 'failing')", name="why_paused"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    brand_id: Mapped[str] = mapped_column(ForeignKey("brands.id"), index=True)
    url: Mapped[str] = mapped_column(Text)
    events: Mapped[list[str]] = mapped_column(ARRAY(Text))
    key_id: Mapped[str] = mapped_column(Text)
    secret: Mapped[str] = mapped_column(Text, comment="what a signature is made with, so it cannot be a hash")
    old_key_id: Mapped[str | None] = mapped_column(Text)
    old_secret: Mapped[str | None] = mapped_column(Text, comment="signs beside the new one until old_until")
    old_until: Mapped[datetime | None]
    state: Mapped[str] = mapped_column(Text, server_default="active")
    pause_reason: Mapped[str | None] = mapped_column(Text)
    cursor: Mapped[int] = mapped_column(BigInteger, server_default="0")
    delivered_at: Mapped[datetime | None] = mapped_column(comment="the last call that was answered with a success")
    failures: Mapped[int] = mapped_column(server_default="0", comment="calls since then that were not")
    failing_since: Mapped[datetime | None]
    last_status: Mapped[int | None] = mapped_column(SmallInteger)
    last_error: Mapped[str | None] = mapped_column(Text)
    due_at: Mapped[datetime] = mapped_column(server_default=func.now(), comment="not called before")
    taken_by: Mapped[UUID | None]
    taken_until: Mapped[datetime | None]
    created_by: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class LedgerLine(Table):
    """One transition of one coupon; ``remind`` is none: the brand was told that it is about to expire. Append-only; the
    audit compares it with the coupons' rows.

    Partitioned by the month of ``at`` (see ``coupons.months``), which is why that belongs to the key.
    """

    __tablename__ = "ledger"
    __table_args__ = (
        CheckConstraint("transition IN ('issue', 'remind', 'redeem', 'reverse', 'expire', 'void')", name="transition"),
        Index("ix_ledger_coupon", "coupon_id", "id"),
        {"postgresql_partition_by": "RANGE (at)"},
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    coupon_id: Mapped[UUID]
    transition: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(server_default=func.now(), primary_key=True)
    actor: Mapped[UUID | None] = mapped_column(comment="null: the system")
    redemption_id: Mapped[UUID | None]
    told_at: Mapped[datetime | None] = mapped_column(comment="null: at once; else the till had no network")
