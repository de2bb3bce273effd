"""REST of the till: redeeming, also what was redeemed while there was no network, visits, and the day's closing."""

import base64
from datetime import date
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import Response
from prometheus_client import REGISTRY, Counter
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import closing, codes, guessing, offline, orders, receipts, redemption, stacking, till_views, views, visits
from coupons.edge import ASKED, MADE, SIGNED_IN, Cursor, InSigner, Key, Limit, behind, required
from kernel.clock import now
from kernel.errors import Refusal
from kernel.http import (
    Clerk,
    ClerkOrOps,
    Code,
    InKernel,
    InOnce,
    InSession,
    Ops,
    Page,
    encode_cursor,
    refusals,
)
from kernel.identity import Principal
from kernel.process import Kernel

router = APIRouter()

REDEMPTIONS = Counter(
    "nearcast_redemptions", "Redemptions asked for by tills that are online, by outcome", ["outcome"], registry=REGISTRY
)
for _outcome in ("redeemed", "replayed", "already_redeemed"):
    REDEMPTIONS.labels(_outcome)  # there from the start, so that a rate sees the first of them

_PRESENTED = (
    *SIGNED_IN,
    "invalid",
    "bad_request",
    "code_mistyped",
    "code_unknown",
    "qr_expired",
    "wrong_store",
    "already_redeemed",
    "coupon_expired",
    "coupon_not_yet_valid",
    "coupon_voided",
    "outside_hours",
    "busy",
    "too_fast",
)
_SOLD = ("below_threshold", "stacking", "idempotency_key_missing", "idempotency_mismatch")


@router.get("/coupon-key", tags=["till"], summary="Public key of the QR codes")
async def coupon_key(signer: InSigner) -> views.CouponKey:
    """With it a till can check QR codes without a network."""
    return views.CouponKey(key=base64.b64encode(signer.public_key).decode(), step_seconds=codes.STEP_SECONDS)


@router.post(
    "/redemptions",
    tags=["till"],
    summary="Redeem a coupon",
    responses=refusals(*_PRESENTED, *_SOLD),
)
async def redeem(
    body: till_views.Redeem, kernel: InKernel, session: InSession, who: Clerk, signer: InSigner, key: Key = None
) -> till_views.RedemptionView:
    """Exactly once. The `Idempotency-Key` is the till's: with it the same request may be repeated for ever."""
    try:
        used = await _redeem(body, kernel, session, who, signer, body.sale(required(key), now()))
    except Refusal as refusal:
        REDEMPTIONS.labels(refusal.code).inc()
        raise
    REDEMPTIONS.labels("replayed" if used.replayed else "redeemed").inc()
    return till_views.RedemptionView.of(used)


async def _redeem(
    body: till_views.Redeem,
    kernel: Kernel,
    session: AsyncSession,
    who: Principal,
    signer: codes.Signer,
    sale: redemption.Sale,
) -> receipts.Used:
    try:
        async with guessing.watched(kernel.redis, who, typed=body.code is not None):
            return await redemption.use_up(session, who, body.presented(), sale, signer)
    except Refusal as refusal:
        if refusal.code != "too_fast":
            raise
        # A till that asks again what became of its sale is no guesser, however many wrong codes came since.
        former = await redemption.former(session, who, body.presented(), sale, signer)
        if former is None:
            raise
        return former


@router.post("/redemptions/check", tags=["till"], summary="Look at a coupon", responses=refusals(*_PRESENTED))
async def check(
    body: till_views.Check, kernel: InKernel, session: InSession, who: Clerk, signer: InSigner
) -> till_views.CheckView:
    """What it is, without using it; refused with the reason for which redeeming would be."""
    async with guessing.watched(kernel.redis, who, typed=body.code is not None):
        looked = await redemption.look(session, who, body.presented(), body.order_fen, signer, now())
    return till_views.CheckView.of(looked)


@router.post(
    "/redemptions/{redemption_id}/reverse",
    tags=["till"],
    summary="Take a redemption back",
    responses=refusals(*ASKED, "wrong_store", "reversal_too_late"),
)
async def reverse(redemption_id: UUID, session: InSession, who: Clerk) -> till_views.RedemptionView:
    """Within an hour and at the same store. `coupon_now` says whether the coupon can be used again: not if it has
    expired since, or its owner was erased. Repeating it changes nothing."""
    return till_views.RedemptionView.of(await redemption.reverse(session, who, redemption_id, now()))


