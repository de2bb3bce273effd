"""A room's copy in one process: ticks, order, slow viewers, gaps. No network: transports that write down."""

import asyncio
from time import time
from uuid import UUID

import msgspec
import pytest
import uvloop
from hubhouse import BROWSER, House, Viewer, listening
from viewers import announced, coupon, until

import live.hub
from kernel.errors import Refusal
from kernel.identity import Role
from kernel.ids import new_id
from live import wire
from live.audience import EVENTS_IN_FRAME, LATEST_SECONDS
from live.bus import Entry
from live.connection import HARD_LIMIT
from live.replica import Greeting, Scene
from live.telling import SLICE, Granted
from live.turns import TURN_SECONDS, Turns
from live.wire import Close


async def test_room_is_opened_once_for_all_who_come_at_once(house: House) -> None:
    rooms = await asyncio.gather(*(house.open() for _ in range(50)))
    assert house.loads == 1
    assert len(set(map(id, rooms))) == 1


async def test_unknown_room_stays_closed(house: House) -> None:
    with pytest.raises(Refusal):
        await house.hub.open(new_id())
    assert house.hub.rooms == {}


async def test_event_alone_leaves_in_the_next_turn_of_the_loop(house: House) -> None:
    me = await house.enter()
    await house.announce("快")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [event.text for event in me.events] == ["快"]


async def test_events_of_one_turn_are_one_frame_with_one_position(house: House) -> None:
    me = await house.enter()
    for text in "一二三":
        await house.announce(text)
    await until(lambda: len(me.frames) == 2)
    batch = me.frames[1]
    assert ([event.text for event in me.events], batch.seq) == (["一", "二", "三"], 3)


async def test_everybody_is_written_the_same_bytes_and_the_loop_breathes(house: House) -> None:
    crowd = [await house.enter() for _ in range(SLICE * 3)]
    # As if writing were slow: each slice is a turn of its own.
    crowd[0].paper.takes = crowd[SLICE].paper.takes = TURN_SECONDS
    await house.announce("满屋")
    turns = 0
    while len(crowd[-1].paper.written) < 2:
        turns += 1
        await asyncio.sleep(0)
    assert turns >= 3, "all were written in one go"
    assert {viewer.paper.written[1] for viewer in crowd} == {crowd[0].paper.written[1]}


async def test_private_coupons_keep_their_place_in_the_order(house: House) -> None:
    me, other = await house.enter(), await house.enter()
    assert me.connection.session is not None
    assert me.connection.session.who is not None
    mine = wire.encoder.encode(coupon("满30减10"))
    await house.announce("开抢")
    await house.bus.publish(house.room_id, "g", private={me.connection.session.who.subject: mine})
    await house.announce("抢完")
    await until(lambda: len(me.frames) == 4)
    assert [type(frame).__name__ for frame in me.frames] == ["Welcome", "Batch", "CouponGranted", "Batch"]
    assert [getattr(frame, "seq", None) for frame in me.frames[1:]] == [1, 2, 3]
    assert [frame.seq for frame in other.frames[1:]] == [1, 3]


async def test_a_review_is_told_in_its_place_to_its_viewer_alone_and_is_no_coupon(house: House) -> None:
    me, other = await house.enter(), await house.enter()
    assert me.connection.session is not None
    assert me.connection.session.who is not None
    review = wire.Review(drop=house.room_id, title="满30减10", state="open", until=9)
    await house.bus.publish(
        house.room_id, "r", private={me.connection.session.who.subject: wire.encoder.encode(review)}
    )
    await house.announce("继续")
    await until(lambda: len(me.frames) == 3)
    assert me.frames[1] == msgspec.structs.replace(review, seq=1)
    assert [type(frame).__name__ for frame in other.frames] == ["Welcome", "Batch"]
    assert house.room_id in house.hub.rooms and house.hub.rooms[house.room_id].coupons == {}


async def test_newcomer_is_not_told_again_what_the_snapshot_says(house: House) -> None:
    await house.enter()
    await house.announce("早")  # waits for its tick
    late = await house.enter()
    await house.announce("晚")
    await until(lambda: len(late.frames) == 2)
    assert late.frames[0].announcement == "早"
    assert late.frames[0].log.seq == 1
    assert [event.text for event in late.events] == ["晚"]


