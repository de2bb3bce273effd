"""REST: campaigns, drops and figures for guides and ops, the wallet for viewers. The till is in ``till_routes``."""

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from sqlalchemy import text

from coupons import (
    campaign_import,
    campaigns,
    conversion_routes,
    drops,
    foresight,
    funnel,
    import_views,
    limit_routes,
    review_routes,
    rules,
    till_routes,
    till_views,
    views,
    voiding,
    wallet,
)
from coupons.campaign_file import Line
from coupons.edge import ASKED, MADE, SIGNED_IN, Cursor, InIssuer, InSigner, Key, Limit, behind, required
from coupons.tables import Campaign
from coupons.terms import offer_of
from kernel import tracing
from kernel.clock import now
from kernel.errors import Refusal
from kernel.http import (
    GuideOrOps,
    InKernel,
    InOnce,
    InSession,
    Ops,
    Page,
    Viewer,
    decode_cursor,
    encode_cursor,
    refusals,
)
from kernel.postgres import transaction

router = APIRouter(prefix="/v1")
router.include_router(limit_routes.router)
router.include_router(till_routes.router)
router.include_router(review_routes.router)
router.include_router(conversion_routes.router)

_CLAIMED = (
    *ASKED,
    "idempotency_key_missing",
    "not_in_room",
    "banned",
    "sold_out",
    "limit_reached",
    "out_of_range",
    "location_missing",
    "location_stale",
    "location_uncertain",
    "not_started",
    "ended",
    "quiet_hours",
    "tier",
    "segment",
    "cap_reached",
    "sold_out_today",
    "suspect",
    "under_review",
    "held_out",
    "campaign_state",
    "busy",
)

# Whoever claims over REST must have come through a gateway into the drop's room, and not be banned from it since.
_PRESENT = text(
    """
    SELECT d.room_id, a.viewer_id IS NOT NULL AS present,
        EXISTS (SELECT FROM bans b WHERE b.room_id = r.id AND b.viewer_id = :viewer AND b.until > :moment)
        OR EXISTS (SELECT FROM brand_bans b
                   WHERE b.brand_id = r.brand_id AND b.viewer_id = :viewer AND b.until > :moment) AS banned
    FROM drops d JOIN rooms r ON r.id = d.room_id
        LEFT JOIN attendance a ON a.room_id = d.room_id AND a.viewer_id = :viewer
    WHERE d.id = :drop AND r.brand_id = :brand
    """
)

# ---- campaigns -----------------------------------------------------------------------------------------------------


async def _campaign_views(session: InSession, found: list[Campaign]) -> list[views.CampaignView]:
    stores = await campaigns.store_codes(session, found)
    return [
        views.CampaignView.of(
            campaign, rules.describe(offer_of(campaign)), None if campaign.all_stores else stores[campaign.id]
        )
        for campaign in found
    ]


@router.post("/campaigns", tags=["campaigns"], summary="Make a campaign", status_code=201, responses=refusals(*MADE))
async def create_campaign(body: views.NewCampaign, session: InSession, who: Ops, once: InOnce) -> views.CampaignView:
    """A draft; it gives coupons once it runs. Takes an `Idempotency-Key`."""

    async def work() -> views.CampaignView:
        made = await campaigns.create(session, who, body.columns(), body.store_codes)
        return (await _campaign_views(session, [made]))[0]

    return await once(views.CampaignView, work)


@router.post(
    "/campaigns/import", tags=["campaigns"], summary="Import campaigns", responses=refusals(*SIGNED_IN, "bad_request")
)
async def import_campaigns(
    body: import_views.CampaignImport, session: InSession, who: Ops
) -> import_views.CampaignsImported:
    """New keys become drafts, drafts are changed; what runs changes its stock only, if `current_stock` says what it is.

    Good ones are loaded whatever becomes of the others, which are named by their place in the list, from 1.
    """
    lines = [Line(place, values) for place, values in enumerate(body.campaigns, 1)]
    return import_views.CampaignsImported.of(await campaign_import.load(session, who, lines, dry_run=body.dry_run))


@router.get("/campaigns", tags=["campaigns"], summary="Campaigns", responses=refusals(*SIGNED_IN, "invalid"))
async def list_campaigns(
    session: InSession, who: GuideOrOps, cursor: Cursor = None, limit: Limit = 50
) -> Page[views.CampaignView]:
    """The brand's campaigns, newest first."""
    found = await campaigns.newest(session, who.brand, limit, behind(cursor))
    last = encode_cursor(found[-1].created_at, found[-1].id) if len(found) == limit else None
    return Page(items=await _campaign_views(session, found), next=last)


