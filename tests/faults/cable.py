"""A way to a server that leads through a network namespace of its own, and can be cut so that nobody is told.

What a wire of processes (``wire_between``) cannot show: the kernel of somebody who is away acknowledges nothing.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

RELAY = Path(__file__).with_name("wire_between.py")


class Cable:
    """``here`` is this machine's end, ``there`` the other; who connects to ``there`` at ``port`` reaches the server."""

    def __init__(self, name: str, network: str) -> None:
        self.name = name
        self.here, self.there = f"{network}.1", f"{network}.2"
        self.port = 0
        self._relay: asyncio.subprocess.Process | None = None

    async def lead_to(self, port: int) -> None:
        """Carry to what listens at ``here`` and ``port``, by a process at the other end."""
        command = ["ip", "netns", "exec", self.name, sys.executable, str(RELAY), self.there, str(self.port)]
        self._relay = await asyncio.create_subprocess_exec(*command, self.here, str(port), stdout=subprocess.PIPE)
        assert self._relay.stdout
        self.port = int(await self._relay.stdout.readline())

    def pull(self) -> None:
        """Nothing comes back from there any more."""
        _ip("netns", "exec", self.name, "ip", "route", "add", "blackhole", f"{self.here}/32")

    def plug(self) -> None:
        _ip("netns", "exec", self.name, "ip", "route", "del", "blackhole", f"{self.here}/32")

    async def lose_power(self) -> None:
        """Who carries is gone, with all connections. Pull first: else the kernel says farewell for it."""
        assert self._relay is not None
        if self._relay.returncode is None:
            self._relay.kill()
            await self._relay.wait()


@asynccontextmanager
async def cable() -> AsyncIterator[Cable]:
    """Skips where this user may not make network namespaces."""
    number = os.getpid() % 250
    made = Cable(f"nearcast-{os.getpid()}", f"10.213.{number}")
    inside, outside = f"nci{os.getpid()}", f"nco{os.getpid()}"
    try:
        _ip("netns", "add", made.name)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a cable needs the right to make network namespaces: {error}")
    try:
        _ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", made.name)
        _ip("address", "add", f"{made.here}/30", "dev", outside)
        _ip("link", "set", outside, "up")
        for arguments in (("address", "add", f"{made.there}/30", "dev", inside), ("link", "set", inside, "up")):
            _ip("-n", made.name, *arguments)
        yield made
        await made.lose_power()
    finally:
        _ip("netns", "delete", made.name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
