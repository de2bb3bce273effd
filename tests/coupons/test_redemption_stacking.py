"""One order takes one discount and one gift, unless the brand says otherwise."""

import asyncio
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from tills import Tills
from world import ZONE, World

from coupons import redemption
from kernel.errors import Refusal
from kernel.postgres import transaction

GIFT: dict[str, Any] = {"kind": "gift", "gift": "乌龙茶", "amount_fen": None, "threshold_fen": 0}


async def redeem(tills: Tills, code: str, *, order: str | None = "A-1", fen: int | None = 15_000, key: str = "") -> Any:
    body = {"code": code, "order": order, "order_fen": fen}
    answer = await tills(tills.world.clerk(), "POST", "/redemptions", body, key=key or code)
    return answer.json() if answer.status_code == 200 else answer.json()["code"]


async def test_one_discount_and_one_gift_and_no_more(tills: Tills, world: World) -> None:
    off, more, gift, another = [await tills.coupon(**terms) for terms in ({}, {}, GIFT, GIFT)]
    first = await redeem(tills, off)
    assert (first["order"], first["discount_fen"]) == ("A-1", 2000)
    assert (await redeem(tills, gift))["order"] == "A-1"
    assert await redeem(tills, more) == "stacking"
    assert await redeem(tills, another) == "stacking"
    assert await redeem(tills, off, key="again") == "already_redeemed", "the nearer reason comes first"
    assert (await redeem(tills, off))["replayed"] is True
    # Another order, or none that was named, is another matter; and what is taken back is off the order.
    assert (await redeem(tills, more, order="A-2"))["order"] == "A-2"
    await tills.ok(world.clerk(), "POST", f"/redemptions/{first['id']}/reverse")
    assert (await redeem(tills, off, key="after"))["order"] == "A-1"


async def test_the_same_key_for_another_order_is_another_request(tills: Tills) -> None:
    code = await tills.coupon()
    await redeem(tills, code, key="k")
    assert await redeem(tills, code, order="A-2", key="k") == "idempotency_mismatch"


async def test_the_order_is_held_against_the_threshold(tills: Tills) -> None:
    code = await tills.coupon()
    assert await redeem(tills, code, fen=9_999) == "below_threshold"
    assert await redeem(tills, code, fen=None) == "invalid"
    assert await redeem(tills, code, order=" ") == "invalid"
    assert (await redeem(tills, code, fen=10_000))["discount_fen"] == 2000


async def test_stores_do_not_share_their_orders(tills: Tills, world: World) -> None:
    await world.store("S2", north_m=5_000)
    (elsewhere,) = await world.viewers(1, north_m=5_000)
    await redeem(tills, await tills.coupon())
    body = {"code": await tills.coupon(elsewhere), "order": "A-1", "order_fen": 15_000}
    assert (await tills.ok(world.clerk("S2"), "POST", "/redemptions", body, key="k"))["discount_fen"] == 2000


async def test_of_two_discounts_at_one_moment_the_order_takes_one(tills: Tills) -> None:
    every = [await tills.coupon() for _ in range(6)]
    done = await asyncio.gather(*(redeem(tills, code) for code in every))
    assert sorted(isinstance(one, dict) for one in done) == [False] * 5 + [True]
    assert [one for one in done if not isinstance(one, dict)] == ["stacking"] * 5


async def test_the_same_request_at_one_moment_is_one_redemption(tills: Tills) -> None:
    code = await tills.coupon()
    done = await asyncio.gather(*(redeem(tills, code, key="k") for _ in range(6)))
    assert len({one["id"] for one in done}) == 1


async def test_a_brand_decides_how_many(tills: Tills, world: World) -> None:
    clerk = world.clerk()
    usual = {"discounts": 1, "gifts": 1, "order_required": False}
    assert await tills.ok(clerk, "GET", "/till/rules") == usual
    assert (await tills.refused(clerk, "PUT", "/till/rules", usual))["code"] == "forbidden"
    wanted = {"discounts": 2, "gifts": 0, "order_required": True}
    for _ in range(2):
        assert await tills.ok(world.ops, "PUT", "/till/rules", wanted) == wanted
    assert await tills.ok(clerk, "GET", "/till/rules") == wanted
    one, two, three, gift = [
        await tills.coupon(**terms) for terms in ({"amount_fen": 9000}, {"amount_fen": 9000}, {}, GIFT)
    ]
    assert await redeem(tills, one, order=None) == "invalid"
    assert (await redeem(tills, one))["discount_fen"] == 9000
    assert (await redeem(tills, two))["discount_fen"] == 6000, "never more off than the order comes to"
    assert await redeem(tills, three) == "stacking"
    assert await redeem(tills, gift, order="A-2") == "stacking"


async def redeem_at(tills: Tills, at: datetime) -> str:
    """What becomes of a new coupon on the order A-1 when it is used at that time."""
    code = await tills.coupon()
    await tills.world.execute(
        "UPDATE coupons SET valid_from = :begin, valid_until = :end WHERE state = 'issued'",
        begin=at - timedelta(days=1), end=at + timedelta(days=1),
    )  # fmt: skip
    await tills.world.backdate()
    sale = redemption.Sale(code, at, 15_000, "A-1")
    try:
        async with transaction(tills.world.kernel.sessions) as session:
            presented = redemption.Presented(code, None)
            await redemption.use_up(session, tills.world.clerk(), presented, sale, tills.signer)
    except Refusal as refusal:
        return refusal.code
    return "used"


@pytest.mark.parametrize("zone", [ZONE, ZoneInfo("America/New_York")], ids=str)
async def test_tills_begin_their_numbers_anew_at_the_brands_midnight(tills: Tills, zone: ZoneInfo) -> None:
    await tills.world.execute("UPDATE brands SET timezone = :zone", zone=zone.key)
    # In New York this is the night in which clocks are put back: that day has 25 hours.
    midnight = datetime(2026, 11, 1, tzinfo=zone).timestamp()
    tomorrow = datetime(2026, 11, 2, tzinfo=zone).timestamp()
    second, month = 1.0, timedelta(days=30).total_seconds()
    found = [
        (moment, await redeem_at(tills, datetime.fromtimestamp(moment, zone)))
        for moment in (midnight - month, midnight - second, midnight, midnight + second, tomorrow - second, tomorrow)
    ]
    assert [answer for _, answer in found] == ["used", "used", "used", "stacking", "stacking", "used"]
