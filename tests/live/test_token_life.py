"""Tokens on open sockets: the one warning, the renewal, the end; as transcripts, by chance, and on a real gateway."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import time
from typing import Any
from uuid import UUID

import pytest
from hubhouse import Doorman, Paper
from hypothesis import given
from hypothesis import strategies as st
from roomworld import World
from viewers import gateway, last_words, principal, watching

from kernel.clock import now
from kernel.errors import Refusal
from kernel.identity import Principal, Role
from kernel.ids import BrandId
from live import wire
from live.connection import Connection
from live.desk import Gateway
from live.metrics import Tally
from live.session import Answered, Effect, End, Enter, Send, Session
from live.wire import Close

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
ME = UUID(int=1)


class Hall:
    """A room, as far as these sessions see it."""

    id = UUID(int=5)
    state = "live"
    slow_seconds = 0
    mutes: dict[UUID, int] = {}  # noqa: RUF012 - nobody writes
    hushed = False
    allow: frozenset[UUID] = frozenset()

    def review(self, text: str) -> str:
        return text


class Visit:
    """A session whose tokens are named after the seconds past noon at which they end."""

    def __init__(self, ends: int, role: Role = Role.VIEWER) -> None:
        self.now = NOON.timestamp()
        self.people = {"me": Principal(BrandId("acme"), ME, role, "小林", NOON)}
        self.session = Session(self._verify)
        [entering] = self.says(wire.Hello(f"me {ends}"))
        assert isinstance(entering, Enter)
        self.answered = Answered()
        self.session.entered(Hall(), self.answered)

    def _verify(self, token: str, now: float) -> Principal:
        name, _, ends = token.partition(" ")
        if name not in self.people:
            raise Refusal("token_invalid")
        found = replace(self.people[name], expires_at=NOON + timedelta(seconds=int(ends)))
        if found.expires_at.timestamp() <= now:
            raise Refusal("token_expired")
        return found

    def says(self, frame: wire.Frame) -> list[Effect]:
        return self.session.receive(wire.encoder.encode(frame), self.now)

    def renews(self, token: str, id: str = "r") -> str:
        """``ok``, or the code of the refusal."""
        [sent] = self.says(wire.Renew(id, token))
        assert isinstance(sent, Send)
        assert isinstance(sent.frame, wire.Ack)
        assert sent.frame.id == id
        assert sent.frame.ok == (sent.frame.error is None)
        return "ok" if sent.frame.error is None else sent.frame.error.code

    def at(self, seconds: float) -> list[Effect]:
        """What the wheel hears at ``seconds`` past noon."""
        self.now = NOON.timestamp() + seconds
        return self.session.expired(self.now)


def warning(ends: int) -> list[Effect]:
    return [Send(wire.Expiring(int(NOON.timestamp() + ends) * 1000))]


@pytest.mark.parametrize(("life", "warned_at"), [(7200, 7080), (1200, 1080), (600, 540), (10, 8)])
def test_a_viewer_is_warned_once_in_good_time(life: int, warned_at: int) -> None:
    visit = Visit(life)
    assert visit.session.next_look(visit.now) == pytest.approx(warned_at)
    assert visit.at(warned_at - 1) == []
    assert visit.at(warned_at) == warning(life)
    assert visit.session.next_look(visit.now) == pytest.approx(life - warned_at)
    assert visit.at(warned_at + 1) == []
    [end] = visit.at(life)
    assert isinstance(end, End)
    assert end.code is Close.TOKEN_EXPIRED
    assert visit.at(life + 1) == []


def test_a_renewed_socket_lives_by_the_new_token_and_is_warned_anew() -> None:
    visit = Visit(600)
    assert visit.at(540) == warning(600)
    assert visit.renews("me 4140") == "ok"
    assert visit.at(600) == visit.at(4019) == []
    assert visit.at(4020) == warning(4140)
    assert visit.at(4100) == []
    assert isinstance(visit.at(4140)[0], End)


def test_who_renews_before_the_warning_is_not_warned_of_the_old_end() -> None:
    visit = Visit(600)
    assert visit.renews("me 3600") == "ok"
    assert visit.at(541) == []


def test_a_renewal_that_comes_with_the_end_is_in_time_while_the_socket_is_open() -> None:
    visit = Visit(600)
    visit.now += 600.4  # the wheel has not come by yet
    assert visit.renews("me 3600") == "ok"
    assert visit.at(601) == []


def test_the_same_token_again_is_fine_and_brings_no_second_warning() -> None:
    visit = Visit(600)
    assert visit.at(540) == warning(600)
    assert visit.renews("me 600") == visit.renews("me 600") == "ok"
    assert visit.at(541) == []


def test_an_older_token_shortens_nothing() -> None:
    visit = Visit(600)
    assert visit.renews("me 3600") == "ok"
    visit.people["me"] = replace(visit.people["me"], tier=9)
    assert visit.renews("me 600") == "token_invalid"
    assert visit.session.who is not None
    assert visit.session.who.tier == 0
    assert visit.at(601) == []


@pytest.mark.parametrize(
    "other",
    [{"subject": UUID(int=2)}, {"brand": BrandId("other")}, {"role": Role.GUIDE}],
    ids=["somebody else", "another brand", "another role"],
)
def test_only_a_token_of_the_same_person_renews(other: dict[str, Any]) -> None:
    visit = Visit(600)
    visit.people["other"] = replace(visit.people["me"], **other)
    assert visit.renews("other 3600") == "token_invalid"
    assert visit.renews("nobody 3600") == "token_invalid"
    visit.now += 300
    assert visit.renews("me 299") == "token_expired"
    assert visit.at(540) == warning(600)


def test_name_and_tier_of_the_fresh_token_hold_from_now_on() -> None:
    visit = Visit(600)
    visit.people["me"] = replace(visit.people["me"], name="小林林", tier=3)
    assert visit.renews("me 3600") == "ok"
    assert visit.session.who is not None
    assert (visit.session.who.name, visit.session.who.tier) == ("小林林", 3)


@pytest.mark.parametrize("role", list(Role))
def test_everybody_renews_and_nobody_needs_memory_for_it(role: Role) -> None:
    visit = Visit(600, role)
    assert visit.renews("me 3600") == "ok"
    assert len(visit.answered) == 0


def test_an_id_that_stood_for_something_else_is_refused() -> None:
    visit = Visit(600)
    visit.says(wire.Comment("1", "好看"))
    assert visit.renews("me 3600", "1") == "idempotency_mismatch"


def test_nothing_is_warned_of_at_the_door() -> None:
    session = Session(lambda token, now: principal(seconds=600))
    assert session.expired(now().timestamp()) == []
    session.receive(wire.encoder.encode(wire.Hello("x")), now().timestamp())
    assert session.expired(now().timestamp() + 590) == []  # the welcome comes first
    session.entered(Hall())
    [sent] = session.expired(now().timestamp() + 590)
    assert isinstance(sent, Send)


steps = st.lists(
    st.one_of(st.integers(1, 400), st.tuples(st.just("renew"), st.integers(-100, 3000))), min_size=1, max_size=60
)


@given(st.integers(1, 2000), steps)
def test_each_life_has_at_most_one_warning_and_ends_with_its_token(
    life: int, steps: list[int | tuple[str, int]]
) -> None:
    """Visits as the wheel makes them (when ``next_look`` says so, or earlier), renewals at any time."""
    visit, at, ends, began, warned = Visit(life), 0.0, life, 0.0, False
    for step in steps:
        if isinstance(step, tuple):
            asked = int(at) + step[1]
            longer = asked > ends
            assert (visit.renews(f"me {asked}") == "ok") == (asked > at and asked >= ends)
            if asked > at and longer:
                ends, began, warned = asked, at, False
            continue
        at += min(step, max(1, int(visit.session.next_look(visit.now)) + 1))
        done = visit.at(at)
        if at >= ends:
            # Whoever was in for more than a moment was warned before.
            assert warned or ends - began < 4
            assert [type(effect) for effect in done] == [End]
            assert visit.at(at + 1) == visit.says(wire.Renew("r", "me 9999")) == []
            return
        due = ends - max(2.0, min(120.0, (ends - began) / 10))
        assert done == (warning(ends) if at >= due and not warned else [])
        warned = warned or bool(done)


# ---- by the wheel --------------------------------------------------------------------------------------------------


class Clock:
    """The time that sockets go by: as fast as the test wants."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("live.connection.time", clock)
    return clock


