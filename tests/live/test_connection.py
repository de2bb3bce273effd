"""One viewer's socket, without a network: the time it has, what it is pinged, and how little of it is kept."""

import pytest
from hubhouse import BROWSER, House, Paper, request
from viewers import principal
from websockets.frames import Frame, Opcode

from live import wire
from live.connection import SILENT_SECONDS, Connection
from live.wire import Close


async def test_socket_that_never_says_hello_is_closed(house: House) -> None:
    paper, mute_paper, doorman = Paper(), Paper(), house.doorman
    silent, half = Connection(doorman), Connection(doorman)
    silent.connection_made(paper)
    doorman.who = principal()
    silent.data_received(request(house.room_id))
    half.connection_made(mute_paper)  # not even a request came
    doorman.wheel.turn(doorman.wheel.now + 9)
    assert doorman.closes == []
    doorman.wheel.turn(doorman.wheel.now + 1)
    assert doorman.closes == [Close.HELLO_TIMEOUT]
    assert mute_paper.aborted


async def test_a_request_or_a_hello_that_comes_byte_by_byte_has_no_more_time(house: House) -> None:
    doorman, wire_of = house.doorman, (Paper(), Paper())
    doorman.who = principal()
    asking, greeting = Connection(doorman), Connection(doorman)
    asking.connection_made(wire_of[0])
    greeting.connection_made(wire_of[1])
    head, hello = request(house.room_id), b"\x81\xfe\x00\xc8" + b"x" * 200
    greeting.data_received(head)
    for second in range(10):
        assert doorman.closes == []
        asking.data_received(head[second : second + 1])
        greeting.data_received(hello[second : second + 1])
        doorman.wheel.turn(doorman.wheel.now + 1)
    assert wire_of[0].aborted
    assert doorman.closes == [Close.HELLO_TIMEOUT]


async def test_wheel_pings_the_quiet_and_ends_the_silent(house: House) -> None:
    me = await house.enter()
    wheel = house.doorman.wheel
    wheel.turn(wheel.now + 31)
    assert me.paper.written[-1] == b"\x89\x00"
    wheel.turn(wheel.now + SILENT_SECONDS)
    assert house.doorman.closes == [Close.SILENT]
    wheel.turn(wheel.now + 10)
    assert me.paper.aborted


@pytest.mark.parametrize("offer", ["", BROWSER])
async def test_viewer_between_two_messages_keeps_no_state_machine(house: House, offer: str) -> None:
    me = await house.enter(offer=offer)
    hello = b'{"t":"ping"}'
    frame = Frame(Opcode.TEXT, hello).serialize(mask=True)
    half, rest = frame[:7], frame[7:]
    assert me.connection._wire is None
    me.connection.data_received(frame + half)
    assert me.connection._wire is None
    me.connection.data_received(rest)
    assert me.connection._wire is None
    me.connection.data_received(Frame(Opcode.TEXT, hello[:5], fin=False).serialize(mask=True))
    assert me.connection._wire is not None, "a fragmented message needs its reader until it is whole"
    other = await house.enter(offer=offer)
    other.connection.data_received(frame)
    me.connection.data_received(Frame(Opcode.CONT, hello[5:]).serialize(mask=True))
    assert me.connection._wire is None
    assert [type(one) for one in me.frames[1:]] == [wire.Pong] * 3
    assert [type(one) for one in other.frames[1:]] == [wire.Pong]
