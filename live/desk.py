"""The gateway's desk: carries out what its viewers' sessions ask for, and looks after everything behind them."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic, time
from typing import Any
from uuid import UUID

import structlog
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError
from websockets.typing import Origin

from kernel import outbox, tracing
from kernel.erasures import Erasures
from kernel.errors import Refusal
from kernel.identity import Principal, Role
from kernel.ids import new_id
from kernel.postgres import transaction
from kernel.process import Kernel
from kernel.tasks import firmly, within
from live import presence, rooms, wire
from live.bus import Bus
from live.check import Check
from live.commands import Commands
from live.connection import QUIET, Connection, buffers
from live.errands import Errands
from live.framing import Readers
from live.hosts import Hosts
from live.hub import Hub
from live.journal import Journal
from live.leaving import LEAVING, send_away, soon
from live.metrics import Exposition, Tally
from live.ports import Checker, Issuer, Locator
from live.pulse import Pulse
from live.replica import Facts, Room, person
from live.session import ERASED, Answered, Carry, Effect, Enter, Note, Say, Session, refused
from live.speech import Speech
from live.staying import Staying
from live.wheel import Wheel
from live.wire import Close
from live.word_lists import WordLists

SAME_VIEWER = 4
"""Sockets one viewer may hold open in one room of one gateway; one more closes the oldest."""
COMMANDS_AT_ONCE = 2000
STAFF_SPARE = 500
"""More of them for guides and ops: viewers who wait by the thousand must not silence the guide."""
COMMANDS_EACH = 4
CHORES_AT_ONCE = 100_000
SETTLE_SECONDS = 3.0
"""How long a room whose log begins waits for what the relay has still to tell it, which tries again within a second
where it failed. Without a worker it opens then."""
JOURNAL_SECONDS = 0.4
STAYED_SECONDS = 60.0
"""How often those who stay are noted again, a share of them with each flush of the journal."""
DRAIN_SECONDS = 20.0
NOTICE_SECONDS = 2.0
"""How long a draining gateway says so (``/readyz``, the list of gateways) before it hangs up on anybody."""
LAST_SECONDS = 6.0
"""How long the last notes may take once everybody is gone."""

log = structlog.get_logger()


class Gateway:
    """Everything one gateway holds. Implements ``live.connection.Desk``."""

    def __init__(
        self, kernel: Kernel, bus: Bus, locator: Locator, issuer: Issuer, url: str, checker: Checker | None = None
    ) -> None:
        self.id = new_id().hex
        self.url = url
        self.tally = Tally()
        self.wheel = Wheel()
        self.readers = Readers(QUIET)
        self.origins = _origins(kernel.settings.allowed_origins)
        self.connections: set[Connection] = set()
        self.draining = False
        self._shut = False
        self.listener: asyncio.Server | None = None
        """Where viewers come in, if that is somewhere."""
        self.bus = bus
        self._kernel = kernel
        self._words = WordLists(kernel.sessions, self.tally)
        self._errands = Errands(COMMANDS_AT_ONCE, COMMANDS_EACH)
        self._chores = Errands(CHORES_AT_ONCE, CHORES_AT_ONCE)
        self.hub = Hub(
            bus, self._facts, self._settled, self._words.review, self.tally, self._spawn,
            log_length=kernel.settings.room_log_length, failed=self._defect,
        )  # fmt: skip
        self._journal = Journal(kernel.sessions, locator, issuer, self.tally)
        self._answered = Answered()
        self._hosts = Hosts(kernel.engine, self.hub.rooms, self.tally)
        self._speech = Speech(bus, self.tally, self._spawn)
        self._check = None
        if checker is not None:
            self._check = Check(checker, self._speech, self.tally, kernel.settings.msg_sec_check_down)
        self._commands = Commands(kernel.sessions, locator, issuer)
        self._erasures = Erasures(kernel.sessions, kernel.keyring, self._erased)
        self.pulse = Pulse(self.id, url, kernel.redis, bus, self.hub, self.tally, lambda: self.ready)
        self._exposition = Exposition(self.tally, self._figures)

    # ---- lifetime --------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether new viewers should come here."""
        return self.bus.healthy and not self.draining

    async def run(self) -> None:
        """Do all that is done in the background, until cancelled. A defect in any of it ends all of it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(firmly(self.bus.run(self.hub)), name="bus")
            group.create_task(self.wheel.run(), name="wheel")
            group.create_task(firmly(self.pulse.run()), name="pulse")
            group.create_task(self._words.run(), name="words")
            group.create_task(self._erasures.run(), name="erasures")
            group.create_task(self._write_journal(), name="journal")
            group.create_task(self._hosts.run(), name="hosts")
            group.create_task(firmly(self._look_after_rooms()), name="rooms")
            group.create_task(self._watch_loop(), name="lag")

    async def _write_journal(self) -> None:
        staying = Staying(self._journal.stayed, int(STAYED_SECONDS / JOURNAL_SECONDS))
        while True:
            await asyncio.sleep(JOURNAL_SECONDS)
            staying.note((room.id, room.audience) for room in self.hub.rooms.values())
            await self._journal.flush()

    async def _look_after_rooms(self) -> None:
        while True:
            await asyncio.sleep(1)
            self.hub.tell_guides()
            self._answered.forget(time())
            try:
                await self.hub.retry()
                await self.hub.close_idle(time())
            except (RedisError, OSError) as error:
                self.tally.failures["rooms"] += 1
                log.warning("rooms_failed", error=type(error).__name__)

    async def _watch_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.25
            await asyncio.sleep(0.25)
            self.tally.loop_lag = max(0.0, loop.time() - due)

    async def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Stop taking viewers, finish what was begun, and send everybody elsewhere at a pace that others can bear.

        Done after ``seconds`` and the few that the last notes may take (``LAST_SECONDS``), whatever does not answer.
        """
        self.draining = True
        began = monotonic()
        log.info("draining", viewers=len(self.connections))
        notice = min(NOTICE_SECONDS, seconds / 10)
        await asyncio.gather(
            asyncio.sleep(notice),
            within(notice, self._say_we_leave()),
            self._errands.finish(min(5.0, seconds / 4)),
        )
        if self._check is not None:
            await self._check.finish()
        self._shut = True
        if self.listener is not None:
            self.listener.close()  # on a shared port newcomers now reach the others
        await send_away(self.connections, began + seconds)
        for connection in list(self.connections):
            connection.transport.abort()
        whole = await within(LAST_SECONDS, self._last_notes())
        log.info("drained", seconds=round(monotonic() - began, 1), whole=whole)

    async def _say_we_leave(self) -> None:
        try:
            await presence.register(self._kernel.redis, self.pulse.stats())
        except (RedisError, OSError) as error:
            log.warning("leave_not_announced", error=type(error).__name__)

    async def _last_notes(self) -> None:
        await self._errands.finish(1.0)
        await self._chores.finish(2.0)
        await self._journal.flush()
        await self._hosts.flush()
        await self.pulse.stop()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if not self._chores.start(work):
            raise RuntimeError("far more chores than rooms")

    def _defect(self, error: BaseException) -> None:
        self.tally.failures["tick"] += 1
        log.error("tick_failed", exc_info=error)

    async def _facts(self, room: UUID) -> Facts:
        await self._words.loaded()
        async with transaction(self._kernel.sessions) as session:
            facts, slots = await rooms.opening(session, room)
        return Facts(facts.brand, facts.display_rate, slots)

    async def _settled(self, room: UUID) -> None:
        if not await outbox.told(self._kernel.sessions, room, within=SETTLE_SECONDS):
            log.warning("room_opened_before_all_was_told", room=str(room))

    # ---- Desk ------------------------------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> bool:
        """See ``Desk``."""
        self.connections.add(connection)
        return not self._shut

    def closed(self, connection: Connection) -> None:
        """See ``Desk``."""
        self.connections.discard(connection)

    def ended(self, code: Close) -> None:
        """See ``Desk``."""
        self.tally.closes[code.name.lower()] += 1

    def session(self) -> Session:
        """See ``Desk``."""
        return Session(self.verify)

    def verify(self, token: str, now: float) -> Principal:
        """The principal of ``token``, by a name that the room may see; Refusal ``token_invalid``, ``token_expired``."""
        who = self._kernel.keyring.verify(token, datetime.fromtimestamp(now, UTC))
        return replace(who, name=self._words.named(who.brand, who.name)) if who.role is Role.VIEWER else who

    def page(self, path: str) -> tuple[int, str, bytes] | None:
        """See ``Desk``."""
        if path == "/healthz":
            return 200, "text/plain", b"ok\n"
        if path == "/readyz":
            return (200, "text/plain", b"ready\n") if self.ready else (503, "text/plain", b"not ready\n")
        if path == "/metrics":
            return 200, "text/plain; version=0.0.4; charset=utf-8", self._exposition.render()
        return None

    def left(self, connection: Connection) -> None:
        """See ``Desk``."""
        room, connection.room = connection.room, None
        if room is None:
            return
        assert connection.session is not None
        assert connection.session.who is not None
        room.remove(connection)
        who = connection.session.who
        if room.banned(who.subject, time()):
            self._journal.banned(room.id, who)
        elif who.subject not in room.audience.people:
            self._journal.left(room.id, who)
            if who.subject == room.guide:
                self._hosts.went(room.id)

    def carry(self, connection: Connection, effect: Effect) -> None:
        """See ``Desk``."""
        match effect:
            case Enter():
                self._enter(connection, effect)
            case Say():
                if connection.room is not None:
                    (self._check or self._speech).say(connection, connection.room, effect)
            case Note():
                self._note(connection, effect.frame)
            case Carry():
                self._begin(connection, effect.command)

    def _erased(self, subject: UUID) -> None:
        for room in list(self.hub.rooms.values()):
            room.send_away(subject, Close.ERASED, ERASED)

    # ---- coming in -------------------------------------------------------------------------------------------------

    def _enter(self, connection: Connection, enter: Enter) -> None:
        if self.draining:
            self._turn_away(connection, Close.DRAINING, LEAVING, soon())
            return
        if connection.room_id is None:
            self._turn_away(connection, Close.ROOM_UNKNOWN, "there is no such room")
            return
        room = self.hub.get(connection.room_id)
        ahead = enter.resume is not None and room is not None and enter.resume.seq > room.seq
        if room is not None and not ahead:
            self._admit(connection, room, enter)
        elif not self._errands.start(self._enter_later(connection, connection.room_id, enter)):
            self._turn_away(connection, Close.UNAVAILABLE, "too many at once", 2.0)

    async def _enter_later(self, connection: Connection, id: UUID, enter: Enter) -> None:
        try:
            room = await self.hub.open(id)
            if enter.resume is not None and enter.resume.epoch == room.epoch:
                await self.hub.reach(room, enter.resume.seq)
        except Refusal:
            self._turn_away(connection, Close.ROOM_UNKNOWN, "there is no such room")
        except (SQLAlchemyError, RedisError, OSError, TimeoutError) as error:
            self.tally.failures["open"] += 1
            log.warning("room_not_opened", room=str(id), error=type(error).__name__)
            self._turn_away(connection, Close.UNAVAILABLE, "the room cannot be reached", 2.0)
        except Exception:
            # A defect, told with its trace; the viewer must not hang at the door because of it.
            self.tally.failures["defect"] += 1
            log.exception("entering_broke", room=str(id))
            self._turn_away(connection, Close.UNAVAILABLE, "the room cannot be reached", 5.0)
        else:
            if not connection.closing:
                self._admit(connection, room, enter)
        connection.admitted()

    def _admit(self, connection: Connection, room: Room, enter: Enter) -> None:
        who = enter.who
        if room.brand != who.brand:
            self._turn_away(connection, Close.ROOM_UNKNOWN, "there is no such room")
            return
        if room.state == "ended":
            self._turn_away(connection, Close.ROOM_ENDED, "this room has ended")
            return
        if self._kernel.keyring.refuses(who.subject):  # since they said hello
            self._turn_away(connection, Close.ERASED, ERASED)
            return
        if room.banned(who.subject, time()):
            self._turn_away(connection, Close.BANNED, "you may not be in this room for now")
            return
        here = room.audience.people.get(who.subject, [])
        if len(here) >= SAME_VIEWER and (oldest := here[0]).session is not None:
            oldest.apply(oldest.session.end(Close.REPLACED, "opened elsewhere"))
        first = who.subject not in room.audience.people
        self._journal.joined(room.id, who)
        recovered = room.admit(connection, enter.resume, self._answered)
        connection.look_after()
        self.tally.joins += 1
        if who.subject == room.guide:
            self._hosts.came(room.id)
        if enter.resume is not None:
            self.tally.resumes["recovered" if recovered else "fresh"] += 1
        elif first and who.role is Role.VIEWER:
            self._speech.joined(room, person(who))

    def _turn_away(self, connection: Connection, code: Close, reason: str, retry_after: float | None = None) -> None:
        if connection.session is not None:
            connection.apply(connection.session.end(code, reason, retry_after))

    # ---- what viewers do -------------------------------------------------------------------------------------------

    def _note(self, connection: Connection, frame: wire.Like | wire.Tap | wire.Seen) -> None:
        room, session = connection.room, connection.session
        if room is None or session is None or session.who is None:
            return
        match frame:
            case wire.Like(n=n):
                if room.state != "ended":  # what remains of a room stays as it was at its end
                    room.likes += n
            case wire.Tap(product=product):
                self._journal.tapped(room.id, product)
            case wire.Seen(coupon=coupon):
                self._journal.seen(session.who.subject, coupon)

    def _begin(
        self, connection: Connection, command: wire.GuideCommand | wire.Claim | wire.Locate | wire.Report
    ) -> None:
        room, session = connection.room, connection.session
        if room is None or session is None or session.who is None:
            return
        who = session.who
        spare = 0 if who.role is Role.VIEWER else STAFF_SPARE
        if not self._errands.start(self._carry_out(connection, session, room.id, command), who.subject, spare):
            self._answer(session, connection, command, refused(command.id or "", Refusal("busy", retry_after=1)))

    async def _carry_out(
        self,
        connection: Connection,
        session: Session,
        room: UUID,
        command: wire.GuideCommand | wire.Claim | wire.Locate | wire.Report,
    ) -> None:
        assert session.who is not None
        try:
            if isinstance(command, wire.Claim | wire.Locate):
                # Claims ask the database who is in the room; the note of that must not come later.
                await self._journal.written(room, session.who.subject)
            with tracing.span(f"command {command.__struct_config__.tag}", room=str(room)):
                ack = await self._commands.carry(session.who, room, command)
        except Refusal as refusal:
            ack = refused(command.id or "", refusal)
        except (SQLAlchemyError, RedisError, OSError, TimeoutError) as error:
            self.tally.failures["command"] += 1
            log.warning("command_failed", command=type(command).__name__, error=type(error).__name__)
            ack = refused(command.id or "", Refusal("unavailable", retry_after=2))
        except Exception:
            # A defect in one command must cost that command only; it is told, counted, and logged with its trace.
            self.tally.failures["defect"] += 1
            log.exception("command_broke", command=type(command).__name__)
            ack = refused(command.id or "", Refusal("unavailable", retry_after=5))
        self._answer(session, connection, command, ack)

    def _answer(
        self,
        session: Session,
        connection: Connection,
        command: wire.GuideCommand | wire.Claim | wire.Locate | wire.Report,
        ack: wire.Ack,
    ) -> None:
        self.tally.commands[str(command.__struct_config__.tag), "ok" if ack.error is None else ack.error.code] += 1
        if command.id is not None:
            connection.apply(session.answer(ack))

    # ---- figures ---------------------------------------------------------------------------------------------------

    def _figures(self) -> dict[str, float]:
        rooms = self.hub.rooms.values()
        slow, waiting, most = buffers(self.connections)
        return {
            "viewers": sum(len(room.audience.connections) for room in rooms),
            "sockets": len(self.connections),
            "rooms": len(rooms),
            "rooms_mending": sum(not room.whole.is_set() for room in rooms),
            "ready": float(self.ready),
            "bus_healthy": float(self.bus.healthy),
            "commands_running": len(self._errands),
            "slow_viewers": slow,
            "write_buffer_bytes": waiting,
            "write_buffer_max_bytes": most,
            "bus_losses": self.bus.losses,
            "forgotten_early": self._answered.lost,
            "errand_failures": self._errands.failures + self._chores.failures,
        }


def _origins(allowed: Sequence[str]) -> Sequence[Origin | None] | None:
    # Mini-programs and native apps send no Origin; only browsers can be abused from a foreign page.
    return [*map(Origin, allowed), None] if allowed else None