async def test_latest_values_are_merged_and_paced(house: House) -> None:
    me = await house.enter()
    loop = asyncio.get_running_loop()
    began = loop.time()
    for n in range(50):
        told = wire.CountsChanged(wire.Counts(viewers=n))
        await house.bus.cast(house.room_id, [wire.encoder.encode(told)])
        await asyncio.sleep(0.002)
    await until(lambda: me.events and me.events[-1].counts.viewers == 49)
    assert len(me.events) <= 2 + (loop.time() - began) / LATEST_SECONDS


async def test_stock_of_two_drops_are_two_values(house: House) -> None:
    me = await house.enter()
    one, two = new_id(), new_id()
    for left in (9, 8, 7):
        stocks = [wire.encoder.encode(wire.DropStock(drop, left)) for drop in (one, two)]
        await house.bus.cast(house.room_id, stocks)
    await until(lambda: len(me.events) >= 2)
    assert {(event.drop, event.left) for event in me.events} == {(one, 7), (two, 7)}


async def test_a_comment_that_waits_for_its_tick_does_not_count_as_left_out(house: House) -> None:
    guide = await house.enter(Role.GUIDE)
    author = wire.Person(new_id(), "小周")
    comment = wire.encoder.encode(wire.Commented(new_id(), author, "还有货吗", 1))
    (await house.open()).audience.loose([comment], 0.0)
    house.hub.tell_guides()
    await until(lambda: guide.events)
    house.hub.tell_guides()
    assert not [frame for frame in guide.frames if isinstance(frame, wire.Shed)]


async def test_slow_viewer_gets_certain_events_only_and_is_closed_past_the_limit(house: House) -> None:
    slow, quick = await house.enter(), await house.enter()
    slow.connection.pause_writing()
    comment = wire.Commented(new_id(), wire.Person(new_id(), "小周"), "看不见", 1)
    await house.bus.cast(house.room_id, [wire.encoder.encode(comment)])
    await house.announce("必达")
    await until(lambda: len(quick.events) == 2)
    assert [type(event).__name__ for event in slow.events] == ["Announced"]
    assert house.tally.shed["slow"] == 1
    slow.paper.unsent = HARD_LIMIT
    await house.announce("太慢")
    await until(lambda: slow.connection.closing)
    assert house.doorman.closes == [Close.SLOW]
    await house.announce("再见")
    await until(lambda: len(quick.events) == 4)
    assert slow.connection not in (await house.open()).audience.connections


async def test_missing_number_is_read_before_anything_later_is_told(house: House) -> None:
    me = await house.enter()
    room = await house.open()
    unheard, house.bus._receiver = house.bus._receiver, None
    await house.announce("丢")
    house.bus._receiver = unheard
    await house.announce("到")
    await until(lambda: len(me.events) == 2)
    assert [event.text for event in me.events] == ["丢", "到"]
    assert (room.seq, house.tally.gaps) == (2, 1)


async def test_entry_heard_twice_is_told_once(house: House) -> None:
    me = await house.enter()
    room = await house.open()
    await house.announce("一")
    house.hub.entry(room.id, room.epoch, Entry(1, announced("一")))
    await house.announce("二")
    await until(lambda: me.events and me.events[-1].text == "二")
    assert [event.text for event in me.events] == ["一", "二"]


async def test_gap_that_the_log_no_longer_holds_is_a_fresh_welcome() -> None:
    house = House(log_length=2)
    async with listening(house):
        me = await house.enter()
        unheard, house.bus._receiver = house.bus._receiver, None
        for n in range(5):
            await house.announce(f"丢{n}")
        house.bus._receiver = unheard
        await house.announce("到")
        await until(lambda: len(me.frames) == 2)
        again = me.frames[1]
        assert isinstance(again, wire.Welcome)
        assert (again.recovered, again.announcement, again.log.seq) == (False, "到", 6)
        await house.announce("后")
        await until(lambda: me.events)
        assert [event.text for event in me.events] == ["后"]


async def _another_log(house: House, size: int) -> None:
    """Redis was emptied unheard, and tells a log of its own by now."""
    unheard, house.bus._receiver = house.bus._receiver, None
    del house.bus._rooms[house.room_id]
    for n in range(size):
        await house.announce(f"新{n}")
    house.bus._receiver = unheard


