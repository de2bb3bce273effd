"""What is certain reaches each viewer in order, whole and once, however joins, gaps, repairs and slow sockets fall
between the slices in which it is told. Fake transports; each turn writes to one socket."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, cast
from unittest.mock import patch
from uuid import UUID

import msgspec
import pytest
from hubhouse import Doorman, House, Paper, Viewer, listening, payload
from hypothesis import given, settings
from hypothesis import strategies as st
from viewers import announced, coupon, principal
from websockets.frames import Opcode

import live.audience
import live.replica
import live.telling
import live.turns
from kernel.ids import new_id
from live import wire
from live.bus import Entry
from live.connection import Connection
from live.memory_bus import MemoryBus

PEOPLE = 4
NARROW = 3
"""Frames that a narrow socket takes before it must be read."""
ENOUGH = 200
"""Tens of turns of the loop in which everybody must be at the log's end; a few do."""


@contextmanager
def one_socket_a_turn(aside: float) -> Iterator[None]:
    """Each turn has time for a single write; small talk stands ``aside`` for so long."""
    rounds, writes = count(step=0.9 * live.turns.ROUND_SECONDS), count(start=1e6, step=1e6)
    with (
        patch.object(live.turns, "perf_counter", lambda: next(rounds)),
        patch.object(live.telling, "perf_counter", lambda: next(writes)),
        patch.object(live.telling, "SLICE", 1),
        patch.object(live.telling, "MOST_ASIDE_SECONDS", aside),
        patch.object(live.audience, "EVENTS_IN_FRAME", 2),
        patch.object(live.audience, "MIN_REST_SECONDS", 0.0),
        patch.object(live.audience, "MAX_REST_SECONDS", 0.0),
        patch.object(live.replica, "REPLAY_EVENTS", 1),
    ):
        yield


class LeakyBus(MemoryBus):
    """Some of what is published is not heard, and the log may be lost; ``told`` is what was in it, by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[str, list[Entry]] = {}

    async def say(self, room: UUID, *, lost: bool, **what: Any) -> None:
        receiver = self._receiver
        if lost:
            self._receiver = None
        await self.publish(room, new_id().hex, **what)
        self._receiver = receiver
        kept = self._room(room)
        self.told.setdefault(kept.epoch, []).append(kept.log[-1])

    def begin_anew(self, room: UUID) -> None:
        """As when Redis was emptied: another log, from its first number."""
        kept = self._room(room)
        kept.epoch, kept.seq = new_id().hex, 0
        kept.log.clear()

    async def read(self, room: UUID, after: int) -> list[Entry]:
        await asyncio.sleep(0)
        found = await super().read(room, after)
        await asyncio.sleep(0)
        return found


class Narrowing(Doorman):
    """Lets in viewers of whom some take a few frames only between two reads."""

    narrow = False

    def opened(self, connection: Connection) -> bool:
        if self.narrow:
            paper = cast(Paper, connection.transport)
            paper.write = partial(self._write, connection, paper.write, count(1))  # type: ignore[method-assign]
        return True

    def _write(self, connection: Connection, write: Callable[[Any], None], number: Iterator[int], data: Any) -> None:
        write(data)
        if next(number) % NARROW == 0:
            connection.pause_writing()


@dataclass
class Account:
    """What one connection was told: where its welcome left off, and what came after."""

    viewer: Viewer
    subject: UUID
    resumed: wire.Position | None
    epoch: str = ""
    after: int = 0
    seq: int = 0
    got: list[str] = field(default_factory=list)

    def read(self) -> "Account":
        """Everything so far; fails at the first number that does not lead on."""
        first = True
        for data in self.viewer.paper.written:
            if data[0] & 0x0F != Opcode.TEXT:
                continue
            frame = wire.server_frames.decode(payload(data))
            match frame:
                case wire.Welcome(log=log):
                    came_back = first and frame.recovered and self.resumed is not None
                    self.epoch, self.got, first = log.epoch, [], False
                    self.after = self.seq = self.resumed.seq if came_back and self.resumed else log.seq
                case wire.Batch(seq=int(seq)):
                    self._moves(seq)
                    events = [wire.room_events.decode(event) for event in frame.e]
                    self.got += [event.text for event in events if isinstance(event, wire.Announced)]
                case wire.CouponGranted(seq=int(seq), coupon=granted):
                    self._moves(seq)
                    self.got.append(granted.title)
        return self

    def _moves(self, seq: int) -> None:
        assert seq > self.seq, f"{seq} came to somebody at {self.seq}"
        self.seq = seq

    def owed(self, log: list[Entry]) -> list[str]:
        """What ``log`` has for them behind their welcome."""
        owed = []
        for entry in log:
            if entry.seq <= self.after:
                continue
            if entry.event is not None:
                owed.append(cast(wire.Announced, wire.room_events.decode(entry.event)).text)
            elif entry.private is not None and self.subject in entry.private:
                owed.append(msgspec.json.decode(entry.private[self.subject], type=wire.CouponCard).title)
        return owed


class Evening(House):
    """A room through which a generated evening runs."""

    def __init__(self) -> None:
        super().__init__()
        self.hub._bus = self.bus = self.leaky = LeakyBus()
        self.doorman = self.narrowing = Narrowing(self.tally)
        self.people = [principal(f"观众{n}") for n in range(PEOPLE)]
        self.accounts: list[Account] = []
        self._numbers = count()

    async def announces(self, lost: bool) -> None:
        await self.leaky.say(self.room_id, lost=lost, event=announced(f"说{next(self._numbers)}"))

    async def grants(self, who: int, lost: bool) -> None:
        payload = wire.encoder.encode(coupon(f"券{next(self._numbers)}"))
        await self.leaky.say(self.room_id, lost=lost, private={self.people[who].subject: payload})

    async def grants_amid_arrivals(self, who: int, turns: int, narrow: bool, resumes: bool) -> None:
        """A coupon waits behind an announcement that is being told, and its owner comes in, or back, meanwhile."""
        before = wire.Position(*await self.leaky.head(self.room_id))
        await self.announces(lost=False)
        await self.grants(who, lost=False)
        await self.turns(turns)
        await self.joins(who, narrow, before if resumes else None)

    async def talks(self) -> None:
        said = wire.Commented(new_id(), wire.Person(new_id(), "小林"), "有白色吗", 1)
        await self.leaky.cast(self.room_id, [wire.encoder.encode(said)])

    async def joins(self, who: int, narrow: bool, resume: wire.Position | None = None) -> None:
        room = await self.open()
        if resume is not None and resume.epoch == room.epoch:  # as the gateway's desk does
            await self.hub.reach(room, resume.seq)
        self.narrowing.narrow = narrow
        viewer = Viewer(self.people[who], room, self.doorman, resume)
        self.accounts.append(Account(viewer, self.people[who].subject, resume))

    async def comes_back(self, which: int, narrow: bool) -> None:
        """With what one of the connections was told; it may be there still."""
        if self.accounts:
            former = self.accounts[which % len(self.accounts)].read()
            who = next(n for n, one in enumerate(self.people) if one.subject == former.subject)
            await self.joins(who, narrow, wire.Position(former.epoch, former.seq))

    async def comes_over(self, who: int, narrow: bool) -> None:
        """From another gateway, which heard everything."""
        await self.joins(who, narrow, wire.Position(*await self.leaky.head(self.room_id)))

    async def leaves(self, which: int) -> None:
        if self.accounts:
            self.accounts[which % len(self.accounts)].viewer.connection.connection_lost(None)

    async def reads(self, which: int) -> None:
        if self.accounts:
            self.accounts[which % len(self.accounts)].viewer.connection.resume_writing()

    async def slows(self, which: int) -> None:
        if self.accounts:
            self.accounts[which % len(self.accounts)].viewer.connection.pause_writing()

    async def turns(self, number: int) -> None:
        for _ in range(number):
            await asyncio.sleep(0)

    async def loses_log(self) -> None:
        self.leaky.begin_anew(self.room_id)

    async def settles(self) -> list[Account]:
        """Everybody reads on until all who stayed are at the log's end."""
        await self.announces(lost=False)
        room = await self.open()
        epoch, head = await self.leaky.head(self.room_id)
        staying = [one for one in self.accounts if not one.viewer.connection.closing]

        for _ in range(ENOUGH):
            for one in staying:
                one.viewer.connection.resume_writing()
            await self.turns(10)
            there = [one.read() for one in staying if not one.viewer.connection.closing]
            if room.whole.is_set() and all((one.epoch, one.seq) == (epoch, head) for one in there):
                return there
        raise AssertionError(f"they are at {[(one.epoch, one.seq) for one in there]}, the log is at {epoch, head}")


