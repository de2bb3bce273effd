"""At the till: exactly once, and a reason for everything else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from world import World

from coupons import codes, ledger, privacy, receipts, redemption, visits, voiding
from coupons.cards import CouponCard
from coupons.codes import Signer
from coupons.issuing import Issuer
from coupons.receipts import Used
from coupons.redemption import Presented
from geo.catchments import Catchments
from kernel.clock import now
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.ids import BrandId
from kernel.postgres import transaction


class Till:
    """A clerk's till of a store."""

    def __init__(self, world: World, signer: Signer, store: str = "S1") -> None:
        self.world, self.signer, self.clerk = world, signer, world.clerk(store)

    async def redeem(
        self,
        code: str | None = None,
        *,
        qr: str | None = None,
        order: int | None = 15_000,
        key: str = "",
        late_s: float = 0,
        on: str | None = None,
    ) -> Used:
        moment = now() + timedelta(seconds=late_s)
        async with transaction(self.world.kernel.sessions) as session:
            return await redemption.redeem(
                session, self.clerk, Presented(code, qr), order, key or str(uuid4()), self.signer, moment, order=on
            )

    async def reverse(self, one: UUID, *, late_s: float = 0) -> Used:
        async with transaction(self.world.kernel.sessions) as session:
            return await redemption.reverse(session, self.clerk, one, now() + timedelta(seconds=late_s))

    @asynccontextmanager
    async def refused(self, code: str) -> AsyncIterator[None]:
        before = await self._rows()
        with pytest.raises(Refusal) as refused:
            yield
        assert refused.value.code == code
        assert await self._rows() == before, "a refusal changed something"

    async def _rows(self) -> object:
        return await self.world.execute(
            "SELECT state, (SELECT count(*) FROM ledger), (SELECT count(*) FROM redemptions) FROM coupons ORDER BY id"
        )


@pytest.fixture
async def viewer(world: World) -> Principal:
    return (await world.viewers(1))[0]


@pytest.fixture
async def coupon(world: World, viewer: Principal) -> CouponCard:
    drop = await world.drop(await world.campaign())
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        return await issuer.claim(viewer, world.room, drop, "one")


async def _another(world: World) -> str:
    """A coupon of somebody else, by its code."""
    drop, (viewer,) = await world.drop(await world.campaign()), await world.viewers(1)
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        return (await issuer.claim(viewer, world.room, drop, "one")).code


@pytest.fixture
async def till(world: World, signer: Signer) -> AsyncIterator[Till]:
    yield Till(world, signer)
    async with world.kernel.sessions() as session:
        assert (await ledger.audit(session)).findings == []


async def test_a_coupon_is_used_and_the_answer_says_what_it_was_worth(till: Till, coupon: CouponCard) -> None:
    used = await till.redeem(coupon.code, order=15_000)
    assert (used.discount_fen, used.order_fen, used.store_code, used.replayed) == (2000, 15_000, "S1", False)
    assert (used.title, used.terms, used.code, used.viewer_name) == ("满100减20券", "满100减20", coupon.code, "v0")
    assert used.reversible_until - used.at == timedelta(hours=1)
    assert await till.world.execute("SELECT transition FROM ledger ORDER BY id") == [("issue",), ("redeem",)]


async def test_the_same_key_finds_the_same_redemption_for_ever(till: Till, coupon: CouponCard, signer: Signer) -> None:
    stored = codes.parse(coupon.code)
    qr = signer.show_coupon(stored, now().timestamp())
    first = await till.redeem(qr=qr, key="k")
    again = await till.redeem(qr=qr, key="k", late_s=7200)  # the QR code is long too old
    typed = await till.redeem(coupon.code, key="k")
    assert first.id == again.id == typed.id
    assert (first.replayed, again.replayed, typed.replayed) == (False, True, True)


async def test_a_key_is_good_for_one_request(till: Till, coupon: CouponCard, world: World) -> None:
    drop = await world.drop(await world.campaign())
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        other = await issuer.claim((await world.viewers(1))[0], world.room, drop, "one")
    await till.redeem(coupon.code, key="k")
    async with till.refused("idempotency_mismatch"):
        await till.redeem(other.code, key="k")
    async with till.refused("idempotency_mismatch"):
        await till.redeem(coupon.code, key="k", order=15_001)


async def test_of_many_at_once_one_wins_and_the_others_learn_when_and_where(till: Till, coupon: CouponCard) -> None:
    done = await asyncio.gather(*(till.redeem(coupon.code) for _ in range(8)), return_exceptions=True)
    won = [one for one in done if isinstance(one, Used)]
    lost = [one for one in done if isinstance(one, Refusal)]
    assert len(won) == 1 and len(lost) == 7
    for refusal in lost:
        assert refusal.code == "already_redeemed"
        assert refusal.fields == {"redeemed_at": won[0].at.isoformat(), "store": {"code": "S1", "name": "S1店"}}


async def test_the_same_request_many_times_at_once_is_one_redemption(till: Till, coupon: CouponCard) -> None:
    done = await asyncio.gather(*(till.redeem(coupon.code, key="k") for _ in range(8)))
    assert len({one.id for one in done}) == 1
    assert sorted(one.replayed for one in done) == [False] + [True] * 7


