"""What ``wx.addCard`` is given to put a coupon into WeChat's own card wallet: ``cardId``, and a signed ``cardExt``.

The signature is the SHA-1 of the values api_ticket, timestamp, card_id, code and nonce_str, sorted as strings and
joined; the ticket is that of the official account which made the cards, and WeChat allows few questions for one.
"""

import asyncio
import hashlib
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType

import httpx
import msgspec
import structlog
from msgspec import Struct

from guides.access_token import EARLY_SECONDS, open_client
from kernel.errors import Refusal
from kernel.settings import Settings

AGAIN = timedelta(seconds=10)
"""After a failure WeChat is left alone for so long: it counts how often it is asked."""

log = structlog.get_logger()


class _Answer(Struct):
    access_token: str = ""
    ticket: str = ""
    expires_in: float = 0
    errcode: int = 0


_answers = msgspec.json.Decoder(_Answer)


class _Refused(Exception):
    """WeChat said no."""


@dataclass(frozen=True, slots=True)
class WeChatCard:
    """One entry of ``cardList``; ``card_ext`` is JSON as text, as ``wx.addCard`` wants it."""

    card_id: str
    card_ext: str


def signature(values: Iterable[str]) -> str:
    """WeChat's signature of ``values``, in whatever order they come."""
    return hashlib.sha1("".join(sorted(values)).encode(), usedforsecurity=False).hexdigest()


def card_of(ticket: str, card_id: str, code: str, now: datetime, nonce: str) -> WeChatCard:
    """The card ``card_id`` with a ``code`` of our own, for the next minutes; ``nonce`` is never used twice."""
    timestamp = int(now.timestamp())
    signed = signature((ticket, str(timestamp), card_id, code, nonce))
    extras = {"code": code, "timestamp": timestamp, "nonce_str": nonce, "signature": signed}
    return WeChatCard(card_id, json.dumps(extras))


class Cards:
    """Signs cards for one official account; open as long as the ``async with``. Asks WeChat only when it has to."""

    def __init__(self, settings: Settings) -> None:
        self._client = open_client(settings)
        self._app_id = settings.wechat_card_app_id
        self._secret = settings.wechat_card_secret
        self._ticket = ""
        self._until: datetime | None = None
        self._asking = asyncio.Lock()

    async def __aenter__(self) -> "Cards":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def card(self, card_id: str, code: str, now: datetime) -> WeChatCard:
        """See ``card_of``. Refusal ``unavailable`` while WeChat gives no ticket."""
        async with self._asking:  # whoever comes meanwhile gets the same ticket
            if self._until is None or now >= self._until:
                await self._renew(now)
        if not self._ticket:
            raise Refusal("unavailable", retry_after=AGAIN.total_seconds())
        return card_of(self._ticket, card_id, code, now, secrets.token_hex(16))

    async def _renew(self, now: datetime) -> None:
        self._ticket, self._until = "", now + AGAIN
        body = {
            "grant_type": "client_credential",
            "appid": self._app_id,
            "secret": self._secret.get_secret_value(),
        }
        try:
            token = _read(await self._client.post("/cgi-bin/stable_token", content=msgspec.json.encode(body)))
            asked = {"access_token": token.access_token, "type": "wx_card"}
            told = _read(await self._client.get("/cgi-bin/ticket/getticket", params=asked))
        except (httpx.HTTPError, msgspec.MsgspecError, UnicodeDecodeError, _Refused) as error:
            # Only the kind: the error's text holds the URL, and that the token.
            log.warning("card_ticket_unavailable", reason=type(error).__name__)
            return
        self._ticket = told.ticket
        self._until = now + max(AGAIN, timedelta(seconds=told.expires_in - EARLY_SECONDS))


def _read(response: httpx.Response) -> _Answer:
    response.raise_for_status()
    answer = _answers.decode(response.content)
    if answer.errcode or not (answer.access_token or answer.ticket):
        log.warning("card_ticket_refused", errcode=answer.errcode)
        raise _Refused
    return answer
