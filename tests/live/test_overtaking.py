"""Certain events overtake small talk on its way to thousands; both arrive whole, once, and in their own order."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from viewers import coupon

from kernel.identity import Role
from kernel.ids import new_id
from live import telling, wire
from live.audience import Audience
from live.connection import Connection
from live.framing import Prepared
from live.metrics import Tally
from live.telling import SLICE
from live.turns import Step, Turns

VIEWERS = 3 * SLICE
LATER = 1e9
"""A turn that ends when everything is written; one that ends at 0 has time for a slice."""


class Held:
    """Turns that come when the test says so."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def begin(self, step: Step) -> None:
        self.steps.append(step)


class Viewer:
    """A socket that takes everything and remembers it."""

    deflates = slow = closing = False

    def __init__(self) -> None:
        self.session = SimpleNamespace(who=SimpleNamespace(subject=new_id(), role=Role.VIEWER))
        self.got: list[bytes] = []
        self.cut = 0
        self.transport = SimpleNamespace(abort=self._abort)

    def _abort(self) -> None:
        self.cut += 1

    def push(self, data: bytes) -> None:
        self.got.append(data)

    def write(self, message: Prepared) -> None:
        self.got.append(message.plain)


class Room:
    """An audience of such viewers."""

    def __init__(self) -> None:
        self.turns = Held()
        self.broken: list[BaseException] = []
        self.audience = Audience(1000, Tally(), cast(Turns, self.turns), self.broken.append)
        self.viewers = [Viewer() for _ in range(VIEWERS)]
        for viewer in self.viewers:
            self.enter(viewer)

    def enter(self, viewer: Viewer, seq: int = 0) -> None:
        self.audience.add(cast(Connection, viewer), seq)

    async def begun(self) -> Step:
        """The step of the tick that begins next."""
        async with asyncio.timeout(60):
            while not self.turns.steps:
                await asyncio.sleep(0)
        return self.turns.steps.pop(0)

    async def talks(self, text: str) -> Step:
        author = wire.Person(new_id(), "小林")
        self.audience.loose([wire.encoder.encode(wire.Commented(new_id(), author, text, 1))], 0.0)
        return await self.begun()

    async def tells(self, seq: int, text: str) -> Step:
        self.audience.certain(seq, wire.encoder.encode(wire.Announced(text, 1)), None, 0.0)
        return await self.begun()

    def heard(self, text: str) -> int:
        """How many viewers got ``text``; nobody twice."""
        counts = [sum(text.encode() in data for data in viewer.got) for viewer in self.viewers]
        assert max(counts) <= 1
        return sum(counts)


async def test_a_certain_event_overtakes_small_talk_that_is_being_told() -> None:
    room = Room()
    talk = await room.talks("有白色吗")
    assert talk(0)
    assert room.heard("有白色吗") == SLICE
    tell = await room.tells(1, "到货")
    assert talk(LATER), "it stands aside"
    assert room.heard("有白色吗") == SLICE
    assert not tell(LATER)
    assert room.heard("到货") == VIEWERS
    assert not talk(LATER)
    assert room.heard("有白色吗") == VIEWERS
    assert room.broken == []


async def test_what_is_certain_keeps_its_order_and_newcomers_hear_only_what_their_snapshot_lacks() -> None:
    room = Room()
    first = await room.tells(1, "一")
    room.audience.certain(2, wire.encoder.encode(wire.Announced("二", 1)), None, 0.0)
    late = Viewer()
    room.enter(late, seq=1)
    assert not first(LATER)
    assert not (await room.begun())(LATER)
    for viewer in room.viewers:
        assert [text for data in viewer.got for text in ("一", "二") if text.encode() in data] == ["一", "二"]
    assert [text for data in late.got for text in ("一", "二") if text.encode() in data] == ["二"]


async def test_small_talk_that_stood_aside_for_long_takes_turns_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "MOST_ASIDE_SECONDS", 0.0)
    room = Room()
    talk = await room.talks("有白色吗")
    tell = await room.tells(1, "到货")
    assert talk(0)
    assert tell(0)
    assert room.heard("有白色吗") == room.heard("到货") == SLICE


async def test_slow_viewers_are_told_what_is_certain_and_no_small_talk() -> None:
    room = Room()
    slow: Any = room.viewers[5]
    slow.slow = True
    assert not (await room.talks("有白色吗"))(LATER)
    assert not (await room.tells(1, "到货"))(LATER)
    assert (room.heard("有白色吗"), room.heard("到货")) == (VIEWERS - 1, VIEWERS)
    assert room.audience._tally.shed["slow"] == 1


def _broken(_data: object) -> None:
    raise RuntimeError("a defect")


async def test_a_defect_with_one_viewer_costs_no_other_what_is_certain() -> None:
    room = Room()
    (bad, late), others = room.viewers[:2], room.viewers[2:]
    bad.push = cast(Any, _broken)  # type: ignore[method-assign]
    late.slow, late.write = True, cast(Any, _broken)  # type: ignore[method-assign]
    assert not (await room.tells(1, "一"))(LATER)
    assert [str(error) for error in room.broken] == ["a defect"] * 2
    assert (bad.cut, late.cut) == (1, 1), "they come back and resume"
    assert room.heard("一") == len(others)
    assert not (await room.talks("有白色吗"))(LATER)
    assert room.heard("有白色吗") == len(others)
    assert not any(one.cut for one in others)


async def test_a_tick_that_breaks_off_does_not_end_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room()
    tell = await room.tells(1, "一")
    with monkeypatch.context() as broken:
        broken.setattr(telling.Pen, "write", _broken)
        assert not tell(LATER)
    assert len(room.broken) == 1
    assert not (await room.tells(2, "二"))(LATER)
    assert room.heard("二") == VIEWERS


async def test_who_comes_while_a_coupon_is_on_its_way_has_it_from_the_welcome_alone() -> None:
    room = Room()
    owner = room.viewers[-1]
    room.audience.certain(1, wire.encoder.encode(wire.Announced("一", 1)), None, 0.0)
    payload = wire.encoder.encode(coupon("二号券"))
    room.audience.certain(2, None, {owner.session.who.subject: payload}, 0.0)
    tell = await room.begun()
    assert tell(0), "the coupon waits behind the slices of what came before it"
    second = Viewer()
    second.session = owner.session
    room.enter(second, seq=2)
    assert not tell(LATER)
    assert room.heard("二号券") == 1
    assert second.got == [], "it came again behind the welcome, with a number that leads back"


async def test_nothing_of_a_lost_log_comes_behind_the_snapshot_that_replaces_it() -> None:
    room = Room()
    tell = await room.tells(7, "旧的")
    assert tell(0)
    assert room.heard("旧的") == SLICE
    room.audience.begin_anew(3)
    assert not tell(LATER)
    assert room.heard("旧的") == SLICE, "the other viewers hold the new snapshot"
    assert not (await room.tells(4, "新的"))(LATER)
    assert room.heard("新的") == VIEWERS
