"""Several operating-system processes want the same coupons at the same moment, and some are killed."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from world import SIGNER_SEED, World, make_world

from coupons import drops, ledger, redemption
from coupons.cards import CouponCard
from coupons.codes import Signer
from coupons.issuing import Issuer
from geo.catchments import Catchments
from kernel.clock import now
from kernel.postgres import transaction
from kernel.process import Kernel

ROOT = Path(__file__).parent.parent.parent
RACER = Path(__file__).parent / "racer.py"


class Race:
    """Starts racers, lets them go at the same moment, and reads what each got."""

    def __init__(self, world: World) -> None:
        self._environment = os.environ | {
            "NEARCAST_DATABASE_URL": str(world.kernel.settings.database_url),
            "PYTHONPATH": str(ROOT),
        }
        self.racers: list[Process] = []

    async def enter(self, task: dict[str, Any]) -> Process:
        racer = await asyncio.create_subprocess_exec(
            sys.executable, str(RACER), json.dumps(task, default=str), stdin=PIPE, stdout=PIPE, env=self._environment
        )
        self.racers.append(racer)
        return racer

    async def go(self) -> list[list[str]]:
        for racer in self.racers:
            assert racer.stdout is not None
            assert await racer.stdout.readline() == b"ready\n"
        for racer in self.racers:
            assert racer.stdin is not None
            racer.stdin.write(b"go\n")
        return [json.loads((await racer.communicate())[0] or b"[]") for racer in self.racers]

    async def leave(self) -> None:
        for racer in self.racers:
            if racer.returncode is None:
                racer.kill()
                await racer.wait()


@pytest.fixture
async def world(kernel: Kernel) -> World:
    return await make_world(kernel)


@pytest.fixture
async def race(world: World) -> Any:
    race = Race(world)
    yield race
    await race.leave()
    async with world.kernel.sessions() as session:
        assert (await ledger.audit(session)).findings == []


@pytest.mark.parametrize(
    ("processes", "callers", "stock"),
    [
        (2, 64, 10),
        pytest.param(4, 64, 10, marks=pytest.mark.deep),
        (8, 64, 1),
        pytest.param(8, 512, 1, marks=pytest.mark.deep),
    ],
)
async def test_of_many_claims_from_several_processes_as_many_win_as_there_are_coupons(
    world: World, race: Race, processes: int, callers: int, stock: int
) -> None:
    drop = await world.drop(await world.campaign(stock=stock), stock=stock)
    viewers = [viewer.subject for viewer in await world.viewers(callers)]
    for place in range(processes):
        mine = viewers[place::processes]
        await race.enter({"do": "claim", "room": world.room, "drop": drop, "viewers": mine, "key": "c"})
    answers = [answer for process in await race.go() for answer in process]
    assert answers.count("sold_out") == callers - stock
    promised = {answer for answer in answers if answer != "sold_out"}
    assert promised == {str(row[0]) for row in await world.execute("SELECT id FROM coupons")}
    assert len(promised) == stock


@pytest.mark.parametrize(
    ("processes", "callers", "stock"), [(2, 24, 20), pytest.param(7, 448, 300, marks=pytest.mark.deep)]
)
async def test_a_budget_lowered_while_coupons_are_claimed_is_never_exceeded(
    world: World, race: Race, processes: int, callers: int, stock: int
) -> None:
    campaign = await world.campaign(stock=stock)
    drop = await world.drop(campaign, stock=stock)
    viewers = [viewer.subject for viewer in await world.viewers(callers)]
    for place in range(processes):
        mine = viewers[place::processes]
        task = {"do": "claim", "room": world.room, "drop": drop, "viewers": mine, "key": "c"}
        await race.enter(task | {"campaign": campaign, "below": stock})
    await race.enter({"do": "budget", "campaign": campaign, "given": callers // 4, "least": stock // 3, "step": 3})
    *claims, [left] = await race.go()
    answers = [answer for process in claims for answer in process]
    promised = {answer for answer in answers if answer != "sold_out"}
    assert promised == {str(row[0]) for row in await world.execute("SELECT id FROM coupons")}
    ((issued, now_stock),) = await world.execute("SELECT issued, stock FROM campaigns")
    assert len(promised) == issued <= now_stock == int(left) < stock


async def test_the_same_viewers_in_4_processes_get_one_each(world: World, race: Race) -> None:
    drop = await world.drop(await world.campaign(), stock=50)
    viewers = [viewer.subject for viewer in await world.viewers(12)]
    for place in range(4):
        # Two processes share a claim's id, as a client does that retries elsewhere; the other two another one.
        key = f"c{place // 2}"
        await race.enter({"do": "claim", "room": world.room, "drop": drop, "viewers": viewers, "key": key})
    answers = await race.go()
    assert await world.scalar("SELECT count(*) FROM coupons") == 12
    for per_viewer in zip(*answers, strict=True):
        coupons = {answer for answer in per_viewer if answer != "limit_reached"}
        assert len(coupons) == 1
        assert per_viewer.count("limit_reached") == 2


async def test_two_drops_of_a_campaign_cannot_give_more_than_it_has(world: World, race: Race) -> None:
    campaign = await world.campaign(stock=15, store_quota=12)
    await world.store("S2", north_m=200)
    for _ in range(2):
        drop = await world.drop(campaign, stock=15)
        for _ in range(2):
            viewers = [viewer.subject for viewer in await world.viewers(10)]
            await race.enter({"do": "claim", "room": world.room, "drop": drop, "viewers": viewers, "key": "c"})
    answers = [answer for process in await race.go() for answer in process]
    assert len(answers) - answers.count("sold_out") == 15 == await world.scalar("SELECT count(*) FROM coupons")


@pytest.mark.parametrize("one_till", [False, pytest.param(True, marks=pytest.mark.deep)])
async def test_of_16_tills_in_4_processes_one_redeems(world: World, race: Race, one_till: bool) -> None:
    drop = await world.drop(await world.campaign())
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        card = await issuer.claim((await world.viewers(1))[0], world.room, drop, "c")
    key = str(uuid4())
    task = {"do": "redeem", "store": world.stores["S1"], "seed": SIGNER_SEED.hex(), "code": card.code}
    for _ in range(4):
        await race.enter(task | {"keys": [key if one_till else str(uuid4()) for _ in range(4)]})
    answers = [answer for process in await race.go() for answer in process]
    (redemption,) = [str(row[0]) for row in await world.execute("SELECT id FROM redemptions")]
    if one_till:
        assert answers == [redemption] * 16, "a repeated request must learn that it worked"
    else:
        assert sorted(answers) == sorted([redemption] + ["already_redeemed"] * 15)


async def _card(world: World) -> CouponCard:
    drop = await world.drop(await world.campaign())
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        return await issuer.claim((await world.viewers(1))[0], world.room, drop, "c")


async def _states(world: World) -> tuple[str, list[str]]:
    """The coupon's state, and what the ledger says of it."""
    lines = await world.execute("SELECT transition FROM ledger ORDER BY id")
    return await world.scalar("SELECT state FROM coupons"), [row[0] for row in lines]


