"""A CRM that fails, is silent or gone, and workers that die: each event is told again until it is heard."""

import asyncio
import json
import os
import sys
from datetime import timedelta
from uuid import UUID

import httpx
import pytest
from crms import HERE, Crm, column, failing, hook, lines, listening, push, soon, until, working
from world import World

from coupons import callback, webhooks
from coupons.deliveries import Courier, retry_delay
from kernel.postgres import transaction


async def test_a_failed_call_is_made_again_with_the_same_events(world: World, crm: Crm) -> None:
    webhook = await hook(world, crm.url)
    crm.answers = [500, 302, 400]
    await push(world, 3)
    async with working(world):
        for call in range(1, 4):

            async def failed(call: int = call) -> bool:
                return bool(await column(world, webhook, "failures") == call)

            await until(failed)
            assert await column(world, webhook, "due_at") > await column(world, webhook, "failing_since")
            await soon(world)
        await until(lambda: _settled(world, webhook))
    assert len(crm.calls) == 4 and len({body for _, body in crm.calls}) == 1
    assert await column(world, webhook, "cursor") == (await lines(world))[-1]
    assert await column(world, webhook, "failing_since") is None


async def _settled(world: World, webhook: UUID) -> bool:
    return bool(await column(world, webhook, "delivered_at IS NOT NULL AND failures = 0 AND last_error IS NULL"))


async def test_one_that_is_gone_is_paused_at_once_and_one_that_fails_for_days_too(world: World, crm: Crm) -> None:
    gone = await hook(world, crm.url)
    crm.answers = [410]
    await push(world, 1)
    async with working(world):
        await until(lambda: _paused(world, gone))
        assert await column(world, gone, "pause_reason") == "gone"
        assert await column(world, gone, "last_status") == 410
        await world.execute("DELETE FROM webhooks")
        tired = await hook(world, crm.url)
        crm.answers = [503, 503]
        await until(lambda: failing(world, tired))
        assert await column(world, tired, "state") == "active"
        await world.execute("UPDATE webhooks SET failing_since = now() - interval '80 hours', due_at = now()")
        await until(lambda: _paused(world, tired))
        assert await column(world, tired, "pause_reason") == "failing"
        assert await column(world, tired, "cursor") == 0
        async with transaction(world.kernel.sessions) as session:
            await webhooks.resume(session, world.ops, tired)
        await until(lambda: _settled(world, tired))


async def _paused(world: World, webhook: UUID) -> bool:
    return bool(await column(world, webhook, "state") == "paused")


async def test_one_that_is_down_or_silent_delays_nobody(world: World, crm: Crm) -> None:
    async with listening() as silent:
        silent.answers = [None] * 9
        mute = await hook(world, silent.url)
        down = await hook(world, "http://127.0.0.1:9/hook")
        await hook(world, crm.url)
        await push(world, 1)
        async with working(world):
            await silent.until(lambda: bool(silent.calls))
            await until(lambda: failing(world, down))
            # While the silent one keeps its caller, ten more coupons reach the others.
            for told in range(2, 12):
                await push(world, 1)
                await crm.until(lambda told=told: len(crm.told) == told)  # type: ignore[misc]
            assert await column(world, mute, "failures") == 0 and silent.open == 1
        assert await column(world, down, "last_error") == "connection"


async def test_one_that_restarts_hears_what_it_missed(world: World) -> None:
    async with listening() as before:
        webhook = await hook(world, before.url)
        await push(world, 1)
        async with working(world):
            await until(lambda: _settled(world, webhook))
    await push(world, 2)
    async with working(world):
        await until(lambda: failing(world, webhook))
        async with listening(httpx.URL(before.url).port or 0) as after:
            await soon(world)
            await after.until(lambda: len(after.told) == 2)
            await until(lambda: _settled(world, webhook))
    assert before.told + after.told == await lines(world)


async def test_a_call_takes_a_bounded_time(crm: Crm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback, "CALL_SECONDS", 0.2)
    crm.answers = [None]
    with callback.Network(HERE, 1) as network:
        async with callback.Caller(crm.url, network) as caller:
            assert await caller.post(b"{}", {}) == callback.Answer(None, "timeout")


async def test_a_receiver_may_ask_for_time(world: World, crm: Crm) -> None:
    webhook = await hook(world, crm.url)
    crm.answers, crm.headers = [429], "Retry-After: 1800\r\n"
    await push(world, 1)
    async with working(world):
        await until(lambda: failing(world, webhook))
    assert await column(world, webhook, "due_at > now() + interval '25 minutes'")


def test_waits_double_are_jittered_and_end_at_ten_minutes() -> None:
    for failures, most in ((1, 1), (2, 2), (5, 16), (30, 600)):
        waits = {retry_delay(failures, None).total_seconds() for _ in range(50)}
        assert most / 2 <= min(waits) and max(waits) <= most and len(waits) > 1
    assert retry_delay(1, 10**6) == timedelta(hours=1)


async def test_two_couriers_never_call_one_webhook_at_once(world: World, crm: Crm) -> None:
    await hook(world, crm.url)
    async with working(world), working(world):
        for _ in range(10):
            await push(world, 3)
        await crm.until(lambda: len(crm.told) >= 30)
    assert crm.most_open == 1
    assert crm.told == await lines(world)


async def test_a_worker_killed_between_sending_and_saving_sends_again(world: World, crm: Crm) -> None:
    webhook = await hook(world, crm.url)
    crm.answers = [None]
    await push(world, 2)
    settings = world.kernel.settings.model_copy(update={"webhook_hosts": HERE})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.cli", "worker",
        env=os.environ | settings.environment() | {"NEARCAST_WEBHOOK_HOSTS": json.dumps(HERE)},
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await crm.until(lambda: bool(crm.calls))
    finally:
        process.kill()
        await process.wait()
    assert await column(world, webhook, "cursor") == 0
    assert await column(world, webhook, "taken_until > now()"), "nobody else may call before the lease is over"
    async with Courier(world.kernel.sessions, HERE) as courier:
        assert [await courier.turn() for _ in range(5)] == [0] * 5
        await world.execute("UPDATE webhooks SET taken_until = now()")
        assert await courier.turn() == 1
        await until(lambda: _settled(world, webhook))
    assert crm.calls[0][1] == crm.calls[1][1] and len(crm.calls) == 2


async def test_a_courier_told_to_stop_leaves_its_webhooks_to_others(world: World, crm: Crm) -> None:
    webhook = await hook(world, crm.url)
    crm.answers = [None]
    await push(world, 1)
    async with working(world):
        await crm.until(lambda: bool(crm.calls))
    assert await column(world, webhook, "taken_by IS NULL AND cursor = 0")


async def test_a_webhook_sent_back_meanwhile_is_not_moved_by_the_old_call(world: World, crm: Crm) -> None:
    webhook = await hook(world, crm.url)
    await push(world, 3)
    first, *_ = before = await lines(world)
    async with working(world):
        await until(lambda: _settled(world, webhook))
        async with transaction(world.kernel.sessions) as session:
            await webhooks.replay(session, world.ops, webhook, first)
        await crm.until(lambda: len(crm.told) == 5)
    assert crm.told == [*before, *before[1:]]