async def test_another_store_is_told_where_it_belongs(
    till: Till, coupon: CouponCard, world: World, signer: Signer
) -> None:
    await world.store("S2", north_m=5_000)
    async with till.refused("wrong_store"):
        await Till(world, signer, "S2").redeem(coupon.code)


async def test_the_order_must_reach_the_threshold(till: Till, coupon: CouponCard) -> None:
    async with till.refused("below_threshold"):
        await till.redeem(coupon.code, order=9_999)
    assert (await till.redeem(coupon.code, order=None)).discount_fen == 2000


async def test_it_expires_to_the_second(till: Till, coupon: CouponCard) -> None:
    left = coupon.valid_until / 1000 - now().timestamp()
    async with till.refused("coupon_expired"):
        await till.redeem(coupon.code, late_s=left + 1)
    assert await till.redeem(coupon.code, late_s=left - 5)


async def test_it_is_not_valid_before_its_time(till: Till, coupon: CouponCard) -> None:
    async with till.refused("coupon_not_yet_valid"):
        await till.redeem(coupon.code, late_s=-60)


async def test_a_withdrawn_coupon_is_refused(till: Till, coupon: CouponCard) -> None:
    await till.world.execute("UPDATE coupons SET state = 'voided'")
    await till.world.execute("INSERT INTO ledger (coupon_id, transition) SELECT id, 'void' FROM coupons")
    async with till.refused("coupon_voided"):
        await till.redeem(coupon.code)


async def test_unknown_and_mistyped_codes_are_told_apart(till: Till, coupon: CouponCard) -> None:
    async with till.refused("code_unknown"):
        await till.redeem(codes.display(codes.new_code()))
    async with till.refused("code_mistyped"):
        await till.redeem(coupon.code[:-1] + ("0" if coupon.code[-1] != "0" else "1"))
    async with till.refused("invalid"):
        await till.redeem()


async def test_a_qr_code_must_be_live_and_ours(till: Till, coupon: CouponCard, signer: Signer) -> None:
    stored = codes.parse(coupon.code)
    async with till.refused("qr_expired"):
        await till.redeem(qr=signer.show_coupon(stored, now().timestamp() - 100))
    async with till.refused("code_mistyped"):
        await till.redeem(qr=Signer(b"\x09" * 32).show_coupon(stored, now().timestamp()))
    assert await till.redeem(qr=signer.show_coupon(stored, now().timestamp()))


async def test_a_reversed_coupon_can_be_used_again(till: Till, coupon: CouponCard) -> None:
    first = await till.redeem(coupon.code, key="a")
    back = await till.reverse(first.id)
    assert back.reversed_at is not None
    assert (await till.reverse(first.id)).reversed_at == back.reversed_at
    replay = await till.redeem(coupon.code, key="a")
    assert replay.replayed and replay.reversed_at == back.reversed_at
    assert (await till.redeem(coupon.code, key="b")).id != first.id
    lines = await till.world.execute("SELECT transition FROM ledger ORDER BY id")
    assert lines == [("issue",), ("redeem",), ("reverse",), ("redeem",)]
    now_is = [(await till.reverse(first.id)).coupon_now, back.coupon_now]
    assert now_is == ["redeemed", "usable"], "asked again, the till hears what the coupon is by now"


async def _erase(world: World, who: Principal) -> None:
    async with transaction(world.kernel.sessions) as session:
        await privacy.erase(session, who.subject, uuid4(), now())


async def test_a_coupon_taken_back_after_its_owners_erasure_or_its_time_is_over(
    till: Till, coupon: CouponCard, viewer: Principal, world: World
) -> None:
    used = await till.redeem(coupon.code)
    await _erase(world, viewer)
    assert (await till.reverse(used.id)).coupon_now == "ownerless"
    async with till.refused("coupon_expired"):
        await till.redeem(coupon.code)
    assert await ledger.expire_due(world.kernel.sessions, now()) == 1
    assert (await till.reverse(used.id)).coupon_now == "ownerless"
    lines = await world.execute("SELECT transition FROM ledger ORDER BY id")
    assert lines == [("issue",), ("redeem",), ("reverse",), ("expire",)]
    # Used on its last minute, taken back when that was over.
    late = await till.redeem(await _another(world))
    await world.execute("UPDATE coupons SET valid_until = now() WHERE state = 'redeemed'")
    assert (await till.reverse(late.id)).coupon_now == "expired"


@pytest.mark.parametrize("erased_first", [True, False])
async def test_an_owner_is_erased_while_their_coupon_is_taken_back(
    till: Till, coupon: CouponCard, viewer: Principal, world: World, erased_first: bool
) -> None:
    used = await till.redeem(coupon.code)
    both = [_erase(world, viewer), till.reverse(used.id)]
    async with transaction(world.kernel.sessions) as session:
        # Whoever asks first for the row that is held here gets it first.
        await session.execute(text("SELECT 1 FROM coupons FOR UPDATE"))
        tasks = []
        for waiting, work in enumerate(both if erased_first else reversed(both), start=1):
            tasks.append(asyncio.ensure_future(work))
            await world.somebody_waits(waiting)
    await asyncio.gather(*tasks)
    async with till.refused("coupon_expired"):
        await till.redeem(coupon.code)
    assert await world.execute("SELECT state, ownerless FROM coupons") == [("issued", True)]


