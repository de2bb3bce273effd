"""REST: what a viewer may ask for by law."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials

from app import privacy
from kernel.clock import now
from kernel.errors import Refusal
from kernel.http import BEARER, InKernel, Viewer, refusals
from kernel.identity import Principal, Role
from kernel.postgres import transaction

router = APIRouter(prefix="/v1/me", tags=["privacy"])

_SIGNED_IN = ("token_missing", "token_invalid", "token_expired", "forbidden", "not_found", "unavailable")
_EXAMPLE = {
    "format": privacy.FORMAT,
    "made_at": "2026-06-18T12:00:00+00:00",
    "account": [{"id": "019c2f6e-1a2b-7c3d-8e4f-5a6b7c8d9e0f", "brand": "nearcast", "name": "小林", "tier": 1}],
    "consents": [{"subject": "location", "version": "2026-11", "given_at": "2026-06-18T11:40:00+00:00"}],
}
_SHAPE: dict[str, Any] = {
    "type": "object",
    "required": ["format", "made_at", *privacy.SUBJECTS],
    "properties": {
        "format": {"const": privacy.FORMAT},
        "made_at": {"type": "string", "format": "date-time"},
        **{subject: {"type": "array", "items": {"type": "object"}} for subject in privacy.SUBJECTS},
    },
}


def _even_erased(
    kernel: InKernel, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]
) -> Principal:
    if credentials is None:
        raise Refusal("token_missing")
    who = kernel.keyring.verify(credentials.credentials, now(), even_erased=True)
    if who.role is not Role.VIEWER:
        raise Refusal("forbidden")
    return who


@router.get(
    "/export",
    summary="Everything kept about me",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"application/json": {"schema": _SHAPE, "example": _EXAMPLE}}},
        **refusals(*_SIGNED_IN, "account_erased"),
    },
)
async def export_me(kernel: InKernel, who: Viewer) -> StreamingResponse:
    """One JSON object with a list for each subject, as a file. Its lists and their fields are named in the page on
    privacy; fields may be added."""
    pieces = privacy.export(kernel.sessions, who.brand, who.subject, now())
    first = await anext(pieces)  # a refusal must come before the answer has begun

    async def all_of_it() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    headers = {"Content-Disposition": 'attachment; filename="nearcast-export.json"', "Cache-Control": "no-store"}
    return StreamingResponse(all_of_it(), media_type="application/json", headers=headers)


@router.delete("", summary="Erase me", status_code=204, responses=refusals(*_SIGNED_IN))
async def erase_me(kernel: InKernel, who: Annotated[Principal, Depends(_even_erased)]) -> None:
    """At once and for good; what the books need stays without a person. Coupons that were not used end, sockets close
    with 4510, and every token of this member is refused within a second, but for repeating this request."""
    async with transaction(kernel.sessions) as session:
        await privacy.erase(session, who.brand, who.subject, now())
    kernel.keyring.refuse(who.subject)
