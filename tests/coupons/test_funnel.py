"""Figures from the room to the till."""

import csv
import io

import pytest
from sqlalchemy import insert
from tills import Tills
from world import SIGNER_SEED, World

from coupons import closing, codes, drops, funnel, ledger, lift, privacy, redemption, visits, wallet
from coupons.codes import Signer
from coupons.rules import Limits, held_out
from guides.tables import Staff
from kernel.clock import now
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.ids import new_id
from kernel.postgres import transaction
from live.tables import Attendance, Room


async def test_each_stage_counts_people_and_the_till_counts_money(world: World) -> None:
    campaign = await world.campaign(holdout_percent=30, min_tier=1)
    near = await world.viewers(12, tier=1)
    await world.viewers(2, tier=0)
    await world.viewers(3, tier=1, north_m=9_000)
    await world.viewers(4, tier=1, north_m=None)
    drop = await world.drop(campaign, "push", 50)
    served = [v for v in near if not held_out(Limits(campaign, 1, 1, 30), v.subject)]
    assert len(served) >= 4, "a holdout of 30 % may not take nine of twelve"
    assert await drops.run_push(world.kernel.sessions, drop) == len(served)
    clerk, signer = world.clerk(), Signer(SIGNER_SEED)
    coupons = dict(await world.execute("SELECT viewer_id, id FROM coupons"))
    async with transaction(world.kernel.sessions) as session:
        for viewer in served[:3]:
            assert await wallet.seen(session, viewer.subject, [coupons[viewer.subject]]) == 1
        card = await wallet.coupon_of(session, served[0], coupons[served[0].subject], now())
        await redemption.redeem(session, clerk, redemption.Presented(card.code, None), 12_000, "k", signer, now())
        await visits.record(session, clerk, signer.show_member(served[1].subject, now().timestamp()), signer, now())
    expected = funnel.Funnel(
        in_room=21, in_range=14, offered=len(served), held_out=12 - len(served), issued=len(served), seen=3, visited=2,
        redeemed=1, amount_fen=12_000, discount_fen=2_000, coupons=len(served), coupons_redeemed=1,
    )  # fmt: skip
    async with world.kernel.sessions() as session:
        assert await funnel.of_room(session, "acme", world.room) == expected
        for by, spot in (("room", world.room), ("guide", world.guide.subject), ("drop", drop)):
            rows = await funnel.by(session, "acme", by)  # type: ignore[arg-type]
            assert [(row.id, row.stages) for row in rows] == [(spot, expected)]
        (store,) = await funnel.by(session, "acme", "store")
        assert store.id == world.stores["S1"]
        assert store.stages.issued == len(served) and store.stages.in_range == 14
        assert await funnel.by(session, "other", "room") == []


async def test_whoever_came_with_it_has_seen_it_though_their_phone_did_not_say_so(world: World) -> None:
    used, came, before, _ = await world.viewers(4)
    signer, clerk = Signer(SIGNER_SEED), world.clerk()
    async with transaction(world.kernel.sessions) as session:
        await visits.record(session, clerk, signer.show_member(before.subject, now().timestamp()), signer, now())
    await drops.run_push(world.kernel.sessions, await world.drop(await world.campaign(), "push"))
    code = await world.scalar("SELECT code FROM coupons WHERE viewer_id = :v", v=used.subject)
    async with transaction(world.kernel.sessions) as session:
        shown = redemption.Presented(codes.display(code), None)
        await redemption.redeem(session, clerk, shown, 12_000, "k", signer, now())
        await visits.record(session, clerk, signer.show_member(came.subject, now().timestamp()), signer, now())
    async with world.kernel.sessions() as session:
        stages = await funnel.of_room(session, "acme", world.room)
    assert (stages.issued, stages.seen, stages.visited, stages.redeemed) == (4, 2, 2, 1)


async def test_a_visit_is_one_of_a_member_of_the_brand(world: World) -> None:
    (stranger,) = await world.viewers(1)
    await world.execute("UPDATE members SET brand_id = 'other' WHERE id = :id", id=stranger.subject)
    signer = Signer(SIGNER_SEED)
    with pytest.raises(Refusal) as refused:
        async with transaction(world.kernel.sessions) as session:
            shown = signer.show_member(stranger.subject, now().timestamp())
            await visits.record(session, world.clerk(), shown, signer, now())
    assert refused.value.code == "not_found"
    assert await world.scalar("SELECT count(*) FROM visits") == 0


