"""WeChat's subscribe messages: a notice to a member who is not here, one for each time that they agreed to one."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import httpx
import msgspec
import structlog
from msgspec import Struct
from sqlalchemy import select

from guides.access_token import TOKEN_WRONG, Asking, NoToken
from guides.tables import Member
from kernel.postgres import Sessions
from kernel.settings import Settings

AT_ONCE = 20
REFUSED = 43101
"""WeChat's ``errcode`` for: the member did not agree, or took the agreement back."""
UNKNOWN = 40003
"""There is no such openid."""
NOT_NOW = frozenset({-1, 45009, 45011, 45047}) | TOKEN_WRONG
"""WeChat's own trouble, too many calls, a token that is being replaced: nothing was sent."""

Outcome = Literal["sent", "refused", "unknown", "failed", "later"]
log = structlog.get_logger()


class _Answer(Struct):
    errcode: int = 0


_answers = msgspec.json.Decoder(_Answer)


@dataclass(frozen=True, slots=True)
class Notice:
    """What one member is told: the values of the template's fields, and the page that opens on a tap."""

    member: UUID
    fields: Mapping[str, str]
    page: str


class Notices(Asking):
    """A client that sends one template, open as long as the ``async with``."""

    def __init__(self, settings: Settings, sessions: Sessions, template: str) -> None:
        super().__init__(settings)
        self._sessions = sessions
        self._template = template

    async def send(self, notices: Sequence[Notice]) -> AsyncGenerator[tuple[int, Outcome]]:
        """Send ``notices``, some at once; yields the place of each and what became of it, in any order.

        One to which WeChat's answer was lost is left out: nobody knows. Raises what PostgreSQL raises.
        """
        query = select(Member.id, Member.openid).where(Member.id.in_({notice.member for notice in notices}))
        async with self._sessions() as session:
            openids: dict[UUID, str] = {id: openid for id, openid in await session.execute(query)}
        places = asyncio.Semaphore(AT_ONCE)

        async def one(place: int, notice: Notice) -> tuple[int, Outcome | None]:
            async with places:
                return place, await self._send(notice, openids.get(notice.member))

        tasks = [asyncio.create_task(one(place, notice)) for place, notice in enumerate(notices)]
        try:
            for done in asyncio.as_completed(tasks):
                place, outcome = await done
                if outcome is not None:
                    yield place, outcome
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, notice: Notice, openid: str | None) -> Outcome | None:
        if openid is None:
            return "unknown"
        body = {
            "touser": openid,
            "template_id": self._template,
            "page": notice.page,
            "data": {name: {"value": value} for name, value in notice.fields.items()},
        }
        try:
            token = self._token.current
        except NoToken:
            return "later"
        try:
            errcode = _answers.decode(await self._post("/cgi-bin/message/subscribe/send", token, body)).errcode
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
            return "later"
        except (httpx.HTTPError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("notice_unclear", reason=type(error).__name__)  # the error's text holds the URL
            return None
        if errcode in TOKEN_WRONG:
            self._token.wrong(token)
        return _outcome(errcode)


def _outcome(errcode: int) -> Outcome:
    if errcode == 0:
        return "sent"
    if errcode == REFUSED:
        return "refused"
    if errcode == UNKNOWN:
        return "unknown"
    if errcode in NOT_NOW:
        return "later"
    log.error("notice_wrong", errcode=errcode)  # the template, its fields or the page: somebody has to look
    return "failed"
