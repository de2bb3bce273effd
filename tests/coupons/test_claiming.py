"""A batch looks before it has the lock: what it saw then is used only as far as it still holds."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from world import World

from coupons import claiming, drops, issuing, ledger, statements
from coupons.cards import CouponCard
from coupons.claiming import Answer, Answered, Plan, answer_batch, carry_out, foresee
from coupons.issuing import Issuer
from coupons.locking import Locked, lock
from coupons.sight import Claim, Ours, Sight, look, recalled
from geo.catchments import Catchments
from kernel.errors import Refusal
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

    async def plan(self, claims: Sequence[Claim]) -> Plan:
        plan = foresee(claims, await self.look(claims))
        assert plan is not None
        return plan

    async def carry_out(self, plan: Plan) -> Answered | None:
        since = plan.since(self.ours)
        assert since is not None
        return await carry_out(self._world.kernel.sessions, plan, since, self.ours)

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
FOUND_AS_SEEN = ("nothing", "somebody joined")
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
        assert plan is not None
        return Locked(plan.sight.facts.row._replace(at=moment))

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


# ---- in one question -----------------------------------------------------------------------------------------------


async def _written(world: World) -> list[Any]:
    counted = "SELECT issued, decided, minute_issued FROM drops UNION ALL SELECT issued, day_issued, 0 FROM campaigns"
    tables = ("coupons", "ledger", "drop_viewers", "outbox")
    return [
        list(await world.execute(counted)),
        *[await world.scalar(f"SELECT count(*) FROM {table}") for table in tables],
    ]


@pytest.mark.parametrize("meanwhile", _MEANWHILE)
async def test_a_plan_is_written_in_one_question_only_if_the_drop_is_found_as_it_was_seen(
    world: World, meanwhile: str
) -> None:
    drop = await world.drop(await world.campaign(stock=10), stock=10)
    desk = _Desk(world, drop)
    first, second = await world.viewers(2)
    claims = _claims(world, [first, second]) + _claims(world, [first], "two")
    plan = await desk.plan(claims)
    await world.execute(_MEANWHILE[meanwhile][0])
    before = await _written(world)
    answered = await desk.carry_out(plan)
    if meanwhile in FOUND_AS_SEEN:
        assert answered is not None
        assert _outcomes(answered.answers) == GRANTED
        shown = [answer.id for answer in answered.answers if isinstance(answer, CouponCard)]
        assert set(shown) == {row[0] for row in await world.execute("SELECT id FROM coupons")}
        assert await _written(world) == [[(2, 2, 2), (2, 2, 0)], 2, 2, 0, 2]
        assert desk.ours.after(0) == (2, {first.subject, second.subject})
        async with world.kernel.sessions() as session:
            assert (await ledger.audit(session)).findings == []
    else:
        assert answered is None
        assert await _written(world) == before
        assert desk.ours.after(0) == (0, frozenset())


async def test_who_is_held_out_is_noted_with_it(world: World) -> None:
    drop = await world.drop(await world.campaign(stock=100, holdout_percent=50), stock=100)
    desk = _Desk(world, drop)
    plan = await desk.plan(_claims(world, await world.viewers(40)))
    await world.execute("UPDATE campaigns SET state = 'paused'")
    assert await desk.carry_out(plan) is None
    assert await world.scalar("SELECT count(*) FROM drop_viewers") == 0
    await world.execute("UPDATE campaigns SET state = 'running'")
    answered = await desk.carry_out(plan)
    assert answered is not None
    held_out = _outcomes(answered.answers).count("held_out")
    assert 0 < held_out < 40
    noted = "SELECT count(*) FROM drop_viewers WHERE outcome = 'held_out' AND reason = 'held_out'"
    assert await world.scalar(noted) == held_out
    assert await world.execute("SELECT issued, decided FROM drops") == [(40 - held_out, 40)]
    async with world.kernel.sessions() as session:
        assert (await ledger.audit(session)).findings == []


async def test_a_plan_that_comes_late_is_not_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    drop = await world.drop(await world.campaign(stock=10), stock=10)
    desk = _Desk(world, drop)
    plan = await desk.plan(_claims(world, await world.viewers(1)))
    monkeypatch.setattr(claiming, "PLANNED_FOR", timedelta(0))
    assert await desk.carry_out(plan) is None
    assert await world.scalar("SELECT count(*) FROM coupons") == 0
    monkeypatch.undo()
    assert await desk.carry_out(plan) is not None


async def test_no_plan_is_sent_for_the_last_coupon_or_over_the_end_of_a_minute_a_day_or_the_drop(world: World) -> None:
    drop = await world.drop(await world.campaign(stock=10, per_day=5), stock=4)
    plan = await _Desk(world, drop).plan(_claims(world, await world.viewers(3)))
    row = plan.sight.facts.row
    assert plan.since(Ours()) == 0

    def sent(**facts: Any) -> bool:
        seen = Locked(row._replace(**facts))
        return replace(plan, sight=replace(plan.sight, facts=seen)).since(Ours()) is not None

    soon = timedelta(seconds=0.5)
    assert sent()
    assert not sent(drop_left=3)
    assert not sent(campaign_left=3)
    assert not sent(day=row.at.astimezone(plan.sight.facts._zone).date(), day_issued=2)
    assert sent(day=row.at.astimezone(plan.sight.facts._zone).date(), day_issued=1)
    assert not sent(ends_at=row.at + soon)
    assert not sent(opens_at=row.at + soon - timedelta(minutes=3)), "another minute of the drop begins"
    midnight = row.at.astimezone(plan.sight.facts._zone).replace(hour=23, minute=59, second=59, microsecond=500_000)
    assert not sent(at=midnight, opens_at=midnight - timedelta(seconds=10), ends_at=midnight + timedelta(hours=1))
    assert sent(
        at=midnight - soon * 2, opens_at=midnight - timedelta(seconds=10), ends_at=midnight + timedelta(hours=1)
    )


async def test_a_plan_reckons_with_what_is_on_its_way(world: World) -> None:
    """Both stand in the queue for the lock before the first has written anything."""
    drop = await world.drop(await world.campaign(stock=10), stock=10)
    desk = _Desk(world, drop)
    viewers = await world.viewers(5)
    one, two = await desk.plan(_claims(world, viewers[:2])), await desk.plan(_claims(world, viewers[2:4]))
    same = await desk.plan(_claims(world, viewers[1:2], "again"))
    async with world.kernel.sessions() as holding, holding.begin():
        await holding.execute(ledger.text("SELECT 1 FROM campaigns FOR UPDATE"))
        first = asyncio.create_task(desk.carry_out(one))
        await world.somebody_waits()
        assert same.since(desk.ours) is None, "who may have got one is asked about"
        second = asyncio.create_task(desk.carry_out(two))
        await world.somebody_waits(2)
    answers = [await first, await second]
    assert [answered and (answered.issued, _outcomes(answered.answers)) for answered in answers] == [
        (0, ["CouponCard"] * 2),
        (2, ["CouponCard"] * 2),
    ]
    stock = "SELECT convert_from(payload, 'utf8') FROM outbox WHERE topic = 'coupons.drop_stock' ORDER BY id"
    assert [text.partition('"left":')[2].rstrip("}") for (text,) in await world.execute(stock)] == ["8", "6"]
    async with world.kernel.sessions() as session:
        assert (await ledger.audit(session)).findings == []


async def test_a_row_that_the_database_would_not_have_undoes_the_plan_and_what_is_behind_it(world: World) -> None:
    drop = await world.drop(await world.campaign(stock=10), stock=10)
    desk = _Desk(world, drop)
    first, second, third = await world.viewers(3)
    one, two = await desk.plan(_claims(world, [first, second])), await desk.plan(_claims(world, [third]))
    # A coupon that nobody counted.
    made = await desk.plan(_claims(world, [first]))
    async with transaction(world.kernel.sessions) as session:
        await session.execute(statements.WRITE, made.made[0].values(made.sight.facts, None))
    async with world.kernel.sessions() as holding, holding.begin():
        await holding.execute(ledger.text("SELECT 1 FROM campaigns FOR UPDATE"))
        answers = [asyncio.create_task(desk.carry_out(one))]
        await world.somebody_waits()
        answers.append(asyncio.create_task(desk.carry_out(two)))
        await world.somebody_waits(2)
    assert await asyncio.gather(*answers) == [None, None]
    assert await world.scalar("SELECT count(*) FROM coupons") == 1
    assert desk.ours.after(0) == (0, frozenset())


async def test_whoever_came_first_is_first_also_when_plans_do_not_hold(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuing, "BATCH", 2)
    campaign = await world.campaign(stock=10)
    drop = await world.drop(campaign, stock=10)
    viewers = await world.viewers(4)
    sessions = world.kernel.sessions

    async def claim(issuer: Issuer, viewer: Principal) -> str:
        try:
            await issuer.claim(viewer, world.room, drop, "one")
        except Refusal as refusal:
            return refusal.code
        return "issued"

    async with Catchments(sessions) as catchments, Issuer(sessions, catchments) as issuer:
        async with sessions() as holding, holding.begin():
            await holding.execute(ledger.text("UPDATE campaigns SET stock = 3"))
            claims = asyncio.gather(*(claim(issuer, viewer) for viewer in viewers))
            await world.somebody_waits(2)
        assert await claims == ["issued", "issued", "issued", "sold_out"]
    async with world.kernel.sessions() as session:
        assert (await ledger.audit(session)).findings == []


async def test_a_batch_without_a_plan_does_not_make_the_plans_behind_it_fail(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be decided under the lock, too, and so would those behind them, for as long as claims come."""
    monkeypatch.setattr(issuing, "BATCH", 2)
    monkeypatch.setattr(issuing, "AHEAD", 3)
    drop = await world.drop(await world.campaign(stock=10), stock=10)
    viewers = await world.viewers(6)
    sessions, has_lock, go = world.kernel.sessions, asyncio.Event(), asyncio.Event()
    carried: list[bool] = []

    def foresee_from_the_second(claims: Sequence[Claim], sight: Sight) -> Plan | None:
        return foresee(claims, sight) if has_lock.is_set() else None

    async def answer_when_told(*args: Any, **more: Any) -> Answered:
        has_lock.set()
        await go.wait()
        return await answer_batch(*args, **more)

    async def carry_out_and_note(*args: Any) -> Answered | None:
        answered = await carry_out(*args)
        carried.append(answered is not None)
        return answered

    monkeypatch.setattr(issuing, "foresee", foresee_from_the_second)
    monkeypatch.setattr(issuing, "answer_batch", answer_when_told)
    monkeypatch.setattr(issuing, "carry_out", carry_out_and_note)
    async with Catchments(sessions) as catchments, Issuer(sessions, catchments) as issuer:

        async def claim(viewer: Principal) -> str:
            return (await issuer.claim(viewer, world.room, drop, "one")).state

        claims = [asyncio.create_task(claim(viewer)) for viewer in viewers[:2]]
        await has_lock.wait()
        claims += [asyncio.create_task(claim(viewer)) for viewer in viewers[2:]]
        await asyncio.sleep(0.3)  # long enough to look, to plan and to send what may be sent
        go.set()
        assert await asyncio.gather(*claims) == ["issued"] * 6
    assert carried == [True, True]


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
    assert ours.after(38) == (40, {a})
    ours.take_back(39)
    assert ours.after(38) == (39, {a})
    assert ours.after(50) == (50, frozenset())
