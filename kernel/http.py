"""The edge of REST: what a request may depend on, and how refusals leave as problem+json (RFC 9457)."""

import base64
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from math import isfinite
from typing import Annotated, Any, Generic, TypeVar, cast
from uuid import UUID

import msgspec
from fastapi import Depends, FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, StringConstraints
from pydantic_core import CoreSchema
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeout
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.exceptions import HTTPException
from starlette.types import Scope

from kernel.clock import now
from kernel.errors import CATALOGUE, Refusal
from kernel.identity import Principal, Role
from kernel.ids import new_id
from kernel.postgres import transaction
from kernel.process import Kernel
from kernel.retries import once

Item = TypeVar("Item")
Shape = TypeVar("Shape")
Answer = TypeVar("Answer", bound=BaseModel)


def kernel_of(request: Request) -> Kernel:
    """The process's Kernel, put on the application by ``app.api.create_app``."""
    kernel: Kernel = request.app.state.kernel
    return kernel


InKernel = Annotated[Kernel, Depends(kernel_of)]


async def _session(kernel: InKernel) -> AsyncIterator[AsyncSession]:
    async with transaction(kernel.sessions) as session:
        yield session


# Scope "function": the transaction commits before the answer is sent, so that a "yes" is never sent too early.
InSession = Annotated[AsyncSession, Depends(_session, scope="function")]

BEARER = HTTPBearer(auto_error=False)


def _principal(
    kernel: InKernel, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]
) -> Principal:
    if credentials is None:
        raise Refusal("token_missing")
    return kernel.keyring.verify(credentials.credentials, now())


Anyone = Annotated[Principal, Depends(_principal)]


def _only(*roles: Role) -> Callable[[Principal], Principal]:
    def check(principal: Anyone) -> Principal:
        if principal.role not in roles:
            raise Refusal("forbidden")
        return principal

    return check


Viewer = Annotated[Principal, Depends(_only(Role.VIEWER))]
Guide = Annotated[Principal, Depends(_only(Role.GUIDE))]
Clerk = Annotated[Principal, Depends(_only(Role.CLERK))]
Ops = Annotated[Principal, Depends(_only(Role.OPS))]
GuideOrOps = Annotated[Principal, Depends(_only(Role.GUIDE, Role.OPS))]
ClerkOrOps = Annotated[Principal, Depends(_only(Role.CLERK, Role.OPS))]


# PostgreSQL has no NUL in text, and a control character in a name is never meant.
PLAIN = r"^[^\x00-\x1f\x7f]*$"
Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=PLAIN)]
"""A name or title on one line, in a request."""
Code = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64, pattern=PLAIN)]
"""A short name by which people outside know something: a brand, an account, a store's code, a sku."""


def _take_literally(schema: Any) -> None:
    if isinstance(schema, dict):
        if schema.get("type") in ("int", "float", "bool"):
            schema["strict"] = True
        schema = schema.values()
    elif not isinstance(schema, list | tuple):
        return
    for part in schema:
        _take_literally(part)


class Body(BaseModel):
    """What a request says. A field that it does not have is refused, not passed over: a typo in a limit would set none.
    Numbers are numbers and truths are truths: neither ``"5"`` nor ``5.0`` nor ``true`` is the whole number 5."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # Not ``strict`` for the whole: times and ids come as text.
        schema = handler(source)
        _take_literally(handler.resolve_ref_schema(schema))
        return schema


_REQUEST_ID = re.compile(rb"[A-Za-z0-9-]{8,64}")


def request_id(scope: Scope) -> str:
    """What logs call a request: a proxy's name for it that looks like an identifier and nothing else, or a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value.decode("ascii"))
    return new_id().hex


class Page(BaseModel, Generic[Item]):
    """One page of a list; ``next`` is handed back as ``cursor`` to get the following one, null on the last."""

    items: list[Item]
    next: str | None = None


def encode_cursor(*position: Any) -> str:
    """An opaque cursor for the place just behind ``position`` (JSON values)."""
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).decode().rstrip("=")


def decode_cursor(cursor: str, shape: type[Shape]) -> Shape:
    """What ``encode_cursor`` was given, as ``shape`` (a tuple type); Refusal ``invalid`` for anything else, and for
    what the database could not be asked about."""
    try:
        position = msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=shape)
        if all(map(_comparable, cast(Iterable[Any], position))):
            return position
    except (ValueError, msgspec.MsgspecError):
        pass
    raise Refusal("invalid", "The cursor is not one that this list gave out.", field="cursor")


def _comparable(value: Any) -> bool:
    """Whether PostgreSQL takes ``value``: text without NUL, a moment that every time zone's calendar has, a number."""
    match value:
        case str():
            return "\0" not in value
        case datetime():
            return value.tzinfo is not None and 1 < value.year < 9999
        case float():
            return isfinite(value)
        case _:
            return True


