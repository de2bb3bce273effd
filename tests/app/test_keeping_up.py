"""Who ends is started again; at once if they had been well, ever later if they end as soon as they are there."""

from pathlib import Path
from typing import Any

import pytest

from app import up
from app.up import WELL_SECONDS, Child


class Life:
    """A process that ends after so many seconds."""

    def __init__(self, clock: list[float], seconds: float) -> None:
        self._clock, self._seconds = clock, seconds

    async def wait(self) -> int:
        self._clock[0] += self._seconds
        return 1


async def test_a_process_that_was_well_is_started_again_as_soon_as_after_its_first_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, pauses = [0.0], []
    lives = [1.0] * 12 + [WELL_SECONDS * 2, 1.0]
    child: Any = Child("tried", [], {}, Path("/dev/null"))

    async def start() -> None:
        child.process = Life(clock, lives.pop(0)) if lives else None
        child.stopping = child.process is None

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(child, "start", start)
    monkeypatch.setattr(up.asyncio, "sleep", sleep)
    monkeypatch.setattr(up, "monotonic", lambda: clock[0])
    await child.start()
    await child.keep()
    assert pauses[0] < pauses[1] < pauses[10] == pauses[11] == 5.0
    assert pauses[12:] == pauses[:2]
    assert child.restarts == len(pauses)
