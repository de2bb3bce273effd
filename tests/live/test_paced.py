"""What is due for everybody in a crowd is done a slice at a time: visits of the wheel, notes of who stays."""

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

from kernel.ids import new_id
from live.audience import Audience
from live.connection import Connection
from live.staying import Staying
from live.wheel import AT_ONCE, Wheel


class Socket:
    """Somebody whom the wheel visits."""

    closing = False

    def __init__(self, every: int = 20) -> None:
        self.slot = -1
        self.visits = 0
        self.every = every

    def visit(self) -> int:
        self.visits += 1
        return self.every


def crowd(wheel: Wheel, size: int, seconds: int = 20) -> list[Any]:
    sockets = [Socket() for _ in range(size)]
    for one in sockets:
        wheel.put(cast(Connection, one), seconds)
    return sockets


def test_those_who_are_due_together_are_visited_a_slice_at_a_time() -> None:
    wheel = Wheel()
    sockets = crowd(wheel, 3 * AT_ONCE + 1)
    at = wheel.now + 20
    for slices in (1, 2, 3):
        assert wheel.turn(at, AT_ONCE)
        assert sum(one.visits for one in sockets) == slices * AT_ONCE
    assert not wheel.turn(at, AT_ONCE)
    assert {one.visits for one in sockets} == {1}
    assert not wheel.turn(at + 19, AT_ONCE)
    wheel.turn(at + 20)
    assert {one.visits for one in sockets} == {2}


def test_who_is_planned_anew_or_gone_is_not_visited_in_a_slice_that_was_to_come() -> None:
    wheel = Wheel()
    sockets = crowd(wheel, AT_ONCE + 2)
    at = wheel.now + 20
    assert wheel.turn(at, AT_ONCE)
    later, gone = (one for one in sockets if not one.visits)
    wheel.put(later, 5)
    wheel.take(gone)
    assert not wheel.turn(at + 4, AT_ONCE)
    assert (later.visits, gone.visits) == (0, 0)
    assert not wheel.turn(at + 30)
    assert (later.visits, gone.visits) == (2, 0)


def test_a_second_that_is_late_takes_nobody_out_of_turn() -> None:
    wheel = Wheel()
    first, second = crowd(wheel, AT_ONCE, 1), crowd(wheel, AT_ONCE, 2)
    at = wheel.now + 2
    assert wheel.turn(at, AT_ONCE)
    assert {one.visits for one in first} == {1}
    assert {one.visits for one in second} == {0}
    wheel.turn(at, AT_ONCE)
    assert {one.visits for one in second} == {1}


class Rooms:
    """Audiences as the notes see them."""

    def __init__(self, *sizes: int) -> None:
        self.people: dict[UUID, dict[UUID, list[Any]]] = {
            new_id(): {new_id(): [] for _ in range(size)} for size in sizes
        }
        self.noted: Counter[tuple[UUID, UUID]] = Counter()

    def __call__(self) -> list[tuple[UUID, Audience]]:
        return [
            (room, cast(Audience, SimpleNamespace(people=people, viewers=lambda p=people: set(p))))
            for room, people in self.people.items()
        ]

    def stayed(self, room: UUID, viewer: UUID) -> None:
        self.noted[room, viewer] += 1


def test_everybody_who_stays_is_noted_once_a_round_and_never_more_than_a_share_at_once() -> None:
    rooms = Rooms(1003, 0, 7, 1)
    staying = Staying(rooms.stayed, 100)
    for round_ in (1, 2):
        for _ in range(100):
            before = rooms.noted.total()
            staying.note(rooms())
            assert rooms.noted.total() - before <= 1011 // 100 + 1
        assert set(rooms.noted.values()) == {round_}
        assert len(rooms.noted) == 1011


def test_few_are_not_noted_more_often_and_nobody_after_they_left() -> None:
    rooms = Rooms(3)
    staying = Staying(rooms.stayed, 10)
    [(room, people)] = rooms.people.items()
    for _ in range(4):
        staying.note(rooms())
    assert rooms.noted.total() == 1
    still = next(iter(rooms.noted))[1]
    for viewer in people.keys() - {still}:
        del people[viewer]
    for _ in range(6):
        staying.note(rooms())
    assert rooms.noted == {(room, still): 1}
    rooms.people.clear()
    for _ in range(10):
        staying.note(rooms())
    assert rooms.noted.total() == 1