async def test_a_viewer_of_two_drops_is_one_person_with_two_coupons(world: World) -> None:
    campaign = await world.campaign(per_viewer=2)
    await world.viewers(1)
    for _ in range(2):
        await drops.run_push(world.kernel.sessions, await world.drop(campaign, "push"))
    async with world.kernel.sessions() as session:
        stages = await funnel.of_room(session, "acme", world.room)
    assert (stages.in_room, stages.in_range, stages.offered, stages.issued, stages.coupons) == (1, 1, 1, 1, 2)


async def test_the_map_lists_every_store_with_its_coupons(world: World) -> None:
    await world.store("S2", north_m=20_000)
    await world.viewers(2)
    await drops.run_push(world.kernel.sessions, await world.drop(await world.campaign(), "push"))
    async with world.kernel.sessions() as session:
        first = await funnel.stores(session, "acme", None, 1)
        rest = await funnel.stores(session, "acme", first[-1].code, 10)
    assert [(s.code, s.issued, s.redeemed) for s in [*first, *rest]] == [("S1", 2, 0), ("S2", 0, 0)]
    assert abs(first[0].lat - 31.23) < 1e-9 and abs(first[0].lng - 121.47) < 1e-9


async def _two_evenings(world: World, signer: Signer) -> None:
    """Two rooms of two guides, two stores, three drops: coupons that are open, seen, used, taken back, expired, and of
    somebody who was erased; one viewer was in both rooms."""
    await world.store("S2", north_m=9_000)
    here, there = await world.viewers(3), await world.viewers(2, north_m=9_000)
    first, second = await world.campaign(per_viewer=2), await world.campaign(return_expired=True)
    for campaign in (first, second):
        await drops.run_push(world.kernel.sessions, await world.drop(campaign, "push"))
    room, world.room = world.room, new_id()
    async with transaction(world.kernel.sessions) as session:
        other = Staff(id=new_id(), brand_id="acme", account="b", name="阿Bo", role="guide")
        session.add(other)
        await session.flush()
        values = {"id": world.room, "brand_id": "acme", "guide_id": other.id, "title": "夜场", "state": "live"}
        await session.execute(insert(Room).values(values))
        both = {"room_id": world.room, "viewer_id": here[0].subject, "first_at": now(), "last_at": now()}
        await session.execute(insert(Attendance).values(both))
    await world.viewers(1, north_m=9_000)
    await world.locate(here[0], 0)
    await drops.run_push(world.kernel.sessions, await world.drop(first, "push"))
    coupons = await world.execute(
        "SELECT k.id, k.code, s.code AS store, k.viewer_id FROM coupons k JOIN stores s ON s.id = k.store_id"
        " WHERE k.room_id = :room ORDER BY k.campaign_id, k.viewer_id",
        room=room,
    )
    async with transaction(world.kernel.sessions) as session:
        for place, coupon in enumerate(coupons[:6]):
            presented, clerk = redemption.Presented(codes.display(coupon.code), None), world.clerk(coupon.store)
            used = await redemption.redeem(session, clerk, presented, 12_000, f"k{place}", signer, now())
            if place == 0:
                await redemption.reverse(session, clerk, used.id, now())
        await privacy.erase(session, coupons[1].viewer_id, new_id(), now())
        await visits.record(session, world.clerk("S2"), signer.show_member(there[0].subject, now().timestamp()), signer,
                            now())  # fmt: skip
    await world.execute("UPDATE coupons SET valid_until = now() WHERE id = :id", id=coupons[0].id)
    assert await ledger.expire_due(world.kernel.sessions, now())