@pytest.mark.parametrize("eager", [1, pytest.param(8, marks=pytest.mark.deep)])
async def test_a_coupon_taken_back_used_and_expired_at_once_is_one_of_these(
    world: World, race: Race, eager: int
) -> None:
    card = await _card(world)
    late = await world.scalar("SELECT valid_until + interval '1 second' FROM coupons")
    clerk = world.clerk()
    async with transaction(world.kernel.sessions) as session:
        used = await redemption.redeem(
            session, clerk, redemption.Presented(card.code, None), 20_000, "first", Signer(SIGNER_SEED), now()
        )
    till = {"store": world.stores["S1"], "seed": SIGNER_SEED.hex(), "code": card.code}
    await race.enter({"do": "reverse", "redemption": used.id, "times": 4 * eager} | till)
    await race.enter({"do": "redeem", "keys": [str(uuid4()) for _ in range(8 * eager)]} | till)
    await race.enter({"do": "expire", "moment": late.isoformat(), "times": 2 * eager})
    backs, uses, swept = await race.go()
    assert len(set(backs)) == 1 and backs[0] != "reversal_too_late", "taken back once, and all are told the same time"
    again = [answer for answer in uses if answer not in ("already_redeemed", "coupon_expired", "busy")]
    expired = sum(map(int, swept))
    assert len(again) + expired <= 1
    end = {(1, 0): ("redeemed", ["redeem"]), (0, 1): ("expired", ["expire"]), (0, 0): ("issued", [])}
    state, last = end[len(again), expired]
    assert await _states(world) == (state, ["issue", "redeem", "reverse", *last])