async def test_a_repair_takes_nothing_from_a_log_that_is_not_the_rooms(house: House) -> None:
    me = await house.enter()
    room = await house.open()
    epoch = room.epoch
    for n in range(2):
        await house.announce(f"旧{n}")
    await until(lambda: len(me.events) == 2)
    await _another_log(house, 4)
    house.hub.entry(room.id, epoch, Entry(4, announced("旧3")))  # 3 was missed, and is another one's number by now
    await until(lambda: isinstance(me.frames[-1], wire.Welcome) and len(me.frames) > 2)
    assert [event.text for event in me.events] == ["旧0", "旧1"]
    again = me.frames[-1]
    assert (again.announcement, again.log.seq, again.log.epoch) == ("新3", 4, room.epoch)
    assert room.epoch != epoch


async def test_who_knows_more_is_not_let_into_a_copy_of_a_log_that_is_gone(house: House) -> None:
    me = await house.enter()
    room = await house.open()
    epoch = room.epoch
    await _another_log(house, 3)
    await house.hub.reach(room, 3)
    assert (room.epoch != epoch, room.seq, room.whole.is_set()) == (True, 3, True)
    await until(lambda: len(me.frames) > 1)
    assert (me.events, me.frames[-1].announcement) == ([], "新2")
    late = await house.enter(resume=wire.Position(epoch, 3))
    assert not late.recovered


async def test_deleted_comment_is_not_shown_to_those_who_come_later(house: House) -> None:
    await house.enter()
    gone, kept = (wire.Commented(new_id(), wire.Person(new_id(), "小周"), text, 1) for text in ("删", "留"))
    await house.bus.cast(house.room_id, [wire.encoder.encode(gone), wire.encoder.encode(kept)])
    room = await house.open()
    await until(lambda: len(room.recent) == 2)
    await house.bus.publish(house.room_id, "d", event=wire.encoder.encode(wire.Deleted(gone.id)))
    assert [comment.text for comment in (await house.enter()).frames[0].recent] == ["留"]
    fresh = House()
    fresh.bus, fresh.hub._bus, fresh.room_id = house.bus, house.bus, house.room_id
    assert [comment.text for comment in (await fresh.enter()).frames[0].recent] == ["留"]


async def test_slow_mode_and_mutes_follow_the_log(house: House) -> None:
    room = await house.open()
    card = msgspec.json.decode(room.slots["room"], type=wire.RoomCard)
    slower = msgspec.structs.replace(card, slow_seconds=30)
    viewer = new_id()
    changed = {"room": wire.encoder.encode(slower), f"mute:{viewer}": b"9999999999999"}
    await house.bus.publish(house.room_id, "s", event=wire.encoder.encode(wire.RoomChanged(slower)), slots=changed)
    assert (room.slow_seconds, room.mutes) == (30, {viewer: 9999999999999})
    await house.bus.publish(house.room_id, "u", event=b"{}", slots={f"mute:{viewer}": b""})
    assert room.mutes == {}


async def test_a_mute_that_has_run_out_is_not_told_to_who_comes_in(house: House) -> None:
    me = await house.enter()
    room = await house.open()
    assert me.connection.session is not None
    assert me.connection.session.who is not None
    who = me.connection.session.who
    for seconds, told in ((3600, True), (-1, False)):
        room.mutes[who.subject] = int((time() + seconds) * 1000)
        assert (Viewer(who, room, house.doorman).frames[0].muted_until is not None) == told


async def test_thousands_of_resumes_from_one_place_encode_once(house: House) -> None:
    room = await house.open()
    position = wire.Position(room.epoch, 0)
    for n in range(250):
        await house.announce(f"{n}")
    first, second = await house.enter(resume=position), await house.enter(resume=position)
    assert first.recovered
    assert [event.text for event in first.events] == [f"{n}" for n in range(250)]
    assert all(one is other for one, other in zip(first.paper.written[1:], second.paper.written[1:], strict=True))


