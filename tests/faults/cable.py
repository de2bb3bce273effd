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
        self._outside = f"nco{os.getpid()}"

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
        """The other end is gone with all its connections, and there again with none. Pull first: else the kernel says
        farewell; and it goes on trying to for a process that is gone, as long as there is a namespace to do so from."""
        await self.leave()
        self.take_up()
        self.lay()

    async def leave(self) -> None:
        """Nobody carries any more."""
        if self._relay is not None and self._relay.returncode is None:
            self._relay.kill()
            await self._relay.wait()

    def lay(self) -> None:
        """Make the namespace and the way there."""
        inside = f"nci{os.getpid()}"
        _ip("netns", "add", self.name)
        _ip("link", "add", self._outside, "type", "veth", "peer", "name", inside, "netns", self.name)
        _ip("address", "add", f"{self.here}/30", "dev", self._outside)
        _ip("link", "set", self._outside, "up")
        for arguments in (("address", "add", f"{self.there}/30", "dev", inside), ("link", "set", inside, "up")):
            _ip("-n", self.name, *arguments)

    def take_up(self) -> None:
        """Undo ``lay``."""
        _ip("link", "delete", self._outside)  # first: a namespace goes in its own time
        _ip("netns", "delete", self.name)


@asynccontextmanager
async def cable() -> AsyncIterator[Cable]:
    """Skips where this user may not make network namespaces."""
    made = Cable(f"nearcast-{os.getpid()}", f"10.213.{os.getpid() % 250}")
    try:
        _ip("netns", "add", made.name)
    except subprocess.CalledProcessError as refused:
        pytest.skip(f"a cable needs the right to make network namespaces: {refused.stderr.decode().strip()}")
    _ip("netns", "delete", made.name)
    made.lay()
    try:
        yield made
        await made.leave()
    finally:
        made.take_up()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