@router.get("/campaigns/{campaign}", tags=["campaigns"], summary="A campaign", responses=refusals(*ASKED))
async def get_campaign(campaign: UUID, session: InSession, who: GuideOrOps) -> views.CampaignView:
    """One campaign and how many of its coupons are issued."""
    return (await _campaign_views(session, [await campaigns.get(session, who.brand, campaign)]))[0]


async def _move(session: InSession, who: Ops, campaign: UUID, action: str) -> views.CampaignView:
    return (await _campaign_views(session, [await campaigns.move(session, who, campaign, action)]))[0]


@router.post(
    "/campaigns/{campaign}/run", tags=["campaigns"], summary="Run", responses=refusals(*ASKED, "campaign_state")
)
async def run_campaign(campaign: UUID, session: InSession, who: Ops) -> views.CampaignView:
    """From draft or paused to running: guides can release its coupons."""
    return await _move(session, who, campaign, "run")


@router.post(
    "/campaigns/{campaign}/pause", tags=["campaigns"], summary="Pause", responses=refusals(*ASKED, "campaign_state")
)
async def pause_campaign(campaign: UUID, session: InSession, who: Ops) -> views.CampaignView:
    """No coupon is issued until it runs again, beginning with the next batch of claims."""
    return await _move(session, who, campaign, "pause")


@router.post(
    "/campaigns/{campaign}/end", tags=["campaigns"], summary="End", responses=refusals(*ASKED, "campaign_state")
)
async def end_campaign(campaign: UUID, session: InSession, who: Ops) -> views.CampaignView:
    """For good. Coupons that were issued stay valid; open drops end within a second."""
    return await _move(session, who, campaign, "end")


@router.patch(
    "/campaigns/{campaign}/stock",
    tags=["campaigns"],
    summary="Change the stock",
    responses=refusals(*ASKED, "bad_request", "campaign_state", "budget_conflict"),
)
async def change_stock(campaign: UUID, body: views.StockChange, session: InSession, who: Ops) -> views.CampaignView:
    """Compare and set: refused with what it is now, if it is no longer `current`; and once the campaign is ended."""
    changed = await campaigns.change_stock(session, who, campaign, body.current, body.target)
    return (await _campaign_views(session, [changed]))[0]


# ---- drops ---------------------------------------------------------------------------------------------------------


@router.post(
    "/rooms/{room}/drops",
    tags=["drops"],
    summary="Release coupons",
    status_code=201,
    responses=refusals(*MADE, "room_not_live", "campaign_state", "ended", "sold_out", "drop_limit"),
)
async def open_drop(
    room: UUID, body: views.NewDrop, session: InSession, who: GuideOrOps, signer: InSigner, once: InOnce
) -> views.DropView:
    """Into the guide's own live room; ops may in every room. Takes an `Idempotency-Key`."""

    async def work() -> views.DropView:
        drop = await drops.open_drop(
            session, who, room, body.campaign, body.mode, body.stock, body.seconds, body.delay, signer
        )
        tracing.note(drop=str(drop.id))
        return views.DropView.of(drop)

    return await once(views.DropView, work)


@router.post(
    "/rooms/{room}/drops/preview",
    tags=["drops"],
    summary="Whom it would reach",
    responses=refusals(*ASKED, "bad_request"),
)
async def preview_drop(room: UUID, body: views.PreviewOf, session: InSession, who: GuideOrOps) -> views.Preview:
    """How many viewers are in reach now, how many of them would get one, and why not the others."""
    return views.Preview.of(await foresight.preview(session, who, room, body.campaign))


@router.get("/rooms/{room}/drops", tags=["drops"], summary="Drops of a room", responses=refusals(*ASKED))
async def list_drops(room: UUID, session: InSession, who: GuideOrOps) -> Page[views.DropView]:
    """The newest 200, newest first."""
    return Page(items=[views.DropView.of(drop) for drop in await drops.list_drops(session, who, room)])


@router.post("/drops/{drop}/end", tags=["drops"], summary="Stop a drop", responses=refusals(*ASKED))
async def end_drop(drop: UUID, session: InSession, who: GuideOrOps) -> views.DropView:
    """At once; what was issued stays issued."""
    return views.DropView.of(await drops.end_drop(session, who, drop))


@router.post("/drops/{drop}/claims", tags=["drops"], summary="Claim a coupon", responses=refusals(*_CLAIMED))
async def claim(
    drop: UUID,
    kernel: InKernel,
    who: Viewer,
    issuer: InIssuer,
    key: Key = None,
) -> views.CouponView:
    """First come, first served. The `Idempotency-Key` is the claim's id: a retry gets the same coupon."""
    claim_id = required(key)
    tracing.note(drop=str(drop))
    async with transaction(kernel.sessions) as session:  # closed before the claim waits in its queue
        asked = {"drop": drop, "viewer": who.subject, "brand": who.brand, "moment": now()}
        found = (await session.execute(_PRESENT, asked)).one_or_none()
    if found is None:
        raise Refusal("not_found", what=str(drop))
    if not found.present:
        raise Refusal("not_in_room")
    if found.banned:
        raise Refusal("banned")
    return views.CouponView.of(await issuer.claim(who, found.room_id, drop, claim_id))


