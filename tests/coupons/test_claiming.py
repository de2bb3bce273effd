"""A batch looks before it has the lock: what it saw then is used only as far as it still holds."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from world import World

from coupons import drops, ledger
from coupons.cards import CouponCard
from coupons.claiming import Answer, answer_batch
from coupons.locking import lock
from coupons.sight import Claim, Ours, Sight, look
from geo.catchments import Catchments
from kernel.identity import Principal
from kernel.ids import new_ids
from kernel.postgres import transaction


class _Desk:
    """Looks at claims of one drop, and answers them later."""

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
            answered = await answer_batch(session, locked, claims, sight, self.ours)
        if remember:
            self.ours.add(answered.issued, answered.recipients)
        return answered.answers


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
