"""Whoever tries codes is stopped, and nobody else is."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from prometheus_client import REGISTRY
from tills import Tills, open_tills
from world import World

from coupons import codes, guessing
from coupons.codes import Signer
from kernel.clock import now
from kernel.identity import Principal
from kernel.redis import create_client, slot_of

PATHS = ("/redemptions", "/redemptions/check")


async def guess(tills: Tills, clerk: Principal, path: str = PATHS[0], code: str | None = None) -> str:
    """What becomes of a code that nobody has."""
    body = {"code": code or codes.display(codes.new_code())}
    return str((await tills.refused(clerk, "POST", path, body, key="guess"))["code"])


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("nearcast_till_codes_total", {"outcome": outcome}) or 0


async def test_after_ten_wrong_codes_even_a_right_one_is_not_looked_at(tills: Tills, world: World) -> None:
    clerk, code = world.clerk(), await tills.coupon()
    before = counted("too_fast")
    # Redeemed or only looked up, unknown or mistyped: a wrong code is a wrong code.
    tried = [await guess(tills, clerk, PATHS[n % 2], "AAAA" if n % 3 == 0 else None) for n in range(guessing.OF_CLERK)]
    assert Counter(tried) == {"code_mistyped": 4, "code_unknown": 6}
    for path in PATHS:
        stopped = await tills(clerk, "POST", path, {"code": code}, key="k")
        problem = stopped.json()
        assert (stopped.status_code, problem["code"]) == (429, "too_fast")
        assert 0 < problem["retry_after"] <= guessing.WINDOW_MS / 1000
        assert int(stopped.headers["Retry-After"]) > 0
    assert await world.scalar("SELECT count(*) FROM redemptions") == 0
    assert counted("too_fast") == before + 2
    # A signed QR code cannot be guessed, and another clerk has guessed nothing.
    assert await tills.ok(world.clerk(), "POST", PATHS[1], {"code": code})
    assert await tills.ok(clerk, "POST", PATHS[0], {"qr": tills.qr(code)}, key="k")


async def test_a_stopped_till_still_learns_that_its_sale_went_through(tills: Tills, world: World) -> None:
    clerk, code = world.clerk(), await tills.coupon()
    used = await tills.ok(clerk, "POST", PATHS[0], {"code": code}, key="k")
    while await guess(tills, clerk) != "too_fast":
        pass
    again = await tills.ok(clerk, "POST", PATHS[0], {"code": code}, key="k")
    assert (again["id"], again["replayed"]) == (used["id"], True)
    assert (await tills.refused(clerk, "POST", PATHS[0], {"code": code}, key="other"))["code"] == "too_fast"


async def test_a_hundred_guesses_at_once_are_no_better(
    tills: Tills, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guessing, "REDIS_SECONDS", 60.0)  # a slow machine is not a Redis that is away
    clerk = world.clerk()
    done = Counter(await asyncio.gather(*(guess(tills, clerk) for _ in range(100))))
    assert done == {"code_unknown": guessing.OF_CLERK, "too_fast": 100 - guessing.OF_CLERK}


async def test_right_codes_and_other_refusals_count_for_nothing(tills: Tills, world: World) -> None:
    clerk, code = world.clerk(), await tills.coupon()
    for _ in range(guessing.OF_CLERK + 5):
        assert await tills.ok(clerk, "POST", PATHS[1], {"code": code})
    await tills.ok(clerk, "POST", PATHS[0], {"code": code}, key="k")
    for n in range(guessing.OF_CLERK + 5):
        problem = await tills.refused(clerk, "POST", PATHS[0], {"code": code}, key=str(n))
        assert problem["code"] == "already_redeemed"
    assert await guess(tills, clerk) == "code_unknown"


@pytest.mark.parametrize(("limit", "of_other"), [("OF_STORE", "code_unknown"), ("OF_BRAND", "too_fast")])
async def test_many_clerks_share_the_count_of_their_store_and_brand(
    tills: Tills, world: World, monkeypatch: pytest.MonkeyPatch, limit: str, of_other: str
) -> None:
    monkeypatch.setattr(guessing, limit, 12)
    await world.store("S2", north_m=5_000)
    tried = Counter([await guess(tills, world.clerk()) for _ in range(14)])  # each another person
    assert tried == {"code_unknown": 12, "too_fast": 2}
    assert await guess(tills, world.clerk("S2")) == of_other
    elsewhere = replace(world.clerk(), brand="other", store=world.stores["S2"])
    assert await guess(tills, elsewhere) == "code_unknown", "another brand's till goes on"


async def test_it_ends_when_the_first_wrong_code_is_forgotten(
    tills: Tills, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clerk = world.clerk()
    while await guess(tills, clerk) != "too_fast":
        pass
    monkeypatch.setattr(guessing, "WINDOW_MS", 1)  # as if it had been long ago
    async with asyncio.timeout(60):
        while await guess(tills, clerk) == "too_fast":
            await asyncio.sleep(0.01)


async def test_forged_qr_codes_count_and_live_ones_pass(tills: Tills, world: World) -> None:
    clerk, code = world.clerk(), await tills.coupon()
    forged = {"qr": Signer(b"\x09" * 32).show_coupon(codes.parse(code), now().timestamp())}
    tried = [(await tills.refused(clerk, "POST", PATHS[1], forged))["code"] for _ in range(guessing.OF_CLERK + 1)]
    assert Counter(tried) == {"code_mistyped": guessing.OF_CLERK, "too_fast": 1}
    assert await tills.ok(clerk, "POST", PATHS[1], {"qr": tills.qr(code)})


async def test_the_counts_of_a_brand_share_a_slot_of_a_cluster(world: World) -> None:
    assert len({slot_of(key) for key in guessing._keys(world.clerk())}) == 1


async def test_without_redis_the_till_goes_on(world: World, signer: Signer) -> None:
    settings = world.kernel.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    redis = create_client(settings)
    away = replace(world, kernel=replace(world.kernel, redis=redis))
    before = counted("uncounted")
    async with open_tills(away, signer) as tills:
        assert await tills.ok(world.clerk(), "POST", PATHS[0], {"code": await tills.coupon()}, key="k")
    assert counted("uncounted") == before + 1
    await redis.aclose()
