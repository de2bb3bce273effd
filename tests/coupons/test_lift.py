"""What coupons changed, and that its figures are those of the books."""

import csv
import io
import random
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tills import Tills
from world import World

from coupons import drops, funnel, ledger, lift, redemption, reviews, visits, wallet
from coupons.rules import Limits, held_out
from kernel.clock import now
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.postgres import transaction


@pytest.mark.parametrize(
    ("came", "of", "other", "other_of", "low", "high"),
    # Newcombe's own examples.
    [(56, 70, 48, 80, 0.0524, 0.3339), (9, 10, 3, 10, 0.1705, 0.8090), (10, 10, 0, 10, 0.6075, 1.0)],
)
def test_the_interval_is_the_one_in_the_paper(
    came: int, of: int, other: int, other_of: int, low: float, high: float
) -> None:
    found = lift.difference(came, of, other, other_of)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(st.data(), st.integers(1, 500), st.integers(1, 500))
def test_the_interval_holds_the_lift_and_turns_round_with_it(data: st.DataObject, of: int, other_of: int) -> None:
    came, other = data.draw(st.integers(0, of)), data.draw(st.integers(0, other_of))
    found, turned = lift.difference(came, of, other, other_of), lift.difference(other, other_of, came, of)
    assert -1 - 1e-9 <= found.low <= found.lift <= found.high <= 1 + 1e-9
    assert found.low < found.high, "nobody knows a share exactly"
    assert tuple(turned) == pytest.approx((-found.lift, -found.high, -found.low))


def test_without_a_comparison_there_is_no_lift() -> None:
    assert lift.Lift(5, 2, 0, 0).interval is None and lift.Lift(0, 0, 5, 2).interval is None


async def test_the_lot_is_drawn_among_those_who_are_reviewed_and_they_stay_in_it(world: World) -> None:
    campaign = await world.campaign(holdout_percent=50, doubt="review")
    viewers = await world.viewers(30)
    await world.execute("UPDATE locations SET doubt = 'jumped', doubted_at = now()")
    await drops.run_push(world.kernel.sessions, await world.drop(campaign, "push", 30))
    out = sum(held_out(Limits(campaign, 1, 0, 50), viewer.subject) for viewer in viewers)
    async with world.kernel.sessions() as session:
        assert await lift.by(session, "acme", "room") == {world.room: lift.Lift(30 - out, 0, out, 0)}
    assert await reviews.expire_due(world.kernel.sessions, now() + timedelta(days=1)) == 30 - out
    async with world.kernel.sessions() as session:
        assert await lift.by(session, "acme", "room") == {world.room: lift.Lift(30 - out, 0, out, 0)}


async def _compared(world: World, **drop: int) -> tuple[list[Principal], list[Principal]]:
    """A push drop to 30 viewers: who was offered one, and who was held out."""
    campaign = await world.campaign(holdout_percent=50)
    viewers = await world.viewers(30)
    await drops.run_push(world.kernel.sessions, await world.drop(campaign, "push", **drop))
    out = {v.subject for v in viewers if held_out(Limits(campaign, 1, 0, 50), v.subject)}
    assert 0 < len(out) < 30
    return [v for v in viewers if v.subject not in out], [v for v in viewers if v.subject in out]


async def _come(tills: Tills, viewers: Sequence[Principal], at: datetime) -> None:
    async with transaction(tills.world.kernel.sessions) as session:
        for viewer in viewers:
            shown = tills.signer.show_member(viewer.subject, at.timestamp())
            await visits.record(session, tills.world.clerk(), shown, tills.signer, at)


async def test_whoever_came_before_the_offer_was_not_brought_by_it(tills: Tills, world: World) -> None:
    offered, out = await _compared(world, stock=30)
    await _come(tills, [*offered[:3], *out[:2]], now() - timedelta(days=1))
    async with world.kernel.sessions() as session:
        assert await lift.by(session, "acme", "room") == {world.room: lift.Lift(len(offered), 0, len(out), 0)}
    await _come(tills, [*offered[2:4], out[1]], now())
    async with world.kernel.sessions() as session:
        assert await lift.by(session, "acme", "room") == {world.room: lift.Lift(len(offered), 2, len(out), 1)}


async def test_whoever_found_it_sold_out_was_offered_it(tills: Tills, world: World) -> None:
    offered, out = await _compared(world, stock=2)
    assert await world.scalar("SELECT count(*) FROM coupons") == 2
    await world.execute("UPDATE drop_viewers SET reason = 'sold_out_today' WHERE viewer_id = :v", v=await world.scalar(
        "SELECT viewer_id FROM drop_viewers WHERE reason = 'sold_out' LIMIT 1"
    ))  # fmt: skip
    async with world.kernel.sessions() as session:
        assert await lift.by(session, "acme", "room") == {world.room: lift.Lift(len(offered), 0, len(out), 0)}
        assert (await funnel.of_room(session, "acme", world.room)).offered == len(offered)