@router.get("/redemptions", tags=["till"], summary="Today at this till", responses=refusals(*SIGNED_IN, "invalid"))
async def redemptions(
    session: InSession, who: Clerk, cursor: Cursor = None, limit: Limit = 50
) -> Page[till_views.RedemptionView]:
    """Redemptions of the clerk's store since the brand's midnight, newest first."""
    midnight, _ = orders.day_around(now(), await orders.zone(session, who))
    found = await receipts.newest(session, who, midnight, limit, behind(cursor))
    last = encode_cursor(found[-1].at, found[-1].id) if len(found) == limit else None
    return Page(items=[till_views.RedemptionView.of(used) for used in found], next=last)


@router.post(
    "/visits",
    tags=["till"],
    summary="Record a visit",
    status_code=201,
    responses=refusals(*MADE, "code_mistyped", "qr_expired", "too_fast"),
)
async def visit(
    body: till_views.NewVisit, kernel: InKernel, session: InSession, who: Clerk, signer: InSigner, once: InOnce
) -> till_views.VisitView:
    """A member came and showed their code. Takes an `Idempotency-Key`."""

    async def work() -> till_views.VisitView:
        async with guessing.watched(kernel.redis, who, typed=False):
            visited = await visits.record(session, who, body.qr, signer, now())
        return till_views.VisitView(id=visited.id, at=visited.at, name=visited.name)

    return await once(till_views.VisitView, work)


# ---- without a network ---------------------------------------------------------------------------------------------


@router.get("/till/keys", tags=["till"], summary="What a till needs to check QR codes by itself")
async def till_keys(signer: InSigner, answer: Response) -> till_views.TillKeys:
    """Public keys, how long a QR code is good, and our clock, without which a till that is off refuses live ones."""
    answer.headers["Cache-Control"] = "no-store"
    key = till_views.TillKey(key=base64.b64encode(signer.public_key).decode())
    return till_views.TillKeys(keys=[key], now=now())


@router.post(
    "/till/sync",
    tags=["till"],
    summary="Tell what was redeemed without a network",
    responses=refusals(*SIGNED_IN, "invalid", "bad_request"),
)
async def till_sync(body: till_views.Sync, kernel: InKernel, who: Clerk, signer: InSigner) -> till_views.Outcomes:
    """Up to 100, each with the key it had at the till, and each with its own outcome. The same may be told for ever."""
    # In the order of the sales: of two with one coupon the earlier one counts, however they were sent.
    told = {}
    for place, one in sorted(enumerate(body.redemptions), key=lambda placed: placed[1].at):
        told[place] = await offline.tell(kernel.sessions, who, one.sale_told(now()), one.qr, signer)
    return till_views.Outcomes.of(told[place] for place in range(len(told)))


# ---- one order, several coupons ------------------------------------------------------------------------------------


@router.get("/till/rules", tags=["till"], summary="Coupons on one order", responses=refusals(*SIGNED_IN))
async def till_rules(session: InSession, who: ClerkOrOps) -> till_views.StackingRules:
    """How many coupons of each sort one order may take."""
    return till_views.StackingRules.of(await stacking.rules_of(session, who.brand))


@router.put(
    "/till/rules",
    tags=["till"],
    summary="Set coupons on one order",
    responses=refusals(*SIGNED_IN, "invalid", "bad_request"),
)
async def set_till_rules(body: till_views.StackingRules, session: InSession, who: Ops) -> till_views.StackingRules:
    """From the next redemption on."""
    await stacking.set_rules(session, who.brand, body.rules())
    return body


# ---- the day's closing ---------------------------------------------------------------------------------------------


@router.get(
    "/till/closing",
    tags=["till"],
    summary="A store's day",
    response_model=till_views.ClosingView,
    responses=refusals(*ASKED)
    | {200: {"content": {"text/csv": {"schema": {"type": "string"}}}, "description": "As JSON or CSV"}},
)
async def till_closing(
    session: InSession,
    who: ClerkOrOps,
    day: Annotated[date | None, Query(alias="date", description="In the brand's time zone; today if left out")] = None,
    store: Annotated[Code | None, Query(description="The store's code: for ops, who must give it")] = None,
    form: Annotated[Literal["csv", "json"], Query(alias="format")] = "csv",
) -> till_views.ClosingView | Response:
    """Redemptions, reversals and visits of one day, line by line and in sum; CSV that spreadsheets open."""
    found = await closing.of_day(session, who, store, day, now())
    if form == "json":
        return till_views.ClosingView.of(found)
    name = f"closing-{found.day.isoformat()}.csv"  # a store's code may hold what a header must not
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return Response(closing.as_csv(found), media_type="text/csv; charset=utf-8", headers=headers)
