"""The pool finds its way back by itself, and one transaction is all or nothing."""

import asyncio

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from kernel.postgres import transaction
from kernel.process import Kernel


async def test_connections_that_the_server_closes_are_an_outage_at_most_and_are_replaced(kernel: Kernel) -> None:
    async def backend() -> int:
        async with transaction(kernel.sessions) as session:
            return int(await session.scalar(text("SELECT pg_backend_pid() FROM pg_sleep(0.05)")) or 0)

    held = set(await asyncio.gather(*(backend() for _ in range(5))))
    killer = await asyncpg.connect(kernel.settings.database_url)
    await killer.execute("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", list(held))
    await killer.close()
    for outcome in await asyncio.gather(*(backend() for _ in range(5)), return_exceptions=True):
        if isinstance(outcome, BaseException):  # in the moment between the server's farewell and its hanging up
            assert isinstance(outcome, DBAPIError) and outcome.connection_invalidated, outcome
    assert held.isdisjoint(await asyncio.gather(*(backend() for _ in range(5))))


async def test_an_error_undoes_everything_that_the_transaction_did(kernel: Kernel) -> None:
    with pytest.raises(ZeroDivisionError):
        async with transaction(kernel.sessions) as session:
            await session.execute(text("INSERT INTO brands (id, name) VALUES ('gone', 'Gone')"))
            raise ZeroDivisionError
    async with transaction(kernel.sessions) as session:
        assert await session.scalar(text("SELECT count(*) FROM brands")) == 0
