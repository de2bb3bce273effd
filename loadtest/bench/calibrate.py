"""``python -m loadtest.bench.calibrate``: what viewers, comments, joins and coupons cost here.

For ``nearcast capacity``: one JSON line with what was measured, nothing fitted. Real gateway, Redis, PostgreSQL, worker
and viewers, meant to take a minute. Costs are CPU time of the processes, not clock time, so that other work on the
machine changes them little. The points of ``fit`` are what a model may learn from; those of ``check`` have other sizes
and are there to find it wrong.
"""

import argparse
import asyncio
import base64
import json
import signal
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from live import wire
from loadtest.bench.house import BRAND, Gateway, House, Room
from loadtest.bench.machine import CannotMeasure, cores, describe, on_core
from loadtest.bench.meters import Meters
from loadtest.bench.peak import WORDS
from loadtest.bench.receiver import Receiver
from loadtest.bench.room import RoomCrowd, Told, stamped

VERSION = 1
AT_ONCE = 128
DEFLATED_FROM = 512
"""Bytes from which a gateway compresses."""
SETTLE_SECONDS = 1.0
STORE = (121.4737, 31.2304)

_numbers = count()


@dataclass(frozen=True)
class Plan:
    """How much is measured: (viewers, comments a second) in the order in which the room grows."""

    fit: tuple[tuple[int, float], ...] = ((200, 5.0), (200, 80.0), (1000, 5.0), (1000, 80.0), (2500, 20.0))
    check: tuple[tuple[int, float], ...] = ((500, 30.0), (1500, 30.0), (4000, 30.0))
    seconds: float = 3.0
    coupons: int = 600
    """Viewers who claim, and as many again who are pushed one."""
    listeners_seconds: float = 0.5

    @classmethod
    def tiny(cls) -> "Plan":
        """To see that it runs; its figures are worth little."""
        return cls(((20, 5.0), (20, 40.0), (60, 20.0)), ((40, 20.0),), 0.8, 20, 0.1)


class MeteredCrowd(RoomCrowd):
    """Knows what its frames would have taken, had its viewers offered compression."""

    def __init__(self, port: int, room: str) -> None:
        super().__init__(port, room)
        self._deflated: list[tuple[Told, int]] = []

    def _understand(self, viewer: Any, payload: bytes) -> Told | None:
        told = super()._understand(viewer, payload)
        if told is not None:
            small = len(payload) < DEFLATED_FROM
            self._deflated.append((told, len(payload) if small else len(zlib.compress(payload, 1))))
        return told

    def begin(self) -> None:
        """See ``RoomCrowd``."""
        super().begin()
        self._deflated = []

    @property
    def deflated(self) -> int:
        """Bytes of all frames since ``begin``, compressed where a gateway would."""
        return sum(size * len(told.at) for told, size in self._deflated)


