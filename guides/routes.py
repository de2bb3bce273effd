"""REST: signing in, who I am, whose customer I am."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Path, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy.ext.asyncio import AsyncSession

from guides import bindings, login, members, roster
from guides.tables import Staff
from guides.wechat import WeChat
from kernel.clock import now
from kernel.errors import Refusal
from kernel.http import PLAIN, Anyone, Body, Code, InKernel, InSession, Label, Viewer, refusals
from kernel.identity import Principal, Role, expiry
from kernel.process import Kernel


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    if (wechat := getattr(app.state, "wechat", None)) is not None:
        await wechat.close()


def _wechat(request: Request, kernel: InKernel) -> WeChat:
    # One client for the whole process, made at the first login: most processes of a test never see one.
    state = request.app.state
    if not hasattr(state, "wechat"):
        state.wechat = WeChat(kernel.settings)
    client: WeChat = state.wechat
    return client


router = APIRouter(prefix="/v1", lifespan=_lifespan)

_PERSON = "019c2f6e-1a2b-7c3d-8e4f-5a6b7c8d9e0f"


class WeChatLogin(Body):
    """What ``wx.login`` gave the mini-program."""

    brand: Code = Field(examples=["nearcast"])
    code: Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[!-~]+$")] = Field(
        description="The login code; good once, for five minutes", examples=["0a3Bxy000abcdE1"]
    )
    name: Label | None = Field(None, description="Kept as the member's name", examples=["小林"])


class DevLogin(Body):
    """Anybody, without proof."""

    brand: Code = Field(examples=["nearcast"])
    role: Literal["viewer", "guide", "clerk", "ops"]
    account: Code = Field(description="Found, or made", examples=["viewer-1"])
    name: Label | None = Field(None, examples=["小林"])
    tier: Annotated[int, Field(ge=0, le=3)] | None = Field(None, description="Viewers only")
    store_code: Code | None = Field(None, description="A clerk's till; a store that a guide serves", examples=["SH001"])


class Session(BaseModel):
    """A token and whom it stands for."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "token": "eyJhbGciOiJIUzI1NiIsImtpZCI6IjEifQ.…",
                    "expires_at": "2026-06-18T13:00:00Z",
                    "subject": _PERSON,
                    "role": "viewer",
                    "name": "小林",
                    "brand": "nearcast",
                }
            ]
        }
    )

    token: str
    expires_at: datetime
    subject: UUID
    role: Role
    name: str
    brand: str


class StoreName(BaseModel):
    """A store, briefly."""

    id: UUID
    code: str = Field(examples=["SH001"])
    name: str = Field(examples=["静安寺店"])


class Person(BaseModel):
    """Somebody of the staff, briefly."""

    id: UUID
    name: str = Field(examples=["阿May"])


class Me(BaseModel):
    """The caller. ``store``: a clerk's till. ``stores``: those a guide serves. ``guide``: a member's own guide."""

    subject: UUID
    role: Role
    name: str = Field(examples=["小林"])
    brand: str = Field(examples=["nearcast"])
    tier: int = Field(description="0 is everybody, 3 the highest", examples=[1])
    store: StoreName | None
    stores: list[StoreName]
    guide: Person | None


class BrandName(BaseModel):
    """A brand, briefly."""

    id: str = Field(examples=["nearcast"])
    name: str = Field(examples=["近播咖啡"])


class BindTo(Body):
    """The guide to belong to from now on."""

    guide: UUID = Field(examples=[_PERSON])


def _store(row: tuple[UUID, str, str] | None) -> StoreName | None:
    return None if row is None else StoreName(id=row[0], code=row[1], name=row[2])


def _person(staff: Staff | None) -> Person | None:
    return None if staff is None else Person(id=staff.id, name=staff.name)


def _session(kernel: Kernel, who: Principal) -> Session:
    return Session(
        token=kernel.keyring.issue(who),
        expires_at=who.expires_at,
        subject=who.subject,
        role=who.role,
        name=who.name,
        brand=who.brand,
    )


