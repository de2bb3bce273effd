"""A brand with stores, members, a live room and campaigns, for the tests of coupons and of races."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from geoalchemy2 import WKTElement
from sqlalchemy import insert, text

import coupons.tables
import geo.tables
import guides.tables
import live.tables
from kernel.clock import now
from kernel.identity import Principal, Role
from kernel.ids import BrandId, new_id
from kernel.postgres import transaction
from kernel.process import Kernel
from kernel.tables import Brand

BRAND = "acme"
METRES_OF_LATITUDE = 111_000
ZONE = ZoneInfo("Asia/Shanghai")
"""Where the brand is."""
SIGNER_SEED = b"\x07" * 32


@dataclass
class World:
    """Stores stand on one meridian, so that a distance is a difference of latitude."""

    kernel: Kernel
    guide: Principal
    ops: Principal
    room: UUID
    stores: dict[str, UUID] = field(default_factory=dict)
    places: dict[str, tuple[float, float]] = field(default_factory=dict)

    async def execute(self, statement: str, **values: Any) -> list[Any]:
        """Run SQL in a transaction of its own; returns its rows."""
        async with transaction(self.kernel.sessions) as session:
            done = await session.execute(text(statement), values)
            return list(done.all()) if done.returns_rows else []

    async def scalar(self, statement: str, **values: Any) -> Any:
        rows = await self.execute(statement, **values)
        return rows[0][0] if rows else None

    async def store(self, code: str, north_m: float = 0, **columns: Any) -> UUID:
        """A store ``north_m`` metres north of the origin."""
        identity = self.stores[code] = new_id()
        lng, lat = self.places[code] = 121.47, 31.23 + north_m / METRES_OF_LATITUDE
        async with transaction(self.kernel.sessions) as session:
            await session.execute(
                insert(geo.tables.Store).values(
                    id=identity, brand_id=BRAND, code=code, name=f"{code}店", banner="Acme", city="上海",
                    address="路1号", source_lng=lng, source_lat=lat, source_datum="gcj02",
                    position=WKTElement(f"POINT({lng} {lat})", srid=4326), **columns,
                )
            )  # fmt: skip
        return identity

    async def viewers(self, n: int, *, north_m: float | None = 0, tier: int = 0, **fix: Any) -> list[Principal]:
        """``n`` members in the room; with a fix ``north_m`` north of the origin unless that is None."""
        who = [principal(Role.VIEWER, f"v{place}", tier=tier) for place in range(n)]
        async with transaction(self.kernel.sessions) as session:
            await session.execute(
                insert(guides.tables.Member),
                [
                    {"id": v.subject, "brand_id": BRAND, "openid": str(v.subject), "name": v.name, "tier": tier}
                    for v in who
                ],
            )
            await session.execute(
                insert(live.tables.Attendance),
                [{"room_id": self.room, "viewer_id": v.subject, "first_at": now(), "last_at": now()} for v in who],
            )
        if north_m is not None:
            for viewer in who:
                await self.locate(viewer, north_m, **fix)
        return who

    async def locate(
        self,
        viewer: Principal,
        north_m: float,
        *,
        accuracy_m: float = 10,
        at: datetime | None = None,
        doubt: str | None = None,
    ) -> None:
        await self.execute(
            "INSERT INTO locations (room_id, viewer_id, position, accuracy_m, fixed_at, doubt, doubted_at)"
            " VALUES (:room, :viewer, ST_SetSRID(ST_MakePoint(121.47, CAST(:lat AS float8)), 4326), :accuracy, :at,"
            "  CAST(:doubt AS text), CASE WHEN CAST(:doubt AS text) IS NOT NULL THEN CAST(:at AS timestamptz) END)"
            " ON CONFLICT (room_id, viewer_id) DO UPDATE SET position = excluded.position,"
            " accuracy_m = excluded.accuracy_m, fixed_at = excluded.fixed_at, doubt = excluded.doubt,"
            " doubted_at = excluded.doubted_at",
            room=self.room,
            viewer=viewer.subject,
            lat=31.23 + north_m / METRES_OF_LATITUDE,
            accuracy=accuracy_m,
            at=at or now(),
            doubt=doubt,
        )

    async def shut(self, code: str) -> None:
        """The store's hours are over: they come again in six to eight hours, perhaps past midnight."""
        clock = now().astimezone(ZONE)
        hours = {"opens": (clock + timedelta(hours=6)).time(), "closes": (clock + timedelta(hours=8)).time()}
        await self.execute("UPDATE stores SET opens = :opens, closes = :closes WHERE code = :code", code=code, **hours)

    async def campaign(self, **columns: Any) -> UUID:
        """A running campaign of every store: 20 off from 100."""
        identity = new_id()
        values: dict[str, Any] = {
            "kind": "amount", "title": "满100减20券", "amount_fen": 2000, "threshold_fen": 10_000, "stock": 100,
            "valid_days": 7, "state": "running",
        }  # fmt: skip
        async with transaction(self.kernel.sessions) as session:
            made = insert(coupons.tables.Campaign).values(values | columns | {"id": identity, "brand_id": BRAND})
            await session.execute(made)
        return identity

    async def drop(
        self, campaign: UUID, mode: str = "claim", stock: int = 10, *, opens_in: float = -1, seconds: float = 300
    ) -> UUID:
        """An open drop, without an event telling of it."""
        identity, opens_at = new_id(), now() + timedelta(seconds=opens_in)
        async with transaction(self.kernel.sessions) as session:
            await session.execute(
                insert(coupons.tables.Drop).values(
                    id=identity, campaign_id=campaign, room_id=self.room, by=self.guide.subject, mode=mode, stock=stock,
                    opens_at=opens_at, ends_at=opens_at + timedelta(seconds=seconds),
                )
            )  # fmt: skip
        return identity

    async def backdate(self) -> None:
        """Every coupon was issued when it began to hold."""
        await self.execute(
            "UPDATE ledger l SET at = k.valid_from FROM coupons k WHERE k.id = l.coupon_id AND l.transition = 'issue'"
        )

    async def review(self, coupon: UUID, **settled: Any) -> UUID:
        """A review like one that might have come before ``coupon``, still open unless ``settled`` says otherwise."""
        identity: UUID = await self.scalar(
            "INSERT INTO reviews (id, brand_id, campaign_id, drop_id, room_id, viewer_id, store_id, within_m, signs,"
            "  asked_at, expires_at, state, decided_at)"
            " SELECT gen_random_uuid(), brand_id, campaign_id, drop_id, room_id, viewer_id, store_id, 500, '{jumped}',"
            "  now(), now() + interval '2 hours', :state, CAST(:decided_at AS timestamptz)"
            " FROM coupons WHERE id = :coupon RETURNING id",
            coupon=coupon,
            **({"state": "open", "decided_at": None} | settled),
        )
        return identity

    def clerk(self, store: str = "S1") -> Principal:
        return principal(Role.CLERK, f"till-{store}", store=self.stores[store])

    async def somebody_waits(self, n: int = 1) -> None:
        """Return when ``n`` transactions wait for another one's lock."""
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        async with asyncio.timeout(60):
            while await self.scalar(waiting) < n:
                await asyncio.sleep(0.01)


def principal(role: Role, name: str, *, tier: int = 0, store: UUID | None = None) -> Principal:
    return Principal(BrandId(BRAND), new_id(), role, name, now() + timedelta(hours=1), store=store, tier=tier)


async def make_world(kernel: Kernel) -> World:
    """The brand, its guide and ops, a live room, and the store S1 at the origin."""
    guide, ops = principal(Role.GUIDE, "阿May"), principal(Role.OPS, "运营")
    room = new_id()
    async with transaction(kernel.sessions) as session:
        await session.execute(insert(Brand), [{"id": BRAND, "name": "Acme"}, {"id": "other", "name": "Other"}])
        await session.execute(
            insert(guides.tables.Staff),
            [
                {"id": who.subject, "brand_id": BRAND, "account": who.name, "name": who.name, "role": who.role.value}
                for who in (guide, ops)
            ],
        )
        await session.execute(
            insert(live.tables.Room).values(
                id=room, brand_id=BRAND, guide_id=guide.subject, title="新品", state="live", live_at=now()
            )
        )
    world = World(kernel, guide, ops, room)
    await world.store("S1")
    return world
