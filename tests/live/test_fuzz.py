"""Hostile bytes against a gateway: whatever is sent, at whatever moment, costs the sender and nobody else.

In the room sit a guide who talks and a viewer who listens; both must go on as if they were alone. Attackers say what
they have to say, close their half of the socket, and read until the gateway has closed the other.
"""

import asyncio
import gc
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mutants import CLIENT, mutants
from roomworld import World, make_world
from viewers import PATIENCE, Client, Coupons, Nearby, principal, until, watching
from websockets.frames import Frame, Opcode

from kernel.identity import Principal
from kernel.process import Kernel
from live import wire
from live.bus import RedisBus
from live.connection import Connection
from live.gateway import Gateway, serving
from live.session import Session
from live.wire import Close

STANDARD_CLOSES = {1000, 1001, 1002, 1003, 1005, 1007, 1008, 1009, 1011}


# ---- what attackers say --------------------------------------------------------------------------------------------


def shake(path: str) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def text(payload: bytes) -> bytes:
    return Frame(Opcode.TEXT, payload).serialize(mask=True)


def hello(token: str, resume: bytes = b"null") -> bytes:
    return text(b'{"t":"hello","token":"%s","resume":%s}' % (token.encode(), resume))


def cut(draw: st.DrawFn, data: bytes) -> bytes:
    """``data`` with a stretch of it replaced."""
    start = draw(st.integers(0, len(data)))
    return data[:start] + draw(st.binary(max_size=20)) + data[draw(st.integers(start, len(data))) :]


@st.composite
def broken_frames(draw: st.DrawFn) -> bytes:
    """A WebSocket frame as no library would send it: any opcode and flags, unmasked, a length that is not its own."""
    payload = draw(st.sampled_from([b"", b"{}", b'{"t":"ping"}', b"\xff\xfe", b"\x03\xe8", b"\x00", b"x" * 130]))
    first = draw(st.integers(0, 255))
    masked = draw(st.sampled_from([0x80, 0x80, 0]))
    told = draw(
        st.sampled_from([len(payload), len(payload), 0, 125, 126, 4096, 4097, 65_535, 2**31, 2**63 - 1, 2**64 - 1])
    )
    if told < 126 and draw(st.booleans()):
        head = bytes([first, masked | told])
    elif told < 65_536:
        head = bytes([first, masked | 126]) + told.to_bytes(2, "big")
    else:
        head = bytes([first, masked | 127]) + told.to_bytes(8, "big")
    return head + (b"\0\0\0\0" if masked else b"") + payload


def proper_frames() -> st.SearchStrategy[bytes]:
    """Frames that are well formed and oddly chosen: fragments without a beginning, pings, closes, binary."""
    return st.builds(
        lambda opcode, data, fin: Frame(opcode, data, fin).serialize(mask=True),
        st.sampled_from([Opcode.TEXT, Opcode.CONT, Opcode.BINARY]),
        st.sampled_from([b"", b'{"t":"pi', b'ng"}', b'{"t":"ping"}', b"\xe4\xbd", b"x" * 4097]),
        st.booleans(),
    ) | st.builds(
        lambda opcode, data: Frame(opcode, data).serialize(mask=True),
        st.sampled_from([Opcode.PING, Opcode.PONG, Opcode.CLOSE]),
        st.sampled_from([b"", b"\x03\xe8", b"\x00\x00", b"\x03\xed", b"\xff\xff", b"\x03", b"\x03\xe8\xff\xff"]),
    )


POSITIONS = [
    b"null", b'{"epoch":"","seq":0}', b'{"epoch":"EPOCH","seq":0}', b'{"epoch":"EPOCH","seq":-1}',
    b'{"epoch":"EPOCH","seq":99}', b'{"epoch":"EPOCH","seq":9223372036854775807}',
    b'{"epoch":"EPOCH","seq":1%s}' % (b"0" * 60), b'{"epoch":"\\u0000","seq":5}', b'{"epoch":"x","seq":1.5}',
]  # fmt: skip


@dataclass(frozen=True)
class Attack:
    """Who speaks, where to, and what; ``ROOM``, ``TOKEN`` and ``EPOCH`` are filled in."""

    role: str = "viewer"
    raw: bytes | None = None
    """All there is, instead of a handshake and a hello."""
    position: bytes | None = b"null"
    """Of the hello; None leaves the hello out."""
    sent: list[bytes] = field(default_factory=list)
    pieces: int = 1
    """In how many writes it goes out."""
    reset: bool = False
    """Torn down in the middle instead of closed."""


def inside(payloads: st.SearchStrategy[bytes]) -> st.SearchStrategy[Attack]:
    """After the handshake, mostly with a good hello."""
    return st.builds(
        Attack,
        role=st.sampled_from(["viewer", "guide"]),
        position=st.sampled_from([b"null", *POSITIONS, None]),
        sent=st.lists(payloads, min_size=1, max_size=6),
        pieces=st.integers(1, 4),
        reset=st.sampled_from([False, False, False, True]),
    )