@router.post(
    "/auth/wechat",
    tags=["identity"],
    summary="Sign in a viewer by WeChat",
    responses=refusals("login_failed", "not_found", "invalid", "too_fast", "login_unavailable"),
)
async def wechat_login(
    body: WeChatLogin, kernel: InKernel, session: InSession, wechat: Annotated[WeChat, Depends(_wechat)]
) -> Session:
    """Trades a mini-program's login code for a token."""
    # Asked before the first query, so that a slow WeChat does not hold connections of the database.
    openid = await wechat.openid(body.code)
    who = await login.by_openid(session, body.brand, openid, body.name, expiry(now(), kernel.settings))
    return _session(kernel, who)


@router.post(
    "/auth/dev",
    tags=["identity"],
    summary="Sign in as anybody (development only)",
    responses=refusals("forbidden", "not_found", "invalid"),
)
async def dev_login(body: DevLogin, kernel: InKernel, session: InSession) -> Session:
    """A token for whoever is named. Not there unless ``NEARCAST_DEV_LOGIN`` is true."""
    if not kernel.settings.dev_login:
        raise Refusal("not_found")
    who = await login.by_name(
        session,
        body.brand,
        Role(body.role),
        body.account,
        expiry(now(), kernel.settings),
        name=body.name,
        tier=body.tier,
        store_code=body.store_code,
    )
    return _session(kernel, who)


@router.post(
    "/auth/refresh",
    tags=["identity"],
    summary="Renew a token",
    responses=refusals("token_missing", "token_invalid", "token_expired"),
)
async def refresh(kernel: InKernel, session: InSession, who: Anyone) -> Session:
    """A token for the same person, with their name, tier and store as they are now."""
    return _session(kernel, await login.again(session, who, expiry(now(), kernel.settings)))


async def _me(session: AsyncSession, who: Principal) -> Me:
    name, tier, store, guide = who.name, who.tier, None, None
    stores: list[tuple[UUID, str, str]] = []
    if who.role is Role.VIEWER:
        member = await members.member(session, who.brand, who.subject)
        if member is None:
            raise Refusal("not_found")
        name, tier = member.name, member.tier
        guide = await bindings.guide_of(session, who.subject)
    else:
        staff = await roster.staff(session, who.brand, who.subject)
        if staff is None:
            raise Refusal("not_found")
        name = staff.name
        store = None if staff.store_id is None else await roster.store(session, staff.store_id)
        stores = await roster.stores_of(session, who.subject) if who.role is Role.GUIDE else []
    return Me(
        subject=who.subject,
        role=who.role,
        name=name,
        brand=who.brand,
        tier=tier,
        store=_store(store),
        stores=[StoreName(id=row[0], code=row[1], name=row[2]) for row in stores],
        guide=_person(guide),
    )


@router.get(
    "/me",
    tags=["identity"],
    summary="Who am I",
    responses=refusals("token_missing", "token_invalid", "token_expired", "not_found"),
)
async def me(session: InSession, who: Anyone) -> Me:
    """The caller as the roster knows them now; the token may be older."""
    return await _me(session, who)


@router.put(
    "/me/guide",
    tags=["identity"],
    summary="Become a guide's customer",
    responses=refusals("token_missing", "forbidden", "not_found", "invalid"),
)
async def bind(body: BindTo, session: InSession, who: Viewer) -> Person:
    """Binds the viewer to a guide of their brand; a former binding ends."""
    guide = await bindings.bind(session, who.brand, who.subject, body.guide, now())
    return Person(id=guide.id, name=guide.name)


@router.get("/brands/{brand}", tags=["identity"], summary="A brand", responses=refusals("not_found", "invalid"))
async def brand(brand: Annotated[str, Path(max_length=64, pattern=PLAIN)], session: InSession) -> BrandName:
    """The brand's name, for a page that nobody has signed in to yet."""
    found = await roster.brand(session, brand)
    return BrandName(id=found.id, name=found.name)
