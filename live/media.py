"""Stream addresses: who holds the key signs them, and who holds it too can tell the signed from the made up.

The form is that of Tencent Cloud's live streaming, which other CDNs and open media servers can be set to: ``?txSecret=…
&txTime=…`` behind the stream's name, where ``txTime`` is the expiry in seconds since 1970, in hexadecimal, and
``txSecret`` is MD5 over key, name and ``txTime`` written one after the other (documented at
https://www.tencentcloud.com/document/product/267/31560). Pure: no clock, no I/O.
"""

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from hashlib import md5
from typing import Literal
from urllib.parse import parse_qsl
from uuid import UUID

SECRET, TIME = "txSecret", "txTime"
_NAME = re.compile(r"([0-9a-f]{32})-[0-9a-f]{12}")
_TIME = re.compile(r"[0-9A-Fa-f]{1,8}")


class Standing(Enum):
    """What a key is worth now."""

    GOOD = "good"
    EXPIRED = "expired"
    FORGED = "forged"


@dataclass(frozen=True, slots=True)
class StreamKey:
    """What proves the right to a stream: a signature and until when it may be used."""

    secret: str
    time: str

    def __str__(self) -> str:
        """As the query of an address."""
        return f"{SECRET}={self.secret}&{TIME}={self.time}"

    @property
    def expires_at(self) -> datetime:
        """Until when; only of a key that ``standing`` did not call forged."""
        return datetime.fromtimestamp(int(self.time, 16), UTC)


def stream_name(room: UUID, nonce: UUID) -> str:
    """The name of the room's stream: the room for people who search a log, and 48 bits that nobody guesses.

    Another ``nonce`` is another name, which makes every address given out before worthless.
    """
    return f"{room.hex}-{nonce.hex[-12:]}"


def room_of(name: str) -> UUID | None:
    """The room that ``name`` speaks of; None if it is not of the form of ours."""
    found = _NAME.fullmatch(name)
    return None if found is None else UUID(found[1])


def sign(key: str, name: str, expires_at: datetime) -> StreamKey:
    """The key to the stream ``name`` until ``expires_at`` (whole seconds)."""
    time = f"{int(expires_at.timestamp()):X}"
    return StreamKey(_signature(key, name, time), time)


def standing(key: str, name: str, offered: StreamKey, at: datetime) -> Standing:
    """What ``offered`` is worth at the moment ``at`` for the stream ``name``."""
    if not _TIME.fullmatch(offered.time):
        return Standing.FORGED
    # As it was written, not as we would write it: CDNs accept both cases, and hash what they got.
    right = _signature(key, name, offered.time)
    if not hmac.compare_digest(right.encode(), offered.secret.lower().encode()):
        return Standing.FORGED
    return Standing.GOOD if at < offered.expires_at else Standing.EXPIRED


def offered(query: str) -> StreamKey | None:
    """The key in the query of an address (a leading ``?`` may stay); None if there is none, or more than one."""
    try:
        return offered_in(parse_qsl(query.removeprefix("?"), keep_blank_values=True, max_num_fields=32))
    except ValueError:  # more fields than any address of ours
        return None


def offered_in(pairs: list[tuple[str, str]]) -> StreamKey | None:
    """The same for a query that is parsed already."""
    secrets = [value for name, value in pairs if name == SECRET]
    times = [value for name, value in pairs if name == TIME]
    # Said twice, two readers could each believe another one.
    return StreamKey(secrets[0], times[0]) if len(secrets) == len(times) == 1 else None


def address(base: str, name: str, key: StreamKey | None = None, ending: str = "") -> str:
    """The stream's address below ``base``, such as ``rtmp://push.example.com/live``."""
    return f"{base.rstrip('/')}/{name}{ending}" + (f"?{key}" if key else "")


Way = Literal["hls", "flv", "rtmp"]
_ENDINGS: dict[Way, str] = {"hls": ".m3u8", "flv": ".flv", "rtmp": ""}


def playback(bases: Mapping[Way, str], name: str, key: StreamKey | None) -> dict[Way, str]:
    """Where to play the stream: one address for each of ``hls``, ``flv`` and ``rtmp`` that ``bases`` has."""
    return {way: address(base, name, key, _ENDINGS[way]) for way, base in bases.items()}


def _signature(key: str, name: str, time: str) -> str:
    # MD5 because the CDNs compute it; it authenticates with a secret key, and needs no resistance to collisions.
    return md5(f"{key}{name}{time}".encode(), usedforsecurity=False).hexdigest()
