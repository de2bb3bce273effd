"""A trace's way over the bus into a gateway, and that viewers see nothing of it."""

from collections.abc import Iterable, Mapping
from typing import Any, Self

import pytest
from roomworld import make_world
from viewers import announced, gateway, until, watching

from kernel import tracing
from kernel.process import Kernel
from live import wire
from live.bus import RedisBus

ORIGIN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Recorder:
    """What ``kernel.spans`` does, remembered."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, str, Mapping[str, Any]]] = []
        self.ended = 0

    def span(self, name: str, origin: str, links: Iterable[str], attributes: Mapping[str, Any]) -> "Recorder":
        self.begun.append((name, origin, attributes))
        return self

    def begin(self, name: str, origin: str, attributes: Mapping[str, Any]) -> "Recorder":
        return self.span(name, origin, (), attributes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.ended += 1

    def end(self) -> None:
        self.ended += 1

    def note(self, *_: object, **__: object) -> None:
        pass

    def here(self) -> str:
        return ORIGIN


async def test_what_is_published_in_a_trace_is_told_in_it_and_viewers_get_the_same_bytes(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, bus = await make_world(kernel), RedisBus(kernel.redis)
    async with gateway(kernel) as one, watching(one.url, kernel.keyring, world.room) as viewer:
        await bus.publish(world.room, "a", event=announced("一"))
        await viewer.event(wire.Announced)
        recorder = Recorder()
        monkeypatch.setattr(tracing, "_tracing", recorder)
        await bus.publish(world.room, "b", event=announced("二"))
        await viewer.event(wire.Announced, lambda event: event.text == "二")
        await until(lambda: recorder.ended)
        (name, origin, attributes), *_ = [begun for begun in recorder.begun if begun[0] == "tell viewers"]
        assert (name, origin) == ("tell viewers", ORIGIN)
        assert attributes == {"seq": 2, "sockets": 1}
        first, second = await bus.read(world.room, 0)
        assert (first.trace, second.trace) == ("", ORIGIN)
        for event in viewer.events:
            assert ORIGIN.encode() not in wire.encoder.encode(event)


async def test_entries_of_an_older_version_are_read(kernel: Kernel) -> None:
    from live import bus

    old = bus._pack([b"{}", None, {}, 1.5])
    assert bus._entry(7, old) == bus.Entry(7, b"{}", None, {}, 1.5)