async def test_figures_after_a_random_evening_are_the_audits_and_the_lift_counts_who_came(
    tills: Tills, world: World
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance, signer, clerk = random.Random(seed), tills.signer, world.clerk()
    await world.execute("UPDATE rooms SET title = '=cmd|calc' WHERE id = :room", room=world.room)
    near = await world.viewers(30)
    offered, compared = set(), set()
    for mode in ("push", "claim", "push"):
        campaign = await world.campaign(holdout_percent=40, stock=60, per_viewer=2)
        drop = await world.drop(campaign, mode, chance.randint(20, 40))
        if mode == "push":
            await drops.run_push(world.kernel.sessions, drop)
            asked = near
        else:
            asked = chance.sample(near, 12)
            for viewer in asked:
                try:
                    await tills._issuer.claim(viewer, world.room, drop, "c")
                except Refusal as refusal:
                    assert refusal.code == "held_out"
        for viewer in asked:
            out = held_out(Limits(campaign, 2, 0, 40), viewer.subject)
            (compared if out else offered).add((campaign, viewer.subject))
    came = set()
    async with transaction(world.kernel.sessions) as session:
        for coupon, viewer in await world.execute("SELECT id, viewer_id FROM coupons ORDER BY id"):
            if chance.random() < 0.4:
                card = await wallet.coupon_of(session, next(v for v in near if v.subject == viewer), coupon, now())
                shown = redemption.Presented(card.code, None)
                used = await redemption.redeem(session, clerk, shown, 12_000, str(coupon), signer, now())
                if chance.random() < 0.3:
                    await redemption.reverse(session, clerk, used.id, now())
                else:
                    came.add(viewer)
        for viewer in chance.sample(near, 5):
            await visits.record(session, clerk, signer.show_member(viewer.subject, now().timestamp()), signer, now())
            came.add(viewer.subject)
    async with world.kernel.sessions() as session:
        totals = (await ledger.audit(session)).totals
        for by in ("room", "store", "guide", "drop"):
            rows = await funnel.by(session, "acme", by)  # type: ignore[arg-type]
            assert sum(row.stages.coupons for row in rows) == totals["issued"] > 0, by
            assert sum(row.stages.coupons_redeemed for row in rows) == totals["redeemed"], by
            for stages in (row.stages for row in rows):
                assert stages.in_range >= stages.offered >= stages.issued >= stages.visited >= stages.redeemed
        found = (await lift.by(session, "acme", "room"))[world.room]
    assert found == lift.Lift(
        len(offered), sum(v in came for _, v in offered), len(compared), sum(v in came for _, v in compared)
    )

    # The same over REST, and as a sheet in which the room's title computes nothing.
    (row,) = (await tills.ok(world.ops, "GET", "/ops/conversion?by=room"))["items"]
    assert (row["coupons"], row["coupons_redeemed"]) == (totals["issued"], totals["redeemed"])
    assert row["lift"]["held_out"] == len(compared)
    assert row["lift"]["low_points"] <= row["lift"]["lift_points"] <= row["lift"]["high_points"]
    answer = await tills(world.ops, "GET", "/ops/conversion?by=room&format=csv")
    assert answer.headers["Content-Type"].startswith("text/csv") and "conversion-room.csv" in str(answer.headers)
    (line,) = csv.DictReader(io.StringIO(answer.text.removeprefix("\ufeff")))
    assert line["room"] == "'=cmd|calc"
    assert {name: line[name] for name in ("coupons", "issued", "redeemed")} == {
        name: str(row[name]) for name in ("coupons", "issued", "redeemed")
    }
    assert line["amount_yuan"] == f"{row['amount_fen'] // 100}.{row['amount_fen'] % 100:02d}", "two decimals, always"
    assert float(line["lift_points"]) == row["lift"]["lift_points"]
    # An answer has as many rows as asked for, a file all of them.
    of_drops = (await tills.ok(world.ops, "GET", "/ops/conversion?by=drop"))["items"]
    assert (await tills.ok(world.ops, "GET", "/ops/funnel?by=drop&limit=1"))["items"][0]["id"] == of_drops[0]["id"]
    assert (await tills.ok(world.ops, "GET", "/ops/conversion?by=drop&limit=1"))["items"] == of_drops[:1]
    sheet = await tills(world.ops, "GET", "/ops/conversion?by=drop&limit=1&format=csv")
    lines = list(csv.DictReader(io.StringIO(sheet.text.removeprefix("\ufeff"))))
    assert [line["id"] for line in lines] == [row["id"] for row in of_drops] and len(lines) == 3
    assert sum(int(line["coupons"]) for line in lines) == totals["issued"]
    assert (await tills.refused(world.guide, "GET", "/ops/conversion"))["code"] == "forbidden"
