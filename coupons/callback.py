"""One signed call to an address that somebody else chose: where it may go, how it is signed, how long it may take."""

import asyncio
import hashlib
import hmac
import logging
import re
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from types import TracebackType

import httpx

from kernel.errors import Refusal

CALL_SECONDS = 10.0
"""A call that has not been answered within this time has failed, however the time was spent."""
ANSWER_BYTES = 65_536
"""Of an answer nothing is wanted; so much is read that the connection can be used again."""
MAX_NAME = 253
_NAME = re.compile(rb"(?:(?!-)[a-z0-9_-]{1,63}(?<!-)\.)*[a-z][a-z0-9-]{0,62}(?<!-)\.?", re.IGNORECASE)
"""Labels of a name (RFC 1123, and the underscores that some have), the last of which begins with a letter."""
_NAT64 = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a call. ``error`` is ``None`` for a success, else one word that holds nothing of the address:
    ``status``, ``timeout``, ``connection``, ``address`` (not a public one). ``retry_after`` in seconds."""

    status: int | None
    error: str | None
    retry_after: float | None = None


class Unsafe(Exception):
    """This address may not be called."""


def check_url(url: str, trusted: Sequence[str]) -> httpx.URL:
    """``url``, if it may be called as far as that can be seen without asking a name server; Refusal ``invalid``.

    Only ``https`` to public hosts; those in ``trusted`` may be anywhere, and by ``http`` too.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise Refusal("invalid", "This is no address.", field="url") from error
    # A fragment never reaches anybody, and a name with a password would have to be kept out of every log.
    if not parsed.host or parsed.userinfo or parsed.fragment:
        raise Refusal("invalid", "An address is a host and a path, without a user or a fragment.", field="url")
    if parsed.port is not None and not 1 <= parsed.port <= 65_535:
        raise Refusal("invalid", "A port is a number from 1 to 65535.", field="url")
    if parsed.host in trusted and parsed.scheme in ("http", "https"):
        return parsed
    if parsed.scheme != "https":
        raise Refusal("invalid", "Webhooks are called by https only.", field="url")
    try:
        literal = ip_address(parsed.host)
    except ValueError:
        # Also what no name can hold, which came out escaped; and numbers, which name servers take for addresses.
        if len(parsed.raw_host) > MAX_NAME or not _NAME.fullmatch(parsed.raw_host):
            raise Refusal("invalid", "This is no name of a host.", field="url") from None
        if b"." not in parsed.raw_host.rstrip(b"."):  # localhost, and names that only mean something inside
            raise Refusal("invalid", "This host is not a public one.", field="url") from None
    else:
        if not is_public(literal):
            raise Refusal("invalid", "This host is not a public one.", field="url")
    return parsed


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether ``address`` is out on the internet; for one that wraps an IPv4 address, whether that is."""
    if isinstance(address, IPv6Address):
        wrapped = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            wrapped = IPv4Address(int(address) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(wrapped)
        if address.teredo is not None or address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """Hex HMAC-SHA256 of timestamp, a full stop, and the body's bytes."""
    return hmac.new(secret.encode(), b"%d." % timestamp + body, hashlib.sha256).hexdigest()


def signed_headers(secrets: Mapping[str, str], timestamp: int, body: bytes) -> dict[str, str]:
    """The headers by which a receiver knows us: one signature for each key id of ``secrets``."""
    signatures = ", ".join(f"{kid}={signature(secret, timestamp, body)}" for kid, secret in secrets.items())
    return {
        "Content-Type": "application/json",
        "User-Agent": "Nearcast",
        "Nearcast-Timestamp": str(timestamp),
        "Nearcast-Signature": signatures,
    }


class Network:
    """What all callers of a process share, open as long as the ``with``. ``trusted`` as in ``check_url``."""

    def __init__(self, trusted: Sequence[str], places: int) -> None:
        # httpx logs every URL at INFO, and those of webhooks may hold a secret of the receiver's.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self.trusted = trusted
        self.certificates = httpx.create_ssl_context()  # reading them takes a while
        # A name server that does not answer holds a thread for half a minute. The loop's own threads are few, and
        # everybody else's names are looked up in them.
        self._threads = ThreadPoolExecutor(places, "webhook-names")

    def __enter__(self) -> "Network":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def addresses(self, url: httpx.URL) -> list[str]:
        """Where the host of ``url`` is. Raises Unsafe if any of that is not public, OSError if it has no address."""
        port = url.port or (443 if url.scheme == "https" else 80)
        lookup = partial(socket.getaddrinfo, url.raw_host.decode(), port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, lookup)
        addresses = [str(entry[4][0]) for entry in found]
        if url.host not in self.trusted and not all(
            is_public(ip_address(each.partition("%")[0])) for each in addresses
        ):
            raise Unsafe
        return addresses


class Caller:
    """Calls one address; keeps its connection as long as the ``async with``.

    The host's name is looked up once, every address behind it is checked, and one of those is what is connected to:
    a name server that answers differently the next time changes nothing. The certificate must be the name's.
    """

    def __init__(self, url: str, network: Network) -> None:
        self._url = httpx.URL(url)
        self._network = network
        self._addresses: list[str] = []
        # No proxy from the environment: it would look the name up anew. A client of its own, so that a connection is
        # never shared with another host at the same address.
        self._client = httpx.AsyncClient(verify=network.certificates, timeout=CALL_SECONDS, trust_env=False)

    async def __aenter__(self) -> "Caller":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send ``body``; answers within ``CALL_SECONDS``. Redirects are not followed: they could lead anywhere."""
        try:
            async with asyncio.timeout(CALL_SECONDS):
                if not self._addresses:
                    check_url(str(self._url), self._network.trusted)  # the setting may be narrower than it was then
                    self._addresses = await self._network.addresses(self._url)
                while True:
                    try:
                        return await self._post(self._addresses[0], body, headers)
                    except httpx.ConnectError:
                        if len(self._addresses) == 1:
                            raise
                        self._addresses.pop(0)
        except (TimeoutError, httpx.TimeoutException):
            return Answer(None, "timeout")
        except (Unsafe, Refusal):
            return Answer(None, "address")
        except (httpx.HTTPError, OSError, UnicodeError):
            return Answer(None, "connection")

    async def _post(self, address: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        request = self._client.build_request(
            "POST",
            self._url.copy_with(host=address),
            content=body,
            headers={**headers, "Host": self._url.netloc.decode()},
            extensions={"sni_hostname": self._url.raw_host.decode()},
        )
        response = await self._client.send(request, stream=True, follow_redirects=False)
        try:
            read = 0
            async for piece in response.aiter_raw():
                read += len(piece)
                if read > ANSWER_BYTES:
                    break
        finally:
            await response.aclose()
        error = None if response.is_success else "status"
        return Answer(response.status_code, error, _seconds(response.headers.get("Retry-After")))


def _seconds(header: str | None) -> float | None:
    """A ``Retry-After`` in seconds; a date there is not worth the trouble."""
    return float(header) if header is not None and header.isascii() and header.isdigit() and len(header) < 9 else None
