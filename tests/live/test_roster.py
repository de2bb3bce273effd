"""Who is in a room: fair, complete where it says so, over all gateways, and gone with them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from roomworld import World
from viewers import gateway, principal, until, watching

from kernel.identity import Principal, Role
from live import presence, roster
from live.bus import key
from live.roster import LISTED, Present, Roster, Sample, merged


def people(count: int, first: int = 0) -> list[Present]:
    return [Present(UUID(int=first + n), f"{first + n}", 0) for n in range(count)]


def said(count: int, first: int = 0, seed: int = 0) -> tuple[int, Sample]:
    """A gateway that has ``count`` viewers, and what it names of them."""
    everybody = people(count, first)
    return count, Sample(count, Random(seed).sample(everybody, min(count, LISTED)))


def ids(roster: Roster) -> list[int]:
    return [one.id.int for one in roster.viewers]


def test_an_empty_room_is_complete() -> None:
    assert merged([], Random(1)) == Roster(0, True, [])


def test_few_viewers_on_several_gateways_are_all_listed() -> None:
    found = merged([said(20), said(0, 100), said(30, 200)], Random(1))
    assert (found.total, found.complete) == (50, True)
    assert sorted(ids(found)) == [*range(20), *range(200, 230)]


def test_one_more_than_can_be_listed_is_a_sample() -> None:
    found = merged([said(20), said(31, 200)], Random(1))
    assert (found.total, found.complete, len(found.viewers)) == (51, False, LISTED)


def test_a_gateway_that_named_nobody_or_changed_since_makes_it_incomplete() -> None:
    assert merged([said(2), (3, None)], Random(1)) == Roster(5, False, merged([said(2)], Random(1)).viewers)
    _, sample = said(2)
    assert not merged([(3, sample)], Random(1)).complete


def test_who_watches_through_two_gateways_is_listed_once() -> None:
    found = merged([said(10), said(10)], Random(1))
    assert (found.total, found.complete, len(set(ids(found)))) == (10, True, 10)


def test_everybody_is_as_likely_to_be_listed_whatever_the_gateway() -> None:
    """900 viewers on one gateway and 100 on another: the small one's share is a tenth, not a half."""
    random, seen = Random(7), Counter[bool]()
    many, few = said(900), said(100, 10_000)
    for _ in range(150):
        seen.update(number >= 10_000 for number in ids(merged([many, few], random)))
    assert seen.total() == 150 * LISTED
    assert 0.08 < seen[True] / seen.total() < 0.12


@given(st.lists(st.integers(0, 120), max_size=6), st.integers(0, 2**32))
def test_a_roster_is_bounded_without_repeats_and_complete_when_it_says_so(sizes: list[int], seed: int) -> None:
    found = merged([said(size, 1000 * place, seed) for place, size in enumerate(sizes)], Random(seed))
    assert len(set(ids(found))) == len(found.viewers) == min(LISTED, sum(sizes))
    assert found.total == sum(sizes)
    assert found.complete == (sum(sizes) <= LISTED)


# ---- on gateways ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def crowd(world: World) -> AsyncIterator[Any]:
    """Lets people into the world's room."""
    async with AsyncExitStack() as stack:

        async def enter(url: str, who: Principal) -> Any:
            return await stack.enter_async_context(watching(url, world.kernel.keyring, world.room, who))

        yield enter


async def complete(world: World, size: int) -> Roster:
    """The roster once it is complete with ``size`` people."""
    async with asyncio.timeout(60):
        while not (found := await roster.ask(world.kernel.redis, world.room)).complete or found.total != size:
            await asyncio.sleep(0.05)
    return found


async def test_a_small_room_is_listed_over_all_gateways_without_its_staff(world: World, crowd: Any) -> None:
    names = {"小林", "小周", "小吴"}
    async with gateway(world.kernel) as one, gateway(world.kernel) as two:
        for place, name in enumerate(sorted(names)):
            await crowd((one, two)[place % 2].url, replace(principal(name), tier=place))
        await crowd(one.url, world.guide)
        found = await complete(world, 3)
        assert {(viewer.name, viewer.tier) for viewer in found.viewers} == {
            (name, place) for place, name in enumerate(sorted(names))
        }
        late = principal("晚来")
        await crowd(two.url, late)
        assert late.subject in {viewer.id for viewer in (await complete(world, 4)).viewers}


async def test_nobody_is_named_unless_somebody_asks(world: World, crowd: Any) -> None:
    async with gateway(world.kernel) as one:
        await crowd(one.url, world.viewer)
        async with asyncio.timeout(60):
            while not (await presence.figures_of(world.kernel.redis, [world.room]))[world.room].counts.viewers:
                await asyncio.sleep(0.05)
        assert not await world.kernel.redis.exists(key(world.room, "roster"))
        await complete(world, 1)
        assert await world.kernel.redis.exists(key(world.room, "roster"))


async def test_a_gateway_that_died_takes_its_viewers_with_it(
    world: World, crowd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "HOLD_SECONDS", 1.5)
    redis, room = world.kernel.redis, world.room
    async with gateway(world.kernel) as one:
        await crowd(one.url, world.viewer)
        # Another gateway's last words, as a beat would have said them.
        sample = roster._encode(Sample(2, people(2)))
        await presence.beat(redis, room, "gone", 2, 0, [], sample)
        async with asyncio.timeout(60):
            while (found := await roster.ask(redis, room)).total != 1:
                await asyncio.sleep(0.05)
    assert not {viewer.id.int for viewer in found.viewers} & {0, 1}


async def test_a_gateway_that_signs_off_is_out_of_the_roster_at_once(world: World, crowd: Any) -> None:
    async with gateway(world.kernel) as one:
        await crowd(one.url, world.viewer)
        await complete(world, 1)
    assert await roster.ask(world.kernel.redis, world.room) == Roster(0, True, [])


async def test_a_big_room_gives_a_sample_and_its_size(world: World, crowd: Any) -> None:
    async with gateway(world.kernel) as one, gateway(world.kernel) as two:
        for n in range(60):
            await crowd((one, two)[n % 2].url, principal(f"{n}"))
        await until(lambda: sum(len(g.hub.rooms[world.room].audience.people) for g in (one, two)) == 60)
        async with asyncio.timeout(60):
            while (found := await roster.ask(world.kernel.redis, world.room)).total != 60 or len(found.viewers) < 50:
                await asyncio.sleep(0.05)
    assert (found.complete, len({viewer.id for viewer in found.viewers})) == (False, LISTED)


async def test_a_drawn_sample_is_of_viewers_only_and_bounded(world: World, crowd: Any) -> None:
    async with gateway(world.kernel) as one:
        await crowd(one.url, world.viewer)
        await crowd(one.url, principal("店员", Role.OPS))
        audience = one.hub.rooms[world.room].audience
        drawn = roster._decode(roster.draw(audience, Random(1)))
        assert drawn == Sample(1, [Present(world.viewer.subject, world.viewer.name, 0)])
        [connections] = [audience.people[world.viewer.subject]]
        audience.people.update({UUID(int=n): connections for n in range(1, 3000)})
        assert len(roster._decode(roster.draw(audience, Random(1))).people) == LISTED
        for n in range(1, 3000):
            del audience.people[UUID(int=n)]
