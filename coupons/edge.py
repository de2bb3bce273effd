"""What requests about coupons depend on, and how their lists and keys are read."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Header, Query, Request

from coupons import codes
from coupons.issuing import Issuer
from kernel.errors import Refusal
from kernel.http import PLAIN, decode_cursor

SIGNED_IN = ("token_missing", "token_invalid", "token_expired", "forbidden", "unavailable")
ASKED = (*SIGNED_IN, "not_found", "invalid")
MADE = (*ASKED, "bad_request", "idempotency_mismatch")
"""Refusals that every list, every question about one thing, and every request that makes something may get."""

Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[str | None, Query(max_length=500)]
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200, pattern=PLAIN)]


def _issuer(request: Request) -> Issuer:
    issuer: Issuer = request.app.state.issuer
    return issuer


def _signer(request: Request) -> codes.Signer:
    signer: codes.Signer = request.app.state.signer
    return signer


InIssuer = Annotated[Issuer, Depends(_issuer)]
InSigner = Annotated[codes.Signer, Depends(_signer)]


def behind(cursor: str | None) -> tuple[datetime, UUID] | None:
    """The place of a list ordered by a time and an id, from its cursor."""
    return None if cursor is None else decode_cursor(cursor, tuple[datetime, UUID])


def required(key: str | None) -> str:
    """``key``; Refusal ``idempotency_key_missing`` without one."""
    if key is None:
        raise Refusal("idempotency_key_missing")
    return key
