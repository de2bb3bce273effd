"""One viewer's side of the room socket as a pure state machine: a frame goes in, effects come out.

No await, no clock, no I/O: the time is an argument (seconds since 1970), what has to be done outside is an effect.
Whoever drives it carries out the effects in order, and hands the outcome of a ``Carry`` or ``Say`` back to ``answer``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal, Protocol
from uuid import UUID

import msgspec

from kernel.errors import Refusal
from kernel.identity import Principal, Role
from live import wire
from live.lately import Answer, Hearer, Lately, Said
from live.misfit import misfit
from live.moderation import normalise
from live.wire import Close

FRAME_BURST = 200.0
FRAMES_PER_SECOND = 20.0
"""All frames of one client; a client beyond that is not a person."""
DUPLICATE_SECONDS = 30.0
REMEMBERED_SECONDS = 300.0
"""How long after a viewer's last command they and those before are remembered; longer than slow mode holds anybody."""
REMEMBERED = 50_000
"""Viewers of one gateway; of more, those who have been quiet longest are forgotten early."""
WARNING_SECONDS = 120.0
WARNING_SHARE = 0.1
"""How long before a token's end its viewer is told: that long, or this share of the token's life if that is less."""
ERASED = "this account was erased"
MIN_WARNING_SECONDS = 2.0
"""Sockets are looked at once a second at most; with less than this the warning could come with the end."""

_CLOSES = {"token_expired": Close.TOKEN_EXPIRED, "account_erased": Close.ERASED}

Command = wire.Comment | wire.Locate | wire.Claim | wire.Report | wire.GuideCommand


class House(Protocol):
    """What a session must know of its room; shared by all sessions of the room and changed by the room's events."""

    id: UUID
    state: str
    slow_seconds: int
    mutes: dict[UUID, int]
    """Until when (ms since 1970) whose comments are refused."""
    hushed: bool
    allow: frozenset[UUID]
    """In a hushed room only staff and these may comment."""
    review: Callable[[str], str]
    """The text as it may be shown, or Refusal."""


# ---- effects -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """This frame goes to the client, or to another socket (``to``) that waits for it."""

    frame: wire.ServerFrame
    to: Hearer | None = None


@dataclass(frozen=True, slots=True)
class Enter:
    """Let ``who`` into the room: check the brand, call ``entered``, send the welcome."""

    who: Principal
    resume: wire.Position | None


