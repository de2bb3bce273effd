"""Comments that somebody outside looks at before the room does, within a bounded time and with a stated policy."""

import asyncio
from typing import Literal

import structlog

from kernel.errors import Refusal
from kernel.identity import Role
from live.connection import Connection
from live.errands import Errands
from live.lately import COMMENT_BURST
from live.metrics import Tally
from live.ports import Checker, Unchecked
from live.replica import Room
from live.session import Say, refused
from live.speech import Speech

WAIT_SECONDS = 0.3
AT_ONCE = 2_000
"""Comments being looked at; beyond that they are refused as ``busy``."""

log = structlog.get_logger()


class Check:
    """Stands before ``Speech``. Comments of staff are not looked at."""

    def __init__(self, checker: Checker, speech: Speech, tally: Tally, when_down: Literal["pass", "refuse"]) -> None:
        self._checker = checker
        self._speech = speech
        self._tally = tally
        self._when_down = when_down
        self._errands = Errands(AT_ONCE, int(COMMENT_BURST))

    def say(self, connection: Connection, room: Room, say: Say) -> None:
        """Hand ``say`` to the room once it was judged. Comments of one viewer may overtake each other meanwhile."""
        assert connection.session is not None
        assert connection.session.who is not None
        who = connection.session.who
        if who.role is not Role.VIEWER:
            self._speech.say(connection, room, say)
        elif not self._errands.start(self._judge(connection, room, say), who.subject):
            connection.apply(connection.session.answer(refused(say.id, Refusal("busy", retry_after=1))))

    async def finish(self) -> None:
        """Wait for what is being looked at."""
        await self._errands.finish(WAIT_SECONDS * 2)

    async def _judge(self, connection: Connection, room: Room, say: Say) -> None:
        assert connection.session is not None
        assert connection.session.who is not None
        refusal = None
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                outcome: str = await self._checker.check(connection.session.who.subject, say.text)
        except (Unchecked, TimeoutError) as error:
            outcome = "down"
            log.warning("comment_unchecked", reason=str(error) or type(error).__name__, then=self._when_down)
            if self._when_down == "refuse":
                refusal = Refusal("unavailable", retry_after=2)
        if outcome == "risky":
            refusal = Refusal("blocked_words")
        self._tally.checks[outcome] += 1
        if refusal is None:
            self._speech.say(connection, room, say)
        else:
            connection.apply(connection.session.answer(refused(say.id, refusal)))
