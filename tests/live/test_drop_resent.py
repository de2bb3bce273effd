"""A drop whose answer was lost: the client says it again, on whatever socket it has then, and there is one drop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from viewers import Client, gateway, watching
from world import World, make_world

from app.gateway import CouponDesk
from coupons.issuing import Issuer
from geo.catchments import Catchments
from kernel.ids import new_id
from kernel.process import Kernel
from live import wire
from live.gateway import Gateway


@pytest.fixture
async def world(kernel: Kernel) -> World:
    return await make_world(kernel)


@pytest.fixture
async def gateways(world: World) -> AsyncIterator[list[Gateway]]:
    """Two, as they run: they give the coupons of the database."""
    sessions = world.kernel.sessions
    async with Issuer(sessions, Catchments(sessions)) as issuer, AsyncExitStack() as stack:
        desk = CouponDesk(sessions, issuer)
        yield [await stack.enter_async_context(gateway(world.kernel, issuer=desk)) for _ in range(2)]


async def _phones(stack: AsyncExitStack, world: World, gateways: list[Gateway]) -> list[Client]:
    """A socket of the guide to each of the gateways."""
    keyring = world.kernel.keyring
    return [await stack.enter_async_context(watching(one.url, keyring, world.room, world.guide)) for one in gateways]


async def _say(phone: Client, command: wire.Drop) -> wire.Ack:
    await phone.send(command)
    return await phone.ack(command.id)


async def _drops(world: World) -> Any:
    return await world.scalar("SELECT count(*) FROM drops")


async def test_the_same_drop_again_is_answered_with_the_first_by_any_gateway(
    world: World, gateways: list[Gateway]
) -> None:
    drop = wire.Drop(str(new_id()), await world.campaign(), "claim", 10)
    async with AsyncExitStack() as stack:
        first, second = await _phones(stack, world, gateways)
        made = await _say(first, drop)
        assert made.drop is not None
        assert await _say(second, drop) == made
    async with AsyncExitStack() as stack:
        again, _ = await _phones(stack, world, gateways)
        assert await _say(again, drop) == made
    assert await _drops(world) == 1
    assert await world.scalar("SELECT count(*) FROM outbox WHERE topic = 'coupons.drop_opened'") == 1


async def test_the_same_drop_at_the_same_moment_on_two_gateways_is_one(world: World, gateways: list[Gateway]) -> None:
    campaign = await world.campaign()
    async with AsyncExitStack() as stack:
        phones = await _phones(stack, world, gateways)
        for n in range(1, 6):
            drop = wire.Drop(str(new_id()), campaign, "claim", 1)
            one, other = await asyncio.gather(*(_say(phone, drop) for phone in phones))
            assert one.ok
            assert one == other
            assert await _drops(world) == n


async def test_an_id_that_stood_for_another_drop_is_refused_by_any_gateway(
    world: World, gateways: list[Gateway]
) -> None:
    drop = wire.Drop(str(new_id()), await world.campaign(), "claim", 10)
    async with AsyncExitStack() as stack:
        first, second = await _phones(stack, world, gateways)
        assert (await _say(first, drop)).ok
        ack = await _say(second, wire.Drop(drop.id, drop.campaign, "claim", 11))
        assert ack.error is not None
        assert ack.error.code == "idempotency_mismatch"
    assert await _drops(world) == 1


async def test_a_drop_that_was_refused_may_be_tried_again_under_its_id(world: World, gateways: list[Gateway]) -> None:
    drop = wire.Drop(str(new_id()), await world.campaign(state="draft"), "claim", 10)
    async with AsyncExitStack() as stack:
        first, second = await _phones(stack, world, gateways)
        ack = await _say(first, drop)
        assert ack.error is not None
        assert ack.error.code == "campaign_state"
        await world.execute("UPDATE campaigns SET state = 'running'")
        assert (await _say(second, drop)).ok


async def test_an_id_that_nobody_can_keep_is_refused(world: World, gateways: list[Gateway]) -> None:
    drop = wire.Drop("a\0b", await world.campaign(), "claim", 10)
    async with AsyncExitStack() as stack:
        (phone, _) = await _phones(stack, world, gateways)
        ack = await _say(phone, drop)
        assert ack.error is not None
        assert ack.error.code == "invalid"
