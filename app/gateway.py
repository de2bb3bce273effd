"""The gateway process: plugs geography and coupons into the room service."""

import asyncio
import hashlib
from contextlib import AsyncExitStack
from datetime import datetime
from uuid import UUID

import msgspec

from app.processes import open_kernel, sessions_for_claims, until_stopped
from coupons import drops, push, wallet
from coupons.codes import Signer
from coupons.issuing import Issuer
from geo.catchments import Catchments
from geo.locations import Arrival, Locations
from guides.content_check import CheckFailed, ContentCheck, Suggestion
from kernel import tracing
from kernel.clock import now
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.postgres import Sessions, transaction
from kernel.retries import once
from kernel.settings import Settings
from live import gateway, wire
from live.bus import RedisBus
from live.ports import Unchecked


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

    def __init__(self, sessions: Sessions, issuer: Issuer, signer: Signer | None = None) -> None:
        self._sessions = sessions
        self._issuer = issuer
        self._signer = signer

    async def claim(self, who: Principal, room: UUID, command: wire.Claim) -> wire.CouponCard:
        """See ``live.ports.Issuer``."""
        tracing.note(drop=str(command.drop))
        card = await self._issuer.claim(who, room, command.drop, command.id)
        return msgspec.convert(card, wire.CouponCard, from_attributes=True)

    async def open_drop(self, who: Principal, room: UUID, command: wire.Drop) -> UUID:
        """See ``live.ports.Issuer``."""
        if "\0" in command.id:  # all other text can be kept
            raise Refusal("invalid", "The command's id is not usable text.", field="id")
        async with transaction(self._sessions) as session:

            async def work() -> bytes:
                drop = await drops.open_drop(
                    session,
                    who,
                    room,
                    command.campaign,
                    command.mode,
                    command.stock,
                    command.seconds,
                    command.delay,
                    self._signer,
                )
                return msgspec.json.encode(drop.id)

            fingerprint = hashlib.sha256(room.bytes + wire.encoder.encode(command)).digest()
            answer = await once(session, who, command.id, fingerprint, work)
        drop = msgspec.json.decode(answer, type=UUID)
        tracing.note(drop=str(drop))
        return drop

    async def seen(self, viewer: UUID, coupons: list[UUID]) -> None:
        """See ``live.ports.Issuer``."""
        async with transaction(self._sessions) as session:
            await wallet.seen(session, viewer, coupons)


class WeChatCheck:
    """``live.ports.Checker`` on ``guides.content_check``."""

    def __init__(self, check: ContentCheck) -> None:
        self._check = check

    async def check(self, viewer: UUID, text: str) -> Suggestion:
        """See ``live.ports.Checker``."""
        try:
            return await self._check.check(viewer, text)
        except CheckFailed as failure:
            raise Unchecked(str(failure)) from failure


class Arrivals:
    """Whoever comes into reach while a push drop runs gets its coupon then."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def __call__(self, arrivals: list[Arrival]) -> None:
        """Grant the open push drops of the rooms that ``arrivals`` are in."""
        await push.grant_everywhere(self._sessions, [(room, viewer) for _, room, viewer in arrivals])


async def serve(settings: Settings) -> None:
    """Serve rooms until SIGTERM or SIGINT, then drain."""
    stop = asyncio.Event()
    async with (
        AsyncExitStack() as optional,
        open_kernel(settings) as kernel,
        Catchments(kernel.sessions) as catchments,
        Locations(kernel.sessions, catchments, Arrivals(kernel.sessions)) as locations,
        sessions_for_claims(settings) as sessions,
        Issuer(sessions, catchments) as issuer,
    ):
        checker = None
        if settings.msg_sec_check:
            checker = WeChatCheck(await optional.enter_async_context(ContentCheck(settings, kernel.sessions)))
        serving = gateway.serve(
            kernel,
            RedisBus(kernel.redis, log_length=settings.room_log_length),
            StoresNearby(locations),
            CouponDesk(kernel.sessions, issuer, Signer.from_settings(settings) if settings.coupon_key else None),
            host=settings.gateway_host,
            port=settings.gateway_port,
            public_url=settings.gateway_public_url,
            checker=checker,
            stop=stop,
        )
        await until_stopped(serving, stop.set)
