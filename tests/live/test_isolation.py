"""A crowded room does not keep a small one waiting, on the same gateway."""

from collections.abc import Callable
from typing import Any

from test_hub import House, listening
from viewers import until

from live.audience import SLICE

SLICES = 12


async def test_a_small_room_is_told_between_two_slices_of_a_crowded_one() -> None:
    """The mechanism only: how long a slice takes is measured by the benches."""
    big, small = House(), House()
    async with listening(big), listening(small):
        crowd = [await big.enter() for _ in range(SLICES * SLICE)]
        alone = await small.enter()
        order: list[str] = []

        def note(who: str) -> Callable[[Any], None]:
            return lambda _: order.append(who)

        for viewer in crowd:
            viewer.paper.write = note("big")  # type: ignore[method-assign]
        alone.paper.write = note("small")  # type: ignore[method-assign]
        await big.announce("给很多人")
        await small.announce("给一个人")
        await until(lambda: len(order) == len(crowd) + 1)
        # It waited for as much as the crowd is told between two turns of the loop, and not for the end of it.
        assert order.index("small") <= 2 * SLICE
        assert order.count("small") == 1
