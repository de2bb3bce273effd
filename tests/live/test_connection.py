"""One viewer's socket: the time it has, what it is pinged, how little of it is kept, and how it is written to."""

import asyncio
import gc
import os
import socket
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from hubhouse import BROWSER, Doorman, House, Paper, request
from viewers import principal, until
from websockets.frames import Frame, Opcode

from live import wire
from live.connection import SILENT_SECONDS, Connection
from live.metrics import Tally
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


# ---- writing -------------------------------------------------------------------------------------------------------


Run = Callable[[Coroutine[Any, Any, None]], None]


async def connected() -> tuple[Connection, asyncio.Transport, socket.socket]:
    """A connection on a real socket, and the socket at the other end, which does not block."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    transport, connection = await asyncio.get_running_loop().connect_accepted_socket(
        lambda: Connection(Doorman(Tally())), ours
    )
    return connection, transport, theirs


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_what_the_kernel_does_not_take_is_sent_in_order_and_then_writes_are_direct_again(run: Run) -> None:
    async def scenario() -> None:
        connection, transport, theirs = await connected()
        pushed, got = b"", b""
        for round in range(3):
            first = f"first {round}".encode()
            connection.push(first)
            assert theirs.recv(100) == first, "in the kernel at once, without a turn of the loop"
            while not transport.get_write_buffer_size():
                data = len(pushed).to_bytes(8, "big") * 5000
                connection.push(data)
                pushed += data
            waits = transport.get_write_buffer_size()
            assert waits < len(data), "the kernel took a part of it"
            for word in (b"and then ", b"the last"):
                connection.push(word)
                pushed += word
            assert transport.get_write_buffer_size() == waits + len(b"and then the last")
            async with asyncio.timeout(60):
                while len(got) < len(pushed):
                    got += await asyncio.get_running_loop().sock_recv(theirs, 1 << 20)
            assert got == pushed
            await until(lambda: not transport.get_write_buffer_size())
        transport.abort()
        await until(lambda: connection.closing)
        theirs.close()

    run(scenario())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_nothing_is_written_to_the_descriptor_of_a_closed_transport(run: Run) -> None:
    async def scenario() -> None:
        connection, transport, theirs = await connected()
        descriptor = transport.get_extra_info("socket").fileno()
        transport.abort()
        connection.push(b"to nobody")
        await until(lambda: connection.closing)
        stranger, other = socket.socketpair()
        if stranger.fileno() != descriptor:
            os.dup2(stranger.fileno(), descriptor)
        try:
            connection.send(wire.Pong(1))
            assert connection._send is not None
            with pytest.raises(OSError, match="Bad file descriptor"):
                connection._send(b"to a stranger")
            other.setblocking(False)
            with pytest.raises(BlockingIOError):
                other.recv(100)
            assert theirs.recv(100) == b""
        finally:
            if stranger.fileno() != descriptor:
                os.close(descriptor)
            for one in (stranger, other, theirs):
                one.close()

    run(scenario())


def test_a_connection_nobody_closed_leaves_the_socket_to_its_transport() -> None:
    """As when the loop is closed with open transports, or the gateway refused the socket."""
    ours, theirs = socket.socketpair()

    class Pipe(Paper):
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return ours if name == "socket" else default

    connection = Connection(Doorman(Tally()))
    connection.connection_made(Pipe())
    assert connection._send is not None
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        del connection
        gc.collect()
    assert warned == []
    ours.sendall(b"still open")
    assert theirs.recv(100) == b"still open"
    ours.close()
    theirs.close()
