"""The gateway process: plugs geography and coupons into the room service."""

from datetime import datetime
from uuid import UUID

import msgspec

from coupons import drops, wallet
from coupons.issuing import Issuer
from geo.locations import Locations
from kernel.clock import now
from kernel.http import Kernel
from kernel.identity import Principal
from kernel.postgres import transaction
from live import wire


class StoresNearby:
    """``live.ports.Locator`` on ``geo.locations``."""

    def __init__(self, locations: Locations) -> None:
        self._locations = locations

    async def locate(self, who: Principal, room: UUID, fix: wire.Locate) -> int:
        """See ``live.ports.Locator``."""
        return await self._locations.locate(
            who.brand, who.subject, room, fix.lng, fix.lat, fix.datum, fix.accuracy, now()
        )

    async def forget(self, room: UUID, viewers: list[UUID], before: datetime) -> None:
        """See ``live.ports.Locator``."""
        await self._locations.forget(room, viewers, before)


class CouponDesk:
    """``live.ports.Issuer`` on ``coupons``."""

    def __init__(self, kernel: Kernel, issuer: Issuer) -> None:
        self._sessions = kernel.sessions
        self._issuer = issuer

    async def claim(self, who: Principal, room: UUID, command: wire.Claim) -> wire.CouponCard:
        """See ``live.ports.Issuer``."""
        card = await self._issuer.claim(who, room, command.drop, command.id)
        return msgspec.convert(card, wire.CouponCard, from_attributes=True)

    async def open_drop(self, who: Principal, room: UUID, command: wire.Drop) -> UUID:
        """See ``live.ports.Issuer``."""
        async with transaction(self._sessions) as session:
            drop = await drops.open_drop(
                session, who, room, command.campaign, command.mode, command.stock, command.seconds, command.delay
            )
        return drop.id

    async def seen(self, viewer: UUID, coupons: list[UUID]) -> None:
        """See ``live.ports.Issuer``."""
        async with transaction(self._sessions) as session:
            await wallet.seen(session, viewer, coupons)
