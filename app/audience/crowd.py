"""All simulated viewers: they come in over a few seconds, chat, like, walk about, drop out and come back."""

import asyncio
import math
from collections.abc import Sequence

import httpx

from app.audience.rest import Refused
from app.audience.stage import Scene, Stage
from app.audience.talk import Talk
from app.audience.town import Town
from app.audience.viewer import Viewer, habit
from live import wire

DOORS = 16
"""Viewers that sign in at the same time."""
RAMP_SECONDS = 8.0
MAIN_SHARE = 0.75
"""Of all viewers, those in the evening's main room."""
TICK = 0.1
SECONDS_PER_COMMENT = 25.0
"""Of one viewer, on average."""
MAX_COMMENTS_PER_SECOND = 150.0
SECONDS_PER_LIKE = 9.0
SECONDS_PER_FIX = 45.0
SECONDS_PER_LOSS = 150.0
"""How long a viewer's line holds on average."""
CHECK_SECONDS = 10


class Crowd:
    """The viewers and what they do unasked. One loop draws who acts; no viewer has a task of its own."""

    def __init__(self, stage: Stage, town: Town, scenes: Sequence[Scene], count: int) -> None:
        self.stage = stage
        self.talk = Talk(stage.chance)
        self.viewers = [
            Viewer(stage, self._seat(scenes), number, town, habit(stage.chance)) for number in range(1, count + 1)
        ]
        self.came: list[Viewer] = []

    def _seat(self, scenes: Sequence[Scene]) -> Scene:
        main, *others = scenes
        return main if not others or self.stage.chance.random() < MAIN_SHARE else self.stage.chance.choice(others)

    @property
    def online(self) -> int:
        """Viewers in a room now."""
        return sum(viewer.in_room for viewer in self.came)

    async def come(self) -> None:
        """Let everybody in, spread over the ramp, a few through the door at a time."""
        ramp = min(RAMP_SECONDS, max(2.0, len(self.viewers) / 125))
        began = asyncio.get_running_loop().time()
        waiting = iter(enumerate(self.viewers))

        async def door() -> None:
            for place, viewer in waiting:
                early = began + ramp * place / len(self.viewers) - asyncio.get_running_loop().time()
                if early > 0:
                    await asyncio.sleep(early)
                if self.stage.over:
                    return
                await self._enter(viewer)

        async with asyncio.TaskGroup() as doors:
            for _ in range(min(DOORS, len(self.viewers))):
                doors.create_task(door())

    async def _enter(self, viewer: Viewer) -> None:
        try:
            await viewer.connect()
        except Refused as refused:
            self.stage.tally.problem(f"a viewer could not sign in: {refused.code}")
        except httpx.TransportError as error:
            self.stage.tally.problem("a viewer could not sign in: no answer", type(error).__name__)
        else:
            self.came.append(viewer)

    async def live(self) -> None:
        """Act until cancelled."""
        loop = asyncio.get_running_loop()
        last = checked = loop.time()
        first_losses = last + 4
        while True:
            await asyncio.sleep(TICK)
            now = loop.time()
            passed, last = now - last, now
            present = len(self.came)
            if present == 0:
                continue
            self._comment(min(passed * present / SECONDS_PER_COMMENT, passed * MAX_COMMENTS_PER_SECOND))
            self._like(passed * present / SECONDS_PER_LIKE)
            self._walk(passed * present / SECONDS_PER_FIX)
            if now > first_losses:
                # At first some lose their line quickly, so that even a short evening shows that nothing is missed.
                hurry = 10 if now < first_losses + 6 else 1
                self._lose(passed * present * hurry / SECONDS_PER_LOSS)
            if now - checked > CHECK_SECONDS:
                checked = now
                for viewer in self.came:
                    viewer.check_order()

    def _some(self, expected: float) -> list[Viewer]:
        """Viewers drawn at random, on average as many as ``expected``."""
        whole = math.floor(expected)
        count = whole + (self.stage.chance.random() < expected - whole)
        return [viewer for viewer in self.stage.chance.choices(self.came, k=count) if viewer.in_room]

    def _comment(self, expected: float) -> None:
        for viewer in self._some(expected):
            viewer.say(self.talk.comment())

    def _like(self, expected: float) -> None:
        for viewer in self._some(expected):
            taps = self.stage.chance.choice((1, 1, 2, 3, 5, 8, 13))
            self.stage.tally.counts["likes"] += taps * viewer.send(wire.Like(taps))

    def _walk(self, expected: float) -> None:
        for viewer in self._some(expected):
            viewer.locate()

    def _lose(self, expected: float) -> None:
        for viewer in self._some(expected):
            self.stage.tally.counts["lines_lost"] += 1
            viewer.vanish()

    def leave(self) -> None:
        """Everybody goes home."""
        for viewer in self.viewers:
            viewer.leave()
