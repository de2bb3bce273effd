"""What other tests stand on: each finds the database as the migrations left it, whatever the one before did."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from databases import Database

from kernel.settings import Settings

WRITES = """
INSERT INTO brands (id, name) SELECT i, repeat('x', 200) FROM generate_series(1, 9000) i;
INSERT INTO staff (id, brand_id, account, name, role) SELECT gen_random_uuid(), '1', 'a', 'A', 'ops';
INSERT INTO outbox (lane, topic, room_id, payload) VALUES (1, 't', gen_random_uuid(), '{}');
DELETE FROM outbox_lanes WHERE lane > 3;
UPDATE outbox_lanes SET lane = lane + 100;
"""


async def contents(database: Database) -> dict[str, Any]:
    async with connected(database) as connection:
        return {
            "brands": await connection.fetchval("SELECT count(*) FROM brands"),
            "staff": await connection.fetchval("SELECT count(*) FROM staff"),
            "lanes": await connection.fetch("SELECT * FROM outbox_lanes ORDER BY 1"),
            "number": await connection.fetchval("SELECT nextval(pg_get_serial_sequence('outbox', 'id'))"),
            "tables": await connection.fetch(
                "SELECT relname, reltuples, relpages FROM pg_class WHERE relkind IN ('r', 'p') AND oid > 16384"
                " ORDER BY relnamespace::regnamespace::text, relname"
            ),
        }


@asynccontextmanager
async def connected(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.url)
    try:
        yield connection
    finally:
        connection.terminate()


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        (WRITES, True),
        (f"{WRITES} ANALYZE brands", False),
        ("ALTER TABLE coupons DROP COLUMN seen_at", False),
    ],
)
async def test_what_a_test_did_is_gone_for_the_next(running: Settings, changes: str, kept: bool) -> None:
    assert running.database_url
    database = Database(running.database_url)
    await database.provide()
    try:
        url, before = database.url, await contents(database)
        async with connected(database) as forgotten, connected(database) as busy:
            await busy.execute(changes)
            await forgotten.execute("BEGIN; INSERT INTO brands (id, name) VALUES ('late', 'Late')")
            await database.restore()
        await database.provide()
        assert (database.url == url, await contents(database)) == (kept, before)
    finally:
        await database.drop()
