"""The mini-program's access token, with which WeChat is asked on the server's behalf; a task keeps it fresh."""

import asyncio
import logging
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec
import structlog
from msgspec import Struct

from kernel.settings import Settings
from kernel.tasks import end

TIMEOUT_SECONDS = 3.0
TOKEN_WRONG = frozenset({40001, 40014, 42001})
"""WeChat's ``errcode`` for access tokens that are not, or no longer, good."""
EARLY_SECONDS = 300.0
"""So long before its end a token is replaced."""
RETRY_SECONDS = 2.0

log = structlog.get_logger()


class NoToken(Exception):
    """There is no token now; the message says why, and holds no secret."""


class _Token(Struct):
    access_token: str = ""
    expires_in: float = 0
    errcode: int = 0


_tokens = msgspec.json.Decoder(_Token)


def open_client(settings: Settings) -> httpx.AsyncClient:
    """A client for WeChat's server. It connects on the first call; whoever opens it closes it."""
    # httpx logs every URL at INFO, and ours hold the access token.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return httpx.AsyncClient(base_url=settings.wechat_base_url, timeout=TIMEOUT_SECONDS)


class AccessToken:
    """The token of one mini-program, kept fresh as long as the ``async with``."""

    def __init__(self, settings: Settings, client: httpx.AsyncClient) -> None:
        self._client = client
        self._app_id = settings.wechat_app_id
        self._secret = settings.wechat_secret
        self._token = ""
        self._stale = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "AccessToken":
        self._keeping = asyncio.create_task(self._keep())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeping is not None:
            await end(self._keeping)

    @property
    def current(self) -> str:
        """The token. Raises NoToken."""
        if not self._token:
            raise NoToken("no access token")
        return self._token

    def wrong(self, token: str) -> None:
        """WeChat refused ``token``: replace it, unless that was done meanwhile."""
        if token == self._token:
            self._token = ""
            self._stale.set()

    async def _keep(self) -> None:
        while True:
            self._stale.clear()
            good_for = RETRY_SECONDS
            try:
                good_for = await self._fetch()
            except (httpx.HTTPError, msgspec.MsgspecError, UnicodeDecodeError, NoToken) as error:
                log.warning("access_token_unavailable", reason=type(error).__name__)
            try:
                async with asyncio.timeout(good_for):
                    await self._stale.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(RETRY_SECONDS)  # WeChat counts how often it is asked

    async def _fetch(self) -> float:
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
            raise NoToken(f"errcode {token.errcode}")
        self._token = token.access_token
        return max(RETRY_SECONDS, token.expires_in - EARLY_SECONDS)


class Asking:
    """What asks WeChat with the mini-program's token, open as long as the ``async with``."""

    def __init__(self, settings: Settings) -> None:
        self._client = open_client(settings)
        self._token = AccessToken(settings, self._client)

    async def __aenter__(self) -> Self:
        await self._token.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._token.__aexit__(kind, error, trace)
        await self._client.aclose()

    async def _post(self, path: str, token: str, body: dict[str, Any]) -> bytes:
        """WeChat's answer. Raises httpx.HTTPError, whose text holds the URL, and that the token."""
        response = await self._client.post(path, params={"access_token": token}, content=msgspec.json.encode(body))
        response.raise_for_status()
        return response.content
