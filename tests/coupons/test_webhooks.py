"""A brand's CRM hears of every coupon: once more rather than never, in order, signed, whatever either side suffers."""

import asyncio
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from crms import Crm, column, hook, lines, push, until, use, working
from sqlalchemy import text
from world import World

from coupons import callback, ledger, redemption, webhooks
from coupons.deliveries import BATCH, Horizon
from coupons.issuing import Issuer
from geo.catchments import Catchments
from kernel.clock import now
from kernel.postgres import transaction


async def test_the_life_of_a_coupon_is_told_in_order_and_signed(world: World, crm: Crm) -> None:
    webhook = await hook(world, crm.url)
    coupon, other = await push(world, 2)
    used = await use(world, coupon)
    async with transaction(world.kernel.sessions) as session:
        await redemption.reverse(session, world.clerk(), used, now())
    await world.execute("UPDATE coupons SET valid_until = now() - interval '1 second' WHERE id = :id", id=other)
    assert await ledger.expire_due(world.kernel.sessions, now()) == 1
    async with working(world):
        await crm.until(lambda: len(crm.told) == 5)
    assert crm.told == await lines(world)
    story = [event["type"] for event in crm.events if event["coupon"] == str(coupon)]
    assert story == ["coupon.issued", "coupon.redeemed", "coupon.reversed"]
    assert [e["type"] for e in crm.events if e["coupon"] == str(other)] == ["coupon.issued", "coupon.expired"]
    redeemed = next(event for event in crm.events if event["type"] == "coupon.redeemed")
    assert redeemed["order"] == {"redemption": str(used), "order_fen": 15_000, "discount_fen": 2000}
    assert redeemed["store"] == "S1" and "code" not in redeemed

    headers, body = crm.calls[0]
    secret, kid = await column(world, webhook, "secret"), await column(world, webhook, "key_id")
    expected = hmac.new(secret.encode(), headers["nearcast-timestamp"].encode() + b"." + body, hashlib.sha256)
    assert headers["nearcast-signature"] == f"{kid}={expected.hexdigest()}"
    assert abs(int(headers["nearcast-timestamp"]) - now().timestamp()) < 300
    assert json.loads(body)["webhook"] == str(webhook)


async def test_the_example_on_the_page_tells_our_calls_from_others(world: World, crm: Crm) -> None:
    page = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
    example: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], example)
    genuine = example["genuine"]
    webhook = await hook(world, crm.url)
    await push(world, 1)
    async with working(world):
        await crm.until(lambda: bool(crm.calls))
    headers, body = crm.calls[0]
    secrets = {await column(world, webhook, "key_id"): await column(world, webhook, "secret")}
    assert genuine(headers, body, secrets)
    assert not genuine(headers, body + b" ", secrets)
    assert not genuine(headers, body, dict.fromkeys(secrets, "guess"))
    old = str(int(headers["nearcast-timestamp"]) - 301)
    resigned = callback.signed_headers(secrets, int(old), body)
    assert not genuine({name.lower(): value for name, value in resigned.items()}, body, secrets)
    assert not genuine(headers | {"nearcast-timestamp": old}, body, secrets)
    assert not genuine({}, body, secrets)


async def test_only_what_was_asked_for_and_only_of_ones_own_brand(world: World, crm: Crm) -> None:
    mine = await hook(world, crm.url, ["redeemed"])
    await world.execute(
        "INSERT INTO webhooks (id, brand_id, url, events, key_id, secret, created_by)"
        " VALUES (gen_random_uuid(), 'other', :url, ARRAY['issued'], 'k', 's', gen_random_uuid())",
        url=crm.url,
    )
    coupon, _ = await push(world, 2)
    await use(world, coupon)
    newest = (await lines(world))[-1]

    async def both_are_there() -> bool:
        return bool(await world.scalar("SELECT min(cursor) FROM webhooks") == newest)

    async with working(world):
        await until(both_are_there)
    assert [event["type"] for event in crm.events] == ["coupon.redeemed"]
    assert json.loads(crm.calls[0][1])["webhook"] == str(mine)


async def test_many_events_go_in_batches_and_one_call_at_a_time(world: World, crm: Crm) -> None:
    await hook(world, crm.url)
    await push(world, BATCH + 50)
    async with working(world):
        await crm.until(lambda: len(crm.told) >= BATCH + 50)
    assert crm.told == await lines(world)
    assert len(crm.calls) == 2 and crm.most_open == 1


@pytest.mark.parametrize("slow_is_first", [True, False], ids=["older transaction", "younger transaction"])
async def test_a_line_that_commits_behind_others_is_not_skipped(world: World, crm: Crm, slow_is_first: bool) -> None:
    """The lower identifier belongs to a transaction that commits later: nothing may be told beyond it before."""
    await hook(world, crm.url)
    coupons = await push(world, 2)
    line = text("INSERT INTO ledger (coupon_id, transition) VALUES (:id, 'redeem') RETURNING id")
    lock = text("SELECT id FROM coupons WHERE id = :id FOR UPDATE")
    async with working(world):
        await crm.until(lambda: len(crm.told) == 2)
        async with transaction(world.kernel.sessions) as slow:
            async with transaction(world.kernel.sessions) as quick:
                both = [(slow, coupons[0]), (quick, coupons[1])]
                for session, coupon in both if slow_is_first else reversed(both):
                    await session.execute(lock, {"id": coupon})  # here each gets its transaction number
                lower, higher = [await session.scalar(line, {"id": coupon}) for session, coupon in both]
                assert lower < higher
            newcomer = Horizon()
            for _ in range(5):
                assert await newcomer.advance(world.kernel.sessions) == 0
            assert crm.told[2:] == []
        await crm.until(lambda: len(crm.told) == 4)
    assert crm.told[2:] == [lower, higher]


async def test_the_horizon_follows_the_ledger_while_others_only_read(world: World) -> None:
    horizon = Horizon()
    async with world.kernel.sessions() as reader:
        await reader.execute(text("SELECT 1 FROM ledger"))
        await push(world, 3)
        assert await horizon.advance(world.kernel.sessions) == (await lines(world))[-1]


async def test_a_new_webhook_begins_with_the_last_minute(world: World) -> None:
    await push(world, 3)
    await world.execute("UPDATE ledger SET at = now() - interval '2 minutes' WHERE id < (SELECT max(id) FROM ledger)")
    async with transaction(world.kernel.sessions) as session:
        made = await webhooks.create(session, world.ops, "https://crm.example.com/", ["issued"], ())
    assert made.cursor == (await lines(world))[-2]


async def test_claims_under_load_are_told_each_and_in_order(world: World, crm: Crm) -> None:
    """Several transactions write at once while the courier reads: whatever their order of commits, none is skipped."""
    await hook(world, crm.url)
    campaigns = [await world.campaign(stock=500) for _ in range(4)]
    open_drops = [await world.drop(campaign, "claim", 500) for campaign in campaigns]
    viewers = await world.viewers(60)
    async with working(world), Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        await asyncio.gather(*(issuer.claim(v, world.room, drop, "one") for v in viewers for drop in open_drops))
        await crm.until(lambda: len(crm.told) >= 240)
    assert crm.told == await lines(world)