@pytest.mark.parametrize("life", [5, 19, 30, 61, 300, 1500])
def test_the_wheel_brings_warning_and_end_in_time(clock: Clock, life: int) -> None:
    porter, sink = Doorman(Tally()), Paper()
    connection = Connection(porter)
    connection.connection_made(sink)
    who = replace(principal(), expires_at=datetime.fromtimestamp(int(clock()) + life, UTC))
    connection._wire = None  # as after the handshake
    session = connection.session = Session(lambda _token, _now: who)
    session.receive(b'{"t":"hello","token":"x"}', clock())
    session.entered(Hall())
    connection.look_after()
    warned_after = None
    for second in range(1, life + 2):
        clock.ahead += 1
        connection.heard = porter.wheel.now  # a client that answers pings
        porter.wheel.turn(porter.wheel.now + 1)
        if warned_after is None and any(b'"t":"expiring"' in data for data in sink.written):
            warned_after = second
        if porter.closes:
            break
    assert porter.closes == [Close.TOKEN_EXPIRED]
    assert life - 1 <= second <= life + 1
    assert warned_after is not None
    assert 1 <= life - warned_after <= max(3, min(120, life / 10) + 1)
    assert sum(b'"t":"expiring"' in data for data in sink.written) == 1


# ---- on a real gateway ---------------------------------------------------------------------------------------------


