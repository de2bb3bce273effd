"""A running house with an evening in it: real processes and servers, viewers who come back, a guide who goes on.

``House.evening`` goes on while a test breaks something; ``House.promises`` then waits until all is well again by itself
and checks what was promised (DESIGN: reliability).
"""

import asyncio
import json
import os
import pwd
import shlex
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar
from uuid import UUID

import httpx
from listening import Listener
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError
from world import World

from app.embedded import home_of
from app.processes import bound
from app.up import Stack
from coupons import ledger
from kernel.clock import now

PATIENCE = 120.0
"""A deadline costs only when something is wrong."""
VIEWERS = 6
PAUSE = 0.1
"""Between two things that the guide does."""
SPARE_DESCRIPTORS = 30
"""Pools fill up in the first minutes: so many more than before are no leak."""
SPARE_MEMORY = 48 << 20
Answer = TypeVar("Answer")


async def until(condition: Callable[[], Awaitable[Any]], what: str) -> None:
    """Return once ``condition`` holds; fails the test after ``PATIENCE``."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not await condition():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"{PATIENCE:.0f} s were not enough for: {what}") from None


async def persistently(work: Callable[[], Awaitable[Answer]]) -> Answer:
    """What ``work`` returns once the servers are there to be asked."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await work()
            except (DBAPIError, RedisError, OSError):
                await asyncio.sleep(0.1)


