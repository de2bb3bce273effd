"""Migrations and models say the same, and migrations go down as well as up, on PostGIS."""

import asyncio

from sqlalchemy import text

from app import migrations
from kernel.postgres import Table
from kernel.process import Kernel

OUR_TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1"


async def test_the_migrated_schema_is_the_models_schema(kernel: Kernel) -> None:
    async with kernel.engine.connect() as connection:
        assert await migrations.differences(connection) == []


async def test_a_model_that_migrations_do_not_know_is_noticed(kernel: Kernel) -> None:
    async with kernel.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE coupons DROP COLUMN seen_at"))
        assert len(await migrations.differences(connection)) == 1


async def test_down_removes_everything_and_up_again_works(kernel: Kernel) -> None:
    await migrations.downgrade(kernel.engine)
    async with kernel.engine.connect() as connection:
        left = set((await connection.scalars(text(OUR_TABLES))).all())
    assert left.isdisjoint(Table.metadata.tables)
    await migrations.upgrade(kernel.engine)
    async with kernel.engine.connect() as connection:
        assert await migrations.differences(connection) == []


async def test_two_programs_may_migrate_at_once(kernel: Kernel) -> None:
    await migrations.downgrade(kernel.engine)
    await asyncio.gather(migrations.upgrade(kernel.engine), migrations.upgrade(kernel.engine))
    async with kernel.engine.connect() as connection:
        assert await migrations.differences(connection) == []
        assert await connection.scalar(text("SELECT count(*) FROM outbox_lanes")) == 8


async def test_the_table_of_fixes_is_unlogged(kernel: Kernel) -> None:
    async with kernel.engine.connect() as connection:
        persistence = "SELECT relpersistence FROM pg_class WHERE relname = 'locations'"
        assert await connection.scalar(text(persistence)) == b"u"
