"""Who is in a room, over all gateways: everybody in a small room, a fair sample of a big one.

Nobody is named unless somebody asks. Asking puts the room on a list that gateways read with each beat; for half a
minute those that hold viewers of the room then send, with their presence, how many they have and at most 50 of them.
What a gateway said holds as long as its presence does, so that the viewers of one that died vanish from both.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from random import Random
from time import monotonic, time
from typing import Any
from uuid import UUID

from msgspec import Struct, msgpack

from kernel.identity import Role
from kernel.redis import Client, Script
from live.audience import Audience
from live.bus import key

LISTED = 50
"""People whom a gateway, and the whole roster, names at most."""
ASKED_SECONDS = 30.0
WAIT_SECONDS = 2.5
"""How long the first one who asks waits for gateways to answer; they beat once a second."""
_LOOK_SECONDS = 0.1
_ASKED = "nearcast:rosters"
"""Sorted set of rooms that somebody asks about, by the time (seconds since 1970) until which gateways answer."""
_read = Script(Path(__file__).with_name("roster.lua"))


class Present(Struct, frozen=True, array_like=True):
    """Somebody who is there."""

    id: UUID
    name: str
    tier: int


class Sample(Struct, frozen=True, array_like=True):
    """What one gateway says: how many it has, and some of them, in no order; all of them if they are few."""

    size: int
    people: list[Present]


class Roster(Struct, frozen=True):
    """Who is there: everybody (``complete``), or a fair sample. ``total`` counts those not listed too."""

    total: int
    complete: bool
    viewers: list[Present]


_encode = msgpack.Encoder().encode
_decode = msgpack.Decoder(Sample).decode


def draw(audience: Audience, random: Random) -> bytes:
    """What a gateway says of its ``audience``, encoded. Costs one copy of a list of pointers, however big the room."""
    sockets = list(audience.people.values())
    if len(sockets) > 2 * LISTED:  # more than are named, since some may be staff
        sockets = random.sample(sockets, 2 * LISTED)
    people = [of_one[0].session.who for of_one in sockets if of_one[0].session is not None]
    viewers = [Present(who.subject, who.name, who.tier) for who in people if who and who.role is Role.VIEWER]
    return _encode(Sample(audience.size, viewers if len(viewers) <= LISTED else random.sample(viewers, LISTED)))


def merged(gateways: Sequence[tuple[int, Sample | None]], random: Random) -> Roster:
    """One roster of what gateways say now: for each the viewers it counts, and its sample if it sent one.

    Fair: each place goes to a gateway with a chance in proportion to those of its viewers not drawn yet, so that
    everybody is as likely to be listed as everybody else. Whoever watches through two gateways is listed once.
    """
    everybody = all(sample is not None and sample.size == viewers == len(sample.people) for viewers, sample in gateways)
    samples = [sample for _, sample in gateways if sample is not None]
    stacks = [random.sample(sample.people, len(sample.people)) for sample in samples]
    sizes = [sample.size for sample in samples]
    drawn: dict[UUID, Present] = {}
    while any(stacks) and len(drawn) < LISTED:
        weights = [max(size, len(stack)) if stack else 0 for size, stack in zip(sizes, stacks, strict=True)]
        [place] = random.choices(range(len(stacks)), weights)
        sizes[place] -= 1
        one = stacks[place].pop()
        drawn[one.id] = one
    complete = everybody and not any(stacks)
    total = len(drawn) if complete else max(len(drawn), sum(viewers for viewers, _ in gateways))
    return Roster(total, complete, list(drawn.values()))


async def asked(redis: Client) -> set[UUID]:
    """The rooms that somebody asks about. Raises what Redis raises."""
    rooms: Any = await redis.zrangebyscore(_ASKED, time(), "+inf")
    return {UUID(bytes=room) for room in rooms}


async def ask(redis: Client, room: UUID, random: Random | None = None) -> Roster:
    """Who is in ``room`` now. Waits up to ``WAIT_SECONDS`` for gateways that were not asked of late; one that has not
    answered by then makes it incomplete. Raises what Redis raises."""
    await redis.zremrangebyscore(_ASKED, "-inf", time())
    await redis.zadd(_ASKED, {room.bytes: time() + ASKED_SECONDS})
    deadline = monotonic() + WAIT_SECONDS
    while True:
        rows = await _read(redis, [key(room, "presence"), key(room, "roster")], [])
        gateways = [(viewers, _decode(sample) if sample else None) for viewers, sample in rows]
        if all(sample is not None for _, sample in gateways) or monotonic() > deadline:
            return merged(gateways, random or Random())  # noqa: S311 - a choice, not a secret
        await asyncio.sleep(_LOOK_SECONDS)
