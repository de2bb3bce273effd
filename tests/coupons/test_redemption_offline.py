"""A till without a network redeems by the public key alone, and tells it afterwards."""

import base64
import struct
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tills import Tills
from world import World

from coupons import codes, ledger
from coupons.codes import Signer
from kernel.clock import now
from kernel.identity import Principal


def sold(tills: Tills, code: str, key: str = "k", *, ago_s: float = 3600, shown_ago_s: float | None = None) -> Any:
    """A redemption that the till made ``ago_s`` seconds ago."""
    qr = tills.qr(code, ago_s=ago_s if shown_ago_s is None else shown_ago_s)
    at = now() - timedelta(seconds=ago_s)
    return {"key": key, "qr": qr, "order_fen": 15_000, "at": at.isoformat()}


async def tell(tills: Tills, clerk: Principal, *redemptions: Any) -> list[Any]:
    answer = await tills.ok(clerk, "POST", "/till/sync", {"redemptions": list(redemptions)})
    assert [one["key"] for one in answer["outcomes"]] == [one["key"] for one in redemptions]
    return [one["redemption"] or one["refusal"]["code"] for one in answer["outcomes"]]


async def grown_old(world: World, hours: int = 30) -> None:
    """All coupons were issued hours ago."""
    await world.execute("UPDATE coupons SET valid_from = valid_from - make_interval(hours => :h)", h=hours)
    await world.backdate()


async def test_the_keys_are_all_that_a_till_needs(tills: Tills) -> None:
    told = await tills.ok(None, "GET", "/till/keys")
    assert abs(datetime.fromisoformat(told["now"]) - now()) < timedelta(minutes=1)
    payload = tills.qr(await tills.coupon())
    raw = base64.b32decode(payload[4:] + "=" * (-len(payload[4:]) % 8))
    Ed25519PublicKey.from_public_bytes(base64.b64decode(told["keys"][0]["key"])).verify(raw[14:], b"NC1." + raw[:14])
    begin = struct.unpack(">I", raw[10:14])[0] * told["step_seconds"]
    assert begin - told["skew_seconds"] <= now().timestamp() < begin + 2 * told["step_seconds"] + told["skew_seconds"]


async def test_it_counts_from_when_it_happened_and_says_when_it_was_told(tills: Tills, world: World) -> None:
    one = sold(tills, await tills.coupon())
    await grown_old(world)
    (used,) = await tell(tills, world.clerk(), one)
    assert datetime.fromisoformat(used["at"]) == datetime.fromisoformat(one["at"])
    assert datetime.fromisoformat(used["told_at"]) > datetime.fromisoformat(one["at"])
    assert (used["discount_fen"], used["replayed"]) == (2000, False)
    ((at, told_at),) = await world.execute("SELECT at, told_at FROM ledger WHERE transition = 'redeem'")
    assert (at.isoformat(), told_at.isoformat()) == (
        datetime.fromisoformat(one["at"]).astimezone(at.tzinfo).isoformat(),
        datetime.fromisoformat(used["told_at"]).astimezone(at.tzinfo).isoformat(),
    )
    assert await world.scalar("SELECT redeemed_at FROM coupons") == at


async def test_a_clock_that_is_a_little_behind_sells_nothing_before_its_time(tills: Tills, world: World) -> None:
    code = await tills.coupon()
    # Ten seconds behind, a code that has only just changed would not be live yet.
    behind = [sold(tills, code, "far", ago_s=10), sold(tills, code, "near", ago_s=3, shown_ago_s=0)]
    early, used = await tell(tills, world.clerk(), *behind)
    assert early == "coupon_not_yet_valid"
    assert datetime.fromisoformat(used["at"]) == await world.scalar("SELECT valid_from FROM coupons")


async def test_each_of_many_has_its_own_outcome(tills: Tills, world: World) -> None:
    await world.store("S2", north_m=5_000)
    (elsewhere,) = await world.viewers(1, north_m=5_000)
    mine, used, theirs, late, gone = [await tills.coupon(viewer) for viewer in (None, None, elsewhere, None, None)]
    await grown_old(world)
    await tills.ok(world.clerk(), "POST", "/redemptions", {"code": used}, key="at the other till")
    await world.execute("UPDATE coupons SET state = 'voided' WHERE code = :code", code=codes.parse(gone))
    await world.execute(
        "INSERT INTO ledger (coupon_id, transition) SELECT id, 'void' FROM coupons WHERE state='voided'"
    )
    outcomes = await tell(
        tills,
        world.clerk(),
        sold(tills, used, "1"),
        sold(tills, theirs, "2"),
        sold(tills, late, "3", ago_s=25 * 3600),
        sold(tills, gone, "4"),
        sold(tills, mine, "5", shown_ago_s=3800),
        sold(tills, mine, "6", ago_s=-3600),
        sold(tills, mine, "7") | {"order_fen": 9_999},
        sold(tills, mine, "8"),
        sold(tills, mine, "9"),
    )
    expected = [
        "already_redeemed", "wrong_store", "told_too_late", "coupon_voided", "qr_expired", "invalid", "below_threshold",
    ]  # fmt: skip
    assert outcomes[:7] == expected
    assert outcomes[7]["coupon"]["code"] == mine
    assert outcomes[8] == "already_redeemed"
    assert await world.scalar("SELECT count(*) FROM redemptions") == 2


