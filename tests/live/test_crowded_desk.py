"""A gateway with more to carry out than it can: who waits is written with the others, and guides are heard."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from roomworld import World
from sqlalchemy import text
from viewers import Coupons, Nearby, gateway, principal, until, watching

from kernel.ids import new_id
from kernel.postgres import transaction
from live import attendance, desk, wire
from live.attendance import Attended
from live.journal import Journal
from live.metrics import Tally

CROWD = 40


async def test_those_who_wait_together_are_written_together_while_more_come(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(world.kernel.sessions, Nearby(), Coupons(), Tally())
    write, may_write = attendance.attend, asyncio.Event()
    batches: list[int] = []
    later: list[asyncio.Task[None]] = []

    def come() -> asyncio.Task[None]:
        viewer = principal()
        journal.joined(world.room, viewer)
        return asyncio.create_task(journal.written(world.room, viewer.subject))

    async def written(session: Any, rows: Sequence[Attended]) -> None:
        batches.append(len(rows))
        await may_write.wait()
        if len(later) < CROWD:
            later.append(come())  # somebody comes during each
        await write(session, rows)

    monkeypatch.setattr(attendance, "attend", written)
    first = come()
    while not batches:
        await asyncio.sleep(0.01)
    together = [come() for _ in range(CROWD)]
    await asyncio.sleep(0)  # they wait behind the first
    may_write.set()
    await asyncio.gather(first, *together)
    assert batches[1] >= CROWD
    assert len(batches) <= 4, "each of those who waited wrote for itself"
    async with transaction(world.kernel.sessions) as session:
        known = await session.scalar(text("SELECT count(*) FROM attendance"))
    assert known is not None
    assert known >= 1 + CROWD
    while later and not all(task.done() for task in later):
        await asyncio.gather(*later)


async def test_a_guide_is_heard_while_viewers_take_every_place(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "COMMANDS_AT_ONCE", 2)
    coupons, keyring = Coupons(), world.kernel.keyring
    coupons.gate.clear()
    async with (
        gateway(world.kernel, issuer=coupons) as one,
        watching(one.url, keyring, world.room, world.guide) as guide,
        watching(one.url, keyring, world.room) as viewer,
        watching(one.url, keyring, world.room) as late,
    ):
        for number in range(2):
            await viewer.send(wire.Claim(f"c{number}", new_id()))
        await until(lambda: len(one._errands) == 2)
        await late.send(wire.Claim("late", new_id()))
        error = (await late.ack("late")).error
        assert error is not None
        assert error.code == "busy"
        await guide.send(wire.Announce("a1", "听得到"))
        assert (await guide.ack("a1")).ok
        coupons.gate.set()
        assert [(await viewer.ack(f"c{number}")).ok for number in range(2)] == [True, True]