@st.composite
def handshakes(draw: st.DrawFn) -> Attack:
    """Something is wrong before there is a WebSocket."""
    request = shake("/v1/rooms/ROOM/live")
    match draw(st.sampled_from(["noise", "cut", "path", "header", "endless"])):
        case "noise":
            request = draw(st.binary(max_size=300))
        case "cut":
            request = cut(draw, request)
        case "path":
            odd = [
                "/v1/rooms/" + "-" * 36 + "/live",
                "/v1/rooms/ROOM/live?x=\0",
                "/%00",
                "*",
                "/metrics",
                "/" + "x" * 9000,
            ]
            request = shake(draw(st.sampled_from(odd)))
        case "header":
            odd = [
                "Content-Length: 5",
                "Transfer-Encoding: chunked",
                "X: " + "y" * 9000,
                "Upgrade: h2c",
                ": ",
                "X:\0",
                "é: 1",
            ]
            request = request[:-2] + draw(st.sampled_from(odd)).encode() + b"\r\n\r\n"
        case _:
            request = request[:-2] + b"X: y\r\n" * 300 + b"\r\n"
    return Attack(raw=request + draw(st.binary(max_size=40)), pieces=draw(st.integers(1, 4)), reset=draw(st.booleans()))


STRUCTURED = inside(mutants().map(text))
BYTES = handshakes() | inside(broken_frames() | proper_frames() | st.binary(max_size=60))


# ---- the room they attack ------------------------------------------------------------------------------------------


