"""Which webhooks a brand has: made, changed, paused, sent back, and their secrets rotated, by ops."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from coupons.callback import check_url
from coupons.deliveries import WINDOW, Name, transitions_of
from coupons.tables import Webhook
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.tables import Brand

MAX_WEBHOOKS = 10
"""Of one brand: each is a place in the worker while it is called."""
MAX_CURSOR = 2**63 - 1

# Lines of transactions that are under way now may yet appear behind the newest one. None of them is a minute old, so a
# new webhook begins with the last minute, and hears of some coupons that its brand may know already.
_A_MINUTE_AGO = text(
    """
    SELECT coalesce((SELECT id FROM ledger WHERE at < clock_timestamp() - interval '1 minute'
                     ORDER BY id DESC LIMIT 1), 0)
    """
)
_WAITING_SINCE = text(
    """
    SELECT l.at FROM ledger l JOIN coupons c ON c.id = l.coupon_id
    WHERE l.id > :after AND l.id <= :until AND c.brand_id = :brand AND l.transition = ANY(:transitions)
    ORDER BY l.id LIMIT 1
    """
)


@dataclass(frozen=True, slots=True)
class Standing:
    """A webhook and the time of the oldest event that it has not heard of, None if there is none close by."""

    webhook: Webhook
    waiting_since: datetime | None


async def create(
    session: AsyncSession,
    who: Principal,
    url: str,
    events: Sequence[Name],
    trusted: Sequence[str],
    *,
    after: int | None = None,
) -> Webhook:
    """A webhook that begins with the events behind the ledger line ``after``; None: with those of the last minute.

    Refusal ``invalid`` (an address that may not be called, no such line yet), ``webhooks_full``.
    """
    check_url(url, trusted)
    # Locked, so that two at once cannot both be the tenth.
    await session.execute(select(Brand.id).where(Brand.id == who.brand).with_for_update(key_share=True))
    if (await session.scalar(select(func.count()).where(Webhook.brand_id == who.brand)) or 0) >= MAX_WEBHOOKS:
        raise Refusal("webhooks_full", most=MAX_WEBHOOKS)
    cursor = await session.scalar(_A_MINUTE_AGO) if after is None else await _known(session, after)
    key_id, secret = _new_secret()
    made = Webhook(
        brand_id=who.brand, url=url, events=sorted(set(events)), key_id=key_id, secret=secret, cursor=cursor,
        created_by=who.subject,
    )  # fmt: skip
    session.add(made)
    await session.flush()
    await session.refresh(made)
    return made


def _new_secret() -> tuple[str, str]:
    """A key id, by which a receiver tells which secret a signature was made with, and 256 bits."""
    return secrets.token_hex(4), secrets.token_urlsafe(32)


async def standing(session: AsyncSession, who: Principal) -> list[Standing]:
    """The brand's webhooks, oldest first, and how far behind they are."""
    query = select(Webhook).where(Webhook.brand_id == who.brand).order_by(Webhook.created_at, Webhook.id)
    return [Standing(found, await _waiting_since(session, found)) for found in await session.scalars(query)]


async def get(session: AsyncSession, who: Principal, webhook: UUID) -> Standing:
    """One of the brand's webhooks; Refusal ``not_found``."""
    query = select(Webhook).where(Webhook.id == webhook, Webhook.brand_id == who.brand)
    found = await session.scalar(query)
    if found is None:
        raise Refusal("not_found", what=str(webhook))
    return Standing(found, await _waiting_since(session, found))


async def _waiting_since(session: AsyncSession, webhook: Webhook) -> datetime | None:
    values: dict[str, Any] = {"after": webhook.cursor, "until": min(webhook.cursor + WINDOW, MAX_CURSOR)}
    values |= {"brand": webhook.brand_id, "transitions": transitions_of(webhook.events)}
    waiting: datetime | None = await session.scalar(_WAITING_SINCE, values)
    return waiting


async def _locked(session: AsyncSession, who: Principal, webhook: UUID) -> Webhook:
    """For a change. Also takes it from whoever is calling it: what they learn moves nothing any more."""
    query = select(Webhook).where(Webhook.id == webhook, Webhook.brand_id == who.brand).with_for_update()
    found = await session.scalar(query)
    if found is None:
        raise Refusal("not_found", what=str(webhook))
    found.taken_by = found.taken_until = None
    return found


async def change(
    session: AsyncSession,
    who: Principal,
    webhook: UUID,
    trusted: Sequence[str],
    url: str | None,
    events: Sequence[Name] | None,
) -> Webhook:
    """Another address, other events, or both. A new address is tried at once. Refusal ``not_found``, ``invalid``."""
    found = await _locked(session, who, webhook)
    if url is not None:
        check_url(url, trusted)
        found.url = url
        _try_anew(found)
    if events is not None:
        found.events = sorted(set(events))
    return found


def _try_anew(webhook: Webhook) -> None:
    webhook.failures, webhook.failing_since, webhook.last_status, webhook.last_error = 0, None, None, None
    webhook.due_at = func.now()


async def pause(session: AsyncSession, who: Principal, webhook: UUID) -> Webhook:
    """Call it no more; events wait in the ledger. Refusal ``not_found``."""
    found = await _locked(session, who, webhook)
    if found.state == "active":
        found.state, found.pause_reason = "paused", "ops"
    return found


async def resume(session: AsyncSession, who: Principal, webhook: UUID) -> Webhook:
    """Call it again, now, from where it was; also one that is waiting for its next try. Refusal ``not_found``."""
    found = await _locked(session, who, webhook)
    found.state, found.pause_reason = "active", None
    _try_anew(found)
    return found


async def replay(session: AsyncSession, who: Principal, webhook: UUID, after: int) -> Webhook:
    """Send it back, or forward, to just behind the ledger line ``after``; a paused one stays paused.
    Refusal ``not_found``, ``invalid`` (there is no such line yet)."""
    found = await _locked(session, who, webhook)
    found.cursor = await _known(session, after)
    _try_anew(found)
    return found


async def _known(session: AsyncSession, after: int) -> int:
    if after > (await session.scalar(text("SELECT coalesce(max(id), 0) FROM ledger")) or 0):
        raise Refusal("invalid", "There is no event with this id yet.", field="after")
    return after


async def rotate(session: AsyncSession, who: Principal, webhook: UUID, overlap: timedelta, now: datetime) -> Webhook:
    """A new secret; the former signs beside it for ``overlap``, the one before that no more. Refusal ``not_found``."""
    found = await _locked(session, who, webhook)
    found.old_key_id, found.old_secret, found.old_until = found.key_id, found.secret, now + overlap
    if not overlap:
        found.old_key_id, found.old_secret, found.old_until = None, None, None
    found.key_id, found.secret = _new_secret()
    return found


async def remove(session: AsyncSession, who: Principal, webhook: UUID) -> None:
    """For good, its secrets too. Refusal ``not_found``."""
    await session.delete(await _locked(session, who, webhook))