async def test_the_earlier_sale_counts_however_they_are_sent(tills: Tills, world: World) -> None:
    one, two = await tills.coupon(), await tills.coupon()
    await grown_old(world)
    order = {"order": "A-1"}
    outcomes = await tell(
        tills,
        world.clerk(),
        sold(tills, one, "late", ago_s=600),
        sold(tills, two, "same order", ago_s=900) | order,
        sold(tills, one, "early", ago_s=1800) | order,
    )
    assert [outcomes[0], outcomes[1]] == ["already_redeemed", "stacking"]
    assert outcomes[2]["order"] == "A-1"


async def test_what_was_told_may_be_told_for_ever(tills: Tills, world: World) -> None:
    one = sold(tills, await tills.coupon())
    await grown_old(world, hours=120)
    first, second = await tell(tills, world.clerk(), one, one)
    assert (first["id"], first["replayed"], second["id"], second["replayed"]) == (first["id"], False, first["id"], True)
    days = timedelta(days=3)
    await world.execute(
        "UPDATE redemptions SET at = at - CAST(:d AS interval), told_at = told_at - CAST(:d AS interval)", d=days
    )
    at = datetime.fromisoformat(one["at"]) - days
    (again,) = await tell(tills, world.clerk(), one | {"at": at.isoformat()})
    assert (again["id"], again["replayed"]) == (first["id"], True)


async def test_a_sale_that_went_through_before_the_network_was_lost_is_one_redemption(
    tills: Tills, world: World
) -> None:
    code = await tills.coupon()
    order = {"qr": tills.qr(code), "order_fen": 15_000}
    used = await tills.ok(world.clerk(), "POST", "/redemptions", order, key="k")  # its answer never came
    (told,) = await tell(tills, world.clerk(), order | {"key": "k", "at": now().isoformat()})
    assert (told["id"], told["replayed"], told["told_at"]) == (used["id"], True, None)
    await tills.ok(world.clerk(), "POST", f"/redemptions/{used['id']}/reverse")
    (told,) = await tell(tills, world.clerk(), order | {"key": "k", "at": now().isoformat()})
    assert told["reversed_at"], "the till learns that it was taken back"


@pytest.mark.parametrize("swept", [False, True])
async def test_a_coupon_that_expired_before_it_was_told_was_used_in_time(
    tills: Tills, world: World, swept: bool
) -> None:
    code = await tills.coupon()
    await grown_old(world)
    end = now() - timedelta(minutes=30)
    await world.execute("UPDATE coupons SET valid_until = :end", end=end)
    if swept:
        assert await ledger.expire_due(world.kernel.sessions, now()) == 1
    assert await tell(tills, world.clerk(), sold(tills, code, "late", ago_s=60)) == ["coupon_expired"]
    (used,) = await tell(tills, world.clerk(), sold(tills, code, "in time", ago_s=3600))
    assert used["coupon"]["code"] == code
    assert await world.scalar("SELECT state FROM coupons") == "redeemed"


async def test_the_usual_way_cannot_use_an_expired_coupon(tills: Tills, world: World) -> None:
    code = await tills.coupon()
    await grown_old(world)
    await world.execute("UPDATE coupons SET valid_until = now()")
    await ledger.expire_due(world.kernel.sessions, now())
    body = {"qr": tills.qr(code)}
    assert (await tills.refused(world.clerk(), "POST", "/redemptions", body, key="k"))["code"] == "coupon_expired"


async def test_forged_codes_are_no_better_afterwards(tills: Tills, world: World) -> None:
    code = await tills.coupon()
    await grown_old(world)
    forged = Signer(b"\x09" * 32).show_coupon(codes.parse(code), now().timestamp() - 3600)
    assert await tell(tills, world.clerk(), sold(tills, code) | {"qr": forged}) == ["code_mistyped"]
    member = tills.signer.show_member(world.clerk().subject, now().timestamp() - 3600)
    assert await tell(tills, world.clerk(), sold(tills, code) | {"qr": member}) == ["code_mistyped"]


async def test_telling_is_for_clerks_and_for_a_hundred_at_once(tills: Tills, world: World) -> None:
    one = {"key": "k", "qr": "NC1.A", "at": now().isoformat()}
    body = {"redemptions": [one] * 100}
    assert (await tills.refused(world.ops, "POST", "/till/sync", body))["code"] == "forbidden"
    assert len((await tills.ok(world.clerk(), "POST", "/till/sync", body))["outcomes"]) == 100
    for wrong in ([], [one] * 101, [one | {"at": "2026-11-22T10:00:00"}], [one | {"code": "typed"} | {"qr": None}]):
        problem = await tills.refused(world.clerk(), "POST", "/till/sync", {"redemptions": wrong})
        assert problem["code"] == "invalid"
