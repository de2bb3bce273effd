"""REST: the webhooks of a brand, for ops."""

from datetime import datetime, timedelta
from typing import Annotated, Literal, Self
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from coupons import webhooks
from coupons.deliveries import Name
from coupons.tables import Webhook
from kernel.clock import now
from kernel.http import PLAIN, Body, InKernel, InOnce, InSession, Ops, Page, refusals

router = APIRouter(prefix="/v1/ops/webhooks", tags=["webhooks"])

_SIGNED_IN = ("token_missing", "token_invalid", "token_expired", "forbidden", "unavailable")
_ASKED = (*_SIGNED_IN, "not_found", "invalid")

_EVENTS: list[Name] = ["issued", "expiring", "redeemed", "reversed", "expired", "voided"]
Url = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000, pattern=PLAIN)]
Events = Annotated[list[Name], Field(min_length=1, max_length=len(_EVENTS))]
EventId = Annotated[int, Field(ge=0, le=webhooks.MAX_CURSOR)]


class NewWebhook(Body):
    """Where to tell what."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"url": "https://crm.example.com/nearcast", "events": ["issued", "redeemed"]}]}
    )

    url: Url
    events: Events = _EVENTS
    after: EventId | None = Field(
        None, description="Begin behind this event; 0: with the first ever; null: with those of the last minute"
    )


class WebhookChange(Body):
    """What is to be different; what is left out stays."""

    url: Url | None = None
    events: Events | None = None


class Replay(Body):
    """From where to tell again."""

    after: EventId = Field(description="The last event that is not to be told again; 0: all of them")


class Rotation(Body):
    """How long the old secret signs beside the new one."""

    overlap_seconds: Annotated[int, Field(ge=0, le=604_800)] = 86_400


class WebhookView(BaseModel):
    """A webhook and how it fares. `failing`: the last call was not a success, another will be made at `next_try_at`."""

    id: UUID
    url: str
    events: list[Name]
    state: Literal["active", "failing", "paused"]
    pause_reason: Literal["ops", "gone", "failing"] | None = Field(
        description="Who paused it: ops, its own answer 410, or three days without a success"
    )
    key_id: str
    old_key_id: str | None = Field(description="Signs too, until `old_until`")
    old_until: datetime | None
    cursor: int = Field(description="The last event that it has answered for")
    waiting_since: datetime | None = Field(description="Time of the oldest event that it has not heard of")
    delivered_at: datetime | None
    failures: int = Field(description="Calls without a success since the last one")
    failing_since: datetime | None
    last_status: int | None
    last_error: Literal["status", "timeout", "connection", "address"] | None
    next_try_at: datetime | None
    created_at: datetime

    @classmethod
    def of(cls, webhook: Webhook, waiting_since: datetime | None = None) -> Self:
        """From the row."""
        failing = webhook.state == "active" and webhook.failures > 0
        own = {name: getattr(webhook, name) for name in cls.model_fields if hasattr(webhook, name)}
        return cls.model_validate(
            own
            | {
                "state": "failing" if failing else webhook.state,
                "waiting_since": waiting_since,
                "next_try_at": webhook.due_at if failing else None,
            }
        )


class SecretView(BaseModel):
    """A webhook's secret, which is shown this once."""

    webhook: WebhookView
    key_id: str
    secret: str

    @classmethod
    def of(cls, webhook: Webhook) -> Self:
        """From the row."""
        return cls(webhook=WebhookView.of(webhook), key_id=webhook.key_id, secret=webhook.secret)


@router.post(
    "",
    summary="Make a webhook",
    status_code=201,
    responses=refusals(*_ASKED, "bad_request", "idempotency_mismatch", "webhooks_full"),
)
async def create_webhook(body: NewWebhook, kernel: InKernel, session: InSession, who: Ops, once: InOnce) -> SecretView:
    """It is called from now on; its secret is shown here and never again. Takes an `Idempotency-Key`."""

    async def work() -> SecretView:
        hosts = kernel.settings.webhook_hosts
        return SecretView.of(await webhooks.create(session, who, body.url, body.events, hosts, after=body.after))

    return await once(SecretView, work)


@router.get("", summary="Webhooks", responses=refusals(*_SIGNED_IN))
async def list_webhooks(session: InSession, who: Ops) -> Page[WebhookView]:
    """All of the brand's, oldest first, and what is wrong with them."""
    found = await webhooks.standing(session, who)
    return Page(items=[WebhookView.of(each.webhook, each.waiting_since) for each in found])


@router.get("/{webhook}", summary="A webhook", responses=refusals(*_ASKED))
async def get_webhook(webhook: UUID, session: InSession, who: Ops) -> WebhookView:
    """One of them."""
    found = await webhooks.get(session, who, webhook)
    return WebhookView.of(found.webhook, found.waiting_since)


async def _view(session: InSession, who: Ops, webhook: UUID) -> WebhookView:
    await session.flush()
    session.expire_all()
    return await get_webhook(webhook, session, who)


@router.patch("/{webhook}", summary="Change a webhook", responses=refusals(*_ASKED, "bad_request"))
async def change_webhook(
    webhook: UUID, body: WebhookChange, kernel: InKernel, session: InSession, who: Ops
) -> WebhookView:
    """Its address, its events, or both; it goes on from where it is."""
    await webhooks.change(session, who, webhook, kernel.settings.webhook_hosts, body.url, body.events)
    return await _view(session, who, webhook)


@router.delete("/{webhook}", summary="Remove a webhook", status_code=204, responses=refusals(*_ASKED))
async def remove_webhook(webhook: UUID, session: InSession, who: Ops) -> None:
    """For good."""
    await webhooks.remove(session, who, webhook)


@router.post("/{webhook}/pause", summary="Pause a webhook", responses=refusals(*_ASKED))
async def pause_webhook(webhook: UUID, session: InSession, who: Ops) -> WebhookView:
    """It is not called until it is resumed; nothing is lost."""
    await webhooks.pause(session, who, webhook)
    return await _view(session, who, webhook)


@router.post("/{webhook}/resume", summary="Resume a webhook", responses=refusals(*_ASKED))
async def resume_webhook(webhook: UUID, session: InSession, who: Ops) -> WebhookView:
    """Go on from where it was, now; also for one that waits for its next try."""
    await webhooks.resume(session, who, webhook)
    return await _view(session, who, webhook)


@router.post("/{webhook}/replay", summary="Tell events again", responses=refusals(*_ASKED, "bad_request"))
async def replay_webhook(webhook: UUID, body: Replay, session: InSession, who: Ops) -> WebhookView:
    """Everything behind `after`, with the same event ids as the first time."""
    await webhooks.replay(session, who, webhook, body.after)
    return await _view(session, who, webhook)


@router.post(
    "/{webhook}/rotate",
    summary="Give it a new secret",
    responses=refusals(*_ASKED, "bad_request", "idempotency_mismatch"),
)
async def rotate_webhook(webhook: UUID, body: Rotation, session: InSession, who: Ops, once: InOnce) -> SecretView:
    """Shown here and never again. Both sign until the overlap is over. Takes an `Idempotency-Key`, without which a
    repeated request makes one more secret."""

    async def work() -> SecretView:
        rotated = await webhooks.rotate(session, who, webhook, timedelta(seconds=body.overlap_seconds), now())
        return SecretView.of(rotated)

    return await once(SecretView, work)
