"""REST: what holds over all campaigns of a brand, for ops."""

from fastapi import APIRouter

from coupons import limit_views, limits
from kernel.http import InSession, Ops, refusals

router = APIRouter()

_SIGNED_IN = ("token_missing", "token_invalid", "token_expired", "forbidden", "unavailable", "not_found")


@router.get("/ops/limits", tags=["campaigns"], summary="The brand's limits", responses=refusals(*_SIGNED_IN))
async def get_limits(session: InSession, who: Ops) -> limit_views.BrandLimits:
    """What holds over all campaigns: coupons a viewer, quiet hours, drops a guide."""
    return limit_views.BrandLimits.of(await limits.of_brand(session, who))


@router.put(
    "/ops/limits",
    tags=["campaigns"],
    summary="Set the brand's limits",
    responses=refusals(*_SIGNED_IN, "invalid", "bad_request"),
)
async def put_limits(body: limit_views.BrandLimits, session: InSession, who: Ops) -> limit_views.BrandLimits:
    """All of them at once; what is left out becomes no limit. Coupons that were issued stay issued."""
    return limit_views.BrandLimits.of(await limits.change(session, who, body.asked()))