async def test_figures_are_the_audits_however_they_are_grouped(world: World, signer: Signer) -> None:
    await _two_evenings(world, signer)
    async with world.kernel.sessions() as session:
        report = await ledger.audit(session)
        whole = await funnel.of_brand(session, "acme")
        grouped = {by: await funnel.by(session, "acme", by) for by in funnel.SPOTS}
        shops = await funnel.stores(session, "acme", None, 10)
        closed = [await closing.of_day(session, world.clerk(store), None, None, now()) for store in ("S1", "S2")]
        most = {by: await funnel.by(session, "acme", by, 1) for by in funnel.SPOTS}
        lifted = await lift.by(session, "acme", "room", [world.room])
    assert most == {by: rows[:1] for by, rows in grouped.items()}, "the first of a short list is that of the long one"
    assert lifted == {}, "nobody was held out"
    assert report.findings == []
    issued, redeemed = report.totals["issued"], report.totals["redeemed"]
    assert (issued, redeemed, report.totals["expired"]) == (12, 5, 1)
    till = sum(day.sum("redemption").order_fen - day.sum("reversal").order_fen for day in closed)
    assert {by: len(rows) for by, rows in grouped.items()} == {"room": 2, "store": 2, "guide": 2, "drop": 3}
    for rows in ([whole], *grouped.values()):
        assert sum(row.coupons for row in rows) == issued
        assert sum(row.coupons_redeemed for row in rows) == redeemed
        assert sum(row.amount_fen for row in rows) == 5 * 12_000 == till
        assert sum(row.discount_fen for row in rows) == 5 * 2_000
    assert (sum(shop.issued for shop in shops), sum(shop.redeemed for shop in shops)) == (issued, redeemed)
    # People, on the other hand, are one each, also if they were in both rooms.
    assert (whole.in_room, whole.in_range, whole.offered, whole.issued) == (6, 6, 6, 6)
    assert sum(row.in_room for row in grouped["room"]) == 7


async def test_an_order_with_a_discount_and_a_gift_counts_once(tills: Tills, world: World) -> None:
    first, clerk = world.room, world.clerk()
    discount = await tills.coupon()
    world.room = new_id()
    values = {"id": world.room, "brand_id": "acme", "guide_id": world.guide.subject, "title": "夜场", "state": "live"}
    await world.execute("UPDATE rooms SET state = 'ended', ended_at = now()")
    async with transaction(world.kernel.sessions) as session:
        await session.execute(insert(Room).values(values))
    gift = await tills.coupon(kind="gift", gift="茶", amount_fen=None, threshold_fen=0)
    used = [
        await tills.ok(clerk, "POST", "/redemptions", {"code": code, "order": "A", "order_fen": 12_050}, key=code)
        for code in (discount, gift)
    ]

    async def turnover(by: str) -> dict[str, int]:
        return {
            row["id"]: row["amount_fen"] for row in (await tills.ok(world.ops, "GET", f"/ops/funnel?by={by}"))["items"]
        }

    # Of two rooms it counts in the one of the first coupon, so that rooms still add up to the whole.
    assert await turnover("room") == {str(first): 12_050, str(world.room): 0}
    assert await turnover("store") == {str(world.stores["S1"]): 12_050}
    assert await turnover("guide") == {str(world.guide.subject): 12_050}
    assert sorted((await turnover("drop")).values()) == [0, 12_050]
    whole = await tills.ok(world.ops, "GET", "/ops/funnel/all")
    assert (whole["amount_fen"], whole["coupons_redeemed"]) == (12_050, 2)
    answer = await tills(world.ops, "GET", "/ops/conversion?by=store&format=csv")
    (line,) = csv.DictReader(io.StringIO(answer.text.removeprefix("\ufeff")))
    assert (line["amount_yuan"], line["discount_yuan"]) == ("120.50", "20.00"), "two decimals, always"
    # Taking one of the two back takes back no order, and now it counts where the other one does.
    await tills.ok(clerk, "POST", f"/redemptions/{used[0]['id']}/reverse")
    assert await turnover("room") == {str(first): 0, str(world.room): 12_050}
    await tills.ok(clerk, "POST", f"/redemptions/{used[1]['id']}/reverse")
    assert await turnover("room") == {str(first): 0, str(world.room): 0}


async def test_a_visit_counts_at_the_store_of_the_coupon_and_after_it_was_given(world: World, signer: Signer) -> None:
    await world.store("S2", north_m=9_000)
    here, elsewhere, before = await world.viewers(3)

    async def comes(viewer: Principal, store: str) -> None:
        async with transaction(world.kernel.sessions) as session:
            shown = signer.show_member(viewer.subject, now().timestamp())
            await visits.record(session, world.clerk(store), shown, signer, now())

    await comes(before, "S1")
    await drops.run_push(world.kernel.sessions, await world.drop(await world.campaign(), "push"))
    await comes(here, "S1")
    await comes(elsewhere, "S2")
    async with world.kernel.sessions() as session:
        whole = await funnel.of_brand(session, "acme")
    assert (whole.issued, whole.visited, whole.redeemed) == (3, 1, 0)