@pytest.mark.parametrize("coupons", [30, pytest.param(600, marks=pytest.mark.deep)])
async def test_two_processes_of_sweeps_expire_each_coupon_once_and_return_it_once(
    world: World, race: Race, coupons: int
) -> None:
    campaign = await world.campaign(stock=coupons, store_quota=coupons, return_expired=True)
    drop = await world.drop(campaign, "push", stock=coupons)
    await world.viewers(coupons)
    assert await drops.run_push(world.kernel.sessions, drop) == coupons
    late = await world.scalar("SELECT max(valid_until) + interval '30 days' FROM coupons")
    for _ in range(2):
        await race.enter({"do": "expire", "moment": late.isoformat(), "times": 4, "chunk": 7})
    assert sum(int(n) for process in await race.go() for n in process) == coupons
    assert await world.execute("SELECT stock, issued, returned FROM campaigns") == [(2 * coupons, coupons, coupons)]
    assert await world.execute("SELECT quota, issued, returned FROM campaign_stores") in (
        [],
        [(2 * coupons, coupons, coupons)],
    )


async def test_a_coupon_expires_or_is_used_and_never_both(world: World, race: Race) -> None:
    card = await _card(world)
    late = await world.scalar("SELECT valid_until + interval '1 second' FROM coupons")
    till = {"store": world.stores["S1"], "seed": SIGNER_SEED.hex(), "code": card.code}
    await race.enter({"do": "expire", "moment": late.isoformat(), "times": 3})
    await race.enter({"do": "redeem", "keys": [str(uuid4()) for _ in range(4)]} | till)
    swept, uses = await race.go()
    if sum(map(int, swept)):
        assert uses == ["coupon_expired"] * 4
        assert await _states(world) == ("expired", ["issue", "expire"])
    else:
        assert uses.count("already_redeemed") == 3
        assert await _states(world) == ("redeemed", ["issue", "redeem"])


async def test_two_push_workers_grant_everybody_once(world: World, race: Race) -> None:
    drop = await world.drop(await world.campaign(stock=200), "push", stock=200)
    await world.viewers(60)
    for _ in range(2):
        await race.enter({"do": "push", "drop": drop, "chunk": 5})
    granted = [int(answer) for process in await race.go() for answer in process]
    assert sum(granted) == 60 == await world.scalar("SELECT count(DISTINCT viewer_id) FROM coupons")


async def test_a_push_worker_killed_midway_is_resumed_without_a_second_grant(world: World, race: Race) -> None:
    drop = await world.drop(await world.campaign(stock=500), "push", stock=500)
    await world.viewers(120)
    worker = await race.enter({"do": "push", "drop": drop, "chunk": 2})
    running = asyncio.create_task(race.go())
    async with asyncio.timeout(60):
        while not await world.scalar("SELECT count(*) FROM coupons"):
            await asyncio.sleep(0.005)
    worker.send_signal(signal.SIGKILL)
    assert await running == [[]]
    before = await world.scalar("SELECT count(*) FROM coupons")
    assert 0 < before < 120, "the worker was to be killed midway"
    async with world.kernel.sessions() as session:
        assert list(await drops.due(session)) == [drop]
        assert (await ledger.audit(session)).findings == []
    assert await drops.run_push(world.kernel.sessions, drop) == 120 - before
    assert await world.scalar("SELECT count(DISTINCT viewer_id) FROM coupons") == 120
    told = await world.scalar(
        "SELECT sum(json_array_length(convert_from(payload, 'UTF8')::json -> 'grants')) FROM outbox"
        " WHERE topic = 'coupons.issued'"
    )
    assert told == 120, "every coupon is told exactly once"
