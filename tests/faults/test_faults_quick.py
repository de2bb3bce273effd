"""What may happen in any minute of an evening, one after the other on one running house."""

import asyncio

import pytest
from breaking import standing_still
from house import House, masked


async def test_a_gateway_and_the_worker_are_killed_in_the_middle_of_drops(house: House) -> None:
    async with house.evening():
        await house.heard_more(4)
        killed = {name: house.signal(name) for name in ("gateway-1", "worker")}
        await house.heard_more(6)
        for name, pid in killed.items():
            await house.is_gone(name, pid)
    assert house.all_recovered


async def test_redis_is_emptied(house: House) -> None:
    async with house.evening():
        await house.heard_more()
        async with house.redis() as redis:
            await redis.flushall()
        await house.heard_more(6)
    assert not house.all_recovered, "nobody can resume in a log that is gone, and everybody is told so"


async def test_a_gateway_stands_still_for_three_seconds(house: House) -> None:
    async with house.evening():
        await house.heard_more()
        with standing_still(house.pid("gateway-2")):
            await house.nobody_hears_for(3, house.at(1))
        await house.heard_more()
    assert house.all_recovered


MALFORMED = {
    "not masked": b"\x81\x02{}",
    "reserved bits": b"\xf1\x80\0\0\0\0",
    "unknown opcode": b"\x83\x80\0\0\0\0",
    "a size of 2^63": b"\x81\xff" + b"\xff" * 12,
    "half a character": masked(b"\xff\xfe"),
    "no JSON": masked(b"{" * 100),
    "no hello": masked(b'{"t":"like","n":1}'),
    "oversize": masked(b" " * 60_000),
    "a ping too long": masked(b"x" * 200, opcode=9),
    "a piece of nothing": masked(b"x", opcode=0),
}


@pytest.mark.deep  # gateways wait five seconds for some of the senders to hang up
async def test_malformed_and_oversize_frames_cost_only_their_senders(house: House) -> None:
    async with house.evening():
        for frame in MALFORMED.values():
            for place in range(2):
                with house.raw(place) as socket:
                    socket.sendall(frame)
                    await asyncio.to_thread(_read_all, socket)
        await house.heard_more()
    assert all(listener.welcomes == [False] for listener in house.listeners), "somebody else was cut off"


def _read_all(socket) -> None:
    try:
        while socket.recv(65536):
            pass
    except ConnectionResetError:
        pass
