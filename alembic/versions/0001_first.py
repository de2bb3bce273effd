"""First schema"""

import geoalchemy2
import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS postgis")
    op.create_table(
        "brands",
        sa.Column("id", sa.Text(), nullable=False, comment="short name in addresses and tokens"),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("timezone", sa.Text(), server_default="Asia/Shanghai", nullable=False),
        sa.Column("quiet_from", sa.Time(), nullable=True),
        sa.Column("quiet_until", sa.Time(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_brands")),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("brand_id", sa.Text(), nullable=False),
        sa.Column("subject", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False, comment="SHA-256 of route and body"),
        sa.Column("answer", sa.LargeBinary(), nullable=True, comment="JSON; null only inside the first transaction"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("brand_id", "subject", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_created_at"), "idempotency_keys", ["created_at"], unique=False)
    op.create_table(
        "ledger",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("coupon_id", sa.Uuid(), nullable=False),
        sa.Column("transition", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("actor", sa.Uuid(), nullable=True, comment="null: the system"),
        sa.Column("redemption_id", sa.Uuid(), nullable=True),
        sa.CheckConstraint(
            "transition IN ('issue', 'redeem', 'reverse', 'expire', 'void')", name=op.f("ck_ledger_transition")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger")),
    )
    op.create_index("ix_ledger_coupon", "ledger", ["coupon_id", "id"], unique=False)
    op.create_table(
        "locations",
        sa.Column("room_id", sa.Uuid(), nullable=False),
        sa.Column("viewer_id", sa.Uuid(), nullable=False),
        sa.Column(
            "position",
            geoalchemy2.Geography(
                geometry_type="POINT",
                srid=4326,
                dimension=2,
                spatial_index=False,
                from_text="ST_GeogFromText",
                name="geography",
                nullable=False,
            ),
            nullable=False,
        ),
        sa.Column("accuracy_m", sa.REAL(), nullable=False),
        sa.Column("fixed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "repeats",
            sa.SmallInteger(),
            server_default="0",
            nullable=False,
            comment="how many fixes before it had the very same digits",
        ),
        sa.Column(
            "doubt", sa.Text(), nullable=True, comment="`jumped` or `frozen`: why the fix is implausible, if it is"
        ),
        sa.Column(
            "doubted_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when that was last seen; doubt outlives one good fix",
        ),
        sa.PrimaryKeyConstraint("room_id", "viewer_id", name=op.f("pk_locations")),
        prefixes=["UNLOGGED"],
    )
    op.create_index("ix_locations_fixed_at", "locations", ["fixed_at"], unique=False)
    op.create_index("ix_locations_position", "locations", ["position"], unique=False, postgresql_using="gist")
    op.create_index(op.f("ix_locations_viewer_id"), "locations", ["viewer_id"], unique=False)
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("lane", sa.SmallInteger(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("room_id", sa.Uuid(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False, comment="JSON"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
    )
    op.create_index(
        "ix_outbox_waiting", "outbox", ["lane", "id"], unique=False, postgresql_where="published_at IS NULL"
    )
    op.create_table(
        "outbox_lanes",
        sa.Column("lane", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("lane", name=op.f("pk_outbox_lanes")),
    )
    op.create_table(
        "campaigns",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("brand_id", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("amount_fen", sa.BigInteger(), nullable=True, comment="off, for `amount`; the cap, for `percent`"),
        sa.Column("threshold_fen", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("percent_off", sa.SmallInteger(), nullable=True),
        sa.Column("gift", sa.Text(), nullable=True),
        sa.Column("stock", sa.Integer(), nullable=False),
        sa.Column("issued", sa.Integer(), server_default="0", nullable=False),
        sa.Column("per_viewer", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column("store_quota", sa.Integer(), nullable=True, comment="coupons each store may give; null: no limit"),
        sa.Column(
            "all_stores",
            sa.Boolean(),
            server_default="true",
            nullable=False,
            comment="else only those in campaign_stores",
        ),
        sa.Column("radius_m", sa.Integer(), server_default="3000", nullable=False),
        sa.Column(
            "near_counts",
            sa.Boolean(),
            server_default="true",
            nullable=False,
            comment="does a fix at the edge count as inside",
        ),
        sa.Column("min_tier", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("holdout_percent", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("claim_from", sa.DateTime(timezone=True), nullable=True),
        sa.Column("claim_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("valid_from", sa.DateTime(timezone=True), nullable=True),
        sa.Column("valid_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("valid_days", sa.SmallInteger(), nullable=True, comment="from issue; instead of valid_until"),
        sa.Column("state", sa.Text(), server_default="draft", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("kind IN ('amount', 'percent', 'gift')", name=op.f("ck_campaigns_kind")),
        sa.CheckConstraint("state IN ('draft', 'running', 'paused', 'ended')", name=op.f("ck_campaigns_state")),
        sa.CheckConstraint("holdout_percent BETWEEN 0 AND 50", name=op.f("ck_campaigns_holdout")),
        sa.CheckConstraint("issued BETWEEN 0 AND stock", name=op.f("ck_campaigns_stock")),
        sa.CheckConstraint("per_viewer BETWEEN 1 AND 100", name=op.f("ck_campaigns_per_viewer")),
        sa.CheckConstraint("radius_m BETWEEN 50 AND 50000", name=op.f("ck_campaigns_radius")),
        sa.CheckConstraint("valid_until IS NOT NULL OR valid_days IS NOT NULL", name=op.f("ck_campaigns_validity")),
        sa.ForeignKeyConstraint(["brand_id"], ["brands.id"], name=op.f("fk_campaigns_brand_id_brands")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_campaigns")),
    )
    op.create_index(op.f("ix_campaigns_brand_id"), "campaigns", ["brand_id"], unique=False)
    op.create_table(
        "members",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("brand_id", sa.Text(), nullable=False),
        sa.Column("openid", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("tier", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column(
            "orders",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="purchases known of; 0 is new to the brand",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("tier BETWEEN 0 AND 3", name=op.f("ck_members_tier")),
        sa.ForeignKeyConstraint(["brand_id"], ["brands.id"], name=op.f("fk_members_brand_id_brands")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_members")),
        sa.UniqueConstraint("brand_id", "openid", name=op.f("uq_members_brand_id_openid")),
    )
    op.create_table(
        "products",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("brand_id", sa.Text(), nullable=False),
        sa.Column("sku", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("image", sa.Text(), nullable=False, comment="address of a picture, absolute or on the API's host"),
        sa.Column("price_fen", sa.BigInteger(), nullable=False),
        sa.Column("list_price_fen", sa.BigInteger(), nullable=True),
        sa.Column("sold_out", sa.Boolean(), server_default="false", nullable=False),
        sa.CheckConstraint("price_fen >= 0", name=op.f("ck_products_price")),
        sa.ForeignKeyConstraint(["brand_id"], ["brands.id"], name=op.f("fk_products_brand_id_brands")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_products")),
        sa.UniqueConstraint("brand_id", "sku", name=op.f("uq_products_brand_id_sku")),
    )
    op.create_table(
        "stores",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("brand_id", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("banner", sa.Text(), nullable=False, comment="the name over the door: the import's column `brand`"),
        sa.Column("city", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("source_lng", sa.Float(precision=53), nullable=False),
        sa.Column("source_lat", sa.Float(precision=53), nullable=False),
        sa.Column("source_datum", sa.Text(), nullable=False),
        sa.Column(
            "position",
            geoalchemy2.Geography(
                geometry_type="POINT",
                srid=4326,
                dimension=2,
                spatial_index=False,
                from_text="ST_GeogFromText",
                name="geography",
                nullable=False,
            ),
            nullable=False,
        ),
        sa.Column("radius_m", sa.Integer(), nullable=True, comment="null: the campaign's radius"),
        sa.Column(
            "trade_area",
            geoalchemy2.Geography(
                geometry_type="MULTIPOLYGON",
                srid=4326,
                dimension=2,
                spatial_index=False,
                from_text="ST_GeogFromText",
                name="geography",
            ),
            nullable=True,
            comment="if set, it is the catchment instead of a circle",
        ),
        sa.Column("opens", sa.Time(), nullable=True),
        sa.Column("closes", sa.Time(), nullable=True),
        sa.Column("closed_until", sa.DateTime(timezone=True), nullable=True, comment="temporarily closed until then"),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("source_datum IN ('wgs84', 'gcj02', 'bd09')", name=op.f("ck_stores_datum")),
        sa.CheckConstraint("radius_m BETWEEN 50 AND 50000", name=op.f("ck_stores_radius")),
        sa.ForeignKeyConstraint(["brand_id"], ["brands.id"], name=op.f("fk_stores_brand_id_brands")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stores")),
        sa.UniqueConstraint("brand_id", "code", name=op.f("uq_stores_brand_id_code")),
    )
    op.create_index("ix_stores_position", "stores", ["position"], unique=False, postgresql_using="gist")
    op.create_index(
        "ix_stores_trade_area",
        "stores",
        ["trade_area"],
        unique=False,
        postgresql_using="gist",
        postgresql_where="trade_area IS NOT NULL",
    )
    op.create_table(
        "campaign_stores",
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("store_id", sa.Uuid(), nullable=False),
        sa.Column("quota", sa.Integer(), nullable=True),
        sa.Column("issued", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint("issued >= 0 AND (quota IS NULL OR issued <= quota)", name=op.f("ck_campaign_stores_quota")),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaigns.id"], name=op.f("fk_campaign_stores_campaign_id_campaigns")
        ),
        sa.ForeignKeyConstraint(["store_id"], ["stores.id"], name=op.f("fk_campaign_stores_store_id_stores")),
        sa.PrimaryKeyConstraint("campaign_id", "store_id", name=op.f("pk_campaign_stores")),
    )
    op.create_index(op.f("ix_campaign_stores_store_id"), "campaign_stores", ["store_id"], unique=False)
    op.create_table(
        "location_consents",
        sa.Column("viewer_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("given_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["viewer_id"], ["members.id"], name=op.f("fk_location_consents_viewer_id_members"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("viewer_id", name=op.f("pk_location_consents")),
    )
    op.create_table(
        "staff",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("brand_id", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False, comment="the staff number or WeCom user id they sign in with"),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("store_id", sa.Uuid(), nullable=True),
        sa.Column("openid", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("(role = 'clerk') = (store_id IS NOT NULL)", name=op.f("ck_staff_clerk_store")),
        sa.CheckConstraint("role IN ('guide', 'clerk', 'ops')", name=op.f("ck_staff_role")),
        sa.ForeignKeyConstraint(["brand_id"], ["brands.id"], name=op.f("fk_staff_brand_id_brands")),
        sa.ForeignKeyConstraint(["store_id"], ["stores.id"], name=op.f("fk_staff_store_id_stores")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_staff")),
        sa.UniqueConstraint("brand_id", "account", name=op.f("uq_staff_brand_id_account")),
    )
    op.create_index(op.f("ix_staff_store_id"), "staff", ["store_id"], unique=False)
    op.create_table(
        "visits",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("brand_id", sa.Text(), nullable=False),
        sa.Column("store_id", sa.Uuid(), nullable=False),
        sa.Column("viewer_id", sa.Uuid(), nullable=False),
        sa.Column("clerk_id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["brand_id"], ["brands.id"], name=op.f("fk_visits_brand_id_brands")),
        sa.ForeignKeyConstraint(["store_id"], ["stores.id"], name=op.f("fk_visits_store_id_stores")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_visits")),
    )
    op.create_index(op.f("ix_visits_store_id"), "visits", ["store_id"], unique=False)
    op.create_index(op.f("ix_visits_viewer_id"), "visits", ["viewer_id"], unique=False)
    op.create_table(
        "bindings",
        sa.Column("member_id", sa.Uuid(), nullable=False),
        sa.Column("guide_id", sa.Uuid(), nullable=False),
        sa.Column("bound_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["guide_id"], ["staff.id"], name=op.f("fk_bindings_guide_id_staff")),
        sa.ForeignKeyConstraint(["member_id"], ["members.id"], name=op.f("fk_bindings_member_id_members")),
        sa.PrimaryKeyConstraint("member_id", name=op.f("pk_bindings")),
    )
    op.create_index(op.f("ix_bindings_guide_id"), "bindings", ["guide_id"], unique=False)
    op.create_table(
        "guide_stores",
        sa.Column("guide_id", sa.Uuid(), nullable=False),
        sa.Column("store_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["guide_id"], ["staff.id"], name=op.f("fk_guide_stores_guide_id_staff")),
        sa.ForeignKeyConstraint(["store_id"], ["stores.id"], name=op.f("fk_guide_stores_store_id_stores")),
        sa.PrimaryKeyConstraint("guide_id", "store_id", name=op.f("pk_guide_stores")),
    )
    op.create_index(op.f("ix_guide_stores_store_id"), "guide_stores", ["store_id"], unique=False)
    op.create_table(
        "rooms",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("brand_id", sa.Text(), nullable=False),
        sa.Column("guide_id", sa.Uuid(), nullable=False),
        sa.Column("store_id", sa.Uuid(), nullable=True),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="scheduled", nullable=False),
        sa.Column("announcement", sa.Text(), server_default="", nullable=False),
        sa.Column("slow_seconds", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column(
            "display_rate",
            sa.SmallInteger(),
            server_default="30",
            nullable=False,
            comment="comments/s a viewer is shown",
        ),
        sa.Column("scheduled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("live_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("state IN ('scheduled', 'live', 'ended')", name=op.f("ck_rooms_state")),
        sa.CheckConstraint("display_rate BETWEEN 1 AND 1000", name=op.f("ck_rooms_display_rate")),
        sa.CheckConstraint("slow_seconds BETWEEN 0 AND 120", name=op.f("ck_rooms_slow")),
        sa.ForeignKeyConstraint(["brand_id"], ["brands.id"], name=op.f("fk_rooms_brand_id_brands")),
        sa.ForeignKeyConstraint(["guide_id"], ["staff.id"], name=op.f("fk_rooms_guide_id_staff")),
        sa.ForeignKeyConstraint(["store_id"], ["stores.id"], name=op.f("fk_rooms_store_id_stores")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rooms")),
    )
    op.create_index("ix_rooms_brand_state", "rooms", ["brand_id", "state"], unique=False)
    op.create_index("ix_rooms_ended_at", "rooms", ["ended_at"], unique=False)
    op.create_index(op.f("ix_rooms_guide_id"), "rooms", ["guide_id"], unique=False)
    op.create_index("ix_rooms_live", "rooms", ["id"], unique=False, postgresql_where="state = 'live'")
    op.create_table(
        "attendance",
        sa.Column("room_id", sa.Uuid(), nullable=False),
        sa.Column("viewer_id", sa.Uuid(), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("joins", sa.Integer(), server_default="1", nullable=False),
        sa.ForeignKeyConstraint(
            ["room_id"], ["rooms.id"], name=op.f("fk_attendance_room_id_rooms"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("room_id", "viewer_id", name=op.f("pk_attendance")),
    )
    op.create_table(
        "comments",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("room_id", sa.Uuid(), nullable=False),
        sa.Column("author_id", sa.Uuid(), nullable=False),
        sa.Column("author_name", sa.Text(), nullable=False),
        sa.Column("author_role", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_by", sa.Uuid(), nullable=True),
        sa.ForeignKeyConstraint(["room_id"], ["rooms.id"], name=op.f("fk_comments_room_id_rooms"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_comments")),
    )
    op.create_index(op.f("ix_comments_author_id"), "comments", ["author_id"], unique=False)
    op.create_index("ix_comments_room_at", "comments", ["room_id", "at"], unique=False)
    op.create_table(
        "drops",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("room_id", sa.Uuid(), nullable=False),
        sa.Column("by", sa.Uuid(), nullable=False, comment="the guide or ops who released it"),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("stock", sa.Integer(), nullable=False),
        sa.Column("issued", sa.Integer(), server_default="0", nullable=False),
        sa.Column("state", sa.Text(), server_default="open", nullable=False),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.Column("opens_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "matched_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="push: when the first match of everybody was done",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("mode IN ('push', 'claim')", name=op.f("ck_drops_mode")),
        sa.CheckConstraint("state IN ('open', 'ended')", name=op.f("ck_drops_state")),
        sa.CheckConstraint("issued BETWEEN 0 AND stock", name=op.f("ck_drops_stock")),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_drops_campaign_id_campaigns")),
        sa.ForeignKeyConstraint(["room_id"], ["rooms.id"], name=op.f("fk_drops_room_id_rooms")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_drops")),
    )
    op.create_index(op.f("ix_drops_campaign_id"), "drops", ["campaign_id"], unique=False)
    op.create_index("ix_drops_open", "drops", ["ends_at"], unique=False, postgresql_where="state = 'open'")
    op.create_index(op.f("ix_drops_room_id"), "drops", ["room_id"], unique=False)
    op.create_table(
        "mutes",
        sa.Column("room_id", sa.Uuid(), nullable=False),
        sa.Column("viewer_id", sa.Uuid(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("by", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["room_id"], ["rooms.id"], name=op.f("fk_mutes_room_id_rooms"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("room_id", "viewer_id", name=op.f("pk_mutes")),
    )
    op.create_table(
        "pin_marks",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("room_id", sa.Uuid(), nullable=False),
        sa.Column("product_id", sa.Uuid(), nullable=False),
        sa.Column("pinned_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("unpinned_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("taps", sa.Integer(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["product_id"], ["products.id"], name=op.f("fk_pin_marks_product_id_products")),
        sa.ForeignKeyConstraint(["room_id"], ["rooms.id"], name=op.f("fk_pin_marks_room_id_rooms"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pin_marks")),
    )
    op.create_index(op.f("ix_pin_marks_room_id"), "pin_marks", ["room_id"], unique=False)
    op.create_index("uq_pin_marks_open", "pin_marks", ["room_id"], unique=True, postgresql_where="unpinned_at IS NULL")
    op.create_table(
        "shelf_items",
        sa.Column("room_id", sa.Uuid(), nullable=False),
        sa.Column("product_id", sa.Uuid(), nullable=False),
        sa.Column("place", sa.SmallInteger(), nullable=False),
        sa.ForeignKeyConstraint(["product_id"], ["products.id"], name=op.f("fk_shelf_items_product_id_products")),
        sa.ForeignKeyConstraint(
            ["room_id"], ["rooms.id"], name=op.f("fk_shelf_items_room_id_rooms"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("room_id", "product_id", name=op.f("pk_shelf_items")),
        sa.UniqueConstraint(
            "room_id", "place", deferrable=True, initially="DEFERRED", name=op.f("uq_shelf_items_room_id_place")
        ),
    )
    op.create_table(
        "coupons",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("brand_id", sa.Text(), nullable=False),
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("viewer_id", sa.Uuid(), nullable=False),
        sa.Column("n", sa.SmallInteger(), nullable=False, comment="the viewer's n-th coupon of this campaign, from 1"),
        sa.Column("drop_id", sa.Uuid(), nullable=False),
        sa.Column("room_id", sa.Uuid(), nullable=False),
        sa.Column("store_id", sa.Uuid(), nullable=False),
        sa.Column(
            "code", sa.Text(), nullable=False, comment="80 random bits in Crockford base32, without the check character"
        ),
        sa.Column("state", sa.Text(), server_default="issued", nullable=False),
        sa.Column(
            "distance_band_m", sa.Integer(), nullable=True, comment="upper edge in metres of the band the viewer was in"
        ),
        sa.Column("claim_key", sa.Text(), nullable=True, comment="the claim's id: a retry finds this coupon"),
        sa.Column("valid_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("valid_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("redeemed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'redeemed') = (redeemed_at IS NOT NULL)", name=op.f("ck_coupons_redeemed")),
        sa.CheckConstraint("state IN ('issued', 'redeemed', 'expired', 'voided')", name=op.f("ck_coupons_state")),
        sa.ForeignKeyConstraint(["brand_id"], ["brands.id"], name=op.f("fk_coupons_brand_id_brands")),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_coupons_campaign_id_campaigns")),
        sa.ForeignKeyConstraint(["drop_id"], ["drops.id"], name=op.f("fk_coupons_drop_id_drops")),
        sa.ForeignKeyConstraint(["room_id"], ["rooms.id"], name=op.f("fk_coupons_room_id_rooms")),
        sa.ForeignKeyConstraint(["store_id"], ["stores.id"], name=op.f("fk_coupons_store_id_stores")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_coupons")),
        sa.UniqueConstraint("campaign_id", "viewer_id", "n", name=op.f("uq_coupons_campaign_id_viewer_id_n")),
        sa.UniqueConstraint("code", name=op.f("uq_coupons_code")),
    )
    op.create_index("ix_coupons_drop", "coupons", ["drop_id"], unique=False)
    op.create_index(
        "ix_coupons_expiring", "coupons", ["valid_until"], unique=False, postgresql_where="state = 'issued'"
    )
    op.create_index("ix_coupons_store", "coupons", ["store_id"], unique=False)
    op.create_index("ix_coupons_viewer", "coupons", ["viewer_id", "valid_until"], unique=False)
    op.create_table(
        "drop_viewers",
        sa.Column("drop_id", sa.Uuid(), nullable=False),
        sa.Column("viewer_id", sa.Uuid(), nullable=False),
        sa.Column("store_id", sa.Uuid(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True, comment="the refusal's code"),
        sa.Column("distance_band_m", sa.Integer(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("outcome IN ('issued', 'held_out', 'refused')", name=op.f("ck_drop_viewers_outcome")),
        sa.ForeignKeyConstraint(["drop_id"], ["drops.id"], name=op.f("fk_drop_viewers_drop_id_drops")),
        sa.ForeignKeyConstraint(["store_id"], ["stores.id"], name=op.f("fk_drop_viewers_store_id_stores")),
        sa.PrimaryKeyConstraint("drop_id", "viewer_id", name=op.f("pk_drop_viewers")),
    )
    op.create_index(op.f("ix_drop_viewers_viewer_id"), "drop_viewers", ["viewer_id"], unique=False)
    op.create_table(
        "redemptions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("coupon_id", sa.Uuid(), nullable=False),
        sa.Column("store_id", sa.Uuid(), nullable=False),
        sa.Column("clerk_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("order_fen", sa.BigInteger(), nullable=True),
        sa.Column("discount_fen", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reversed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reversed_by", sa.Uuid(), nullable=True),
        sa.ForeignKeyConstraint(["coupon_id"], ["coupons.id"], name=op.f("fk_redemptions_coupon_id_coupons")),
        sa.ForeignKeyConstraint(["store_id"], ["stores.id"], name=op.f("fk_redemptions_store_id_stores")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_redemptions")),
        sa.UniqueConstraint("store_id", "key", name=op.f("uq_redemptions_store_id_key")),
    )
    op.create_index(op.f("ix_redemptions_coupon_id"), "redemptions", ["coupon_id"], unique=False)
    op.create_index(
        "uq_redemptions_standing", "redemptions", ["coupon_id"], unique=True, postgresql_where="reversed_at IS NULL"
    )
    op.execute("INSERT INTO outbox_lanes SELECT generate_series(0, 7)")


def downgrade() -> None:
    op.drop_index("uq_redemptions_standing", table_name="redemptions", postgresql_where="reversed_at IS NULL")
    op.drop_index(op.f("ix_redemptions_coupon_id"), table_name="redemptions")
    op.drop_table("redemptions")
    op.drop_index(op.f("ix_drop_viewers_viewer_id"), table_name="drop_viewers")
    op.drop_table("drop_viewers")
    op.drop_index("ix_coupons_viewer", table_name="coupons")
    op.drop_index("ix_coupons_store", table_name="coupons")
    op.drop_index("ix_coupons_expiring", table_name="coupons", postgresql_where="state = 'issued'")
    op.drop_index("ix_coupons_drop", table_name="coupons")
    op.drop_table("coupons")
    op.drop_table("shelf_items")
    op.drop_index("uq_pin_marks_open", table_name="pin_marks", postgresql_where="unpinned_at IS NULL")
    op.drop_index(op.f("ix_pin_marks_room_id"), table_name="pin_marks")
    op.drop_table("pin_marks")
    op.drop_table("mutes")
    op.drop_index(op.f("ix_drops_room_id"), table_name="drops")
    op.drop_index("ix_drops_open", table_name="drops", postgresql_where="state = 'open'")
    op.drop_index(op.f("ix_drops_campaign_id"), table_name="drops")
    op.drop_table("drops")
    op.drop_index("ix_comments_room_at", table_name="comments")
    op.drop_index(op.f("ix_comments_author_id"), table_name="comments")
    op.drop_table("comments")
    op.drop_table("attendance")
    op.drop_index("ix_rooms_live", table_name="rooms", postgresql_where="state = 'live'")
    op.drop_index(op.f("ix_rooms_guide_id"), table_name="rooms")
    op.drop_index("ix_rooms_ended_at", table_name="rooms")
    op.drop_index("ix_rooms_brand_state", table_name="rooms")
    op.drop_table("rooms")
    op.drop_index(op.f("ix_guide_stores_store_id"), table_name="guide_stores")
    op.drop_table("guide_stores")
    op.drop_index(op.f("ix_bindings_guide_id"), table_name="bindings")
    op.drop_table("bindings")
    op.drop_index(op.f("ix_visits_viewer_id"), table_name="visits")
    op.drop_index(op.f("ix_visits_store_id"), table_name="visits")
    op.drop_table("visits")
    op.drop_index(op.f("ix_staff_store_id"), table_name="staff")
    op.drop_table("staff")
    op.drop_table("location_consents")
    op.drop_index(op.f("ix_campaign_stores_store_id"), table_name="campaign_stores")
    op.drop_table("campaign_stores")
    op.drop_index(
        "ix_stores_trade_area", table_name="stores", postgresql_using="gist", postgresql_where="trade_area IS NOT NULL"
    )
    op.drop_index("ix_stores_position", table_name="stores", postgresql_using="gist")
    op.drop_table("stores")
    op.drop_table("products")
    op.drop_table("members")
    op.drop_index(op.f("ix_campaigns_brand_id"), table_name="campaigns")
    op.drop_table("campaigns")
    op.drop_table("outbox_lanes")
    op.drop_index("ix_outbox_waiting", table_name="outbox", postgresql_where="published_at IS NULL")
    op.drop_table("outbox")
    op.drop_index(op.f("ix_locations_viewer_id"), table_name="locations")
    op.drop_index("ix_locations_position", table_name="locations", postgresql_using="gist")
    op.drop_index("ix_locations_fixed_at", table_name="locations")
    op.drop_table("locations")
    op.drop_index("ix_ledger_coupon", table_name="ledger")
    op.drop_table("ledger")
    op.drop_index(op.f("ix_idempotency_keys_created_at"), table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
    op.drop_table("brands")