class Once:
    """Runs a creating request at most once per ``Idempotency-Key`` (brand and caller), replaying the first answer."""

    def __init__(self, request: Request, session: AsyncSession, principal: Principal, key: str | None) -> None:
        self._request = request
        self._session = session
        self._principal = principal
        self.key = key

    async def __call__(self, shape: type[Answer], work: Callable[[], Awaitable[Answer]]) -> Answer:
        """``await work()``, or its former answer. Refusal ``idempotency_mismatch`` if the request differs."""
        if self.key is None:
            return await work()
        body = await self._request.body()
        fingerprint = hashlib.sha256(f"{self._request.method} {self._request.url.path}\n".encode() + body).digest()

        async def answered() -> bytes:
            return (await work()).model_dump_json().encode()

        answer = await once(self._session, self._principal, self.key, fingerprint, answered)
        return shape.model_validate_json(answer)


def _once(
    request: Request,
    session: InSession,
    principal: Anyone,
    idempotency_key: Annotated[str | None, Header(max_length=200, pattern=PLAIN)] = None,
) -> Once:
    return Once(request, session, principal, idempotency_key)


InOnce = Annotated[Once, Depends(_once, scope="function")]


class Problem(BaseModel):
    """RFC 9457 body of every refusal; ``code`` is the stable part."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retry_after: float | None = None


def problem_response(refusal: Refusal, status: int | None = None, headers: Mapping[str, str] | None = None) -> Response:
    """``refusal`` as ``application/problem+json``; ``status`` where the framework knows it better."""
    headers = dict(headers or {})
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(refusal.retry_after)))
    status = status or refusal.status
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    # Not JSONResponse: fields may be UUIDs and times, and a refusal must not fail on its way out.
    body = msgspec.json.encode(refusal.problem() | {"status": status})
    return Response(body, status, headers=headers, media_type="application/problem+json")


def install_error_handlers(app: FastAPI) -> None:
    """Give ``app`` one form for every refusal, including those that the framework makes itself."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> Response:
        return problem_response(refusal)

    @app.exception_handler(RequestValidationError)
    async def unreadable(_: Request, error: RequestValidationError) -> Response:
        # Only place and reason, never the value: it may be a coordinate.
        fields = [{"at": sound(".".join(map(str, e["loc"]))), "reason": sound(e["msg"])} for e in error.errors()]
        return problem_response(Refusal("invalid", errors=fields))

    @app.exception_handler(HTTPException)
    async def framework(_: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 401: "token_invalid", 403: "forbidden"}.get(error.status_code, "bad_request")
        return problem_response(Refusal(code, sound(str(error.detail))), error.status_code, error.headers)

    @app.exception_handler(DBAPIError)
    async def database(_: Request, error: DBAPIError) -> Response:
        state = str(getattr(error.orig, "sqlstate", None) or "")
        if state.startswith(_LOST_A_RACE):
            return problem_response(Refusal("busy", retry_after=1))
        if error.connection_invalidated or state.startswith(_OUT_OF_SERVICE):
            return problem_response(Refusal("unavailable", retry_after=2))
        raise error  # a defect of ours, and must surface as one

    @app.exception_handler(PoolTimeout)
    async def crowded(_: Request, __: PoolTimeout) -> Response:
        return problem_response(Refusal("busy", retry_after=2))

    @app.exception_handler(OSError)
    @app.exception_handler(RedisConnectionError)
    @app.exception_handler(RedisTimeout)
    async def cut_off(_: Request, __: Exception) -> Response:
        return problem_response(Refusal("unavailable", retry_after=2))


# SQLSTATE classes. Deadlocks and serialisation failures; lost connections, exhausted resources, shutdown and start-up.
_LOST_A_RACE = ("40",)
_OUT_OF_SERVICE = ("08", "53", "57P")


def sound(text: str) -> str:
    """``text`` without halves of surrogate pairs, which clients can write in JSON but nobody can encode."""
    return text.encode(errors="replace").decode()


def refusals(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The ``responses=`` of a route that may refuse with ``codes``, for OpenAPI."""
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(CATALOGUE[code][0], []).append(code)
    return {
        status: {
            "model": Problem,
            "description": ", ".join(f"`{code}`" for code in listed),
            "content": {"application/problem+json": {"example": Refusal(listed[0]).problem()}},
        }
        for status, listed in by_status.items()
    }


def same_brand(principal: Principal, brand: str, what: UUID | str) -> None:
    """Refusal ``not_found`` when ``what`` is another brand's: its existence is none of the caller's business."""
    if principal.brand != brand:
        raise Refusal("not_found", what=str(what))
