"""Who has to leave: for the moment (kick), or until some time, in one room or in all rooms of the brand (ban).

Both are certain events. Each gateway that hears one closes the viewer's sockets (``live.replica.Room.apply``); who is
banned is part of the room's snapshot, and turned away at the door.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from kernel.errors import Refusal
from kernel.identity import Principal, Role
from live import sanctions, wire
from live.hosting import commanded, tell
from live.sanctions import Sanction, Scope, Standing
from live.tables import Ban, BrandBan

BAN = Sanction(Ban, BrandBan, "ban", lambda viewer, until: wire.Banned(viewer=viewer, until=until))


async def kick(session: AsyncSession, who: Principal, room: UUID, viewer: UUID) -> None:
    """Close the sockets that ``viewer`` has open in ``room``; they may join anew. Nothing is wrong if there are none.

    Raises Refusal ``invalid`` (somebody of the staff), ``room_ended`` and those of ``commanded``.
    """
    await commanded(session, who, room, "scheduled", "live")
    await _no_staff(session, who.brand, viewer, "Staff cannot be kicked.")
    await tell(session, room, wire.Kicked(viewer=viewer), {})


async def ban(
    session: AsyncSession, who: Principal, room: UUID, viewer: UUID, seconds: int, scope: Scope = "room"
) -> None:
    """Keep ``viewer`` out for ``seconds`` from now (a new ban replaces the former) and close their sockets; 0 lifts it.

    With scope ``brand`` in every room of the brand, those to come included; a ban of one room stays as it is beneath.
    Raises Refusal ``invalid`` (out of range, or somebody of the staff), ``room_ended`` and those of ``commanded``.
    """
    sanctions.check_seconds(seconds)
    # All rooms in their order before this one, else two transactions could wait for each other for ever.
    rooms = await sanctions.running(session, who.brand) if scope == "brand" else []
    await commanded(session, who, room, "scheduled", "live")
    await _no_staff(session, who.brand, viewer, "Staff cannot be banned.")
    if scope == "brand":
        await sanctions.impose_everywhere(session, BAN, who, rooms, viewer, seconds)
    else:
        await sanctions.impose_here(session, BAN, who, room, viewer, seconds)


async def ban_brand(session: AsyncSession, who: Principal, viewer: UUID, seconds: int) -> None:
    """``ban`` with scope ``brand`` for ops, who need no room for it. Refusal ``forbidden``, ``invalid``."""
    if who.role is not Role.OPS:
        raise Refusal("forbidden")
    sanctions.check_seconds(seconds)
    rooms = await sanctions.running(session, who.brand)
    await _no_staff(session, who.brand, viewer, "Staff cannot be banned.")
    await sanctions.impose_everywhere(session, BAN, who, rooms, viewer, seconds)


async def _no_staff(session: AsyncSession, brand: str, viewer: UUID, sentence: str) -> None:
    if await sanctions.is_staff(session, brand, viewer):
        raise Refusal("invalid", sentence, field="viewer")


async def standing(
    session: AsyncSession, brand: str, moment: datetime, before: tuple[datetime, UUID, UUID] | None, limit: int
) -> Sequence[Standing]:
    """Up to ``limit`` bans of ``brand`` that hold at ``moment``, newest first, older than (at, viewer, room)."""
    return await sanctions.standing(session, BAN, brand, moment, before, limit)
