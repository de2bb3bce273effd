"""Connecting: a few threads dial, so that the one that listens never waits for a handshake of TCP or TLS."""

import socket
import ssl
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from loadtest.bench import frames
from loadtest.bench.receiver import PER_ADDRESS

DIALLERS = 16
CONNECT_SECONDS = 10.0
_BIND_ADDRESS_NO_PORT = 24


class Address:
    """One of the addresses that a room tells its viewers to connect to."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a room socket (ws://… or wss://…)")
        self.url = url
        self.host = parts.hostname
        self.tls = parts.scheme == "wss"
        self.port = parts.port or (443 if self.tls else 80)
        self._path = parts.path.rstrip("/")
        self._netloc = parts.netloc

    def request(self, room: str) -> bytes:
        """The handshake for ``room``."""
        return frames.upgrade(self._netloc, f"{self._path}/v1/rooms/{room}/live")


class Door:
    """Dials in threads; what came of it waits in ``ready``. A context manager."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(DIALLERS, thread_name_prefix="dial")
        self._tls = ssl.create_default_context()
        self._dialled = 0
        self.ready: deque[tuple[Any, Address, socket.socket | None, str]] = deque()
        """For whom, where, the connected socket or None, and why not."""
        self.dialling = 0

    def __enter__(self) -> "Door":
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        while self.ready:
            sock = self.ready.popleft()[2]
            if sock is not None:
                sock.close()

    def dial(self, who: Any, address: Address) -> None:
        """Connect to ``address`` for ``who``."""
        self._dialled += 1
        self.dialling += 1
        self._threads.submit(self._connect, who, address, 2 + self._dialled // PER_ADDRESS % 200)

    def taken(self) -> tuple[Any, Address, socket.socket | None, str]:
        """The next of ``ready``."""
        self.dialling -= 1
        return self.ready.popleft()

    def _connect(self, who: Any, address: Address, last: int) -> None:
        sock = None
        try:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            if address.host.startswith("127."):
                # One address has some 28,000 ports; loopback has many addresses.
                sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
                sock.bind((f"127.0.0.{last}", 0))
            sock.settimeout(CONNECT_SECONDS)
            sock.connect((address.host, address.port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if address.tls:
                sock = self._tls.wrap_socket(sock, server_hostname=address.host)
        except OSError as error:
            if sock is not None:
                sock.close()
            self.ready.append((who, address, None, type(error).__name__))
        else:
            self.ready.append((who, address, sock, ""))


def decrypting(sock: ssl.SSLSocket) -> Callable[[Any], int]:
    """``recv_into`` for a receiver that asks once each time the socket is readable: takes all that TLS holds back."""

    def receive(buffer: Any) -> int:
        view, taken = memoryview(buffer), 0
        while taken < len(view):
            try:
                read = sock.recv_into(view[taken:])
            except ssl.SSLWantReadError as empty:
                if taken:
                    break
                raise BlockingIOError from empty
            if not read:
                break
            taken += read
        return taken

    return receive
