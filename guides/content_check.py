"""WeChat's ``msgSecCheck`` (version 2): is what a member says all right?

Asked with the mini-program's access token, which a task of its own keeps fresh, and with the member's openid.
"""

import asyncio
import logging
from types import TracebackType
from typing import Literal
from uuid import UUID

import httpx
import msgspec
import structlog
from msgspec import Struct
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from guides.tables import Member
from kernel.postgres import Sessions
from kernel.settings import Settings
from kernel.tasks import end

TIMEOUT_SECONDS = 3.0
COMMENT_SCENE = 2
"""WeChat's number for comments."""
TOKEN_WRONG = frozenset({40001, 40014, 42001})
"""WeChat's ``errcode`` for access tokens that are not, or no longer, good."""
EARLY_SECONDS = 300.0
"""So long before its end a token is replaced."""
RETRY_SECONDS = 2.0
OPENIDS = 50_000
"""Members whose openid is remembered."""

Suggestion = Literal["pass", "review", "risky"]
log = structlog.get_logger()


class CheckFailed(Exception):
    """WeChat gave no verdict; the message says why, and holds no text and no secret."""


class _Token(Struct):
    access_token: str = ""
    expires_in: float = 0
    errcode: int = 0


class _Result(Struct):
    suggest: Suggestion = "review"


class _Verdict(Struct):
    errcode: int = 0
    result: _Result | None = None


_tokens = msgspec.json.Decoder(_Token)
_verdicts = msgspec.json.Decoder(_Verdict)


class ContentCheck:
    """A client for one mini-program, open as long as the ``async with``."""

    def __init__(self, settings: Settings, sessions: Sessions) -> None:
        # httpx logs every URL at INFO, and ours holds the access token.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._client = httpx.AsyncClient(base_url=settings.wechat_base_url, timeout=TIMEOUT_SECONDS)
        self._app_id = settings.wechat_app_id
        self._secret = settings.wechat_secret
        self._sessions = sessions
        self._openids: dict[UUID, str] = {}
        self._token = ""
        self._stale = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "ContentCheck":
        self._keeping = asyncio.create_task(self._keep_token())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeping is not None:
            await end(self._keeping)
        await self._client.aclose()

    async def check(self, viewer: UUID, text: str) -> Suggestion:
        """What WeChat says of ``text`` by the member ``viewer``. Raises CheckFailed."""
        if not self._token:
            raise CheckFailed("no access token")
        body = {
            "version": 2,
            "scene": COMMENT_SCENE,
            "openid": await self._openid(viewer),
            "content": text,
        }
        try:
            response = await self._client.post(
                "/wxa/msg_sec_check", params={"access_token": self._token}, content=msgspec.json.encode(body)
            )
            response.raise_for_status()
            verdict = _verdicts.decode(response.content)
        except (httpx.HTTPError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise CheckFailed(type(error).__name__) from None  # the error's text holds the URL
        if verdict.errcode in TOKEN_WRONG:
            self._token = ""
            self._stale.set()
        if verdict.errcode or verdict.result is None:
            raise CheckFailed(f"errcode {verdict.errcode}")
        return verdict.result.suggest

    async def _openid(self, viewer: UUID) -> str:
        if (known := self._openids.get(viewer)) is not None:
            return known
        try:
            async with self._sessions() as session:
                found = await session.scalar(select(Member.openid).where(Member.id == viewer))
        except (SQLAlchemyError, OSError) as error:
            raise CheckFailed(type(error).__name__) from error
        if found is None:
            raise CheckFailed("no openid")
        if len(self._openids) >= OPENIDS:
            del self._openids[next(iter(self._openids))]
        self._openids[viewer] = found
        return found

    async def _keep_token(self) -> None:
        while True:
            self._stale.clear()
            good_for = RETRY_SECONDS
            try:
                good_for = await self._fetch_token()
            except (httpx.HTTPError, msgspec.MsgspecError, UnicodeDecodeError, CheckFailed) as error:
                log.warning("access_token_unavailable", reason=type(error).__name__)
            try:
                async with asyncio.timeout(good_for):
                    await self._stale.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(RETRY_SECONDS)  # WeChat counts how often it is asked

    async def _fetch_token(self) -> float:
        """Replace the token; returns for how many seconds it may be used. The former stays while WeChat is away."""
        body = {
            "grant_type": "client_credential",
            "appid": self._app_id,
            "secret": self._secret.get_secret_value(),
        }
        response = await self._client.post("/cgi-bin/stable_token", content=msgspec.json.encode(body))
        response.raise_for_status()
        token = _tokens.decode(response.content)
        if token.errcode or not token.access_token:
            raise CheckFailed(f"errcode {token.errcode}")
        self._token = token.access_token
        return max(RETRY_SECONDS, token.expires_in - EARLY_SECONDS)