class House:
    """The parts of a stack as their operations see them, and what can be done to them."""

    def __init__(self, stack: Stack, world: World, client: httpx.AsyncClient) -> None:
        self.stack, self.world, self.client = stack, world, client
        self.sockets = [url.replace("http", "ws", 1) for url in stack.gateways]
        self.listeners: list[Listener] = []
        self.answers: dict[str, int] = {}
        """What the guide was answered, and how often."""
        self.ready_seconds = self.told_seconds = 0.0
        self._said = 0
        self._guiding: asyncio.Task[None] | None = None
        self._before: dict[str, tuple[int, int]] = {}
        home = home_of(stack.settings.state_dir)
        self.postgres_data, self.redis_data = home / "postgres", home / "redis"

    # ---- what goes on ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def evening(self) -> AsyncIterator[None]:
        """Viewers who watch and claim, a guide who announces, pins and drops, until the block ends."""
        # Longer than a clock is set forward.
        until_then = now() + timedelta(hours=3)
        viewers = [replace(who, expires_at=until_then) for who in await self.world.viewers(VIEWERS)]
        self.listeners = [Listener(self, who, place) for place, who in enumerate(viewers)]
        for listener in self.listeners:
            listener.task = asyncio.ensure_future(listener.watch())

        async def all_in() -> bool:
            return all(listener.welcomes for listener in self.listeners)

        try:
            await until(all_in, "everybody being welcomed")
            await self.announce()
            await self.everybody_heard()
            self._before = self.resources()
            self._guiding = asyncio.ensure_future(self._guide())
            yield
            await self._until_ready()
            self._guiding.cancel()
            await asyncio.wait({self._guiding})
            assert self._guiding.cancelled(), self._guiding.exception()
            await self.announce()
            await self.everybody_heard()
            await self.promises()
        finally:
            tasks = [listener.task for listener in self.listeners if listener.task is not None]
            tasks += [self._guiding] if self._guiding is not None else []
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _guide(self) -> None:
        campaign = await persistently(lambda: self.world.campaign(stock=10_000, per_viewer=100))
        for turn in range(10_000):
            await self.announce()
            if turn % 8 == 3:
                mode = "push" if turn % 16 == 3 else "claim"
                await self.ask(
                    "drops", {"campaign": str(campaign), "mode": mode, "stock": 4}, f"{self.world.room} {self._said}"
                )
            await asyncio.sleep(PAUSE)

    async def announce(self) -> None:
        """Say the next thing; said again until there is a yes."""
        self._said += 1
        await self.ask("announce", {"text": f"第{self._said}件事"})

    async def ask(self, path: str, body: dict[str, Any], key: str | None = None) -> None:
        """POST as ops until it is done. Whatever else is answered must be a refusal that says so."""
        headers = {"Authorization": f"Bearer {self.world.kernel.keyring.issue(self.world.ops)}"}
        if key is not None:
            headers["Idempotency-Key"] = key
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    url = f"{self.stack.api}/v1/rooms/{self.world.room}/{path}"
                    answer = await self.client.post(url, json=body, headers=headers)
                except httpx.TransportError as error:
                    self._count(type(error).__name__)
                else:
                    self._count(str(answer.status_code))
                    if answer.is_success:
                        return
                    assert answer.status_code in (409, 429, 503), answer.text
                    assert answer.json()["code"], "a refusal has a code"
                await asyncio.sleep(0.1)

    def _count(self, answer: str) -> None:
        self.answers[answer] = self.answers.get(answer, 0) + 1

    # ---- promises --------------------------------------------------------------------------------------------------

    async def is_ready(self) -> bool:
        for url in (self.stack.api, *self.stack.gateways):
            try:
                if (await self.client.get(f"{url}/readyz", timeout=3)).status_code != 200:
                    return False
            except httpx.HTTPError:
                return False
        return all(child.process is not None and child.process.returncode is None for child in self._children)

    async def recovers(self) -> None:
        """The fault is over: return when all is ready, and everybody heard what is said since. Times are kept."""
        over, before = monotonic(), self._said + 1  # what is being said at this moment does not count
        await self._until_ready()
        self.ready_seconds = monotonic() - over

        async def all_heard_more() -> bool:
            return all(any(_number(text) > before for text in one.told[-20:]) for one in self.listeners)

        await until(all_heard_more, "everybody hearing what is said since")
        self.told_seconds = monotonic() - over
        await self.heard_more(4)

    async def _until_ready(self) -> None:
        await until(self.is_ready, "API and gateways being ready again by themselves")

    async def everybody_heard(self) -> None:
        last = f"第{self._said}件事"

        async def heard() -> bool:
            # Not as the last: what the guide was saying when they were interrupted may be committed after it.
            return all(last in listener.told[-5:] for listener in self.listeners)

        await until(heard, f"everybody hearing {last}")

    async def promises(self) -> None:
        """Fails unless everything that was promised holds."""
        await until(self._quiet, "nothing being left to tell or to grant")
        async with self.world.kernel.sessions() as session:
            assert (await ledger.audit(session)).findings == []
        said = await self.said()
        rows = await self.world.execute("SELECT id, viewer_id FROM coupons WHERE room_id = :room", room=self.world.room)
        for listener in self.listeners:
            mine = {row.id for row in rows if row.viewer_id == listener.who.subject}
            assert listener.yes <= mine, "told yes without a row"

            async def has_all(listener: Listener = listener, mine: set[UUID] = mine) -> bool:
                return mine <= listener.coupons | listener.yes

            await until(has_all, "every granted coupon being told")
            assert listener.coupons <= mine
            self._in_order(listener, said)
        await until(self._small_again, f"memory and descriptors being as before: {self._before}, {self.resources()}")

    def _in_order(self, listener: Listener, said: list[str]) -> None:
        """All that was said since they came, once, in order; a snapshot instead of a resume may leave out some."""
        if all(listener.welcomes[1:]):
            assert listener.told == said[len(said) - len(listener.told) :], "lost or out of order"
            assert said[: len(said) - len(listener.told)][-1:] in ([], [listener.first]), "the first ones were lost"
        else:
            rest = iter(said)
            assert all(text in rest for text in listener.told), "out of order"

    @property
    def all_recovered(self) -> bool:
        """Whether nobody was given a snapshot in place of what they missed."""
        return all(all(listener.welcomes[1:]) for listener in self.listeners)

    async def said(self) -> list[str]:
        """The announcements as they were committed."""
        rows = await self.world.execute(
            "SELECT payload FROM outbox WHERE room_id = :room AND topic = 'live.event' ORDER BY id",
            room=self.world.room,
        )
        told = [json.loads(row.payload)["event"] for row in rows]
        return [event["text"] for event in told if event["t"] == "announce"]

    async def _quiet(self) -> bool:
        waiting = (
            "SELECT (SELECT count(*) FROM outbox WHERE published_at IS NULL) + (SELECT count(*) FROM drops"
            " WHERE state = 'open' AND mode = 'push' AND matched_at IS NULL)"
        )
        try:
            left = await self.world.scalar(waiting)
        except (DBAPIError, OSError):
            return False
        return not left and not any(listener.claims for listener in self.listeners)

    def resources(self) -> dict[str, tuple[int, int]]:
        """Open descriptors and resident bytes of each process of ours."""
        found = {}
        for child in self._children:
            assert child.process is not None
            home = Path(f"/proc/{child.process.pid}")
            pages = int((home / "statm").read_text().split()[1])
            found[child.name] = len(list((home / "fd").iterdir())), pages * os.sysconf("SC_PAGESIZE")
        return found

    async def metric(self, name: str) -> float:
        """The sum of ``nearcast_gateway_{name}`` over the gateways."""
        found = 0.0
        for url in self.stack.gateways:
            for line in (await self.client.get(f"{url}/metrics")).text.splitlines():
                said, _, value = line.rpartition(" ")
                if said == f"nearcast_gateway_{name}":
                    found += float(value)
        return found

    async def _small_again(self) -> bool:
        now = self.resources()
        return all(
            now[name][0] <= descriptors + SPARE_DESCRIPTORS and now[name][1] <= memory * 1.25 + SPARE_MEMORY
            for name, (descriptors, memory) in self._before.items()
        )

    # ---- how a fault is felt ---------------------------------------------------------------------------------------

    async def nobody_hears_for(self, seconds: float, among: list[Listener] | None = None) -> None:
        """Fails unless the fault of this moment silences all of ``among``. What was on its way may still arrive."""
        among = self.listeners if among is None else among
        assert among
        await asyncio.sleep(seconds / 3)
        heard = [len(listener.told) for listener in among]
        await asyncio.sleep(seconds * 2 / 3)
        assert [len(listener.told) for listener in among] == heard, "the fault silenced nobody"

    def at(self, gateway: int) -> list[Listener]:
        """Who watches through this gateway, the first being 0."""
        return [listener for listener in self.listeners if listener.url == self.sockets[gateway]]

    async def refused(self, times: int = 3) -> None:
        """Return when the guide was told ``503`` so many times more."""
        before = self.answers.get("503", 0)

        async def more() -> bool:
            self._guide_is_well()
            return self.answers.get("503", 0) >= before + times

        await until(more, "the guide being refused")

    async def is_gone(self, name: str, pid: int) -> None:
        """Return when our process ``name`` was started again in place of ``pid``."""

        async def another() -> bool:
            process = self.stack.children[name].process
            return process is not None and process.pid != pid

        await until(another, f"{name} being started again")

    # ---- what can be done to it ------------------------------------------------------------------------------------

    @property
    def _children(self) -> list[Any]:
        return list(self.stack.children.values())

    def signal(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Returns whom the signal was sent to."""
        pid = self.pid(name)
        os.kill(pid, number)
        return pid

    def pid(self, name: str) -> int:
        process = self.stack.children[name].process
        assert process is not None
        return process.pid

    async def heard_more(self, things: int = 3) -> None:
        """Return when the guide was told yes so many times more."""
        before = self._said

        async def more() -> bool:
            self._guide_is_well()
            return self._said >= before + things

        await until(more, "the guide going on")

    def _guide_is_well(self) -> None:
        if self._guiding is not None and self._guiding.done():
            self._guiding.result()

    def redis(self) -> "Redis":
        assert self.stack.settings.redis_url
        return Redis.from_url(self.stack.settings.redis_url)

    @property
    def redis_pid(self) -> int:
        return int((self.redis_data / "redis.pid").read_text())

    @property
    def postgres_pid(self) -> int:
        return int((self.postgres_data / "postmaster.pid").read_text().split()[0])

    def start_redis(self) -> subprocess.Popen[bytes]:
        """The same server on the same data, after it was killed."""
        return self._start(["redis-server", str(self.redis_data / "redis.conf")], self.redis_data)

    def start_postgres(self, command: list[str] | None = None) -> subprocess.Popen[bytes]:
        """Likewise."""
        command = command or shlex.split((self.postgres_data / "postmaster.opts").read_text())
        return self._start(command, self.postgres_data)

    async def use(self, variable: str, value: str, only: str = "") -> None:
        """Start our processes anew with another environment, or those whose name begins with ``only``."""
        for name, child in self.stack.children.items():
            if name.startswith(only):
                child.environment[variable] = value
                await self.is_gone(name, self.signal(name))
        await until(self.is_ready, "all being ready again")

    def _start(self, command: list[str], data: Path) -> subprocess.Popen[bytes]:
        user = pwd.getpwuid(data.stat().st_uid) if os.geteuid() == 0 else None
        quiet = subprocess.DEVNULL
        return subprocess.Popen(bound(command, "QUIT", user), stdin=quiet, stdout=quiet, stderr=quiet, cwd="/")

    def raw(self, place: int = 0, *, greeting: bool = True, window: int | None = None) -> socket.socket:
        """A socket at a gateway by hand, its handshake sent unless told otherwise; unread wait ``window`` bytes."""
        host, _, port = self.stack.gateways[place].rpartition("/")[2].partition(":")
        plain = socket.socket()
        plain.settimeout(30)
        if window is not None:  # decided with the connection
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        plain.connect((host, int(port)))
        if greeting:
            plain.sendall(self.greeting())
        return plain

    def greeting(self) -> bytes:
        """A handshake for the room."""
        return (
            f"GET /v1/rooms/{self.world.room}/live HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()


def _number(text: str) -> int:
    return int(text.strip("第件事") or 0)


def masked(payload: bytes, opcode: int = 1) -> bytes:
    """A client's frame, masked with zeroes."""
    size = len(payload)
    head = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([0x80 | opcode]) + head + bytes(4) + payload


def ended(pid: int) -> bool:
    """Whether the process is gone, or waits only for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
