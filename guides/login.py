"""Signing in: a member by WeChat, anybody by name where development logins are allowed, and the renewal of tokens."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from guides import members, roster
from guides.tables import Member, Staff
from kernel.errors import Refusal
from kernel.identity import Principal, Role
from kernel.ids import BrandId


def _viewer(member: Member, expires_at: datetime) -> Principal:
    return Principal(BrandId(member.brand_id), member.id, Role.VIEWER, member.name, expires_at, tier=member.tier)


def _staff(staff: Staff, expires_at: datetime) -> Principal:
    role = Role(staff.role)
    return Principal(BrandId(staff.brand_id), staff.id, role, staff.name, expires_at, store=staff.store_id)


async def by_openid(
    session: AsyncSession, brand: str, openid: str, name: str | None, expires_at: datetime
) -> Principal:
    """The member whom WeChat calls ``openid``; Refusal ``not_found`` for an unknown brand."""
    await roster.brand(session, brand)
    return _viewer(await members.welcome(session, brand, openid, name=name), expires_at)


async def by_name(
    session: AsyncSession,
    brand: str,
    role: Role,
    account: str,
    expires_at: datetime,
    *,
    name: str | None = None,
    tier: int | None = None,
    store_code: str | None = None,
) -> Principal:
    """Whoever ``account`` is, found or made: a development login, which asks for no proof.

    Raises Refusal ``not_found`` (brand or store), ``forbidden`` (the account has another role), ``invalid`` (a new
    clerk without a store).
    """
    await roster.brand(session, brand)
    if role is Role.VIEWER:
        member = await members.welcome(session, brand, f"dev:{account}", name=name, tier=tier, called=account)
        return _viewer(member, expires_at)
    store = None if store_code is None else await roster.store_id(session, brand, store_code)
    return _staff(await roster.enrol(session, brand, account, role, name=name, store=store), expires_at)


async def again(session: AsyncSession, who: Principal, expires_at: datetime) -> Principal:
    """``who`` as they are now, until ``expires_at``; Refusal ``token_invalid`` if the account is gone."""
    found: Member | Staff | None
    if who.role is Role.VIEWER:
        if (found := await members.member(session, who.brand, who.subject)) is not None:
            return _viewer(found, expires_at)
    else:
        found = await roster.staff(session, who.brand, who.subject)
        if found is not None and found.role == who.role.value:
            return _staff(found, expires_at)
    raise Refusal("token_invalid", "This account is gone; sign in again.")