async def test_reversal_ends_after_an_hour_and_is_the_stores_own(
    till: Till, coupon: CouponCard, world: World, signer: Signer
) -> None:
    await world.store("S2", north_m=5_000)
    used = await till.redeem(coupon.code)
    async with till.refused("wrong_store"):
        await Till(world, signer, "S2").reverse(used.id)
    async with till.refused("reversal_too_late"):
        await till.reverse(used.id, late_s=3601)
    async with till.refused("not_found"):
        await till.reverse(uuid4())


async def test_reversed_many_times_at_once_is_reversed_once(till: Till, coupon: CouponCard) -> None:
    used = await till.redeem(coupon.code)
    done = await asyncio.gather(*(till.reverse(used.id) for _ in range(6)))
    assert len({one.reversed_at for one in done}) == 1


async def test_looking_changes_nothing_and_refuses_as_redeeming_would(
    till: Till, coupon: CouponCard, signer: Signer
) -> None:
    async def look(order: int | None = None) -> redemption.Looked:
        async with transaction(till.world.kernel.sessions) as session:
            return await redemption.look(session, till.clerk, Presented(coupon.code, None), order, signer, now())

    assert (await look()).discount_fen == 2000
    assert (await look(100)).discount_fen is None
    await till.redeem(coupon.code)
    async with till.refused("already_redeemed"):
        await look()


async def test_todays_redemptions_are_listed_for_the_store(till: Till, coupon: CouponCard) -> None:
    used = await till.redeem(coupon.code)
    async with till.world.kernel.sessions() as session:
        listed = await receipts.newest(session, till.clerk, now() - timedelta(hours=1), 10)
        assert [one.id for one in listed] == [used.id]
        assert await receipts.newest(session, till.clerk, now() - timedelta(hours=1), 10, (used.at, used.id)) == []
        assert await receipts.newest(session, till.clerk, now() + timedelta(hours=1), 10) == []


async def test_a_members_code_records_a_visit(till: Till, viewer: Principal, signer: Signer) -> None:
    async def visit(qr: str) -> visits.Visited:
        async with transaction(till.world.kernel.sessions) as session:
            return await visits.record(session, till.clerk, qr, signer, now())

    visited = await visit(signer.show_member(viewer.subject, now().timestamp()))
    assert visited.name == viewer.name
    assert await till.world.execute("SELECT viewer_id, store_id FROM visits") == [
        (viewer.subject, till.world.stores["S1"])
    ]
    for qr, code in (
        (signer.show_member(viewer.subject, now().timestamp() - 100), "qr_expired"),
        (signer.show_member(uuid4(), now().timestamp()), "not_found"),
        ("NM1.A", "code_mistyped"),
    ):
        async with till.refused(code):
            await visit(qr)


async def test_what_ops_withdraw_nobody_uses(till: Till, coupon: CouponCard, world: World) -> None:
    async def void(code: str, who: Principal = world.ops) -> voiding.Voided:
        async with transaction(world.kernel.sessions) as session:
            return await voiding.void(session, who, code, now())

    used = await till.redeem(coupon.code)
    async with till.refused("already_redeemed"):
        await void(coupon.code)
    await till.reverse(used.id)
    async with till.refused("code_unknown"):
        await void(coupon.code, replace(world.ops, brand=BrandId("other")))
    # Many who withdraw it, and many tills, at one moment: one of them gets it, and the ledger tells of one.
    done = await asyncio.gather(
        *(void(coupon.code) for _ in range(3)), till.redeem(coupon.code), return_exceptions=True
    )
    won = [one for one in done if not isinstance(one, Refusal)]
    assert len(won) in (1, 3), done
    state, refusal = ("redeemed", "already_redeemed") if isinstance(won[0], Used) else ("voided", "coupon_voided")
    assert await world.scalar("SELECT state FROM coupons") == state
    async with till.refused(refusal):
        await till.redeem(coupon.code)
    # Another one, surely withdrawn; the stock that it took stays taken.
    other = await _another(world)
    assert (await void(other)).code == other and await void(other) == await void(other)
    async with till.refused("coupon_voided"):
        await till.redeem(other)
    lines = await world.execute("SELECT actor FROM ledger WHERE transition = 'void'")
    assert lines == [(world.ops.subject,)] * (1 + (state == "voided"))
    async with world.kernel.sessions() as session:
        report = await ledger.audit(session)
    assert (report.findings, report.totals["voided"], report.totals["issued"]) == ([], len(lines), 2)
    third = await _another(world)
    await world.execute("UPDATE coupons SET valid_until = now() WHERE state = 'issued'")
    async with till.refused("coupon_expired"):
        await void(third)
