"""A brand's CRM that wants to know hears once of every coupon that is about to expire, and never at night."""

import asyncio
from dataclasses import replace
from datetime import datetime, time, timedelta
from uuid import UUID

import pytest
from crms import EVERY, Crm, hook, lines, push, use, working
from world import BRAND, ZONE, World, principal

from coupons import ledger, reminders, voiding, wallet
from coupons.codes import display
from kernel.clock import now
from kernel.identity import Role
from kernel.postgres import transaction


async def ends_in(world: World, coupon: UUID, hours: float, *, lives: float = 96) -> None:
    """The coupon ends in ``hours``, after a life of ``lives``."""
    await world.execute(
        "UPDATE coupons SET valid_until = :end, valid_from = :begin WHERE id = :id",
        id=coupon, end=(end := now() + timedelta(hours=hours)), begin=end - timedelta(hours=lives),
    )  # fmt: skip
    await world.backdate()


async def announced(world: World) -> set[UUID]:
    rows = await world.execute("SELECT coupon_id FROM ledger WHERE transition = 'remind'")
    assert len({row.coupon_id for row in rows}) == len(rows), "twice"
    return {row.coupon_id for row in rows}


async def announce(world: World, at: datetime | None = None) -> int:
    told = 0
    while some := await reminders.announce_due(world.kernel.sessions, at or now()):
        told += some
    return told


async def test_the_crm_hears_of_it_between_the_issue_and_the_expiry(world: World, crm: Crm) -> None:
    await hook(world, crm.url, [*EVERY, "expiring"])
    (coupon,) = await push(world, 1)
    await ends_in(world, coupon, 20)
    assert await announce(world) == 1
    await world.execute("UPDATE coupons SET valid_until = now() - interval '1 second'")
    assert await ledger.expire_due(world.kernel.sessions, now()) == 1
    async with working(world):
        await crm.until(lambda: len(crm.told) == 3)
    assert crm.told == await lines(world)
    assert [event["type"] for event in crm.events] == ["coupon.issued", "coupon.expiring", "coupon.expired"]
    async with world.kernel.sessions() as session:
        assert (await ledger.audit(session)).findings == []


async def test_a_day_before_or_half_way_through_what_lives_shorter(world: World, crm: Crm) -> None:
    await hook(world, crm.url, ["expiring"])
    coupons = await push(world, 5)
    for coupon, hours, lives in zip(coupons, (23.9, 24.1, 9.9, 10.1, 0.1), (96, 96, 20, 20, 20), strict=True):
        await ends_in(world, coupon, hours, lives=lives)
    assert await announce(world) == 3
    assert await announced(world) == {coupons[0], coupons[2], coupons[4]}
    assert await announce(world, now() + timedelta(minutes=20)) == 2
    assert await announced(world) == set(coupons)


async def test_two_workers_tell_of_each_once(world: World, crm: Crm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reminders, "CHUNK", 3)
    await hook(world, crm.url, ["expiring"])
    coupons = await push(world, 20)
    for coupon in coupons:
        await ends_in(world, coupon, 5)
    assert sum(await asyncio.gather(*(announce(world) for _ in range(4)))) == 20
    assert await announced(world) == set(coupons)


async def test_nobody_hears_of_what_cannot_be_used_or_is_held_nor_a_crm_that_does_not_ask(
    world: World, crm: Crm
) -> None:
    used, voided, erased, held, over, kept = await push(world, 6)
    for coupon in (used, voided, erased, held, over, kept):
        await ends_in(world, coupon, 5)
    await use(world, used)
    async with transaction(world.kernel.sessions) as session:
        code = await world.scalar("SELECT code FROM coupons WHERE id = :id", id=voided)
        await voiding.void(session, world.ops, display(code), now())
    await world.execute("UPDATE coupons SET ownerless = true WHERE id = :id", id=erased)
    await world.execute("UPDATE coupons SET held_until = valid_from WHERE id = :id", id=held)
    await world.execute("UPDATE coupons SET valid_until = now() WHERE id = :id", id=over)
    assert await announce(world) == 0, "nobody asked"
    await hook(world, crm.url, EVERY)
    assert await announce(world) == 0, "it asked for other things"
    await hook(world, crm.url, ["expiring"])
    await world.execute("UPDATE webhooks SET brand_id = 'other'")
    assert await announce(world) == 0, "another brand asked"
    await world.execute("UPDATE webhooks SET brand_id = :brand", brand=BRAND)
    assert await announce(world) == 1
    assert await announced(world) == {kept}


@pytest.mark.parametrize(("begins", "ends"), [("22:00", "08:00"), ("00:30", "23:30")])
async def test_not_in_quiet_hours(world: World, crm: Crm, begins: str, ends: str) -> None:
    await hook(world, crm.url, ["expiring"])
    (coupon,) = await push(world, 1)
    hours = {"begins": time.fromisoformat(begins), "ends": time.fromisoformat(ends)}
    await world.execute("UPDATE brands SET quiet_from = :begins, quiet_until = :ends", **hours)
    day = now().astimezone(ZONE).date() + timedelta(days=1)
    last, first = (datetime.fromisoformat(f"{day} {clock}").replace(tzinfo=ZONE) for clock in (begins, ends))
    until = max(last, first) + timedelta(hours=2)
    await world.execute("UPDATE coupons SET valid_until = :until", until=until)
    for quiet in (last, last + timedelta(minutes=5), first - timedelta(minutes=5)):
        assert await announce(world, quiet) == 0
    assert await announce(world, first) == 1
    assert await announced(world) == {coupon}


async def test_a_reminder_is_no_step_of_its_coupon(world: World, crm: Crm) -> None:
    """It can be used afterwards, and its owner's history does not show it."""
    await hook(world, crm.url, ["expiring"])
    (coupon,) = await push(world, 1)
    await ends_in(world, coupon, 5)
    assert await announce(world) == 1
    await use(world, coupon)
    assert await announce(world) == 0
    owner = await world.scalar("SELECT viewer_id FROM coupons")
    viewer = replace(principal(Role.VIEWER, "v"), subject=owner)
    async with world.kernel.sessions() as session:
        assert [step.transition for step in await wallet.history(session, viewer, coupon, now())] == ["issue", "redeem"]
    async with world.kernel.sessions() as session:
        assert (await ledger.audit(session)).findings == []
