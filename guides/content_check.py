"""WeChat's ``msgSecCheck`` (version 2): is what a member says all right?

Asked with the mini-program's access token and with the member's openid.
"""

from typing import Literal
from uuid import UUID

import httpx
import msgspec
from msgspec import Struct
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from guides.access_token import TOKEN_WRONG, Asking, NoToken
from guides.tables import Member
from kernel.postgres import Sessions
from kernel.settings import Settings

COMMENT_SCENE = 2
"""WeChat's number for comments."""
OPENIDS = 50_000
"""Members whose openid is remembered."""

Suggestion = Literal["pass", "review", "risky"]


class CheckFailed(Exception):
    """WeChat gave no verdict; the message says why, and holds no text and no secret."""


class _Result(Struct):
    suggest: Suggestion = "review"


class _Verdict(Struct):
    errcode: int = 0
    result: _Result | None = None


_verdicts = msgspec.json.Decoder(_Verdict)


class ContentCheck(Asking):
    """A client for one mini-program, open as long as the ``async with``."""

    def __init__(self, settings: Settings, sessions: Sessions) -> None:
        super().__init__(settings)
        self._sessions = sessions
        self._openids: dict[UUID, str] = {}

    async def check(self, viewer: UUID, text: str) -> Suggestion:
        """What WeChat says of ``text`` by the member ``viewer``. Raises CheckFailed."""
        try:
            token = self._token.current
        except NoToken as missing:
            raise CheckFailed(str(missing)) from None
        body = {
            "version": 2,
            "scene": COMMENT_SCENE,
            "openid": await self._openid(viewer),
            "content": text,
        }
        try:
            verdict = _verdicts.decode(await self._post("/wxa/msg_sec_check", token, body))
        except (httpx.HTTPError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise CheckFailed(type(error).__name__) from None  # the error's text holds the URL
        if verdict.errcode in TOKEN_WRONG:
            self._token.wrong(token)
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
