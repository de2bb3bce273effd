"""What viewers say, merged on its way to the bus: one message for all that came while the last one was under way."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from random import randrange
from time import time
from typing import Any
from uuid import UUID

import structlog
from redis.exceptions import RedisError

from kernel.errors import Refusal
from kernel.ids import new_id
from live import wire
from live.bus import Bus, Kept
from live.connection import Connection
from live.metrics import Tally
from live.replica import Room, person
from live.session import Say, refused

GATHER_SECONDS = 0.003
ARRIVALS_SECONDS = 0.2
"""How long arrivals wait for a comment to travel with: nobody misses them, and a storm of them is a storm of commands."""
CAST_SECONDS = 5.0
"""How long Redis may take before a comment is refused as ``unavailable``."""
AT_ONCE = 200
"""Comments in one message."""
MAX_WAITING = 2000
"""Comments of one room that wait for the bus; past that they are refused as ``busy``."""
JOINS_AT_ONCE = 5
"""Arrivals told in one message; of more, a fair sample."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Said:
    connection: Connection
    id: str
    comment: UUID
    event: bytes
    row: bytes


@dataclass(slots=True)
class _Outgoing:
    room: Room
    said: list[_Said] = field(default_factory=list)
    joins: list[bytes] = field(default_factory=list)
    joined: int = 0
    spoken: asyncio.Event = field(default_factory=asyncio.Event)


class Speech:
    """Hands comments and arrivals of this gateway's viewers to the bus, and answers once Redis has them."""

    def __init__(self, bus: Bus, tally: Tally, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._bus = bus
        self._tally = tally
        self._spawn = spawn
        self._outgoing: dict[UUID, _Outgoing] = {}

    def say(self, connection: Connection, room: Room, say: Say) -> None:
        """Tell the room ``say``, which the session has checked."""
        assert connection.session is not None
        assert connection.session.who is not None
        who = connection.session.who
        outgoing = self._of(room)
        if len(outgoing.said) >= MAX_WAITING:
            connection.apply(connection.session.answer(refused(say.id, Refusal("busy", retry_after=1))))
            return
        comment, at, by = new_id(), int(time() * 1000), person(who)
        event = wire.encoder.encode(wire.Commented(comment, by, say.text, at))
        row = wire.encoder.encode(Kept(comment, by.id, by.name, by.role, say.text, at))
        outgoing.said.append(_Said(connection, say.id, comment, event, row))
        outgoing.spoken.set()

    def joined(self, room: Room, by: wire.Person) -> None:
        """Tell the room that somebody came in."""
        outgoing = self._of(room)
        outgoing.joined += 1
        event = wire.encoder.encode(wire.Joined(by))
        if len(outgoing.joins) < JOINS_AT_ONCE:
            outgoing.joins.append(event)
            return
        self._tally.shed["join"] += 1
        place = randrange(outgoing.joined)  # noqa: S311 - fairness, not secrecy
        if place < JOINS_AT_ONCE:
            outgoing.joins[place] = event

    def _of(self, room: Room) -> _Outgoing:
        outgoing = self._outgoing.get(room.id)
        if outgoing is None:
            outgoing = self._outgoing[room.id] = _Outgoing(room)
            self._spawn(self._hand_over(outgoing))
        return outgoing

    async def _hand_over(self, outgoing: _Outgoing) -> None:
        room = outgoing.room.id
        try:
            await asyncio.sleep(GATHER_SECONDS)
            while outgoing.said or outgoing.joins:
                if not outgoing.said:
                    await self._wait_for_words(outgoing)
                outgoing.spoken.clear()
                said, outgoing.said = outgoing.said[:AT_ONCE], outgoing.said[AT_ONCE:]
                joins, outgoing.joins, outgoing.joined = outgoing.joins, [], 0
                await self._cast(room, said, joins)
        finally:
            # Nothing is awaited between the last look and this, so nothing can be added and forgotten.
            del self._outgoing[room]
            self._refuse(outgoing.said)

    async def _wait_for_words(self, outgoing: _Outgoing) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(ARRIVALS_SECONDS):
                await outgoing.spoken.wait()

    async def _cast(self, room: UUID, said: list[_Said], joins: list[bytes]) -> None:
        try:
            async with asyncio.timeout(CAST_SECONDS):
                await self._bus.cast(room, joins + [one.event for one in said], keep=[one.row for one in said])
        except (RedisError, OSError) as error:
            self._tally.failures["cast"] += 1
            log.warning("cast_failed", room=str(room), comments=len(said), error=type(error).__name__)
            self._refuse(said)
            return
        for one in said:
            if one.connection.session is not None:
                ack = wire.Ack(one.id, ok=True, comment=one.comment)
                one.connection.apply(one.connection.session.answer(ack))

    def _refuse(self, said: list[_Said]) -> None:
        for one in said:
            if one.connection.session is not None:
                ack = refused(one.id, Refusal("unavailable", retry_after=2))
                one.connection.apply(one.connection.session.answer(ack))