async def test_room_without_viewers_is_given_up_after_a_while(house: House) -> None:
    me = await house.enter()
    room = await house.open()
    await house.hub.close_idle(room.empty_since + 3600)
    assert house.hub.rooms
    room.audience.remove(me.connection)
    await house.hub.close_idle(room.empty_since + 59)
    assert house.hub.rooms
    await house.hub.close_idle(room.empty_since + 61)
    assert house.hub.rooms == {}


async def test_a_room_is_not_given_up_while_somebody_is_about_to_come_in(house: House) -> None:
    room = await house.open()
    empty_since = room.empty_since = room.empty_since - 3600
    assert await house.open() is room, "between this and being let in, a viewer may wait for Redis"
    await house.hub.close_idle(empty_since + 3600)
    assert house.hub.get(house.room_id) is room


def test_twins_on_the_wire_have_the_fields_of_their_originals() -> None:
    """What the hub sends with its parts still encoded must stay the frame that ``wire`` defines."""
    for twins, original in (((Greeting, Scene), wire.Welcome), ((Granted,), wire.CouponGranted)):
        assert twins[0].__struct_config__.tag == original.__struct_config__.tag
        fields = [field for twin in twins for field in msgspec.structs.fields(twin)]
        names = {field.name: field.required for field in fields}
        assert names == {field.name: field.required for field in msgspec.structs.fields(original)}
        assert len(names) == len(fields), "a field that two twins have would be sent twice"


def test_certain_news_do_not_wait_for_the_end_of_a_rest_on_the_loop_of_production() -> None:
    async def scenario() -> None:
        house = House()
        async with listening(house):
            me = await house.enter()
            audience = (await house.open()).audience
            audience._rest_until = asyncio.get_running_loop().time() + 3600
            talk = wire.encoder.encode(wire.Commented(new_id(), wire.Person(new_id(), "小林"), "有白色吗", 1))
            house.hub.cast(house.room_id, [talk], 0)
            await house.announce("到货")
            await until(lambda: len(me.frames) == 2)

    uvloop.run(scenario())


async def test_a_burst_of_certain_events_travels_in_frames_of_bounded_size(house: House) -> None:
    me = await house.enter(offer=BROWSER)
    for number in range(EVENTS_IN_FRAME + 1):
        await house.announce(str(number))
    await until(lambda: len(me.events) == EVENTS_IN_FRAME + 1)
    assert [frame.seq for frame in me.frames[1:]] == [EVENTS_IN_FRAME, EVENTS_IN_FRAME + 1]


async def test_a_small_room_does_not_wait_for_a_big_one(house: House) -> None:
    turns = Turns()
    told: list[str] = []

    def big(_until: float) -> bool:
        told.append("big")
        return len(told) < 50

    def small(_until: float) -> bool:
        told.append("small")
        return False

    turns.begin(big)
    await asyncio.sleep(0)
    turns.begin(small)
    await until(lambda: len(told) >= 50)
    assert told.index("small") <= 3


async def test_an_event_heard_while_the_log_is_asked_for_its_end_is_no_rollback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer is from before the event. Taken for a rollback, it would cost every viewer their place in the log."""
    house = House()
    async with listening(house):
        me = await house.enter()
        room = await house.open()
        epoch, head = room.epoch, house.bus.head

        async def slow(id: UUID) -> tuple[str, int]:
            answer = await head(id)
            await house.announce("此时")
            await until(lambda: me.events)
            return answer

        monkeypatch.setattr(house.bus, "head", slow)
        await house.hub.restored([room.id])
        assert (room.epoch, room.seq, room.whole.is_set()) == (epoch, 1, True)


async def test_a_log_that_gives_no_answer_fails_the_repair_and_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repair that waits for ever would keep the gateway out of service for ever."""
    monkeypatch.setattr(live.hub, "CHECK_SECONDS", 0.05)
    house = House()
    async with listening(house):
        me = await house.enter()
        room = await house.open()
        head, asked = house.bus.head, 0

        async def silent_once(id: UUID) -> tuple[str, int]:
            nonlocal asked
            asked += 1
            if asked == 1:
                await asyncio.Event().wait()
            return await head(id)

        monkeypatch.setattr(house.bus, "head", silent_once)
        with pytest.raises(TimeoutError):
            await house.hub.restored([room.id])
        await house.hub.restored([room.id])
        await house.announce("听得到")
        await until(lambda: me.events)
