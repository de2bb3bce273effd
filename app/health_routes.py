"""REST: whether all is well, for operations and for a guide about the own room."""

from datetime import UTC, datetime
from time import time
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncSession

from app import relay
from kernel.errors import Refusal
from kernel.http import GuideOrOps, InKernel, Ops, refusals
from kernel.postgres import transaction
from live import health, listing, presence, streams, views

router = APIRouter(prefix="/v1")

_SIGNED_IN = ("token_missing", "token_invalid", "token_expired", "forbidden", "unavailable")


class OutboxView(BaseModel):
    """What was committed and rooms were not told of yet."""

    waiting: int = Field(description="Events", examples=[0])
    oldest_seconds: float = Field(examples=[0.0])


class Limits(BaseModel):
    """Beyond these something is wrong; the alerts have the same."""

    delay_ms: float = health.DELAY_MS
    outbox_seconds: float = health.OUTBOX_SECONDS
    slow_closes_per_second: float = health.SLOW_CLOSES_PER_SECOND
    claims_turned_away: float = Field(health.CLAIMS_TURNED_AWAY, description="Share of claims")
    resumes_missed: float = Field(health.RESUMES_MISSED, description="Share of those who came back")
    bus_gaps: int = Field(health.BUS_GAPS, description="In ten minutes")
    silent_seconds: float = health.SILENT_SECONDS


class OpsHealth(BaseModel):
    """What is well and what is not. Counters run since a gateway's start: rates are differences of two answers."""

    at: datetime
    outbox: OutboxView
    limits: Limits
    gateways: list[views.GatewayFigures]


class RoomHealth(BaseModel):
    """How a room is, in what a guide can do something with."""

    state: health.State = Field(examples=["well"])
    delay_ms: float | None = Field(
        description="How late nearly all viewers see what is certain; null: nothing was told in the last minute",
        examples=[12.5],
    )
    reasons: list[health.Reason] = Field(description="Why it is not well, worst first", examples=[[]])
    stream: str | None = Field(description="The picture, where there is a media server", examples=["arriving"])


async def _outbox(session: AsyncSession) -> OutboxView:
    found = await relay.waiting(session)
    return OutboxView(waiting=found.events, oldest_seconds=round(found.age, 3))


@router.get("/ops/health", tags=["ops"], summary="Whether all is well", responses=refusals(*_SIGNED_IN))
async def ops_health(kernel: InKernel, _: Ops) -> OpsHealth:
    """Gateways as they said within 15 s, and what the worker has still to tell."""
    async with transaction(kernel.sessions) as session:
        outbox = await _outbox(session)
    try:
        said = await presence.gateways(kernel.redis)
    except (RedisError, OSError) as error:
        raise Refusal("unavailable", retry_after=2) from error
    gateways = [views.gateway_view(gateway) for gateway in said]
    return OpsHealth(at=datetime.now(UTC), outbox=outbox, limits=Limits(), gateways=gateways)


@router.get(
    "/rooms/{room}/health",
    tags=["guide"],
    summary="Whether a room is well",
    responses=refusals(*_SIGNED_IN, "not_found", "invalid"),
)
async def room_health(room: UUID, kernel: InKernel, who: GuideOrOps) -> RoomHealth:
    """By the gateways that hold its viewers at this moment. A guide asks about their own rooms only."""
    stream = None
    async with transaction(kernel.sessions) as session:
        await listing.own(session, who, room)
        outbox = await _outbox(session)
        if kernel.settings.stream_push_url:
            found = (await streams.pictures(session, [room])).get(room)
            stream = None if found is None else found.state
    try:
        said = {gateway.id: gateway for gateway in await presence.gateways(kernel.redis)}
        serving = await presence.serving(kernel.redis, room)
    except (RedisError, OSError) as error:
        raise Refusal("unavailable", retry_after=2) from error
    judged = health.of_room(serving, said, time(), outbox.oldest_seconds, stream)
    return RoomHealth(state=judged.state, delay_ms=judged.delay_ms, reasons=judged.reasons, stream=stream)
