"""A brand of any size in a PostgreSQL of its own: stores, members, and a room full of located viewers."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

import asyncpg
from sqlalchemy import text

from app import migrations
from app.embedded import servers
from app.keys import with_keys
from app.processes import open_kernel
from coupons.tables import Coupon
from kernel import garbage
from kernel.clock import now
from kernel.ids import new_id
from kernel.postgres import create_engine, transaction
from kernel.process import Kernel
from kernel.settings import Settings
from loadtest.bench.machine import cpu_seconds

BRAND = "bench"
CITIES = ((121.47, 31.23), (116.40, 39.91), (113.26, 23.13), (114.06, 22.55), (104.07, 30.66), (120.16, 30.27))
"""Six Chinese city centres, canonical degrees; stores scatter within some 30 km of them."""
STORES_A_CITY = 400
"""A brand with more stores has them in more cities, and not in one another's doorway."""

_STORES = text(
    """
    INSERT INTO stores (id, brand_id, code, name, banner, city, address, source_lng, source_lat, source_datum, position)
    SELECT gen_random_uuid(), :brand, 'S' || n, '门店' || n, '晴岚', '城市', '路' || n || '号', x, y, 'gcj02',
           ST_SetSRID(ST_MakePoint(x, y), 4326)::geography
    FROM (
        SELECT n, c.x + (random() + random() - 1) * 0.3 AS x, c.y + (random() + random() - 1) * 0.27 AS y
        FROM generate_series(1, :count) AS n
        JOIN unnest(CAST(:xs AS float8[]), CAST(:ys AS float8[])) WITH ORDINALITY AS c (x, y, place)
            ON c.place = n % :cities + 1
    ) AS places
    """
)
# Nine in ten stand within 3 km of some store, as the audience of a stream that is announced in its stores does.
_VIEWERS = text(
    """
    WITH numbered AS (
        SELECT position::geometry AS p, row_number() OVER () AS place FROM stores WHERE brand_id = :brand
    ), people AS (
        SELECT gen_random_uuid() AS id, n FROM generate_series(1, :count) AS n
    ), member AS (
        INSERT INTO members (id, brand_id, openid, name, tier)
        SELECT id, :brand, id::text, 'viewer', n % 4 FROM people
    ), here AS (
        INSERT INTO attendance (room_id, viewer_id, first_at, last_at) SELECT :room, id, now(), now() FROM people
    )
    INSERT INTO locations (room_id, viewer_id, position, accuracy_m, fixed_at)
    SELECT :room, people.id,
           ST_SetSRID(ST_MakePoint(
               ST_X(p) + cos(bearing) * reach / 95000, ST_Y(p) + sin(bearing) * reach / 111000), 4326)::geography,
           10 + random() * 40, now()
    FROM (
        SELECT *, 2 * pi() * random() AS bearing,
               CASE WHEN n % 10 = 0 THEN 60000 + random() * 60000 ELSE sqrt(random()) * 2900 END AS reach
        FROM people
    ) AS people
    JOIN numbered ON numbered.place = people.n % :stores + 1
    """
)


@dataclass(frozen=True, slots=True)
class Campaign:
    """A running campaign with one open drop."""

    id: UUID
    drop: UUID


@dataclass(frozen=True)
class BrandAtWork:
    """A brand with one live room."""

    kernel: Kernel
    guide: UUID
    room: UUID

    async def viewers(self) -> list[UUID]:
        """Who is in the room, in no order."""
        async with self.kernel.sessions() as session:
            found = await session.scalars(text("SELECT viewer_id FROM locations WHERE room_id = :r"), {"r": self.room})
            return list(found)

    async def campaign(self, mode: str, stock: int) -> Campaign:
        """20 off from 100 with ``stock`` coupons in every store, and a drop of all of them."""
        campaign, drop = new_id(), new_id()
        async with transaction(self.kernel.sessions) as session:
            await session.execute(
                text(
                    "INSERT INTO campaigns (id, brand_id, title, kind, amount_fen, threshold_fen, stock, valid_days,"
                    " state) VALUES (:id, :brand, '满100减20', 'amount', 2000, 10000, :stock, 7, 'running')"
                ),
                {"id": campaign, "brand": BRAND, "stock": stock},
            )
            await session.execute(
                text(
                    "INSERT INTO drops (id, campaign_id, room_id, by, mode, stock, opens_at, ends_at)"
                    " VALUES (:id, :campaign, :room, :by, :mode, :stock, :at, :end)"
                ),
                {
                    "id": drop, "campaign": campaign, "room": self.room, "by": self.guide, "mode": mode,
                    "stock": stock, "at": now() - timedelta(seconds=1), "end": now() + timedelta(hours=1),
                },
            )  # fmt: skip
        return Campaign(campaign, drop)


