"""The peers of ``fanout``, as processes that are told by a line to send one frame to everybody."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from loadtest.bench.machine import SCRATCH, CannotMeasure, cores, process, python
from loadtest.bench.receiver import Crowd, Viewer

PEERS = Path(__file__).parent / "peers"
SOCKET_IO = "socket.io@4"
INSTALL_SECONDS = 180


class SocketIoCrowd(Crowd):
    """Viewers who speak Engine.IO and Socket.IO: ``0`` opens, ``40`` joins, ``42`` is an event, ``2`` a ping."""

    def __init__(self, name: str, port: int) -> None:
        super().__init__(name, port, "/socket.io/?EIO=4&transport=websocket")

    def opened(self, viewer: Viewer) -> None:
        """Nobody is in before the second handshake."""

    def hear(self, viewer: Viewer, buffer: bytearray, start: int, stop: int, now: float) -> None:
        """See ``Crowd``."""
        if viewer.joined and stop - start > 1:
            super().hear(viewer, buffer, start, stop, now)
        elif buffer[start] == ord("2"):
            viewer.send(b"3")  # its own ping and pong
        elif buffer[start] == ord("0"):
            viewer.send(b"40")
        elif buffer.startswith(b"40", start, stop):
            self.enter(viewer)


class Peer:
    """A running peer and its crowd."""

    def __init__(self, name: str, child: "subprocess.Popen[bytes]", crowd: Crowd) -> None:
        self.name = name
        self.pid = child.pid
        self.crowd = crowd
        self._child = child

    def send(self) -> None:
        """One frame to everybody."""
        assert self._child.stdin is not None
        self._child.stdin.write(b"1\n")
        self._child.stdin.flush()


@contextmanager
def running(name: str, command: Sequence[str], shape: type[Crowd] = Crowd, **environment: str) -> Iterator[Peer]:
    """The peer, listening; raises CannotMeasure if it does not start."""
    server, _ = cores()
    with process(
        command, server, environment=os.environ | environment, log=SCRATCH / "log" / f"bench-{name}.log",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        port = child.stdout.readline().strip()
        if not port:
            raise CannotMeasure(f"{name} did not start; see {SCRATCH / 'log' / f'bench-{name}.log'}")
        yield Peer(name, child, shape(name, int(port)))


def in_python(name: str, module: str, size: int) -> AbstractContextManager[Peer]:
    """A peer of ours in this interpreter."""
    return running(name, python("-m", f"loadtest.bench.peers.{module}", str(size)))


def node_modules() -> Path | None:
    """Where Socket.IO is installed; installed on first use by npm. None (with the reason on stderr) if it cannot be."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        sys.stderr.write("Socket.IO is left out: node or npm is not installed.\n")
        return None
    folder = SCRATCH / "socketio"
    if (folder / "node_modules" / "socket.io").exists():
        return folder / "node_modules"
    folder.mkdir(parents=True, exist_ok=True)
    command = [npm, "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(folder), SOCKET_IO]
    try:
        done = subprocess.run(command, capture_output=True, timeout=INSTALL_SECONDS, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        done = None
    if done is None or done.returncode != 0:
        shutil.rmtree(folder, ignore_errors=True)  # half an installation would be taken for a whole one
        sys.stderr.write("Socket.IO is left out: npm could not install it.\n")
        return None
    return folder / "node_modules"
