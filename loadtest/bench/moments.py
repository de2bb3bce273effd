"""Single moments in small rooms: how late an event alone is, and how soon a sanction holds on every gateway.

Both go the whole way: an event alone through the gateway and Redis, a sanction from REST through PostgreSQL, the relay
and Redis to a gateway that nobody asked.
"""

import base64
import json
import time
from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np

from live import wire
from live.wire import Close
from loadtest.bench.house import Gateway, House, Room
from loadtest.bench.receiver import Receiver, Viewer
from loadtest.bench.room import STAMP, RoomCrowd, percentile, stamped

BETWEEN_SECONDS = 0.12
"""Longer than a small room rests, and long enough that ten viewers in turn keep to one comment a second each."""
HOUR = 3600

_numbers = count()


def alone(receiver: Receiver, house: House, gateway: Gateway, tokens: Sequence[str], events: int) -> dict[str, Any]:
    """Comments in a quiet room, each alone: from a viewer's send to each viewer's receipt, in ms."""
    room = RoomCrowd(gateway.port, house.room().id)
    receiver.connect(room, tokens)
    receiver.listen(1.0)
    room.begin()
    for number in range(events):
        _say(receiver, room, room.viewers[number % len(tokens)])
        receiver.listen(BETWEEN_SECONDS)
    delays = room.delays(lambda told: told.lossy_stamps)
    receiver.leave(room.viewers)
    return {"p50": percentile(delays, 0.5), "p99": percentile(delays, 0.99), "events": events}


def _say(receiver: Receiver, room: RoomCrowd, speaker: Viewer) -> None:
    text = stamped("在吗")
    speaker.send(wire.encoder.encode(wire.Comment(f"a{next(_numbers)}", text)))
    receiver.until(lambda: room.said(int(text[:STAMP])) >= room.joined, "everybody hears an event alone")


def revoked(receiver: Receiver, house: House, gateway: Gateway, tokens: Sequence[str]) -> dict[str, Any]:
    """Kicks, bans and mutes over REST, in turn: from the request until the viewer's gateway has done it, in ms.

    Raises CannotMeasure when a viewer who was sent away is still served, or one who was muted is still heard.
    """
    room = house.room()
    crowd = RoomCrowd(gateway.port, room.id)
    took = [
        measure(receiver, room, crowd, token)
        for token in tokens
        for measure in (_kicked, _muted, _banned)
    ]  # fmt: skip
    return {"p50": round(float(np.median(took))), "max": round(max(took)), "sanctions": len(took)}


def _kicked(receiver: Receiver, room: Room, crowd: RoomCrowd, token: str) -> float:
    return _sent_away(receiver, room, crowd, token, Close.KICKED, "kick", {"viewer": _subject(token)})


def _banned(receiver: Receiver, room: Room, crowd: RoomCrowd, token: str) -> float:
    body = {"viewer": _subject(token), "seconds": HOUR}
    return _sent_away(receiver, room, crowd, token, Close.BANNED, "ban", body)


def _sent_away(
    receiver: Receiver, room: Room, crowd: RoomCrowd, token: str, code: Close, what: str, body: dict[str, Any]
) -> float:
    """The gateway serves no more from its goodbye on; the socket lingers until the viewer has answered it."""
    viewer, closed = _come(receiver, crowd, token), crowd.closes[code]
    asked = time.monotonic()
    room.command(what, body)
    receiver.until(lambda: crowd.closes[code] > closed, f"{what} sends away")
    took = (time.monotonic() - asked) * 1000
    receiver.leave([viewer])
    return took


def _muted(receiver: Receiver, room: Room, crowd: RoomCrowd, token: str) -> float:
    """The gateway refuses from the moment at which it tells of the mute."""
    viewer = _come(receiver, crowd, token)
    seq, refused = viewer.seq, crowd.refused["muted"]
    asked = time.monotonic()
    room.command("mute", {"viewer": _subject(token), "seconds": HOUR})
    receiver.until(lambda: viewer.seq > seq, "a mute is told")
    took = (time.monotonic() - asked) * 1000
    viewer.send(wire.encoder.encode(wire.Comment(f"m{next(_numbers)}", stamped("听得到吗"))))
    receiver.until(lambda: crowd.refused["muted"] > refused, "a muted viewer is refused")
    receiver.leave([viewer])
    return took


def _come(receiver: Receiver, crowd: RoomCrowd, token: str) -> Viewer:
    receiver.connect(crowd, [token])
    return crowd.viewers[-1]


def _subject(token: str) -> str:
    body = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return str(claims["sub"])