def _centres(stores: int) -> list[tuple[float, float]]:
    further = max(0, stores // STORES_A_CITY - len(CITIES))
    return [*CITIES, *((104 + 0.9 * (place % 18), 24 + 0.9 * (place // 18)) for place in range(further))]


@asynccontextmanager
async def servers_of_its_own() -> AsyncIterator[Settings]:
    """A fresh, migrated PostgreSQL with the durability of production (fsync and synchronous commit on) and a Redis."""
    # Directly in /tmp: the user that PostgreSQL runs as, when this runs as root, must get in.
    with TemporaryDirectory(prefix="nearcast-bench-", dir="/tmp") as folder:
        nowhere = Settings(state_dir=Path(folder) / "state", database_url=None, redis_url=None)
        Path(folder).chmod(0o755)
        async with servers(with_keys(nowhere)) as settings:
            engine = create_engine(settings)
            await migrations.upgrade(engine)
            await engine.dispose()
            await _fill_the_log(settings)
            yield settings


async def _fill_the_log(settings: Settings) -> None:
    """Leave half a gigabyte of log files to be used again, as a server has that has seen an evening before: each that
    has to be made holds up every commit, of whoever is measured just then."""
    connection = await asyncpg.connect(settings.database_url)
    try:
        await connection.execute(
            "CREATE TABLE filling AS SELECT repeat(md5(n::text), 20) FROM generate_series(1, 750000) AS n"
        )
        await connection.execute("DROP TABLE filling")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


@asynccontextmanager
async def brand_at_work(settings: Settings, *, stores: int, viewers: int) -> AsyncIterator[BrandAtWork]:
    """``stores`` open stores and ``viewers`` located viewers in one live room."""
    guide, room = new_id(), new_id()
    async with open_kernel(settings) as kernel:
        async with transaction(kernel.sessions) as session:
            xs, ys = zip(*_centres(stores), strict=True)
            await session.execute(text("INSERT INTO brands (id, name) VALUES (:id, 'Bench')"), {"id": BRAND})
            await session.execute(
                text(
                    "INSERT INTO staff (id, brand_id, account, name, role) VALUES (:id, :b, 'guide', '小晴', 'guide')"
                ),
                {"id": guide, "b": BRAND},
            )
            await session.execute(
                text(
                    "INSERT INTO rooms (id, brand_id, guide_id, title, state, live_at)"
                    " VALUES (:id, :b, :guide, '新品', 'live', now())"
                ),
                {"id": room, "b": BRAND, "guide": guide},
            )
            await session.execute(
                _STORES, {"brand": BRAND, "count": stores, "xs": list(xs), "ys": list(ys), "cities": len(xs)}
            )
            await session.execute(_VIEWERS, {"brand": BRAND, "count": viewers, "room": room, "stores": stores})
        async with kernel.engine.connect() as connection:
            autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
            for table in ("stores", "members", "attendance", "locations"):
                await autocommit.execute(text(f"VACUUM (ANALYZE) {table}"))
            # Who looks at it between two rounds finds it empty, and plans are made anew for an empty table: a brand's
            # never is.
            await autocommit.execute(text("ALTER TABLE coupons SET (autovacuum_enabled = off)"))
        garbage.settle()  # as the gateway and the worker do
        yield BrandAtWork(kernel, guide, room)


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds: of this process, and of all of PostgreSQL's that serve it."""

    python: float
    postgres: dict[int, float]

    @classmethod
    async def so_far(cls, kernel: Kernel) -> "Spent":
        """What was used until now."""
        async with kernel.sessions() as session:
            pids = await session.scalars(
                text("SELECT pid FROM pg_stat_activity WHERE backend_type <> 'autovacuum worker'")
            )
            return cls(time.process_time(), {pid: cpu_seconds(pid) for pid in pids})

    def per(self, count: int, since: "Spent") -> tuple[float, float]:
        """Microseconds for each of ``count``: of Python, and of PostgreSQL."""
        postgres = sum(used - since.postgres.get(pid, 0.0) for pid, used in self.postgres.items())
        return (self.python - since.python) / count * 1e6, postgres / count * 1e6


async def forget_coupons(kernel: Kernel) -> None:
    """Take every coupon, drop and event away, so that each round begins with empty tables."""
    async with transaction(kernel.sessions) as session:
        await session.execute(
            text(
                "TRUNCATE coupons, ledger, drop_viewers, campaign_stores, redemptions, drops, campaigns, outbox CASCADE"
            )
        )


_KEEP = """
    CREATE UNLOGGED TABLE kept AS SELECT *, row_number() OVER (ORDER BY id) AS place FROM coupons;
    CREATE INDEX ON kept (place);
    ANALYZE kept;
    TRUNCATE coupons, ledger CASCADE
"""
_COLUMNS = ", ".join(column.name for column in Coupon.__table__.columns)
_WRITE_AGAIN = f"""
    WITH piece AS (SELECT * FROM kept WHERE place > $1 AND place <= $2),
        made AS (INSERT INTO coupons ({_COLUMNS}) SELECT {_COLUMNS} FROM piece)
    INSERT INTO ledger (coupon_id, transition, at) SELECT id, 'issue', issued_at FROM piece
"""


async def write_again(kernel: Kernel, at_once: int) -> float:
    """Seconds that PostgreSQL takes to write the rows alone of all coupons that there are: they and their ledger lines
    once more, ``at_once`` in a statement and a commit. No rule is asked, nobody is told, and nothing has to be read
    that comes from outside: the floor of whoever issues them one batch after the other."""
    connection = await asyncpg.connect(kernel.settings.database_url)
    try:
        await connection.execute(_KEEP)
        kept = await connection.fetchval("SELECT count(*) FROM kept")
        began = time.perf_counter()
        for start in range(0, kept, at_once):
            await connection.execute(_WRITE_AGAIN, start, start + at_once)
        seconds = time.perf_counter() - began
        assert await connection.fetchval("SELECT count(*) FROM coupons JOIN ledger ON coupon_id = coupons.id") == kept
        await connection.execute("DROP TABLE kept")
        return seconds
    finally:
        await connection.close()
