"""Who may not speak, in one room or in all rooms of the brand, and until when."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from kernel.errors import Refusal
from kernel.identity import Principal, Role
from live import sanctions, wire
from live.hosting import commanded
from live.sanctions import MAX_SECONDS, Sanction, Scope, Standing
from live.tables import BrandMute, Mute

MUTE = Sanction(Mute, BrandMute, "mute", lambda viewer, until: wire.Muted(viewer=viewer, until=until))
MAX_MUTE = MAX_SECONDS


async def mute(
    session: AsyncSession, who: Principal, room: UUID, viewer: UUID, seconds: int, scope: Scope = "room"
) -> None:
    """Refuse the comments of ``viewer`` for ``seconds`` from now (a new mute replaces the former); 0 lifts the mute.

    With scope ``brand`` in every room of the brand, those to come included; a mute of one room stays as it is beneath.
    Raises Refusal ``invalid`` (out of range, or somebody of the staff), ``room_ended`` and those of ``commanded``.
    """
    sanctions.check_seconds(seconds)
    # All rooms in their order before this one, else two transactions could wait for each other for ever.
    rooms = await sanctions.running(session, who.brand) if scope == "brand" else []
    await commanded(session, who, room, "scheduled", "live")
    await _no_staff(session, who.brand, viewer)
    if scope == "brand":
        await sanctions.impose_everywhere(session, MUTE, who, rooms, viewer, seconds)
    else:
        await sanctions.impose_here(session, MUTE, who, room, viewer, seconds)


async def mute_brand(session: AsyncSession, who: Principal, viewer: UUID, seconds: int) -> None:
    """``mute`` with scope ``brand`` for ops, who need no room for it. Refusal ``forbidden``, ``invalid``."""
    if who.role is not Role.OPS:
        raise Refusal("forbidden")
    sanctions.check_seconds(seconds)
    rooms = await sanctions.running(session, who.brand)
    await _no_staff(session, who.brand, viewer)
    await sanctions.impose_everywhere(session, MUTE, who, rooms, viewer, seconds)


async def _no_staff(session: AsyncSession, brand: str, viewer: UUID) -> None:
    if await sanctions.is_staff(session, brand, viewer):
        raise Refusal("invalid", "Staff cannot be muted.", field="viewer")


async def standing(
    session: AsyncSession, brand: str, moment: datetime, before: tuple[datetime, UUID, UUID] | None, limit: int
) -> Sequence[Standing]:
    """Up to ``limit`` mutes of ``brand`` that hold at ``moment``, newest first, older than (at, viewer, room)."""
    return await sanctions.standing(session, MUTE, brand, moment, before, limit)
