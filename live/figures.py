"""What REST tells of Redis: live figures and where to connect. A Redis that is away, or takes the question and does not
answer, costs a moment and these figures, never the answer."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar
from uuid import UUID

import structlog
from redis.exceptions import RedisError

from kernel.redis import Client
from live import presence
from live.presence import Figures

PATIENCE_SECONDS = 0.5
"""How long a page waits for its figures. Ask with no transaction open: it would keep its connection for as long."""

log = structlog.get_logger()
Asked = TypeVar("Asked")


async def of_rooms(redis: Client, rooms: Sequence[UUID]) -> dict[UUID, Figures]:
    """The live figures of ``rooms``, without those that cannot be read now."""
    return await _unless_away("rooms", presence.figures_of(redis, rooms), {})


async def sockets(redis: Client) -> list[str]:
    """The addresses of the gateways that take viewers, the emptiest first; none if that cannot be read now."""
    gateways = await _unless_away("gateways", presence.gateways(redis), [])
    open_ones = [gateway for gateway in gateways if gateway.ready] or gateways
    # Several gateways may share one address.
    return list(dict.fromkeys(gateway.url for gateway in sorted(open_ones, key=lambda gateway: gateway.viewers)))


async def _unless_away(what: str, asking: Awaitable[Asked], otherwise: Asked) -> Asked:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await asking
    except (RedisError, OSError) as error:
        log.warning("figures_unavailable", of=what, reason=type(error).__name__)
        return otherwise
