"""A batch looks before it has the lock: what it saw then is used only as far as it still holds."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from world import World

from coupons import drops, ledger
from coupons.cards import CouponCard
from coupons.claiming import Answer, answer_batch, foresee
from coupons.locking import Locked, lock
from coupons.sight import Claim, Ours, Sight, look, recalled
from geo.catchments import Catchments
from kernel.identity import Principal
from kernel.ids import new_ids
from kernel.postgres import transaction


class _Desk:
    """Looks at claims of one drop, plans, and answers them later, as an issuer does."""

    def __init__(self, world: World, drop: UUID) -> None:
        self.ours = Ours()
        self._world, self._drop = world, drop
        self._catchments = Catchments(world.kernel.sessions)

    async def look(self, claims: Sequence[Claim]) -> Sight:
        sight = await look(self._world.kernel.sessions, self._catchments, self._drop, claims, {})
        assert sight is not None
        return sight

    async def answer(self, claims: Sequence[Claim], sight: Sight, *, remember: bool = True) -> list[Answer]:
        async with transaction(self._world.kernel.sessions) as session:
            locked = await lock(session, self._drop)
            answered = await answer_batch(session, locked, claims, sight, self.ours, foresee(claims, sight))
        if remember:
            self.ours.add(answered.issued, answered.recipients)
        return answered.answers

    async def compare(self, claims: Sequence[Claim], sight: Sight) -> tuple[list[str], list[str], bool]:
        """What would be answered without a plan and is answered with one, and whether the plan held."""
        plan = foresee(claims, sight)
        sessions = self._world.kernel.sessions
        async with sessions() as session:  # and rolled back
            locked = await lock(session, self._drop)
            anew = (await answer_batch(session, locked, claims, sight, self.ours)).answers
        async with transaction(sessions) as session:
            locked = await lock(session, self._drop)
            assert locked is not None
            former = await recalled(session, locked, [claim.viewer for claim in claims], sight, self.ours)
            held = plan is not None and plan.holds(locked, former)
            planned = (await answer_batch(session, locked, claims, sight, self.ours, plan)).answers
        return _outcomes(anew), _outcomes(planned), held


def _outcomes(answers: Sequence[Answer]) -> list[str]:
    return [answer if isinstance(answer, str) else type(answer).__name__ for answer in answers]


def _claims(world: World, viewers: Sequence[Principal], key: str = "one") -> list[Claim]:
    return [Claim(viewer.brand, viewer.subject, key, world.room) for viewer in viewers]


@pytest.mark.parametrize("remember", [True, False])
async def test_what_others_or_we_ourselves_granted_since_the_look_counts(world: World, remember: bool) -> None:
    drop = await world.drop(await world.campaign(stock=10), stock=10)
    first, second, third = await world.viewers(3)
    desk = _Desk(world, drop)
    early = _claims(world, [first, second])
    again = _claims(world, [second, third], "two") + _claims(world, [first, second])
    seen, seen_again = await desk.look(early), await desk.look(again)
    granted = await desk.answer(early, seen, remember=remember)
    assert all(isinstance(card, CouponCard) for card in granted)
    answers = await desk.answer(again, seen_again, remember=remember)
    assert answers[0] == "limit_reached", "who got one meanwhile"
    assert isinstance(answers[1], CouponCard)
    assert answers[2:] == granted, "a retry gets the same coupons"
    # What another drop of the campaign gives is not ours.
    (fourth,) = await world.viewers(1)
    late = _claims(world, [fourth])
    seen = await desk.look(late)
    await world.execute("DELETE FROM locations WHERE viewer_id <> :v", v=fourth.subject)
    campaign = await world.scalar("SELECT campaign_id FROM drops")
    assert await drops.run_push(world.kernel.sessions, await world.drop(campaign, "push", stock=5)) == 1
    assert await desk.answer(late, seen) == ["limit_reached"]
    async with world.kernel.sessions() as session:
        assert (await ledger.audit(session)).findings == []


async def test_who_is_known_by_their_coupon_needs_no_further_question(world: World) -> None:
    """Seen before the lock, and nobody has granted since: the retry is answered with what was seen."""
    drop = await world.drop(await world.campaign(stock=10), stock=10)
    desk = _Desk(world, drop)
    claims = _claims(world, await world.viewers(2))
    first = await desk.answer(claims, await desk.look(claims))
    sight = await desk.look(claims)
    assert {coupon.viewer_id for coupon in sight.former} == {claim.viewer for claim in claims}
    assert await desk.answer(claims, sight) == first


HELD, GRANTED = True, ["CouponCard", "CouponCard", "limit_reached"]
_MEANWHILE: dict[str, tuple[str, list[str], bool]] = {
    "nothing": ("SELECT 1", GRANTED, HELD),
    "somebody joined": ("UPDATE members SET tier = 3", GRANTED, HELD),
    "others got some": ("UPDATE campaigns SET issued = issued + 5, stock = stock + 5", GRANTED, HELD),
    "enough is left": ("UPDATE campaigns SET stock = 2", GRANTED, HELD),
    "one is left": ("UPDATE campaigns SET stock = 1", ["CouponCard", "sold_out", "limit_reached"], not HELD),
    "the drop's last": ("UPDATE drops SET stock = 1", ["CouponCard", "sold_out", "limit_reached"], not HELD),
    "one is left of the day": (
        "UPDATE campaigns SET per_day = 1",
        ["CouponCard", "sold_out_today", "limit_reached"],
        not HELD,
    ),
    "paused": ("UPDATE campaigns SET state = 'paused'", ["campaign_state"] * 3, not HELD),
    "the room ended": ("UPDATE rooms SET state = 'ended', ended_at = now()", ["ended"] * 3, not HELD),
    "stopped": ("UPDATE drops SET state = 'ended', end_reason = 'stopped'", ["ended"] * 3, not HELD),
    "another amount": ("UPDATE campaigns SET amount_fen = amount_fen + 1", GRANTED, not HELD),
    "members only": ("UPDATE campaigns SET min_tier = 1", ["tier"] * 3, not HELD),
    "a cap": (
        "UPDATE brands SET cap_coupons = 1, cap_days = 7",
        ["CouponCard", "CouponCard", "limit_reached"],
        not HELD,
    ),
}


@pytest.mark.parametrize("meanwhile", _MEANWHILE)
async def test_a_plan_is_carried_out_only_while_the_same_would_be_decided(world: World, meanwhile: str) -> None:
    campaign = await world.campaign(stock=10)
    drop = await world.drop(campaign, stock=10)
    desk = _Desk(world, drop)
    first, second = await world.viewers(2)
    claims = _claims(world, [first, second]) + _claims(world, [first], "two")
    sight = await desk.look(claims)
    changed, outcomes, held = _MEANWHILE[meanwhile]
    await world.execute(changed)
    assert await desk.compare(claims, sight) == (outcomes, outcomes, held)
    made = await world.scalar("SELECT count(*) FROM coupons")
    assert made == outcomes.count("CouponCard")
    assert await world.scalar("SELECT issued FROM drops") == made


async def test_a_plan_does_not_outlive_the_drop(world: World) -> None:
    drop = await world.drop(await world.campaign(stock=10), stock=10)
    claims = _claims(world, await world.viewers(1))
    sight = await _Desk(world, drop).look(claims)
    plan = foresee(claims, sight)
    async with world.kernel.sessions() as session:
        locked = await lock(session, drop)
    assert plan is not None and locked is not None

    def at(moment: datetime) -> Locked:
        facts = dict(locked.row._mapping) | {"at": moment}
        row: Any = SimpleNamespace(**facts, _mapping=facts)
        return Locked(row)

    assert plan.holds(at(locked.row.ends_at - timedelta(seconds=1)), [])
    assert not plan.holds(at(locked.row.ends_at), [])


@pytest.mark.parametrize(
    "asked",
    [{"store_quota": 5}, {"segments": ["new"]}, {"doubt": "review"}, {"state": "paused"}],
    ids=lambda asked: next(iter(asked)),
)
async def test_what_depends_on_more_than_was_seen_is_not_planned(world: World, asked: dict[str, Any]) -> None:
    drop = await world.drop(await world.campaign(stock=10, **asked), stock=10)
    claims = _claims(world, await world.viewers(1))
    assert foresee(claims, await _Desk(world, drop).look(claims)) is None


async def test_a_coupon_from_elsewhere_undoes_the_plan_for_its_owner(world: World) -> None:
    campaign = await world.campaign(stock=10)
    drop = await world.drop(campaign, stock=10)
    desk = _Desk(world, drop)
    first, second = await world.viewers(2)
    claims = _claims(world, [first, second])
    sight = await desk.look(claims)
    await world.execute("DELETE FROM locations WHERE viewer_id = :v", v=second.subject)
    assert await drops.run_push(world.kernel.sessions, await world.drop(campaign, "push", stock=5)) == 1
    outcomes = ["limit_reached", "CouponCard"]
    assert await desk.compare(claims, sight) == (outcomes, outcomes, not HELD)


async def test_stores_are_counted_beside_a_quota_only(world: World) -> None:
    for quota, counted in ((None, []), (5, [(5, 1)])):
        campaign = await world.campaign(stock=10, store_quota=quota)
        desk = _Desk(world, await world.drop(campaign, stock=10))
        claims = _claims(world, await world.viewers(1))
        assert _outcomes(await desk.answer(claims, await desk.look(claims))) == ["CouponCard"]
        rows = await world.execute("SELECT quota, issued FROM campaign_stores WHERE campaign_id = :c", c=campaign)
        assert [tuple(row) for row in rows] == counted
    async with world.kernel.sessions() as session:
        assert (await ledger.audit(session)).findings == []


async def test_a_number_that_a_store_has_left_is_asked_under_the_lock(world: World) -> None:
    drop = await world.drop(await world.campaign(stock=10, store_quota=1), stock=10)
    first, second = await world.viewers(2)
    desk = _Desk(world, drop)
    one, two = _claims(world, [first]), _claims(world, [second])
    seen_one, seen_two = await desk.look(one), await desk.look(two)
    assert isinstance((await desk.answer(one, seen_one))[0], CouponCard)
    assert await desk.answer(two, seen_two) == ["sold_out"]


async def test_who_was_refused_and_gets_one_later_counts_as_one_who_got_one(world: World) -> None:
    campaign = await world.campaign(stock=10, store_quota=1, per_viewer=2)
    drop = await world.drop(campaign, stock=10)
    first, second = await world.viewers(2)
    desk = _Desk(world, drop)
    claims = _claims(world, [first, second])
    answers = await desk.answer(claims, await desk.look(claims))
    assert answers[1] == "sold_out"
    shown: Any = "SELECT viewer_id, coalesce(reason, outcome) FROM decisions"
    assert dict(await world.execute(shown)) == {first.subject: "issued", second.subject: "sold_out"}
    await world.execute("UPDATE campaign_stores SET quota = 5")
    for key in ("two", "three"):
        claims = _claims(world, [second], key)
        await desk.answer(claims, await desk.look(claims))
    rows = await world.execute(shown)
    assert len(rows) == 2, "one row a viewer, however many coupons they have"
    assert dict(rows) == {first.subject: "issued", second.subject: "issued"}
    async with world.kernel.sessions() as session:
        assert (await ledger.audit(session)).findings == []


def test_grants_since_a_count_are_known_only_without_a_gap() -> None:
    ours, (a, b, c) = Ours(), new_ids(3)
    ours.add(5, [a])
    ours.add(6, [])
    ours.add(6, [b, c])
    assert ours.since(8, 8) == frozenset()
    assert ours.since(5, 8) == {a, b, c}
    assert ours.since(6, 8) == {b, c}
    assert ours.since(4, 8) is None, "somebody else gave the fifth"
    assert ours.since(5, 9) is None, "and the ninth"
    for issued in range(8, 40):
        ours.add(issued, [a])
    assert ours.since(5, 40) is None, "what is long ago is forgotten"
    assert ours.since(39, 40) == {a}