_lost = st.sampled_from([False, False, False, True])
_who = st.integers(0, PEOPLE - 1)
_which = st.integers(0, 7)
_narrow = st.booleans()
_doings = st.one_of(
    st.tuples(st.just("announces"), _lost),
    st.tuples(st.just("grants"), _who, _lost),
    st.tuples(st.just("grants_amid_arrivals"), _who, st.integers(0, 8), _narrow, st.booleans()),
    st.tuples(st.just("talks")),
    st.tuples(st.just("joins"), _who, _narrow),
    st.tuples(st.just("comes_back"), _which, _narrow),
    st.tuples(st.just("comes_over"), _who, _narrow),
    st.tuples(st.sampled_from(["leaves", "reads", "slows"]), _which),
    st.tuples(st.just("turns"), st.integers(1, 6)),
    st.tuples(st.just("turns"), st.integers(1, 6)),
    st.tuples(st.just("loses_log")),
)


async def _evening(doings: list[tuple[Any, ...]]) -> None:
    house = Evening()
    async with listening(house):
        await house.joins(0, False)
        await house.joins(1, False)
        for what, *how in doings:
            await getattr(house, what)(*how)
        staying = await house.settles()
        for one in house.accounts:
            one.read()
        for one in staying:
            assert one.got == one.owed(house.leaky.told[one.epoch])


def _evenings(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def chosen(test: Callable[..., None]) -> Callable[..., None]:
        chance = settings(max_examples=examples, deadline=None, derandomize=True, database=None)
        return given(st.lists(_doings, min_size=4, max_size=40), st.sampled_from([0.0, 1e12]))(chance(test))

    return chosen


@_evenings(60)
def test_what_is_certain_is_in_order_and_complete_for_each_viewer(doings: list[tuple[Any, ...]], aside: float) -> None:
    with one_socket_a_turn(aside):
        asyncio.run(_evening(doings))


@pytest.mark.deep
@pytest.mark.timeout(900)
@_evenings(4000)
def test_what_is_certain_is_in_order_on_many_evenings(doings: list[tuple[Any, ...]], aside: float) -> None:
    with one_socket_a_turn(aside):
        asyncio.run(_evening(doings))