def visit_all(one: Gateway) -> None:
    """The wheel comes by every socket within a second or two, and not only when it would."""
    for connection in one.connections:
        one.wheel.put(connection, 1)


async def test_a_viewer_who_renews_in_band_stays_and_one_who_does_not_is_closed(world: World, clock: Clock) -> None:
    issue = world.kernel.keyring.issue
    me, other = principal("小林"), principal("小周")
    async with (
        gateway(world.kernel) as one,
        watching(one.url, world.kernel.keyring, world.room, me) as renewing,
        watching(one.url, world.kernel.keyring, world.room, other) as idle,
    ):
        visit_all(one)
        clock.ahead = 3600 - 60
        for client, who in ((renewing, me), (idle, other)):
            told = await client.frame(wire.Expiring)
            assert told.expires_at == int(who.expires_at.timestamp()) * 1000
        await renewing.send(wire.Renew("r1", issue(replace(other, expires_at=me.expires_at + timedelta(hours=1)))))
        answer = await renewing.ack("r1")
        assert answer.error is not None
        assert answer.error.code == "token_invalid"
        fresh = replace(me, name="林林", expires_at=me.expires_at + timedelta(hours=1))
        await renewing.send(wire.Renew("r2", issue(fresh)))
        assert (await renewing.ack("r2")).ok
        clock.ahead = 3600 + 60
        visit_all(one)
        bye, code = await last_words(idle.socket)
        assert bye is not None
        assert (bye.code, code) == (Close.TOKEN_EXPIRED, Close.TOKEN_EXPIRED)
        await renewing.send(wire.Comment("c", "还在"))
        assert (await renewing.ack("c")).ok
        assert (await renewing.event(wire.Commented)).by.name == "林林"
        # The second life has its own warning, and its own end.
        clock.ahead = 7200 - 60
        visit_all(one)
        again = await renewing.frame(wire.Expiring)
        assert again.expires_at == int(fresh.expires_at.timestamp()) * 1000
        clock.ahead = 7200 + 60
        visit_all(one)
        _, code = await last_words(renewing.socket)
        assert code == Close.TOKEN_EXPIRED
    for client, lives in ((renewing, 2), (idle, 1)):
        assert sum(isinstance(frame, wire.Expiring) for frame in client.frames) == lives
