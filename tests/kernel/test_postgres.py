"""The pool finds its way back by itself, and one transaction is all or nothing."""

import asyncio
import socket

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


async def test_each_side_notices_when_the_other_left_without_a_word(kernel: Kernel) -> None:
    async with kernel.engine.connect() as connection:
        for setting, most in (("tcp_keepalives_idle", 30), ("tcp_user_timeout", 30_000)):
            asked = await connection.scalar(text(f"SELECT setting::int FROM pg_settings WHERE name = '{setting}'"))
            assert 0 < asked <= most, "what we had locked would stay locked for hours"
        driver = (await connection.get_raw_connection()).driver_connection
        plain = driver._transport.get_extra_info("socket")
        assert plain.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), "who waits for an answer would wait for ever"
        unacknowledged = plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert 0 < unacknowledged <= 30_000, "a quarter of an hour, if it is left to TCP"