class Theatre:
    """A gateway, those who must not be disturbed, and the attackers' way in."""

    def __init__(self, world: World, gateway: Gateway, background: "asyncio.Task[None]", talks: Client, hears: Client):
        self.world, self.gateway, self.background, self.talks, self.hears = world, gateway, background, talks, hears
        self.closes: Counter[int] = Counter()
        self.said = 0
        self.attackers = [principal(f"攻{n}") for n in range(3)]

    async def suffer(self, attacks: list[Attack]) -> None:
        """All ``attacks`` at once; meanwhile the room goes on (and afterwards: by the next time, and the fixture)."""
        await asyncio.gather(self.talk(), *(self._attack(n, attack) for n, attack in enumerate(attacks)))
        await until(lambda: len(self.gateway.connections) == 2)
        assert not self.background.done(), "the gateway's work in the background ended"

    async def talk(self) -> None:
        """The guide says something, and both hear it."""
        self.said += 1
        id, words = f"w{self.said}", f"第{self.said}款"
        await self.talks.send(wire.Comment(id, words))
        ack = await self.talks.ack(id)
        assert ack.ok, ack
        for client in (self.talks, self.hears):
            heard = await client.event(wire.Commented, lambda event: event.id == ack.comment)
            assert heard.text == words
            client.events.clear()
            client.frames.clear()

    async def _attack(self, place: int, attack: Attack) -> None:
        # A guide attacks from a room of their own, where their commands are carried out.
        who: Principal = self.world.guide if attack.role == "guide" else self.attackers[place % 3]
        room = self.world.planned if attack.role == "guide" else self.world.room
        data = attack.raw
        if data is None:
            data = shake("/v1/rooms/ROOM/live")
            if attack.position is not None:
                position = attack.position.replace(b"EPOCH", self.talks.epoch.encode())
                data += hello(self.world.kernel.keyring.issue(who), position)
            data += b"".join(attack.sent)
        heard = await self.exchange(data.replace(b"ROOM", str(room).encode()), attack)
        if not attack.reset:
            self._judge(heard)

    async def exchange(self, data: bytes, attack: Attack) -> bytes:
        host, _, port = self.gateway.url.removeprefix("ws://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        heard = b""
        with suppress(ConnectionError):
            step = max(1, -(-len(data) // attack.pieces))
            for start in range(0, len(data), step):
                writer.write(data[start : start + step])
                await writer.drain()
                await asyncio.sleep(0)
            if attack.reset:
                writer.transport.abort()
            else:
                writer.write_eof()
                async with asyncio.timeout(PATIENCE):
                    while more := await reader.read(65_536):
                        heard += more
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        return heard

    def _judge(self, heard: bytes) -> None:
        """What an attacker was told is HTTP, then frames of the protocol, then a close that the page lists."""
        if not heard:
            return
        head, _, rest = heard.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        assert status == 101 or 200 <= status < 500, head
        if status != 101:
            return
        for opcode, payload in frames(rest):
            assert opcode in (Opcode.TEXT, Opcode.PING, Opcode.PONG, Opcode.CLOSE)
            if opcode == Opcode.TEXT:
                wire.server_frames.decode(payload)
            elif opcode == Opcode.CLOSE and payload:
                code = int.from_bytes(payload[:2], "big")
                assert code in STANDARD_CLOSES | set(Close), code
                self.closes[code] += 1


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The whole frames that a server sent."""
    while len(data) >= 2:
        assert data[0] & 0xF0 == 0x80, "whole, without reserved bits"
        length, start = data[1], 2
        assert length < 128, "a server does not mask"
        if length >= 126:
            start = 4 if length == 126 else 10
            length = int.from_bytes(data[2:start], "big")
        if len(data) < start + length:
            return
        yield data[0] & 0x0F, data[start : start + length]
        data = data[start + length :]


def living() -> Counter[str]:
    """Sockets and sessions that are still held by anything at all."""
    gc.collect()
    return Counter(type(thing).__name__ for thing in gc.get_objects() if type(thing) in (Connection, Session))


@pytest.fixture
async def theatre(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Theatre]:
    """Judges the whole test at its end: nobody left over, nothing broken, nothing logged as an error."""
    world = await make_world(kernel)
    broken: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context))
    with structlog.testing.capture_logs() as lines, caplog.at_level(logging.WARNING):
        async with serving(kernel, RedisBus(kernel.redis), Nearby(), Coupons(), host="127.0.0.1", port=0) as (
            one,
            task,
        ):
            await until(lambda: one.ready)
            before = living()
            async with (
                watching(one.url, kernel.keyring, world.room, world.guide) as talks,
                watching(one.url, kernel.keyring, world.room, world.viewer) as hears,
            ):
                stage = Theatre(world, one, task, talks, hears)
                yield stage
                await stage.talk()
                await until(lambda: living() - before == {"Connection": 2, "Session": 2})
                figures = one.page("/metrics")
                assert figures is not None
                assert b'failures_total{what="defect"} 0.0\n' in figures[2]
                assert b"nearcast_gateway_errand_failures_total 0.0" in figures[2]
                assert len(one.hub.rooms[world.room].audience.connections) == 2
    assert broken == []
    assert [line for line in lines if line["log_level"] in ("error", "critical")] == []
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def chance(examples: int, *, deep: bool = False) -> settings:
    return settings(
        max_examples=examples, deadline=None, derandomize=not deep, database=None,
        phases=[Phase.explicit, Phase.generate] if not deep else list(Phase),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@given(st.lists(STRUCTURED, min_size=1, max_size=6))
@chance(40)
async def test_frames_that_are_nearly_right_harm_nobody(theatre: Theatre, attacks: list[Attack]) -> None:
    await theatre.suffer(attacks)


@given(st.lists(BYTES, min_size=1, max_size=6))
@chance(40)
async def test_bytes_that_are_no_protocol_harm_nobody(theatre: Theatre, attacks: list[Attack]) -> None:
    await theatre.suffer(attacks)


@pytest.mark.deep
@pytest.mark.timeout(900)
@given(st.lists(STRUCTURED | BYTES, min_size=1, max_size=12))
@chance(400, deep=True)
async def test_nothing_of_all_this_harms_anybody_for_long(theatre: Theatre, attacks: list[Attack]) -> None:
    await theatre.suffer(attacks)


async def test_every_published_example_said_at_the_wrong_moment(theatre: Theatre) -> None:
    everything = [text(json.dumps(example).encode()) for example in CLIENT.values()]
    for role in ("viewer", "guide"):
        await theatre.suffer([Attack(role, position=None, sent=[one]) for one in everything])
        await theatre.suffer([Attack(role, sent=[one, one]) for one in everything])


VIOLATIONS = [
    b"\xc1\x82\0\0\0\0{}",  # a reserved bit
    b'\x81\x0c{"t":"ping"}',  # not masked
    b"\x09\x80\0\0\0\0",  # a ping in fragments
    b"\x8b\xfe\x00\x7e\0\0\0\0" + b"x" * 126,  # a pong of more than 125 bytes
    b"\x83\x80\0\0\0\0",  # an opcode that nobody has defined
    b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",  # 2^64 - 1 bytes to come
    b"\x81\xfe\x10\x01\0\0\0\0",  # 4,097 bytes to come
    b"\x80\x80\0\0\0\0",  # a fragment of nothing
    text(b'"\xff"'),  # half a character
]


async def test_a_violation_of_websocket_ends_in_bad_frame(theatre: Theatre) -> None:
    for sent in VIOLATIONS:
        for position in (b"null", None):
            theatre.closes.clear()
            await theatre.suffer([Attack(position=position, sent=[sent])])
            assert theatre.closes == {Close.BAD_FRAME: 1}, sent


async def test_what_comes_along_with_the_handshake_is_answered_after_it(theatre: Theatre) -> None:
    """An eager client that does not wait; the room is open already, so nothing else would hold the welcome back."""
    token = theatre.world.kernel.keyring.issue(theatre.attackers[0])
    request = shake(f"/v1/rooms/{theatre.world.room}/live")
    heard = await theatre.exchange(request + hello(token) + text(b'{"t":"ping"}'), Attack())
    head, _, rest = heard.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    told = [wire.server_frames.decode(payload) for opcode, payload in frames(rest) if opcode == Opcode.TEXT]
    assert [type(frame) for frame in told[:2]] == [wire.Welcome, wire.Pong]
