"""WeChat's ``code2session``: turns the login code of a mini-program into the member's ``openid``."""

import asyncio
import logging
from typing import Annotated

import httpx
import msgspec
import structlog
from msgspec import Meta, Struct

from kernel.errors import Refusal
from kernel.settings import Settings

TIMEOUT_SECONDS = 3.0
BUSY = -1
TOO_OFTEN = 45011
"""WeChat's ``errcode`` for: its own trouble; one user's codes asked for more than 100 times a minute."""

log = structlog.get_logger()


class _Answer(Struct):
    # The answer also holds the member's session_key. It is not named here, so it is never kept.
    openid: Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[!-~]+$")] | None = None
    errcode: int = 0


_answers = msgspec.json.Decoder(_Answer)


class WeChat:
    """A client for one mini-program. Connects on the first call; ``close`` when done."""

    def __init__(self, settings: Settings) -> None:
        # httpx logs every URL at INFO, and ours holds the mini-program's secret.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._client = httpx.AsyncClient(base_url=settings.wechat_base_url, timeout=TIMEOUT_SECONDS)
        self._app_id = settings.wechat_app_id
        self._secret = settings.wechat_secret

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def openid(self, code: str) -> str:
        """The ``openid`` behind a login code, which WeChat accepts once and within five minutes.

        Raises Refusal ``login_failed`` (WeChat refuses the code), ``too_fast``, or ``login_unavailable`` (not reached
        within 3 s, in trouble, or not understood).
        """
        query = {
            "appid": self._app_id,
            "secret": self._secret.get_secret_value(),
            "js_code": code,
            "grant_type": "authorization_code",
        }
        try:
            # httpx counts its timeout anew for each piece that arrives; this one holds for the whole answer.
            async with asyncio.timeout(TIMEOUT_SECONDS):
                response = await self._client.get("/sns/jscode2session", params=query)
            response.raise_for_status()
            answer = _answers.decode(response.content)
        except (httpx.HTTPError, TimeoutError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            # Only the kind: the error's text holds the URL.
            log.warning("wechat_unavailable", reason=type(error).__name__)
            raise Refusal("login_unavailable", retry_after=2) from None
        if answer.errcode == BUSY:
            raise Refusal("login_unavailable", retry_after=2)
        if answer.errcode == TOO_OFTEN:
            raise Refusal("too_fast", retry_after=60)
        if answer.errcode or answer.openid is None:
            log.info("wechat_refused", errcode=answer.errcode)
            raise Refusal("login_failed")
        return answer.openid