def _since(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {name: round(after[name] - before[name], 6) for name in before}


def measure(house: House, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything, in an order in which one room only grows."""
    # First of all: the gateway learns of stores when it first looks for one, and then now and again.
    asyncio.run(_store(house.database_url))
    steps = sorted([*((*point, "fit") for point in plan.fit), *((*point, "check") for point in plan.check)])
    found: dict[str, Any] = {"fit": [], "check": [], "joins": []}
    with Receiver() as receiver:
        gateway, room = house.gateway(), house.room()
        meters = Meters(house, gateway)
        crowd = MeteredCrowd(gateway.port, room.id)
        receiver.connect(crowd, [house.guide_token])
        tokens = iter(house.tokens(max(viewers for viewers, *_ in steps)))
        receiver.listen(SETTLE_SECONDS)
        empty_kib = meters.resident()
        for viewers, rate, purpose in steps:
            more = viewers - (len(crowd.viewers) - 1)
            if more:
                say(f"{viewers:,} viewers come in")
                batch = [next(tokens) for _ in range(more)]
                found["joins"].append(_come(receiver, crowd, meters, batch))
            say(f"{viewers:,} viewers, {rate:g} comments/s")
            found[purpose].append(_point(receiver, crowd, meters, rate, plan.seconds))
        found["memory"] = {"viewers": len(crowd.viewers), "empty_kib": empty_kib, "full_kib": meters.resident()}
        say("viewers come back")
        found["returns"] = _return(receiver, crowd, meters, gateway, room)
        say("a claim drop and a push drop")
        found["claim"], found["push"] = _coupons(receiver, house, gateway, meters, plan.coupons)
        found["redis_memory_bytes"] = meters.redis_memory()
    say("Redis and its subscribers")
    found["listeners"] = meters.listeners(plan.listeners_seconds)
    return found


def _come(receiver: Receiver, crowd: RoomCrowd, meters: Meters, tokens: list[str]) -> dict[str, float]:
    before, welcomes, size = meters.read(), crowd.welcomes, crowd.welcome_bytes
    receiver.connect(crowd, tokens, AT_ONCE)
    receiver.listen(SETTLE_SECONDS)  # the last arrivals are told, and presence knows them
    done = _since(before, meters.read())
    return done | {"viewers": len(tokens), "welcome_bytes": (crowd.welcome_bytes - size) / (crowd.welcomes - welcomes)}


def _point(receiver: Receiver, crowd: MeteredCrowd, meters: Meters, rate: float, seconds: float) -> dict[str, float]:
    speakers = crowd.viewers[1:]
    crowd.begin()
    before, began, said = meters.read(), time.monotonic(), 0
    while (elapsed := time.monotonic() - began) < seconds:
        while said < rate * elapsed:
            number = next(_numbers)
            said += 1
            text = stamped(WORDS[number % len(WORDS)])
            speakers[number * 7 % len(speakers)].send(wire.encoder.encode(wire.Comment(f"k{number}", text)))
        receiver.turn(0.002)
    receiver.listen(0.3)  # what is on its way belongs to it
    done = _since(before, meters.read())
    return done | {
        "viewers": len(crowd.viewers),
        "seconds": round(time.monotonic() - began, 4),
        "comments": crowd.comments,
        "refused": sum(crowd.refused.values()),
        "frames": crowd.arrivals,
        "events": crowd.deliveries,
        "bytes": crowd.received,
        "deflated_bytes": crowd.deflated,
    }


def _return(receiver: Receiver, crowd: RoomCrowd, meters: Meters, gateway: Gateway, room: Room) -> dict[str, float]:
    """Half of the viewers lose the network and come back from where they were."""
    gone = crowd.viewers[1 : len(crowd.viewers) // 2 + 1]
    receiver.leave(gone)
    ends = time.monotonic() + 30
    while gateway.figures()["nearcast_gateway_viewers"] > len(crowd.viewers) - len(gone):
        if time.monotonic() > ends:
            raise CannotMeasure("the gateway does not notice that viewers are gone")
        receiver.listen(0.1)
    room.announce(stamped("missed"))
    receiver.listen(SETTLE_SECONDS)
    back = RoomCrowd(crowd.address[1], room.id)
    back.return_from(crowd)
    done = _come(receiver, back, meters, [viewer.token for viewer in gone])
    return done | {"recovered": back.recovered}


# ---- coupons -------------------------------------------------------------------------------------------------------


async def _store(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            "INSERT INTO stores (id, brand_id, code, name, banner, city, address, source_lng, source_lat, source_datum,"
            " position) VALUES ($1, $2, 'BENCH', '门店', '晴岚', '上海', '路1号', $3, $4, 'gcj02',"
            " ST_SetSRID(ST_MakePoint($3, $4), 4326)::geography) ON CONFLICT DO NOTHING",
            uuid4(), BRAND, *STORE,
        )  # fmt: skip
    finally:
        await connection.close()


async def _campaign(url: str, stock: int) -> UUID:
    """A running campaign with ``stock`` coupons; there is no shorter way that needs no ops."""
    campaign = uuid4()
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            "INSERT INTO campaigns (id, brand_id, title, kind, amount_fen, threshold_fen, stock, valid_days, state)"
            " VALUES ($1, $2, '满100减20', 'amount', 2000, 10000, $3, 7, 'running')",
            campaign, BRAND, stock,
        )  # fmt: skip
    finally:
        await connection.close()
    return campaign


async def _consent(url: str, tokens: list[str]) -> None:
    """Make their owners members who agreed to be located."""
    bodies = (token.split(".")[1] for token in tokens)
    people = [UUID(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["sub"]) for body in bodies]
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            "WITH people AS (SELECT unnest($1::uuid[]) AS id), member AS ("
            "INSERT INTO members (id, brand_id, openid, name)"
            " SELECT id, $2, id::text, 'viewer' FROM people RETURNING id)"
            " INSERT INTO location_consents (viewer_id, version, given_at) SELECT id, 'bench', now() FROM member",
            people, BRAND,
        )  # fmt: skip
    finally:
        await connection.close()


async def _count(url: str, table: str, column: str, of: UUID) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval(f"SELECT count(*) FROM {table} WHERE {column} = $1", of))
    finally:
        await connection.close()


class ClaimCrowd(RoomCrowd):
    """Remembers the drop that its guide opened."""

    drop: UUID | None = None

    def _understand(self, viewer: Any, payload: bytes) -> Told | None:
        if viewer is self.viewers[0] and payload.startswith(b'{"t":"ack"'):
            ack = wire.server_frames.decode(payload)
            self.drop = getattr(ack, "drop", None) or self.drop
        return super()._understand(viewer, payload)


def _coupons(
    receiver: Receiver, house: House, gateway: Gateway, meters: Meters, viewers: int
) -> tuple[dict[str, float], dict[str, float]]:
    room = house.room()
    crowd = ClaimCrowd(gateway.port, room.id)
    receiver.connect(crowd, [house.guide_token])
    tokens, url = house.tokens(viewers), house.database_url
    asyncio.run(_consent(url, tokens))
    receiver.connect(crowd, tokens, AT_ONCE)
    for place, viewer in enumerate(crowd.viewers[1:]):
        fix = wire.Locate(STORE[0] + place % 97 * 1.1e-5, STORE[1] + place % 89 * 1.3e-5, "gcj02", 20.0 + place % 7)
        viewer.send(wire.encoder.encode(fix))
    located = lambda: asyncio.run(_count(url, "locations", "room_id", UUID(room.id))) >= viewers  # noqa: E731
    _poll(receiver, located, lambda: f"locations are written ({dict(crowd.refused)})")
    claim = _drop(receiver, house, meters, crowd, "claim", viewers)
    push = _drop(receiver, house, meters, crowd, "push", viewers)
    return claim, push


def _poll(receiver: Receiver, done: Callable[[], bool], what: Callable[[], str]) -> None:
    ends = time.monotonic() + 60
    while not done():
        if time.monotonic() > ends:
            raise CannotMeasure(f"{what()}: not within a minute")
        receiver.listen(0.2)


def _drop(
    receiver: Receiver, house: House, meters: Meters, crowd: ClaimCrowd, mode: Any, viewers: int
) -> dict[str, float]:
    url = house.database_url
    campaign = asyncio.run(_campaign(url, viewers))
    receiver.listen(SETTLE_SECONDS)
    crowd.drop = None
    before, began = meters.read(), time.monotonic()
    guide = crowd.viewers[0]
    guide.send(wire.encoder.encode(wire.Drop(f"d{next(_numbers)}", campaign, mode)))
    receiver.until(lambda: crowd.drop is not None, f"the {mode} drop opens")
    if mode == "claim":
        drop = crowd.drop
        assert drop is not None
        for viewer in crowd.viewers[1:]:
            viewer.send(wire.encoder.encode(wire.Claim(f"x{next(_numbers)}", drop)))
            receiver.turn(0)
    given = lambda: asyncio.run(_count(url, "coupons", "campaign_id", campaign)) >= viewers  # noqa: E731
    _poll(receiver, given, lambda: f"the coupons of a {mode} drop are given ({dict(crowd.refused)})")
    receiver.listen(SETTLE_SECONDS)
    return _since(before, meters.read()) | {"coupons": viewers, "seconds": round(time.monotonic() - began, 3)}


def main() -> int:
    """Measure; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.calibrate", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a few seconds; to see that it runs")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _, other = cores()

    def say(what: str) -> None:
        sys.stderr.write(f"{what} …\n")
        sys.stderr.flush()

    try:
        say("servers start")
        with on_core(other), House() as house:
            result = measure(house, Plan.tiny() if chosen.tiny else Plan(), say)
    except CannotMeasure as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    whole = {"version": VERSION, "machine": describe(), "taken": int(time.time()), "tiny": chosen.tiny, **result}
    sys.stdout.write(json.dumps(whole) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
