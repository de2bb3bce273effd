"""Compression on real sockets: negotiated, declined, abused; whoever has it hears the same as everybody else."""

import asyncio
from typing import Any

import pytest
from roomworld import World
from viewers import Client, announced, gateway, last_words, principal, slots, until, watching
from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, PerMessageDeflate
from websockets.frames import Frame, Opcode

from live import wire
from live.wire import Close

NEWS = "新品上市，到店有礼。" * 60


def joining(world: World, url: str, *offers: ClientPerMessageDeflateFactory) -> Any:
    return connect(f"{url}/v1/rooms/{world.room}/live", compression=None, extensions=offers or None, close_timeout=1)


async def test_plain_and_compressed_viewers_hear_the_same_and_metrics_say_what_was_saved(world: World) -> None:
    async with (
        gateway(world.kernel) as one,
        watching(one.url, world.kernel.keyring, world.room) as plain,
        joining(world, one.url, ClientPerMessageDeflateFactory()) as like_a_browser,
        joining(world, one.url, ClientPerMessageDeflateFactory(server_max_window_bits=10)) as small,
    ):
        assert like_a_browser.protocol.extensions
        assert not small.protocol.extensions, "one shared form cannot suit a smaller window"
        squeezed, declined = Client(like_a_browser), Client(small)
        for client in (squeezed, declined):
            # Compressed by the first, which negotiated it.
            await client.send(wire.Hello(world.kernel.keyring.issue(principal("小" * 200))))
            await client.frame(wire.Welcome)
        await one.bus.publish(world.room, "news", event=announced(NEWS), slots=slots(NEWS))
        events = [await client.event(wire.Announced) for client in (plain, squeezed, declined)]
        assert events == [wire.Announced(NEWS, 1)] * 3
        late = await asyncio.wait_for(_welcome(world, one.url), 60)
        assert late.announcement == NEWS
        metrics = one.page("/metrics")
        assert metrics is not None
        assert f"nearcast_gateway_saved_bytes_total {float(one.tally.saved)}" in metrics[2].decode()
        assert f"nearcast_gateway_written_bytes_total {float(one.tally.written)}" in metrics[2].decode()
        assert one.tally.saved > len(NEWS.encode())


async def _welcome(world: World, url: str) -> Any:
    async with joining(world, url, ClientPerMessageDeflateFactory()) as socket:
        client = Client(socket)
        await client.send(wire.Hello(world.kernel.keyring.issue(principal())))
        return await client.frame(wire.Welcome)


def _bomb() -> bytes:
    deflate = PerMessageDeflate(True, True, 15, 15)
    return Frame(Opcode.TEXT, b" " * 1_000_000).serialize(mask=True, extensions=[deflate])


@pytest.mark.parametrize("data", [_bomb(), b"\xc1\x85\0\0\0\0\xff\xff\xff\xff\xff"], ids=["bomb", "garbage"])
async def test_what_inflates_to_too_much_or_to_nothing_costs_only_its_sender(world: World, data: bytes) -> None:
    async with (
        gateway(world.kernel) as one,
        watching(one.url, world.kernel.keyring, world.room) as other,
        joining(world, one.url, ClientPerMessageDeflateFactory()) as hostile,
    ):
        hostile.transport.write(data)
        bye, code = await last_words(hostile)
        assert bye is not None
        assert (bye.code, code) == (Close.BAD_FRAME, Close.BAD_FRAME)
        await other.send(wire.Ping())
        await other.frame(wire.Pong)
        await until(lambda: len(one.connections) == 1)


async def test_compressed_frame_of_who_did_not_negotiate_it_is_refused(world: World) -> None:
    async with gateway(world.kernel) as one, joining(world, one.url) as socket:
        socket.transport.write(b"\xc1\x80\0\0\0\0")
        bye, _ = await last_words(socket)
        assert bye is not None
        assert bye.code == Close.BAD_FRAME
