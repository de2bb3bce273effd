"""Transcripts of one viewer's session: what the client says, and what the server does, line by line."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.errors import Refusal
from kernel.identity import Principal, Role
from kernel.ids import BrandId, new_id
from live import wire
from live.lately import ANSWERS
from live.rooms import MAX_SLOW
from live.session import (
    FRAME_BURST,
    REMEMBERED_SECONDS,
    Answered,
    Carry,
    Effect,
    End,
    Enter,
    Note,
    Say,
    Send,
    Session,
    Wait,
)
from live.wire import Close

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
OK = wire.Ack("1", ok=True)
ME, PRODUCT, DROP = UUID(int=1), UUID(int=2), UUID(int=3)


class Parlour:
    """A room, as far as a session sees it."""

    def __init__(self) -> None:
        self.id = new_id()
        self.state = "live"
        self.slow_seconds = 0
        self.mutes: dict[UUID, int] = {}
        self.hushed = False
        self.allow: frozenset[UUID] = frozenset()
        self.review: Callable[[str], str] = self._review

    def _review(self, text: str) -> str:
        if "坏" in text:
            raise Refusal("blocked_words")
        return text.strip()


class Transcript:
    """``says`` and ``does`` alternate; ``later`` moves the clock."""

    def __init__(self, role: Role = Role.VIEWER) -> None:
        self.now = NOON.timestamp()
        self.room = Parlour()
        self.answered = Answered()
        self.session = Session(self._verify)
        self._who = Principal(BrandId("acme"), ME, role, "小林", NOON + timedelta(hours=1))
        self._done: list[Effect] = []

    def _verify(self, token: str, now: float) -> Principal:
        if token != "good":
            raise Refusal("token_expired" if token == "old" else "token_invalid")
        return self._who

    def says(self, frame: wire.Frame | str) -> "Transcript":
        self.nothing_more()
        data = frame.encode() if isinstance(frame, str) else wire.encoder.encode(frame)
        self._done = self.session.receive(data, self.now)
        return self

    def does(self, effect: Effect) -> "Transcript":
        assert self._done, f"nothing was done, expected {effect}"
        assert self._done.pop(0) == effect
        return self

    def acks(self, id: str, code: str, retry_after: float | None = None) -> "Transcript":
        assert self._done, f"no answer, expected {code}"
        sent = self._done.pop(0)
        assert isinstance(sent, Send)
        assert isinstance(sent.frame, wire.Ack)
        assert sent.frame.error is not None, sent.frame
        assert (sent.frame.id, sent.frame.error.code) == (id, code)
        if retry_after is not None:
            assert sent.frame.error.retry_after == pytest.approx(retry_after, abs=0.11)
        return self

    def ends(self, code: Close) -> "Transcript":
        assert self._done, f"still open, expected {code}"
        end = self._done.pop(0)
        assert isinstance(end, End)
        assert end.code is code
        return self

    def nothing_more(self) -> "Transcript":
        assert self._done == []
        return self

    def outcome(self, ack: wire.Ack) -> "Transcript":
        self.nothing_more()
        self._done = self.session.answer(ack)
        return self

    def later(self, seconds: float) -> "Transcript":
        self.now += seconds
        return self

    def inside(self) -> "Transcript":
        self.says(wire.Hello("good"))
        self._done.clear()
        self.session.entered(self.room, self.answered)
        return self

    def elsewhere(self) -> "Transcript":
        """Another socket of the same viewer to the same room and gateway, from now on."""
        other = Transcript(self._who.role)
        other.now, other.room, other.answered = self.now, self.room, self.answered
        return other.inside()

    def waits(self, hearer: "Paper") -> "Transcript":
        assert self._done, "nothing was done, expected to wait"
        wait = self._done.pop(0)
        assert isinstance(wait, Wait)
        wait.hearers.add(hearer)
        return self


class Paper:
    """A socket that writes down."""

    def __init__(self) -> None:
        self.heard: list[wire.Frame] = []

    def send(self, frame: wire.Frame) -> None:
        self.heard.append(frame)


def comment(id: str, text: str = "好看") -> wire.Comment:
    return wire.Comment(id, text)


def test_hello_then_talk() -> None:
    t = Transcript()
    position = wire.Position("e", 7)
    t.says(wire.Hello("good", position)).does(Enter(t._who, position)).nothing_more()
    assert t.session.waiting
    t.session.entered(t.room, t.answered)
    (
        t.says(comment("1", " 好看 "))
        .does(Say("1", "好看"))
        .outcome(wire.Ack("1", ok=True, comment=DROP))
        .does(Send(wire.Ack("1", ok=True, comment=DROP)))
        .says(wire.Like(3))
        .does(Note(wire.Like(3)))
        .says(wire.Tap(PRODUCT))
        .does(Note(wire.Tap(PRODUCT)))
        .says(wire.Ping())
        .does(Send(wire.Pong(int(t.now * 1000))))
        .says(wire.Claim("2", DROP))
        .does(Carry(wire.Claim("2", DROP)))
        .nothing_more()
    )


def test_first_frame_must_be_hello() -> None:
    Transcript().says(comment("1")).ends(Close.BAD_FRAME).says(wire.Hello("good")).nothing_more()


def test_hello_comes_once() -> None:
    Transcript().inside().says(wire.Hello("good")).ends(Close.BAD_FRAME)


@pytest.mark.parametrize(("token", "code"), [("old", Close.TOKEN_EXPIRED), ("x", Close.TOKEN_INVALID)])
def test_bad_token_ends_the_session(token: str, code: Close) -> None:
    Transcript().says(wire.Hello(token)).ends(code)


@pytest.mark.parametrize(
    "frame",
    [
        "", "{", "null", "[]", '{"t":"dance"}', '{"t":"dance","id":"1"}', '{"t":1}', '{"t":1,"id":"1"}', '{"id":"1"}',
        '{"t":"comment","id":"1","text":5', '{"t":"comment","id":"1","text":5}}', '{"t":"slow","id":"1","seconds":NaN}',
        '{"t":"comment","id":"1","text":"\\ud800"}', '{"t":"comment","text":"x"}', '{"t":"comment","id":"","text":"x"}',
        '{"t":"comment","id":7,"text":"x"}', '{"t":"comment","id":"' + "x" * 65 + '","text":"x"}',
        '{"t":"hello","token":5}', '{"t":"hello","id":"1","token":5}', '{"t":"locate","id":"","lng":181}',
    ],
)  # fmt: skip
def test_unreadable_frame_ends_the_session(frame: str) -> None:
    Transcript().inside().says(frame).ends(Close.BAD_FRAME).says(wire.Ping()).nothing_more()


FIX = '"lat":31.2,"datum":"gcj02"'
NOBODY = str(UUID(int=9))


@pytest.mark.parametrize(
    ("command", "code", "field"),
    [
        ('"locate","lng":181,' + FIX, "invalid", "lng"),
        ('"locate","lng":-180.1,' + FIX, "invalid", "lng"),
        ('"locate","lng":1e999,' + FIX, "invalid", "lng"),
        ('"locate","lng":"121",' + FIX, "invalid", "lng"),
        ('"locate","lng":121,"lat":90.5,"datum":"wgs84"', "invalid", "lat"),
        ('"locate","lng":121,"accuracy":-1,' + FIX, "invalid", "accuracy"),
        ('"locate","lng":121,"lat":31,"datum":"mars"', "invalid", "datum"),
        ('"locate","lng":121,"lat":31', "invalid", "datum"),
        ('"comment","text":"' + "x" * 1001 + '"', "too_long", "text"),
        ('"comment","text":null', "invalid", "text"),
        ('"comment"', "invalid", "text"),
        ('"claim","drop":"?"', "invalid", "drop"),
        ('"renew","token":5', "invalid", "token"),
        (f'"pin","product":"{NOBODY}","ttl":86401', "invalid", "ttl"),
        ('"announce","text":"' + "x" * 1001 + '"', "too_long", "text"),
        (f'"drop","campaign":"{NOBODY}","mode":"push","stock":0', "invalid", "stock"),
        (f'"drop","campaign":"{NOBODY}","mode":"`$.seconds`"', "invalid", "mode"),
        (f'"mute","viewer":"{NOBODY}","seconds":1e3', "invalid", "seconds"),
        ('"slow","seconds":' + "9" * 40, "invalid", "seconds"),
        (f'"hush","on":true,"allow":["{NOBODY}","?"]', "invalid", "allow"),
    ],
)
def test_value_that_a_field_cannot_have_costs_only_that_command(command: str, code: str, field: str) -> None:
    t = Transcript(Role.GUIDE).inside()
    (sent,) = t.session.receive(f'{{"t":{command},"id":"1"}}'.encode(), t.now)
    assert isinstance(sent, Send)
    assert isinstance(sent.frame, wire.Ack)
    assert sent.frame.error is not None
    assert (sent.frame.id, sent.frame.error.code, sent.frame.error.field) == ("1", code, field)
    # Nothing is remembered of it: the id may still be used.
    t.says(wire.Unpin("1")).does(Carry(wire.Unpin("1")))


@pytest.mark.parametrize(
    "frame",
    [
        '{"t":"like","n":0}', '{"t":"like","n":101,"id":[]}', '{"t":"tap","product":"?"}', '{"t":"seen"}',
        '{"t":"locate","lng":181,"lat":31.2,"datum":"gcj02"}', '{"t":"locate","lng":181,"lat":31.2,"id":null}',
    ],
)  # fmt: skip
def test_bad_value_in_what_is_never_answered_is_passed_over(frame: str) -> None:
    Transcript().inside().says(frame).nothing_more().says(wire.Like(2)).does(Note(wire.Like(2)))


def test_bad_values_are_frames_like_others_and_too_many_are_a_flood() -> None:
    t = Transcript().inside()
    for _ in range(int(FRAME_BURST) - 1):  # hello was one
        (sent,) = t.session.receive(b'{"t":"comment","id":"1","text":5}', t.now)
        assert isinstance(sent, Send)
    t.says('{"t":"comment","id":"1","text":5}').ends(Close.FLOOD)


def test_what_was_sent_is_not_repeated_in_the_refusal() -> None:
    t = Transcript().inside()
    (sent,) = t.session.receive(
        b'{"t":"report","id":"1","comment":"' + str(DROP).encode() + b'","reason":"secret"}', t.now
    )
    assert b"secret" not in wire.encoder.encode(sent.frame)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_session(data: bytes) -> None:
    t = Transcript().inside()
    effects = t.session.receive(data, t.now)
    assert all(isinstance(effect, End | Send | Say | Carry | Note) for effect in effects)


@pytest.mark.parametrize(
    "hello",
    [
        '{"t":"hello","token":"good","v":2}',
        '{"t":"hello","token":"good","v":0}',
        '{"t":"hello","token":"old","v":2}',  # said before the token is looked at
        '{"t":"hello","v":2,"ticket":{"of":"another form"},"resume":"e/7"}',
        f'{{"t":"hello","token":"good","v":{10**30}}}',
    ],
)
def test_client_of_another_version_is_told_which_we_speak(hello: str) -> None:
    spoken = "this server speaks version 1"
    Transcript().says(hello).does(End(Close.VERSION, spoken)).says(wire.Hello("good")).nothing_more()


@pytest.mark.parametrize("hello", ['{"t":"hello"}', '{"t":"hello","token":"good","v":"2"}', '{"t":"hallo","v":2}'])
def test_what_is_no_hello_of_any_version_is_a_bad_frame(hello: str) -> None:
    Transcript().says(hello).ends(Close.BAD_FRAME)


def test_hello_without_a_version_is_of_the_first() -> None:
    t = Transcript()
    t.says('{"t":"hello","token":"good"}').does(Enter(t._who, None)).nothing_more()


def test_unknown_fields_are_ignored() -> None:
    Transcript().inside().says('{"t":"like","n":2,"mood":"high"}').does(Note(wire.Like(2)))


def test_resend_is_answered_again_and_not_carried_out_again() -> None:
    ack = wire.Ack("1", ok=True, comment=DROP)
    (
        Transcript().inside()
        .says(comment("1")).does(Say("1", "好看"))
        .says(comment("1")).nothing_more()  # still under way: one answer will come
        .outcome(ack).does(Send(ack))
        .says(comment("1")).does(Send(ack)).nothing_more()
    )  # fmt: skip


def test_same_id_for_something_else_is_refused() -> None:
    (
        Transcript().inside()
        .says(comment("1", "一")).does(Say("1", "一"))
        .says(comment("1", "二")).acks("1", "idempotency_mismatch")
    )  # fmt: skip


def test_answer_that_says_try_again_is_not_remembered() -> None:
    failed = wire.Ack("1", error=wire.Error("unavailable", "…", 2))
    (
        Transcript().inside()
        .says(wire.Claim("1", DROP)).does(Carry(wire.Claim("1", DROP)))
        .outcome(failed).does(Send(failed))
        .says(wire.Claim("1", DROP)).does(Carry(wire.Claim("1", DROP)))
    )  # fmt: skip


def test_comment_that_was_not_taken_may_be_said_again() -> None:
    failed = wire.Ack("1", error=wire.Error("unavailable", "…", 2))
    t = Transcript().inside()
    t.room.slow_seconds = 30
    (
        t.says(comment("1")).does(Say("1", "好看"))
        .outcome(failed).does(Send(failed))
        .says(comment("1")).does(Say("1", "好看"))
    )  # fmt: skip


def test_a_refused_command_gives_nothing_back_of_what_comments_cost() -> None:
    t = Transcript().inside()
    t.room.slow_seconds = 30
    t.says(comment("1", "一")).does(Say("1", "一")).outcome(OK).does(Send(OK)).later(10)
    busy = wire.Ack("2", error=wire.Error("busy", "…", 1))
    t.says(wire.Claim("2", DROP)).does(Carry(wire.Claim("2", DROP))).outcome(busy).does(Send(busy))
    t.says(comment("3", "二")).acks("3", "too_fast", 20)
    t.room.slow_seconds = 0
    t.says(comment("4", "一")).acks("4", "duplicate")


def test_of_several_comments_that_were_not_taken_each_may_be_said_again() -> None:
    t = Transcript().inside()
    for n in ("1", "2", "3"):
        t.says(comment(n, n)).does(Say(n, n))
    for n in ("2", "1", "3"):
        failed = wire.Ack(n, error=wire.Error("unavailable", "…", 2))
        t.outcome(failed).does(Send(failed))
    t.later(5).says(comment("3", "3")).does(Say("3", "3")).says(comment("1", "1")).does(Say("1", "1"))


def test_a_comment_that_was_not_taken_leaves_the_one_before_in_force() -> None:
    failed = wire.Ack("2", error=wire.Error("unavailable", "…", 2))
    t = Transcript().inside().says(comment("1", "一")).does(Say("1", "一")).outcome(OK).does(Send(OK))
    t.later(1).says(comment("2", "二")).does(Say("2", "二")).outcome(failed).does(Send(failed))
    t.says(comment("3", "一")).acks("3", "duplicate").says(comment("2", "二")).does(Say("2", "二"))


@pytest.mark.parametrize("code", ["too_fast", "busy", "unavailable"])
def test_a_comment_refused_for_now_gets_through_later_under_its_id(code: str) -> None:
    t = Transcript().inside()
    if code == "too_fast":
        t.room.slow_seconds = 10
        t.says(comment("0", "零")).does(Say("0", "零"))
        t.says(comment("1")).acks("1", code, 10).later(4).says(comment("1")).acks("1", code, 6)
    else:
        failed = wire.Ack("1", error=wire.Error(code, "…", 1))
        for _ in range(2):
            t.says(comment("1")).does(Say("1", "好看")).outcome(failed).does(Send(failed))
    ack = wire.Ack("1", ok=True, comment=DROP)
    t.later(10).says(comment("1")).does(Say("1", "好看")).outcome(ack).does(Send(ack))
    t.elsewhere().says(comment("1")).does(Send(ack))


def test_answers_survive_a_reconnect_and_hold_on_all_sockets() -> None:
    before = Transcript().inside()
    beside = before.elsewhere()
    before.says(comment("1")).does(Say("1", "好看")).outcome(OK).does(Send(OK))
    beside.says(comment("1")).does(Send(OK)).says(comment("1", "另一句")).acks("1", "idempotency_mismatch")
    before.elsewhere().says(comment("1")).does(Send(OK)).nothing_more()


def test_what_is_under_way_is_answered_on_every_socket_that_asked() -> None:
    lost, paper = Transcript().inside(), Paper()
    lost.says(wire.Claim("1", DROP)).does(Carry(wire.Claim("1", DROP)))
    back = lost.elsewhere().says(wire.Claim("1", DROP)).waits(paper).says(wire.Claim("1", DROP)).waits(paper)
    lost.session.end(Close.SILENT, "gone")
    lost.outcome(OK).does(Send(OK, paper)).nothing_more()
    back.says(wire.Claim("1", DROP)).does(Send(OK))


def test_what_one_socket_says_counts_on_all_and_after_coming_back() -> None:
    t = Transcript().inside()
    t.room.slow_seconds = 30
    t.says(comment("1", "一")).does(Say("1", "一")).later(10)
    t.elsewhere().says(comment("2", "二")).acks("2", "too_fast", 20)
    t.room.slow_seconds = 0
    other = t.elsewhere().says(comment("3", "一")).acks("3", "duplicate")
    for n in range(4):
        other.says(comment(f"x{n}", f"{n}")).does(Say(f"x{n}", f"{n}"))
    t.elsewhere().says(comment("6", "六")).acks("6", "too_fast", 1)


def test_another_room_and_another_viewer_are_not_meant() -> None:
    t = Transcript().inside().says(comment("1", "一")).does(Say("1", "一"))
    elsewhere = t.elsewhere()
    elsewhere.room = Parlour()
    elsewhere.inside().says(comment("1", "一")).does(Say("1", "一"))


def test_memory_of_answers_is_bounded() -> None:
    t = Transcript().inside()
    for n in range(ANSWERS + 5):
        ack = wire.Ack(f"{n}", ok=True)
        t.says(wire.Claim(f"{n}", DROP)).does(Carry(wire.Claim(f"{n}", DROP))).later(1).outcome(ack).does(Send(ack))
    t.says(wire.Claim(f"{ANSWERS}", DROP)).does(Send(wire.Ack(f"{ANSWERS}", ok=True)))
    t.says(wire.Claim("0", DROP)).does(Carry(wire.Claim("0", DROP)))


def test_what_is_under_way_is_not_forgotten_for_what_came_later() -> None:
    t = Transcript().inside().says(wire.Claim("slow", DROP)).does(Carry(wire.Claim("slow", DROP)))
    for n in range(ANSWERS + 5):
        ack = wire.Ack(f"{n}", ok=True)
        t.says(wire.Claim(f"{n}", DROP)).does(Carry(wire.Claim(f"{n}", DROP))).later(1).outcome(ack).does(Send(ack))
    t.says(wire.Claim("slow", DROP)).nothing_more()


def test_memory_of_viewers_is_bounded_and_keeps_who_spoke_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("live.session.REMEMBERED", 3)
    answered = Answered()
    room, people = new_id(), [new_id() for _ in range(4)]
    for who in people[:3]:
        answered.of(room, who, 1)
    answered.of(room, people[0], 2)
    answered.of(room, people[3], 3)
    assert len(answered) == 3
    assert answered.known(room, people[1]) is None
    assert answered.known(room, people[0]) is not None
    assert answered.lost == 1


def test_who_says_nothing_for_long_is_forgotten() -> None:
    t = Transcript().inside().says(comment("1")).does(Say("1", "好看")).outcome(OK).does(Send(OK))
    t.later(REMEMBERED_SECONDS - 1).answered.forget(t.now)
    t.says(comment("1")).does(Send(OK))
    t.later(1).answered.forget(t.now)
    assert len(t.answered) == 0
    t.says(comment("1")).does(Say("1", "好看"))


def test_slow_mode_is_remembered_as_long_as_it_can_hold_anybody() -> None:
    assert REMEMBERED_SECONDS > MAX_SLOW


def test_silent_viewer_has_no_memory_of_answers() -> None:
    t = Transcript().inside().says(wire.Like(1)).does(Note(wire.Like(1))).says(wire.Ping())
    assert len(t.answered) == 0


def test_burst_of_comments_then_one_a_second() -> None:
    t = Transcript().inside()
    for n in range(5):
        t.says(comment(f"{n}", f"{n}")).does(Say(f"{n}", f"{n}"))
    t.says(comment("x", "x")).acks("x", "too_fast", 1.0)
    t.later(1).says(comment("x", "x")).does(Say("x", "x"))  # refused, so not remembered: it may be tried again


def test_slow_mode_holds_viewers_and_not_the_guide() -> None:
    t = Transcript().inside()
    t.room.slow_seconds = 30
    t.says(comment("1", "一")).does(Say("1", "一")).later(10)
    t.says(comment("2", "二")).acks("2", "too_fast", 20).later(20)
    t.says(comment("3", "三")).does(Say("3", "三"))
    guide = Transcript(Role.GUIDE).inside()
    guide.room.slow_seconds = 30
    guide.says(comment("1", "一")).does(Say("1", "一")).says(comment("2", "一")).does(Say("2", "一"))


def test_clock_set_back_locks_nobody_out() -> None:
    t = Transcript().inside()
    t.room.slow_seconds = 30
    t.says(comment("1", "一")).does(Say("1", "一")).later(-3600)
    t.says(comment("2", "二")).does(Say("2", "二"))


def test_same_words_again_are_a_duplicate_for_a_while() -> None:
    t = Transcript().inside()
    t.says(comment("1", "买买买")).does(Say("1", "买买买")).later(5)
    t.says(comment("2", " 买买买 ")).acks("2", "duplicate").later(30)
    t.says(comment("3", "买买买")).does(Say("3", "买买买"))


def test_unwanted_words_are_refused() -> None:
    Transcript().inside().says(comment("1", "坏话")).acks("1", "blocked_words")


def test_muted_viewer_is_refused_until_the_mute_ends() -> None:
    t = Transcript().inside()
    t.room.mutes[ME] = int((t.now + 60) * 1000)
    t.says(comment("1")).acks("1", "muted", 60).later(61)
    t.says(comment("1")).does(Say("1", "好看"))


def test_in_a_muted_room_only_staff_and_those_allowed_talk() -> None:
    t = Transcript().inside()
    t.room.hushed = True
    t.says(comment("1")).acks("1", "room_muted")
    t.room.allow = frozenset({ME})
    t.says(comment("1")).does(Say("1", "好看"))
    for role in (Role.GUIDE, Role.OPS):
        staff = Transcript(role).inside()
        staff.room.hushed = True
        staff.says(comment("1")).does(Say("1", "好看"))
    t.room.hushed, t.room.allow = False, frozenset()
    t.says(comment("2", "好看吗")).does(Say("2", "好看吗"))


def test_a_mute_holds_against_the_allowlist() -> None:
    t = Transcript().inside()
    t.room.hushed, t.room.allow = True, frozenset({ME})
    t.room.mutes[ME] = int((t.now + 60) * 1000)
    t.says(comment("1")).acks("1", "muted", 60)


def test_nobody_talks_in_an_ended_room() -> None:
    t = Transcript().inside()
    t.room.state = "ended"
    t.says(comment("1")).acks("1", "room_ended")


GUIDE_COMMANDS: list[Any] = [
    wire.Start("1"), wire.Pin("1", PRODUCT), wire.Unpin("1"), wire.Announce("1", "x"), wire.Slow("1", 5),
    wire.Drop("1", DROP, "push"), wire.Mute("1", ME, 60), wire.Mute("1", ME, 60, "brand"), wire.Delete("1", DROP),
    wire.Hush("1", True, (ME,)), wire.End("1"),
]  # fmt: skip


@pytest.mark.parametrize("command", GUIDE_COMMANDS, ids=lambda c: type(c).__name__)
def test_only_guides_and_ops_command_a_room(command: Any) -> None:
    Transcript().inside().says(command).acks("1", "forbidden")
    Transcript(Role.CLERK).inside().says(command).acks("1", "forbidden")
    Transcript(Role.GUIDE).inside().says(command).does(Carry(command))
    Transcript(Role.OPS).inside().says(command).does(Carry(command))


def test_only_viewers_claim() -> None:
    Transcript(Role.GUIDE).inside().says(wire.Claim("1", DROP)).acks("1", "forbidden")


def test_only_viewers_report_also_while_they_are_muted() -> None:
    told = wire.Report("1", DROP, "spam")
    Transcript(Role.GUIDE).inside().says(told).acks("1", "forbidden")
    t = Transcript().inside()
    t.room.mutes[ME] = int((t.now + 60) * 1000)
    t.says(told).does(Carry(told))
    t.says('{"t":"report","id":"2","comment":"' + str(DROP) + '","reason":"boring"}').acks("2", "invalid")


def test_fix_without_id_is_carried_out_and_not_answered() -> None:
    fix = wire.Locate(121.4, 31.2, "gcj02", 20.0)
    Transcript().inside().says(fix).does(Carry(fix)).nothing_more()
    Transcript(Role.GUIDE).inside().says(fix).nothing_more()


def test_flood_of_frames_ends_the_session() -> None:
    t = Transcript().inside()
    for _ in range(300):
        effects = t.session.receive(b'{"t":"like"}', t.now)
        if isinstance(effects[0], End):
            break
    assert effects == [End(Close.FLOOD, "too many frames")]


def test_ended_token_closes_an_open_session() -> None:
    t = Transcript().inside()
    assert t.session.expired(t.now + 3479) == []
    (end,) = t.session.expired(t.now + 3600)
    assert isinstance(end, End)
    assert end.code is Close.TOKEN_EXPIRED
    assert t.session.expired(t.now + 3601) == []


def test_silence_before_hello_and_after_are_told_apart() -> None:
    (early,) = Transcript().session.silent()
    (late,) = Transcript().inside().session.silent()
    assert isinstance(early, End)
    assert isinstance(late, End)
    assert (early.code, late.code) == (Close.HELLO_TIMEOUT, Close.SILENT)