@router.post(
    "/ops/coupons/void",
    tags=["campaigns"],
    summary="Withdraw a coupon",
    responses=refusals(
        *SIGNED_IN, "invalid", "bad_request", "code_mistyped", "code_unknown", "already_redeemed", "coupon_expired"
    ),
)
async def void_coupon(body: till_views.Void, session: InSession, who: Ops) -> till_views.VoidedView:
    """By its code, before it is used. Nothing goes back into the stock; repeating it changes nothing."""
    return till_views.VoidedView(**(await voiding.void(session, who, body.code, now()))._asdict())


# ---- the viewer's wallet -------------------------------------------------------------------------------------------


@router.get("/me/coupons", tags=["wallet"], summary="My coupons", responses=refusals(*SIGNED_IN, "invalid"))
async def my_coupons(
    session: InSession,
    who: Viewer,
    state: Annotated[Literal["issued", "redeemed", "expired", "voided"] | None, Query()] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[views.CouponView]:
    """Nearest expiry first."""
    found = await wallet.coupons_of(session, who, now(), state=state, after=behind(cursor), limit=limit)
    last = encode_cursor(found[-1][1], found[-1][0].id) if len(found) == limit else None
    return Page(items=[views.CouponView.of(card) for card, _ in found], next=last)


@router.get("/me/coupons/{coupon}", tags=["wallet"], summary="My coupon", responses=refusals(*ASKED))
async def my_coupon(coupon: UUID, session: InSession, who: Viewer) -> views.CouponView:
    """One of the viewer's own coupons."""
    return views.CouponView.of(await wallet.coupon_of(session, who, coupon, now()))


@router.get(
    "/me/coupons/{coupon}/qr",
    tags=["wallet"],
    summary="Its QR code",
    responses=refusals(*ASKED, "already_redeemed", "coupon_expired", "coupon_voided"),
)
async def my_coupon_qr(coupon: UUID, session: InSession, who: Viewer, signer: InSigner) -> views.QrView:
    """Signed, and another one every 30 s, so that a screenshot ages."""
    return views.QrView.of(await wallet.coupon_qr(session, who, coupon, signer, now()))


@router.get("/me/qr", tags=["wallet"], summary="My member code", responses=refusals(*SIGNED_IN))
async def my_qr(who: Viewer, signer: InSigner) -> views.QrView:
    """For a visit without a coupon."""
    return views.QrView.of(wallet.member_qr(who, signer, now()))


# ---- figures -------------------------------------------------------------------------------------------------------


@router.get("/rooms/{room}/funnel", tags=["figures"], summary="Funnel of a room", responses=refusals(*ASKED))
async def room_funnel(room: UUID, session: InSession, who: GuideOrOps) -> funnel.Funnel:
    """From in the room to redeemed, for the room's guide and for ops."""
    await drops.require_host(session, who, room)
    return await funnel.of_room(session, who.brand, room)


@router.get("/ops/funnel", tags=["figures"], summary="Funnels", responses=refusals(*SIGNED_IN, "invalid"))
async def ops_funnel(
    session: InSession,
    who: Ops,
    by: Annotated[funnel.By, Query()] = "room",
    limit: Annotated[int, Query(ge=1, le=funnel.MOST)] = 200,
) -> Page[funnel.FunnelRow]:
    """By room, store, guide or drop, most coupons first."""
    return Page(items=await funnel.by(session, who.brand, by, limit))


@router.get("/ops/funnel/all", tags=["figures"], summary="Funnel of all rooms", responses=refusals(*SIGNED_IN))
async def ops_funnel_all(session: InSession, who: Ops) -> funnel.Funnel:
    """All rooms together: who was in several of them counts once."""
    return await funnel.of_brand(session, who.brand)


@router.get(
    "/ops/stores", tags=["figures"], summary="Stores and their coupons", responses=refusals(*SIGNED_IN, "invalid")
)
async def ops_stores(
    session: InSession, who: Ops, cursor: Cursor = None, limit: Annotated[int, Query(ge=1, le=5000)] = 1000
) -> Page[funnel.StoreCoupons]:
    """For the map, in the order of their codes."""
    after = None if cursor is None else decode_cursor(cursor, tuple[str])[0]
    found = await funnel.stores(session, who.brand, after, limit)
    return Page(items=found, next=encode_cursor(found[-1].code) if len(found) == limit else None)
