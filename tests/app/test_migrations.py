"""Migrations and models say the same, and migrations go down as well as up, on PostGIS."""

import asyncio
from typing import Any

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


async def test_the_ledgers_lines_survive_becoming_months_and_back(kernel: Kernel) -> None:
    lines = text("SELECT id, coupon_id, transition, at, actor, redemption_id, told_at FROM ledger ORDER BY id")
    insert = "INSERT INTO ledger (coupon_id, transition, at, actor) VALUES (gen_random_uuid(), 'issue', {}, {})"
    ages = ("now()", "now() - interval '40 days'", "now() - interval '400 days'", "'2049-12-31 23:59:59.999999+00'")

    async def known() -> list[Any]:
        async with kernel.engine.connect() as connection:
            return [tuple(row) for row in await connection.execute(lines)]

    async def write(age: str) -> None:
        async with kernel.engine.begin() as connection:
            await connection.execute(text(insert.format(age.replace(":", "\\:"), "gen_random_uuid()")))

    await migrations.downgrade(kernel.engine, "0014-1")
    for age in ages:
        await write(age)
    before = await known()
    await migrations.upgrade(kernel.engine)
    assert await known() == before
    async with kernel.engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM ledger_default")) == 0
        assert await migrations.differences(connection) == []
    await write("now()")
    after = await known()
    assert after[:-1] == before and after[-1][0] > before[-1][0], "identifiers go on"
    await migrations.downgrade(kernel.engine, "0014-1")
    assert await known() == after
    await write("now()")
    assert (await known())[-1][0] > after[-1][0]
