"""The worker: it ends when told, outlives its database, and one sick duty does not take the others down."""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from datetime import timedelta

import asyncpg
import msgspec
import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from app import retention, worker
from kernel.clock import now
from kernel.ids import new_id
from kernel.outbox import emit
from kernel.postgres import transaction
from kernel.process import Kernel
from kernel.tables import IdempotencyKey, OutboxEvent
from live import wire
from live.hosting import LiveEvent


async def tell_something(kernel: Kernel) -> None:
    event = msgspec.Raw(wire.encoder.encode(wire.Announced(text="!", at=0)))
    async with transaction(kernel.sessions) as session:
        await emit(session, "live.event", new_id(), LiveEvent(event))


PATIENCE = 120.0
"""A loaded machine takes a minute to start a process."""


async def until_told(kernel: Kernel, expected: int) -> None:
    told = select(func.count()).where(OutboxEvent.published_at.is_not(None))
    async with asyncio.timeout(PATIENCE):
        while True:
            # Where connections were ended, more than one of our own may still be on its way out.
            with suppress(DBAPIError, OSError):
                async with kernel.sessions() as session:
                    if await session.scalar(told) == expected:
                        return
            await asyncio.sleep(0.05)


async def test_sigterm_ends_the_process_in_order(kernel: Kernel) -> None:
    await tell_something(kernel)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.cli", "worker",
        env=os.environ | kernel.settings.environment(), stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        await until_told(kernel, 1)
        process.send_signal(signal.SIGTERM)
        _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    assert "worker_stopped" in errors.decode()


async def test_connections_lost_in_the_middle_are_survived(kernel: Kernel) -> None:
    stopping = asyncio.Event()
    working = asyncio.create_task(worker.run(kernel, stopping))
    await tell_something(kernel)
    await until_told(kernel, 1)
    killer = await asyncpg.connect(kernel.settings.database_url)
    await killer.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await killer.close()
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await tell_something(kernel)
                break
            except (DBAPIError, OSError):  # our own connections were among those lost
                await asyncio.sleep(0.05)
    await until_told(kernel, 2)
    stopping.set()
    await working


async def test_a_duty_that_fails_is_counted_and_the_others_go_on(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = asyncio.Event()

    async def sick(*_: object) -> None:
        failed.set()
        raise ZeroDivisionError

    monkeypatch.setattr(worker, "_unpin", sick)
    before = worker.FAILURES.labels("unpin")._value.get()
    stopping = asyncio.Event()
    working = asyncio.create_task(worker.run(kernel, stopping))
    await failed.wait()
    await tell_something(kernel)
    await until_told(kernel, 1)
    assert worker.FAILURES.labels("unpin")._value.get() > before
    stopping.set()
    await working


async def test_what_was_told_long_ago_and_old_keys_are_cleaned_away(kernel: Kernel) -> None:
    await tell_something(kernel)
    await tell_something(kernel)
    async with transaction(kernel.sessions) as session:
        rows = (await session.scalars(select(OutboxEvent).order_by(OutboxEvent.id))).all()
        rows[0].published_at = now() - timedelta(hours=kernel.settings.keep_told_hours * 2)
        keep = timedelta(hours=kernel.settings.keep_answers_hours)
        for key, age in (("old", keep * 2), ("fresh", keep / 2)):
            made = now() - age
            session.add(
                IdempotencyKey(brand_id="b", subject=new_id(), key=key, fingerprint=b"", answer=b"", created_at=made)
            )
    gone = await retention.forget(kernel.sessions, retention.rules(kernel.settings), now())
    assert gone == {"outbox": 1, "answers": 1}
    async with kernel.sessions() as session:
        assert (await session.scalars(select(OutboxEvent.id))).all() == [rows[1].id]
        assert (await session.scalars(select(IdempotencyKey.key))).all() == ["fresh"]


@pytest.mark.parametrize(
    ("name", "longest"), [("tried", worker.MAX_BACKOFF_SECONDS), ("relay", worker.RELAY_BACKOFF_SECONDS)]
)
async def test_a_duty_that_recovered_is_tried_again_as_soon_as_after_its_first_failure(
    monkeypatch: pytest.MonkeyPatch, name: str, longest: float
) -> None:
    turns = iter([*"xxxxxx", ".", "x"])
    pauses: list[float] = []
    over = asyncio.Event()

    async def duty() -> None:
        turn = next(turns, None)
        if turn is None:
            over.set()
            await asyncio.Event().wait()
        elif turn == "x":
            raise OSError

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(worker.asyncio, "sleep", sleep)
    working = asyncio.ensure_future(worker._supervised(name, duty, 0.0))
    await over.wait()
    working.cancel()
    assert pauses[0] < pauses[1] < pauses[5] == longest
    assert pauses[6:] == [0.0, pauses[0]]
