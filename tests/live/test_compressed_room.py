"""A room's copy in one process and compression: who gets which bytes, and how often they are made."""

import msgspec
import pytest
from hubhouse import BROWSER, House
from viewers import until

from kernel.ids import new_id
from live import framing, wire
from live.connection import HARD_LIMIT
from live.wire import Close


async def test_everybody_who_negotiated_compression_gets_the_same_compressed_bytes(house: House) -> None:
    plain = [await house.enter() for _ in range(2)]
    small = await house.enter(offer="permessage-deflate; server_max_window_bits=10")
    crowd = [await house.enter(offer=BROWSER) for _ in range(3)]
    assert b"permessage-deflate" in crowd[0].answer
    assert b"permessage-deflate" not in plain[0].answer + small.answer
    before = (house.tally.written, house.tally.saved)
    await house.announce("新品上市" * 200)
    await until(lambda: all(len(viewer.frames) == 2 for viewer in (*plain, small, *crowd)))
    (squeezed,) = {viewer.paper.written[1] for viewer in crowd}
    (full,) = {viewer.paper.written[1] for viewer in (*plain, small)}
    assert (full[0], squeezed[0]) == (0x81, 0xC1)
    assert len(squeezed) < len(full) / 2
    assert crowd[0].events == plain[0].events
    assert house.tally.written - before[0] == 3 * len(full) + 3 * len(squeezed)
    assert house.tally.saved - before[1] == 3 * (len(full) - len(squeezed))


async def test_nothing_is_compressed_for_a_room_that_did_not_ask(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    me = await house.enter()
    monkeypatch.setattr(framing, "_blocks", None)  # would break the tick
    await house.announce("新品上市" * 200)
    await until(lambda: len(me.frames) == 2)
    assert house.tally.saved == 0


@pytest.mark.parametrize("offer", [",", "permessage-deflate; =", "permessage-deflate; server_max_window_bits=99", "x"])
async def test_odd_offers_are_declined_and_their_viewers_come_in(house: House, offer: str) -> None:
    me = await house.enter(offer=offer)
    assert b" 101 " in me.answer
    assert b"xtensions" not in me.answer
    await house.announce("新品上市" * 200)
    await until(lambda: len(me.frames) == 2)
    assert me.paper.written[1][0] == 0x81


async def test_short_news_travel_plain(house: House) -> None:
    me = await house.enter(offer=BROWSER)
    await house.announce("到货")
    await until(lambda: len(me.frames) == 2)
    assert me.paper.written[1][0] == 0x81


async def test_welcome_is_compressed_once_for_all_who_come(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.announce("新品上市" * 200)
    made: list[bytes] = []
    compress = framing._blocks
    monkeypatch.setattr(framing, "_blocks", lambda data: made.append(data) or compress(data))
    people = [await house.enter(offer=BROWSER) for _ in range(5)]
    assert len(made) == 1
    assert {viewer.paper.written[0][0] for viewer in people} == {0xC1}
    assert len({viewer.frames[0].you.id for viewer in people}) == 5
    plain = (await house.enter()).frames[0]
    for viewer in people:
        welcome = viewer.frames[0]
        assert msgspec.structs.replace(welcome, you=plain.you, now=plain.now) == plain


async def test_slow_viewer_with_compression_gets_certain_events_and_is_closed_past_the_limit(house: House) -> None:
    slow, quick = await house.enter(offer=BROWSER), await house.enter(offer=BROWSER)
    slow.connection.pause_writing()
    talk = wire.encoder.encode(wire.Commented(new_id(), wire.Person(new_id(), "小林"), "有白色吗" * 40, 1))
    house.hub.cast(house.room_id, [talk] * 3, 0)
    await house.announce("新品上市" * 200)
    await until(lambda: len(quick.events) == 4)
    await until(lambda: len(slow.events) == 1)
    assert slow.paper.written[-1][0] == 0xC1
    slow.paper.unsent = HARD_LIMIT
    await house.announce("再来")
    await until(lambda: slow.connection.closing)
    assert house.doorman.closes == [Close.SLOW]
