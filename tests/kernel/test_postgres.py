"""The pool finds its way back by itself, and one transaction is all or nothing."""

import asyncio
import socket

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from kernel.postgres import Question, transaction
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


_DOUBLED = Question("SELECT CAST(:n AS integer) * 2 AS doubled, pg_backend_pid() AS backend")
_BRAND = Question("INSERT INTO brands (id, name) VALUES (:id, :name) RETURNING id")


async def test_a_question_commits_by_itself_and_is_answered_by_name(kernel: Kernel) -> None:
    (answer,) = await _DOUBLED.ask(kernel.sessions, {"n": 21, "unasked": "for"})
    assert answer.doubled == 42
    assert [row.id for row in await _BRAND.ask(kernel.sessions, {"id": "one", "name": "One"})] == ["one"]
    async with kernel.sessions() as session:
        assert await session.scalar(text("SELECT name FROM brands WHERE id = 'one'")) == "One"


async def test_a_question_fails_as_a_session_does(kernel: Kernel) -> None:
    await _BRAND.ask(kernel.sessions, {"id": "one", "name": "One"})
    with pytest.raises(IntegrityError) as struck:
        await _BRAND.ask(kernel.sessions, {"id": "one", "name": "secret"})
    assert not struck.value.connection_invalidated
    assert "secret" not in str(struck.value), "parameters may be coordinates, and errors are logged"
    with pytest.raises(DBAPIError) as wrong:
        await Question("SELECT 1 / CAST(:n AS integer)").ask(kernel.sessions, {"n": 0})
    assert not isinstance(wrong.value, IntegrityError)
    assert (await _DOUBLED.ask(kernel.sessions, {"n": 1}))[0].doubled == 2


async def test_a_question_that_is_given_up_leaves_no_connection_at_work(kernel: Kernel) -> None:
    async with kernel.engine.connect() as other, asyncio.timeout(30):
        await other.execution_options(isolation_level="AUTOCOMMIT")  # who is there is told once a transaction
        ((_, before),) = await _DOUBLED.ask(kernel.sessions, {"n": 1})
        asked = asyncio.create_task(Question("SELECT pg_sleep(60), CAST(:n AS integer)").ask(kernel.sessions, {"n": 1}))
        asleep = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND pid = :pid")
        while not await other.scalar(asleep, {"pid": before}):
            await asyncio.sleep(0.01)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        while await other.scalar(text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid"), {"pid": before}):
            await asyncio.sleep(0.01)
    ((doubled, after),) = await _DOUBLED.ask(kernel.sessions, {"n": 2})
    assert doubled == 4 and after != before


async def test_a_question_on_a_connection_that_the_server_closed_is_an_outage_at_most(kernel: Kernel) -> None:
    ((_, held),) = await _DOUBLED.ask(kernel.sessions, {"n": 1})
    killer = await asyncpg.connect(kernel.settings.database_url)
    await killer.execute("SELECT pg_terminate_backend($1)", held)
    await killer.close()
    try:
        await _DOUBLED.ask(kernel.sessions, {"n": 1})
    except (DBAPIError, OSError) as outage:
        assert isinstance(outage, OSError) or outage.connection_invalidated
    ((doubled, now),) = await _DOUBLED.ask(kernel.sessions, {"n": 2})
    assert doubled == 4 and now != held


async def test_a_question_that_the_server_ends_is_an_outage_and_the_next_one_is_answered(kernel: Kernel) -> None:
    killer = await asyncpg.connect(kernel.settings.database_url)
    asked = asyncio.create_task(Question("SELECT pg_sleep(60), CAST(:n AS integer)").ask(kernel.sessions, {"n": 1}))
    ending = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = $1"
    async with asyncio.timeout(30):
        while not await killer.fetch(ending, kernel.engine.url.database):
            await asyncio.sleep(0.01)
    await killer.close()
    with pytest.raises(DBAPIError) as outage:
        await asked
    assert outage.value.connection_invalidated
    assert (await _DOUBLED.ask(kernel.sessions, {"n": 2}))[0].doubled == 4


@pytest.mark.parametrize("error", [asyncpg.InternalClientError, asyncpg.InterfaceError])
async def test_what_the_driver_says_of_a_connection_half_closed_is_an_outage(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    ((_, held),) = await _DOUBLED.ask(kernel.sessions, {"n": 1})

    async def fetch(*_: object) -> None:
        raise error("another operation is in progress")

    with monkeypatch.context() as patched:
        patched.setattr(asyncpg.Connection, "fetch", fetch)
        with pytest.raises(DBAPIError) as outage:
            await _DOUBLED.ask(kernel.sessions, {"n": 1})
    assert outage.value.connection_invalidated
    assert (await _DOUBLED.ask(kernel.sessions, {"n": 1}))[0].backend != held