@dataclass(frozen=True, slots=True)
class Say:
    """``text`` was checked: hand it to the room, then ``answer``."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Carry:
    """A command that takes time: carry it out, then ``answer`` if it has an id."""

    command: wire.GuideCommand | wire.Claim | wire.Locate | wire.Report


@dataclass(frozen=True, slots=True)
class Note:
    """Something to be counted; never answered."""

    frame: wire.Like | wire.Tap | wire.Seen


@dataclass(frozen=True, slots=True)
class End:
    """Say ``bye`` and close."""

    code: Close
    reason: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """The command is being carried out for another socket of this viewer: the answer is to be sent to this one, too."""

    hearers: set[Hearer]


Effect = Send | Enter | Say | Carry | Note | End | Wait


# ---- what is remembered --------------------------------------------------------------------------------------------


class Answered:
    """What viewers of one gateway commanded and said lately: all sockets that a viewer has in a room share it, and
    those that they come back with find it. Who never says anything is not in it."""

    def __init__(self) -> None:
        self._viewers: dict[tuple[UUID, UUID], Lately] = {}
        """Of (room, viewer); who was quiet longest comes first."""
        self.lost = 0
        """How many were forgotten early."""

    def __len__(self) -> int:
        return len(self._viewers)

    def known(self, room: UUID, viewer: UUID) -> Lately | None:
        """What is remembered of ``viewer``, if anything is."""
        return self._viewers.get((room, viewer))

    def of(self, room: UUID, viewer: UUID, now: float) -> Lately:
        """What is remembered of ``viewer``, who says something at ``now``."""
        lately = self._viewers.pop((room, viewer), None)
        if lately is None:
            lately = Lately()
            if len(self._viewers) >= REMEMBERED:
                del self._viewers[next(iter(self._viewers))]
                self.lost += 1
        lately.used_at = now
        self._viewers[room, viewer] = lately
        return lately

    def forget(self, now: float) -> None:
        """Let those go who said nothing for long."""
        quiet = takewhile(lambda one: one[1].used_at <= now - REMEMBERED_SECONDS, self._viewers.items())
        for key, _ in list(quiet):
            del self._viewers[key]


def refused(id: str, refusal: Refusal) -> wire.Ack:
    """``refusal`` as the answer to the command ``id``."""
    error = wire.Error(refusal.code, refusal.message, refusal.retry_after, refusal.fields.get("field"))
    return wire.Ack(id, error=error)


def _of_another_version(data: bytes | bytearray) -> bool:
    """Whether ``data``, which could not be read, is the ``hello`` of a version that we do not speak."""
    try:
        return wire.openings.decode(data).v not in wire.VERSIONS
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


class Session:
    """The state of one connection. Frames other than ``hello`` are understood only once the viewer was let in."""

    __slots__ = (
        "_answered",
        "_frames",
        "_heard_at",
        "_house",
        "_state",
        "_verify",
        "_warn_at",
        "who",
    )

    def __init__(self, verify: Callable[[str, float], Principal]) -> None:
        self._verify = verify
        self._state: Literal["hello", "entering", "in", "over"] = "hello"
        self._house: House | None = None
        self.who: Principal | None = None
        self._frames = FRAME_BURST
        self._heard_at = 0.0
        self._answered: Answered | None = None
        self._warn_at: float | None = None

    @property
    def waiting(self) -> bool:
        """Between ``hello`` and being let in: frames that come now must be held back."""
        return self._state == "entering"

    @property
    def over(self) -> bool:
        """Whether an ``End`` was given; whatever comes now is ignored."""
        return self._state == "over"

    def receive(self, data: bytes | bytearray, now: float) -> list[Effect]:
        """One text frame of the client at ``now``."""
        if self._state == "over":
            return []
        if not self._may_send(now):
            return self._end(Close.FLOOD, "too many frames")
        try:
            frame = wire.client_frames.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return self._unreadable(data, error)
        if self._state == "hello":
            return self._hello(frame, now)
        if isinstance(frame, wire.Ping):
            return [Send(wire.Pong(int(now * 1000)))]
        if isinstance(frame, wire.Hello):
            return self._end(Close.BAD_FRAME, "hello comes once")
        if isinstance(frame, wire.Like | wire.Tap | wire.Seen):
            return [Note(frame)]
        if isinstance(frame, wire.Renew):
            return self._renew(frame, now)
        return self._command(frame, now)

    def control(self, now: float) -> list[Effect]:
        """A ping or pong of the client: counts as a frame."""
        return [] if self._state == "over" or self._may_send(now) else self._end(Close.FLOOD, "too many frames")

    def entered(self, house: House, answered: Answered | None = None) -> None:
        """The viewer is in; ``answered`` is the gateway's, and without it this session remembers for itself."""
        self._house = house
        self._answered = Answered() if answered is None else answered
        self._state = "in"

    def answer(self, ack: wire.Ack) -> list[Effect]:
        """The outcome of a ``Say`` or ``Carry``."""
        own: list[Effect] = [] if self._state == "over" else [Send(ack)]
        lately = self._lately()
        if lately is None or (answer := lately.answers.get(ack.id)) is None or answer.ack is not None:
            return own
        if ack.error is not None and ack.error.retry_after is not None:
            # It was not carried out and may be tried again, under the same id and in the same words.
            del lately.answers[ack.id]
            if answer.said is not None:
                lately.take_back(answer.said)
        else:
            answer.ack, answer.by = ack, None
            if answer.said is not None:
                answer.said.before = None
        hearers, answer.hearers = answer.hearers, set()
        return own + [Send(ack, to) for to in hearers]

    def silent(self) -> list[Effect]:
        """Nothing was heard of the client for too long."""
        if self._state == "hello":
            return self._end(Close.HELLO_TIMEOUT, "no hello within 10 s")
        return self._end(Close.SILENT, "nothing heard for too long")

    def expired(self, now: float) -> list[Effect]:
        """To be asked from time to time, as often as ``next_look`` says: has the token ended, or is it about to?"""
        if self.who is None or self._state == "over":
            return []
        ends = self.who.expires_at.timestamp()
        if now >= ends:
            return self._end(Close.TOKEN_EXPIRED, "the token has expired")
        if self._warn_at is None or now < self._warn_at or self._state != "in":
            return []
        self._warn_at = None
        return [Send(wire.Expiring(int(ends * 1000)))]

    def next_look(self, now: float) -> float:
        """In how many seconds ``expired`` has something to say, unless the token is renewed."""
        assert self.who is not None
        return (self.who.expires_at.timestamp() if self._warn_at is None else self._warn_at) - now

    def end(self, code: Close, reason: str, retry_after: float | None = None) -> list[Effect]:
        """The server wants this connection closed."""
        return [] if self._state == "over" else self._end(code, reason, retry_after)

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _end(self, code: Close, reason: str, retry_after: float | None = None) -> list[Effect]:
        self._state = "over"
        return [End(code, reason, retry_after)]

    def _may_send(self, now: float) -> bool:
        # A clock that was set back gives nothing, and takes nothing.
        self._frames = min(FRAME_BURST, self._frames + max(0.0, now - self._heard_at) * FRAMES_PER_SECOND) - 1
        self._heard_at = now
        return self._frames >= 0

    def _unreadable(self, data: bytes | bytearray, error: Exception) -> list[Effect]:
        if self._state == "hello":
            if _of_another_version(data):
                return self._other_version()
        elif isinstance(error, msgspec.ValidationError) and (found := misfit(data, error)) is not None:
            return [] if found.id is None else [Send(refused(found.id, found.refusal))]
        return self._end(Close.BAD_FRAME, "this is not a frame of the protocol")

    def _hello(self, frame: wire.ClientFrame, now: float) -> list[Effect]:
        if not isinstance(frame, wire.Hello):
            return self._end(Close.BAD_FRAME, "hello comes first")
        if frame.v not in wire.VERSIONS:
            return self._other_version()
        try:
            self.who = self._verify(frame.token, now)
        except Refusal as refusal:
            return self._end(_CLOSES.get(refusal.code, Close.TOKEN_INVALID), refusal.message)
        self._plan_warning(now)
        self._state = "entering"
        return [Enter(self.who, frame.resume)]

    def _plan_warning(self, now: float) -> None:
        assert self.who is not None
        ends = self.who.expires_at.timestamp()
        self._warn_at = ends - max(MIN_WARNING_SECONDS, min(WARNING_SECONDS, (ends - now) * WARNING_SHARE))

    def _renew(self, frame: wire.Renew, now: float) -> list[Effect]:
        # Not remembered as other commands are: the same token again changes nothing, and most viewers, who never say
        # anything, must not cost the memory of their answers because they renewed.
        if (lately := self._lately()) is not None and frame.id in lately.answers:
            return [Send(refused(frame.id, Refusal("idempotency_mismatch")))]
        try:
            self._live_by(self._verify(frame.token, now), now)
        except Refusal as refusal:
            return [Send(refused(frame.id, refusal))]
        return [Send(wire.Ack(frame.id, ok=True))]

    def _live_by(self, fresh: Principal, now: float) -> None:
        """From now on this is ``fresh``, name and tier included. Raises Refusal ``token_invalid``."""
        assert self.who is not None
        if (fresh.subject, fresh.brand, fresh.role) != (self.who.subject, self.who.brand, self.who.role):
            raise Refusal("token_invalid", "This token is not of who is here.")
        if fresh.expires_at < self.who.expires_at:
            # An old token sent again must not cut the connection short, nor bring back an old name or tier.
            raise Refusal("token_invalid", "This token ends before the one in use.")
        longer = fresh.expires_at > self.who.expires_at
        self.who = fresh
        if longer:  # else it is the same life, which has its one warning
            self._plan_warning(now)

    def _other_version(self) -> list[Effect]:
        spoken = ", ".join(map(str, sorted(wire.VERSIONS)))
        return self._end(Close.VERSION, f"this server speaks version {spoken}")

    def _command(self, frame: Command, now: float) -> list[Effect]:
        if frame.id is None:  # a fix is repeated all the time; most clients want no answer
            assert self.who is not None
            return [Carry(frame)] if isinstance(frame, wire.Locate) and self.who.role is Role.VIEWER else []
        fingerprint = hash(frame)
        if (lately := self._lately()) is not None and (former := lately.answers.get(frame.id)) is not None:
            if former.fingerprint != fingerprint:
                return [Send(refused(frame.id, Refusal("idempotency_mismatch")))]
            if former.ack is not None:
                return [Send(former.ack)]
            return [] if former.by is self else [Wait(former.hearers)]
        try:
            effect = self._judge(frame, now)
        except Refusal as refusal:
            # Not remembered: a resend after "too fast" is judged anew.
            return [Send(refused(frame.id, refusal))]
        lately = self._remembered(now)
        said = lately.said if isinstance(effect, Say) else None
        lately.keep(frame.id, Answer(fingerprint, self, said))
        return [effect]

    def _lately(self) -> Lately | None:
        if self._answered is None:
            return None
        assert self._house is not None
        assert self.who is not None
        return self._answered.known(self._house.id, self.who.subject)

    def _remembered(self, now: float) -> Lately:
        assert self._answered is not None
        assert self._house is not None
        assert self.who is not None
        return self._answered.of(self._house.id, self.who.subject, now)

    def _judge(self, frame: Command, now: float) -> Effect:
        assert self.who is not None
        if isinstance(frame, wire.Comment):
            return Say(frame.id, self._comment(frame.text, now))
        if isinstance(frame, wire.GuideCommand) and self.who.role not in (Role.GUIDE, Role.OPS):
            raise Refusal("forbidden")
        if isinstance(frame, wire.Claim | wire.Locate | wire.Report) and self.who.role is not Role.VIEWER:
            raise Refusal("forbidden")
        return Carry(frame)

    def _comment(self, text: str, now: float) -> str:
        assert self.who is not None
        assert self._house is not None
        house = self._house
        if house.state == "ended":
            raise Refusal("room_ended")
        until = house.mutes.get(self.who.subject, 0) / 1000
        if until > now:
            raise Refusal("muted", retry_after=round(until - now, 1))
        staff = self.who.role in (Role.GUIDE, Role.OPS)
        if house.hushed and not staff and self.who.subject not in house.allow:
            raise Refusal("room_muted")
        lately = self._remembered(now)
        wait = lately.wait(now)
        if not staff and wait:
            raise Refusal("too_fast", retry_after=round(wait, 1))
        since = lately.since(now)
        if not staff and since is not None and since < house.slow_seconds:
            raise Refusal("too_fast", retry_after=round(house.slow_seconds - since, 1))
        lately.spend()  # a text that is refused costs too, else word lists could be guessed at speed
        shown = house.review(text)
        said = normalise(shown)
        former = lately.said
        if not staff and former is not None and said == former.text and since is not None and since < DUPLICATE_SECONDS:
            raise Refusal("duplicate")
        lately.said = Said(said, now, former)
        return shown
