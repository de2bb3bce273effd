"""PostgreSQL is there and can do nothing more: its disk is full, or its connections are taken."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest
from breaking import full, small_disk, take_all_connections
from house import PATIENCE, House, until

from kernel.identity import Principal

pytestmark = [pytest.mark.deep, pytest.mark.timeout(1200)]
LATE = 3


async def test_the_disk_of_the_database_is_full(measured: House) -> None:
    async with on_a_small_disk(measured) as disk:
        async with measured.evening():
            await measured.heard_more(4)
            async with claims_wait(measured):
                with full(disk):
                    await measured.refused()
                await measured.recovers()
        assert measured.all_recovered


async def test_the_database_has_no_connection_left(measured: House) -> None:
    held: list[asyncpg.Connection] = []
    async with measured.evening():
        await measured.heard_more(4)
        async with claims_wait(measured):
            try:
                await take_all_connections(measured, held)
                await measured.refused()
                with pytest.raises(asyncpg.TooManyConnectionsError):
                    await asyncpg.connect(measured.stack.settings.database_url)
                assert not await measured.is_ready(), "an API without a database must not be given requests"
            finally:
                await asyncio.gather(*(connection.close() for connection in held))
            await measured.recovers()
    assert measured.all_recovered


@asynccontextmanager
async def claims_wait(house: House) -> AsyncIterator[None]:
    """Viewers claim over and over while the block breaks and mends the database. They must be refused meanwhile, and
    have exactly one coupon each afterwards."""
    campaign = await house.world.campaign(stock=100)
    drop = await house.world.drop(campaign, stock=100)
    late = await house.world.viewers(LATE)
    told: dict[str, set[int]] = {"refused": set(), "granted": set()}

    async def claim(place: int, who: Principal) -> None:
        headers = {"Authorization": f"Bearer {house.world.kernel.keyring.issue(who)}", "Idempotency-Key": "late"}
        while True:
            try:
                answer = await house.client.post(f"{house.stack.api}/v1/drops/{drop}/claims", headers=headers)
            except httpx.TransportError:
                continue
            if answer.is_success:
                if place in told["refused"]:
                    told["granted"].add(place)
            else:
                assert answer.status_code == 503, answer.text
                assert answer.json()["code"] in ("unavailable", "busy")
                told["refused"].add(place)
            await asyncio.sleep(0.1)

    claiming = [asyncio.ensure_future(claim(place, who)) for place, who in enumerate(late)]

    async def all_in_the_end() -> bool:
        for each in claiming:
            if each.done():
                each.result()
        return len(told["granted"]) == LATE

    try:
        yield
        await until(all_in_the_end, "claims that were refused being granted")
    finally:
        for each in claiming:
            each.cancel()
        await asyncio.gather(*claiming, return_exceptions=True)
    coupons = await house.world.execute("SELECT viewer_id FROM coupons WHERE drop_id = :drop", drop=drop)
    mine = [row.viewer_id for row in coupons if row.viewer_id in {who.subject for who in late}]
    assert sorted(mine) == sorted(who.subject for who in late), "each exactly once"


@asynccontextmanager
async def on_a_small_disk(house: House) -> AsyncIterator[Path]:
    """The tables of the database lie on a disk of their own while the block runs."""
    with small_disk(house.postgres_data.stat().st_uid) as disk:
        await _run(house, f"CREATE TABLESPACE small LOCATION '{disk}'")
        try:
            await _move(house, "pg_default", "small")
            await _run(house, "VACUUM FULL")  # what is free in the tables' own pages would last for minutes
            yield disk
        finally:
            await _move(house, "small", "pg_default")
            await _run(house, "DROP TABLESPACE small")


async def _move(house: House, source: str, target: str) -> None:
    for kind in ("TABLE", "INDEX"):
        await _run(house, f"ALTER {kind} ALL IN TABLESPACE {source} SET TABLESPACE {target}")


async def _run(house: House, statement: str) -> None:
    connection = await asyncpg.connect(house.stack.settings.database_url)
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    return await connection.execute(statement)
                except asyncpg.DeadlockDetectedError:
                    continue  # with those who use the tables meanwhile
    finally:
        await connection.close()
