"""What the people of a swarm do: viewers chat, like, look, locate, claim, come and go; guides pin, announce, drop."""

import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING
from uuid import UUID

from live import wire
from loadtest import comments
from loadtest.swarm.people import Person, Seat
from loadtest.swarm.room import AGAIN, Room

if TYPE_CHECKING:
    from loadtest.swarm.engine import Swarm

OTHER_ROOMS = 10
"""The guides of small rooms do everything this much more rarely than that of the big one."""
RETRIES_SECONDS = 1.0


class Talk:
    """Everybody's habits, room by room, at the plan's pace."""

    def __init__(self, swarm: "Swarm") -> None:
        self._swarm = swarm
        self._chance = swarm.chance
        self._ids = count()
        self._talking = False
        self._turns: dict[Room, int] = {}

    # ---- beginning and end -----------------------------------------------------------------------------------------

    def start_rooms(self, hosts: list[Person]) -> None:
        """Every guide takes the chair; where the room is live already this changes nothing."""
        for host in hosts:
            if host.line is not None:
                self._ask(host.line, "start", wire.Start(self._id()))

    def end_rooms(self) -> None:
        """Every guide of ours ends the room."""
        for room in self._swarm.rooms:
            host = self._host(room)
            if host is not None:
                self._ask(host, "end", wire.End(self._id()))

    def begin(self) -> None:
        """Start everybody's habits."""
        self._talking = True
        pace = self._swarm.plan.pace
        for number, room in enumerate(self._swarm.rooms):
            self._often(room, pace["comment_every"], self._comment, pace["comments_at_most"])
            self._often(room, pace["like_every"], self._like)
            self._often(room, pace["tap_every"], self._tap)
            self._often(room, pace["locate_every"], self._locate)
            self._often(room, pace["leave_every"], self._swarm.leave)
            self._often(room, pace["lose_every"], lambda seat: self._swarm.cut([seat]))
            calm = 1 if number == 0 else OTHER_ROOMS
            self._hosting(room, pace["pin_every"] * calm, self._pin)
            self._hosting(room, pace["announce_every"] * calm, self._announce)
            if self._swarm.shape.drops:
                self._hosting(room, pace["drop_every"] * calm, self._drop)
        for at in self._swarm.shape.when("drop", self._swarm.plan.seconds):
            self._swarm.later(at, lambda: self._by_host(self._swarm.rooms[0], self._drop))

    def stop(self) -> None:
        """Nobody says anything new from now on; what was asked is still answered."""
        self._talking = False

    def _often(self, room: Room, every: float, what: Callable[[Seat], None], most: float = float("inf")) -> None:
        """Somebody of ``room`` does ``what``: each once in ``every`` seconds, all together ``most`` times a second."""
        if not every:
            return

        def turn() -> None:
            if not self._talking:
                return
            viewers = len(room.here)
            if viewers:
                seat = room.here[self._chance.randrange(viewers)]
                if not seat.person.is_guide:
                    what(seat)
            self._swarm.later(self._chance.expovariate(min(most, max(1, viewers) / every)), turn)

        self._swarm.later(self._chance.expovariate(min(most, 1 / every)) if room.plan.viewers == 1 else 0.5, turn)

    def _hosting(self, room: Room, every: float, what: Callable[[Room, Seat], None]) -> None:
        """The guide of ``room`` does ``what`` every so many seconds; guides of many rooms not all at once."""
        if not every or not room.plan.guide:
            return

        def turn() -> None:
            if self._talking:
                self._by_host(room, what)
                self._swarm.later(every * self._chance.uniform(0.8, 1.2), turn)

        self._swarm.later(every * self._chance.uniform(0.2, 1.0), turn)

    def _host(self, room: Room) -> Seat | None:
        return next((seat for seat in room.here if seat.person.is_guide), None)

    def _by_host(self, room: Room, what: Callable[[Room, Seat], None]) -> None:
        host = self._host(room)
        if host is not None:
            what(room, host)

    # ---- viewers ---------------------------------------------------------------------------------------------------

    def came(self, person: Person) -> None:
        """Who lets themselves be located says where they are."""
        if person.is_guide or person.line is None:
            return
        if person.located:
            self._locate(person.line)

    def _comment(self, seat: Seat) -> None:
        text = comments.comment(self._chance, int(time.time() * 1000))
        self._ask(seat, "comment", wire.Comment(self._id(), text))
        self._swarm.said()

    def _like(self, seat: Seat) -> None:
        n = self._chance.randint(1, 10)
        seat.person.room.liked(n, int(time.time() * 1000))
        self._send(seat, wire.Like(n))

    def _tap(self, seat: Seat) -> None:
        if seat.person.room.pinned is not None:
            self._send(seat, wire.Tap(UUID(seat.person.room.pinned)))

    def _locate(self, seat: Seat) -> None:
        person = seat.person
        if not person.located:
            return
        lng, lat = (each + self._chance.uniform(-0.0002, 0.0002) for each in person.place)
        id = self._id()
        accuracy = self._chance.uniform(8, 60)
        self._ask(seat, "locate", wire.Locate(round(lng, 7), round(lat, 7), "gcj02", round(accuracy, 1), id), id)

    def dropped(self, room: Room, drop: wire.DropCard) -> None:
        """Those who want one try for it, each at a moment of their own."""
        if drop.mode != "claim":
            return
        shape, plan = self._swarm.shape, self._swarm.plan
        within = min(shape.claim_within, plan.claim_within)
        opens_in = max(0.0, drop.opens_at / 1000 - time.time()) + drop.spread / 1000
        for seat in room.here:
            person = seat.person
            wants = shape.everybody_claims or (person.located and self._chance.random() < plan.claim)
            if wants and not person.is_guide:
                self._swarm.later(opens_in + self._chance.uniform(0.0, within), self._claiming(person, drop.id))

    def _claiming(self, person: Person, drop: UUID) -> Callable[[], None]:
        id = self._id()

        def claim() -> None:
            if person.line is not None and person.line.joined:
                self._ask(person.line, "claim", wire.Claim(id, drop))

        return claim

    def answered(self, person: Person, kind: str, frame: wire.Frame, ack: wire.Ack) -> None:
        """A won coupon is looked at, and may be brought to a till; who is asked to come again does."""
        if ack.coupon is not None:
            self._swarm.won(ack.coupon)
            if person.line is not None:
                self._send(person.line, wire.Seen(ack.coupon.id))
        if ack.error is not None and ack.error.code in AGAIN and kind != "comment" and self._talking:
            wait = ack.error.retry_after or RETRIES_SECONDS

            def again() -> None:
                if person.line is not None and person.line.joined:
                    self._ask(person.line, kind, frame, ack.id)

            self._swarm.later(wait * self._chance.uniform(1.0, 1.3), again)

    # ---- guides ----------------------------------------------------------------------------------------------------

    def _pin(self, room: Room, host: Seat) -> None:
        shelf = room.plan.shelf
        if shelf:
            self._turns[room] = self._turns.get(room, -1) + 1
            self._ask(host, "pin", wire.Pin(self._id(), UUID(shelf[self._turns[room] % len(shelf)])))

    def _announce(self, room: Room, host: Seat) -> None:  # noqa: ARG002 - as all of a guide's habits
        text = "今晚满一百减二十，附近门店都可用" + comments.stamp(int(time.time() * 1000))
        self._ask(host, "announce", wire.Announce(self._id(), text))

    def _drop(self, room: Room, host: Seat) -> None:
        if room.plan.campaign is not None:
            plan = self._swarm.plan
            frame = wire.Drop(self._id(), UUID(room.plan.campaign), "claim", plan.stock, plan.drop_seconds)
            self._ask(host, "drop", frame)

    # ---- sending ---------------------------------------------------------------------------------------------------

    def _id(self) -> str:
        return f"s{self._swarm.plan.seed}-{next(self._ids)}"

    def _ask(self, seat: Seat, kind: str, frame: wire.Frame, id: str | None = None) -> None:
        id = id or frame.id  # type: ignore[attr-defined]
        seat.person.room.asked[id] = (time.monotonic(), kind, frame, seat.person)
        self._send(seat, frame)

    def _send(self, seat: Seat, frame: wire.Frame) -> None:
        if not seat.alive:
            return
        with suppress(OSError):  # broken since the last look; the receiver hears of it in its next turn
            seat.send(wire.encoder.encode(frame))
