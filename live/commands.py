"""Commands that a viewer or guide sends over the socket and that take time: each is one use case, one transaction.

What a guide commands reaches the room through the outbox, like the same command given over REST; the ``ack`` only says
that it was committed.
"""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from kernel.identity import Principal
from kernel.postgres import Sessions, transaction
from live import bans, comments, muting, pins, reports, rooms, wire
from live.ports import Issuer, Locator


class Commands:
    """Carries commands out."""

    def __init__(self, sessions: Sessions, locator: Locator, issuer: Issuer) -> None:
        self._sessions = sessions
        self._locator = locator
        self._issuer = issuer

    async def carry(
        self, who: Principal, room: UUID, command: wire.GuideCommand | wire.Claim | wire.Locate | wire.Report
    ) -> wire.Ack:
        """The answer to a command that was done. Refusal where it was not, or what the services behind raise."""
        id = command.id or ""
        if isinstance(command, wire.Locate):
            return wire.Ack(id, ok=True, stores=await self._locator.locate(who, room, command))
        if isinstance(command, wire.Claim):
            return wire.Ack(id, ok=True, coupon=await self._issuer.claim(who, room, command))
        if isinstance(command, wire.Drop):
            return wire.Ack(id, ok=True, drop=await self._issuer.open_drop(who, room, command))
        async with transaction(self._sessions) as session:
            if isinstance(command, wire.Report):
                await reports.report(session, who, room, command.comment, command.reason)
            else:
                await _guide(session, who, room, command)
        return wire.Ack(id, ok=True)


async def _guide(session: AsyncSession, who: Principal, room: UUID, command: wire.GuideCommand) -> None:
    match command:
        case wire.Start():
            await rooms.start(session, who, room)
        case wire.Pause():
            await rooms.pause(session, who, room)
        case wire.End():
            await rooms.end(session, who, room)
        case wire.Pin(product=product, ttl=ttl):
            await pins.pin(session, who, room, product, ttl)
        case wire.Unpin():
            await pins.unpin(session, who, room)
        case wire.Announce(text=text):
            await rooms.announce(session, who, room, text)
        case wire.Slow(seconds=seconds):
            await rooms.slow(session, who, room, seconds)
        case wire.Hush(on=on, allow=allow):
            await rooms.hush(session, who, room, on, allow)
        case wire.Mute(viewer=viewer, seconds=seconds, scope=scope):
            await muting.mute(session, who, room, viewer, seconds, scope)
        case wire.Kick(viewer=viewer):
            await bans.kick(session, who, room, viewer)
        case wire.Ban(viewer=viewer, seconds=seconds, scope=scope):
            await bans.ban(session, who, room, viewer, seconds, scope)
        case wire.Delete(comment=comment):
            await comments.delete_comment(session, who, room, comment)
        case wire.Drop():
            raise TypeError("a drop is the issuer's")
