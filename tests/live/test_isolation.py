"""A crowded room does not keep a small one waiting, on the same gateway.

How long the wait is by the clock, with real sockets, is what ``make bench-peak`` measures as ``next_door_p99_ms``.
"""

from collections.abc import Callable
from typing import Any

import pytest
from hubhouse import House, listening
from viewers import until

import live.telling
import live.turns
from kernel.ids import new_id
from live import wire
from live.telling import SLICE
from live.turns import TURN_SECONDS

SLICES = 12


WRITE_SECONDS = 20e-6
"""What a write to a viewer takes by the clock of this test."""


@pytest.mark.parametrize("certain", [True, False])
async def test_a_small_room_is_told_between_two_turns_of_a_crowded_one(
    monkeypatch: pytest.MonkeyPatch, certain: bool
) -> None:
    written = 0
    for module in (live.turns, live.telling):
        monkeypatch.setattr(module, "perf_counter", lambda: written * WRITE_SECONDS)
    big, small = House(), House()
    small.hub._turns = big.hub._turns  # as two rooms of one gateway
    async with listening(big), listening(small):
        crowd = [await big.enter() for _ in range(SLICES * SLICE)]
        alone = await small.enter()
        order: list[str] = []

        def note(who: str) -> Callable[[Any], None]:
            def write(_: Any) -> None:
                nonlocal written
                written += 1
                order.append(who)

            return write

        for viewer in crowd:
            viewer.paper.write = note("big")  # type: ignore[method-assign]
        alone.paper.write = note("small")  # type: ignore[method-assign]
        if certain:
            await big.announce("给很多人")
        else:
            said = wire.Commented(new_id(), wire.Person(new_id(), "小林"), "给很多人", 1)
            await big.bus.cast(big.room_id, [wire.encoder.encode(said)])
        await small.announce("给一个人")
        await until(lambda: len(order) == len(crowd) + 1)
        # It waited for one turn of the crowd and for the slice that was begun in it, and not for the end of it.
        assert order.index("small") <= TURN_SECONDS / WRITE_SECONDS + SLICE
        assert order.count("small") == 1
