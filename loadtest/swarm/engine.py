# ruff: noqa: S311 - chance here decides who does what when, nothing secret
"""A swarm: lets people in as the shape says, keeps them in as clients do, hears everything, and tells each second."""

import heapq
import ssl
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from random import Random

from live import wire
from loadtest.bench.machine import CannotMeasure, most_sockets
from loadtest.bench.receiver import Receiver
from loadtest.shapes import SHAPES
from loadtest.swarm.door import Address, Door, decrypting
from loadtest.swarm.people import Person, Seat
from loadtest.swarm.plan import Plan, Tick, add
from loadtest.swarm.room import Room
from loadtest.swarm.talk import Talk

FIRST_WAIT = 2.0
"""The first wait before coming back is up to this, the next ones double up to ``LONGEST_WAIT``: as our client does."""
LONGEST_WAIT = 8.0
PATIENCE = 15.0
"""Somebody who is not in after so long, however often they tried, counts as a failed join."""
ON_THEIR_WAY = 256
"""Handshakes under way at most."""
TURN = 0.005
BEAT = 0.05
QUIET_SECONDS = 1.5
LONGEST_QUIET = 10.0
FINAL = 4500
"""Close codes from here on say: do not come back."""


class Swarm:
    """Plays a plan once. Whatever it does happens in ``run``'s thread, but for dialling."""

    def __init__(self, plan: Plan, tell: Callable[[Tick], None]) -> None:
        self.plan = plan
        self.shape = SHAPES[plan.shape]
        self.chance = Random(plan.seed)
        self._tell = tell
        self._addresses = [Address(url) for url in plan.sockets]
        self.rooms = [Room(room, self, alone=plan.alone) for room in plan.rooms]
        self._hosts = [Person(room, room.plan.guide, is_guide=True) for room in self.rooms if room.plan.guide]
        self._people = self._viewers()
        wanted, most = len(self._people) + len(self._hosts), most_sockets()
        if wanted > most:
            raise CannotMeasure(f"{wanted} sockets are wanted and {most} allowed here; raise `ulimit -Hn`")
        self._on_their_way: set[Person] = set()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._began = 0.0
        self._let_in = 0
        self._receiver = Receiver(delays=True)
        self._door = Door()
        self._tick = Tick(0.0)
        self._closes: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._lag = 0.0
        self._beat_due = 0.0
        self._looked = 0.0
        self.talk = Talk(self)

    def _viewers(self) -> list[Person]:
        tokens = iter(self.plan.tokens)
        people = []
        for room in self.rooms:
            for _ in range(room.plan.viewers):
                token = next(tokens, None)
                if token is None:
                    raise CannotMeasure(f"the plan has {len(self.plan.tokens)} tokens, fewer than viewers")
                person = Person(room, token)
                person.located = self.chance.random() < self.plan.located
                lng, lat = room.plan.spot
                person.place = (lng + self.chance.uniform(-0.008, 0.008), lat + self.chance.uniform(-0.008, 0.008))
                people.append(person)
        self.chance.shuffle(people)  # all rooms fill together
        return people

    # ---- time ------------------------------------------------------------------------------------------------------

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """Do ``what`` in so many seconds."""
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), what))

    def now(self) -> float:
        """Seconds since viewers are let in."""
        return time.monotonic() - self._began

    def run(self) -> None:
        """Play, be quiet until nothing is under way, and tell the end."""
        with self._receiver, self._door:
            self._seat_hosts()
            self._began = time.monotonic()
            self._beat()
            self.talk.begin()
            for at in self.shape.when("strike", self.plan.seconds):
                self.later(at, self._strike)
            self._play(lambda: self.now() >= self.plan.seconds, "play")
            self.talk.stop()
            self._hush()
            for room in self.rooms:
                room.close_books()
            if self.plan.ends:
                self.talk.end_rooms()
                self._play_for(2.0)
            self._report("end")

    def _play(self, done: Callable[[], bool], phase: str) -> None:
        report_at = time.monotonic() + 1.0
        self._receiver.watch()
        while not done():
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                heapq.heappop(self._due)[2]()
            self._let_people_in(now)
            self._receiver.turn(TURN)
            if now >= report_at:
                self._report(phase)
                report_at = max(report_at + 1.0, now)

    def _play_for(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        self._play(lambda: time.monotonic() >= ends, "quiet")

    def _hush(self) -> None:
        """Listen on until nothing comes any more."""
        ends = time.monotonic() + LONGEST_QUIET
        seen, since = -1, 0.0

        def over() -> bool:
            nonlocal seen, since
            now = time.monotonic()
            heard = sum(seat.seq for room in self.rooms for seat in room.here[:50]) + len(self._on_their_way)
            if heard != seen or self._on_their_way:
                seen, since = heard, now
            return now > ends or (now - since > QUIET_SECONDS and not any(room.asked for room in self.rooms))

        self._play(over, "quiet")

    def _beat(self) -> None:
        """Late by as much as this process is behind with everything."""
        now = time.monotonic()
        if self._beat_due:
            self._lag = max(self._lag, now - self._beat_due)
        self._beat_due = now + BEAT
        self.later(BEAT, self._beat)

    # ---- coming and going ------------------------------------------------------------------------------------------

    def _seat_hosts(self) -> None:
        """Guides first; a room that was not live is, once its guide said so."""
        for host in self._hosts:
            self._set_out(host)
        ends = time.monotonic() + 120
        self._play(
            lambda: all(host.line is not None and host.line.joined for host in self._hosts) or time.monotonic() > ends,
            "hosts",
        )
        if not all(host.line is not None for host in self._hosts):
            raise CannotMeasure(f"not all guides were let in within 120 s: {dict(self._failures)} {dict(self._closes)}")
        self.talk.start_rooms(self._hosts)
        self._play(lambda: not any(room.asked for room in self.rooms) or time.monotonic() > ends, "hosts")

    def _let_people_in(self, now: float) -> None:
        if self._began:
            wanted = round(len(self._people) * self.shape.share(self.now(), self.plan.seconds))
            allowed = min(wanted, int(self.now() * self.plan.pace["joins_per_second"]) + 1)
            while self._let_in < allowed and len(self._on_their_way) < ON_THEIR_WAY:
                self._set_out(self._people[self._let_in])
                self._let_in += 1
            self._tick.wanted = wanted
        while self._door.ready:
            person, address, sock, why = self._door.taken()
            if sock is None:
                self._closes[f"no connection: {why}"] += 1
                person.avoid = address
                self._again(person)
                continue
            room: Room = person.room
            room.next_person = person
            seat = self._receiver.adopt(room, sock, person.token, address.request(room.plan.id))
            assert isinstance(seat, Seat)
            if isinstance(sock, ssl.SSLSocket):
                seat.receive = decrypting(sock)
            seat.address = address
            person.line = seat
        self._give_up(now)

    def _set_out(self, person: Person) -> None:
        if not person.began:
            person.began = time.monotonic()
        self._on_their_way.add(person)
        # As our client: not again where it just failed, while there is another place.
        open_ones = [address for address in self._addresses if address is not person.avoid] or self._addresses
        self._door.dial(person, self.chance.choice(open_ones))

    def _again(self, person: Person, wait: float | None = None) -> None:
        """``person`` comes back, after ``wait`` or as a client that was not told when."""
        if wait is None:
            ceiling = min(LONGEST_WAIT, FIRST_WAIT * 2**person.attempts)
            wait = ceiling * self.chance.uniform(0.1, 1.0)
        person.attempts += 1
        self._on_their_way.discard(person)
        self.later(wait, lambda: self._set_out(person))

    def _give_up(self, now: float) -> None:
        """Count who is not in yet after so long; they go on trying."""
        if now - self._looked < 1.0:
            return
        self._looked = now
        for person in self._on_their_way:
            if person.began and now - person.began > PATIENCE:
                person.began = now
                self._failures["not let in"] += 1

    def came(self, person: Person) -> None:
        """See ``Ears``."""
        now = time.monotonic()
        self._on_their_way.discard(person)
        again = person.lost_at > 0
        person.room.took("resume" if again else "join", (now - person.began) * 1000)
        if again:
            person.room.ask_again(person)
            person.room.took("return", (now - person.lost_at) * 1000)
        person.began = person.lost_at = 0.0
        person.attempts = 0
        person.avoid = None
        self.talk.came(person)

    def went(self, seat: Seat, why: str) -> None:
        """See ``Ears``."""
        person, was_in = seat.person, seat.joined
        person.room.stand(seat)
        person.avoid = seat.address
        self._closes[why] += 1
        bye = seat.bye
        if bye is not None and bye.code >= FINAL:
            self._failures[f"closed for good: {bye.code} {bye.reason}"] += 1
            self._on_their_way.discard(person)
            person.room.forget(person)
            return
        if was_in:
            person.lost_at = time.monotonic()
        wait = None if bye is None or bye.retry_after is None else bye.retry_after * self.chance.uniform(1.0, 1.3)
        if wait is not None:
            person.began = 0.0  # waiting was the server's wish
        self._again(person, wait)

    def cut(self, seats: list[Seat]) -> None:
        """These lose the network: no goodbye, and back as their clients see fit."""
        now = time.monotonic()
        for seat in seats:
            if seat.alive:
                self._receiver.leave([seat])
                seat.person.room.stand(seat)
                seat.person.lost_at = now
                seat.person.avoid = seat.address
                self._again(seat.person)

    def leave(self, seat: Seat) -> None:
        """Go politely, and come back within seconds as somebody who was never there."""
        seat.send(b"\x03\xe8", 0x8)
        self._receiver.leave([seat])
        seat.person.room.stand(seat)
        seat.person.forget()
        seat.person.room.forget(seat.person)
        self._again(seat.person, self.chance.uniform(1.0, 5.0))

    def _strike(self) -> None:
        """A gateway dies: of the addresses, the one with the most people."""
        self._tick.struck = True
        if not self.plan.cuts:
            return
        seats = [seat for room in self.rooms for seat in room.here]
        most = Counter(seat.address for seat in seats).most_common(1)
        if most:
            self.cut([seat for seat in seats if seat.address is most[0][0]])

    def dropped(self, room: Room, drop: wire.DropCard) -> None:
        """See ``Ears``."""
        self._tick.claimable += 1
        self.talk.dropped(room, drop)

    def answered(self, person: Person, kind: str, frame: wire.Frame, ack: wire.Ack) -> None:
        """See ``Ears``."""
        self.talk.answered(person, kind, frame, ack)

    def won(self, coupon: wire.CouponCard) -> None:
        """Somebody has a coupon; the tills may hear of it."""
        self._tick.coupons.append((coupon.code, coupon.store))

    def said(self) -> None:
        """A comment was sent."""
        self._tick.comments += 1

    # ---- accounts --------------------------------------------------------------------------------------------------

    def _report(self, phase: str) -> None:
        tick, now = self._tick, time.time()
        tick.t, tick.at, tick.phase = round(self.now(), 2) if self._began else 0.0, now, phase
        tick.viewers = sum(len(room.here) for room in self.rooms) - sum(host.line is not None for host in self._hosts)
        for room in self.rooms:
            frames, deliveries, received, delays = room.harvest(now)
            tick.frames += frames
            tick.deliveries += deliveries
            tick.received += received
            for kind, histogram in delays.items():
                add(tick.delays.setdefault(kind, {}), histogram)
            for kind, histogram in room.answers.items():
                add(tick.answers.setdefault(kind, {}), histogram)
            for kind, outcomes in room.outcomes.items():
                into = tick.outcomes.setdefault(kind, {})
                for outcome, many in outcomes.items():
                    into[outcome] = into.get(outcome, 0) + many
            self._failures.update(room.failures)
            tick.recovered += room.recovered
            tick.unrecovered += room.unrecovered
            room.answers, room.outcomes = {}, {}
            room.failures.clear()
            room.recovered = room.unrecovered = 0
        tick.failures, tick.closes = dict(self._failures), dict(self._closes)
        tick.cpu, tick.lag = round(self._receiver.busy(), 3), round(self._lag, 4)
        self._failures.clear()
        self._closes.clear()
        self._lag = 0.0
        self._receiver.watch()
        self._tell(tick)
        self._tick = Tick(0.0, wanted=tick.wanted)
