"""Claims by group commit, against a real database."""

import asyncio
import re
from collections import deque
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import text
from world import World

from coupons import issuing, ledger
from coupons.cards import CouponCard
from coupons.issuing import Issuer
from coupons.sight import FORMER
from geo.catchments import Catchments
from kernel.clock import now
from kernel.errors import Refusal
from kernel.identity import Principal, Role
from kernel.ids import new_id
from kernel.postgres import PROBES, create_engine, create_sessions
from kernel.process import Kernel


async def _claims(issuer: Issuer, world: World, drop: Any, viewers: list[Principal]) -> list[CouponCard | str]:
    """Each viewer's coupon or the code of the refusal."""

    async def one(viewer: Principal) -> CouponCard | str:
        try:
            return await issuer.claim(viewer, world.room, drop, f"c-{viewer.subject}")
        except Refusal as refusal:
            return refusal.code

    return list(await asyncio.gather(*map(one, viewers)))


async def _audited(world: World) -> None:
    async with world.kernel.sessions() as session:
        assert (await ledger.audit(session)).findings == []


async def test_the_first_come_get_them_and_the_others_learn_why(world: World) -> None:
    drop = await world.drop(await world.campaign(), stock=10)
    viewers = await world.viewers(30)
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        answers = await _claims(issuer, world, drop, viewers)
    assert all(isinstance(answer, CouponCard) for answer in answers[:10])
    assert answers[10:] == ["sold_out"] * 20
    assert await world.scalar("SELECT count(*) FROM coupons") == 10
    assert await world.execute("SELECT state, end_reason, issued FROM drops") == [("ended", "sold_out", 10)]
    await _audited(world)


async def test_a_retry_with_the_same_id_gets_the_same_coupon(world: World) -> None:
    drop = await world.drop(await world.campaign(), stock=1)
    (viewer,) = await world.viewers(1)
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        twice = await asyncio.gather(*(issuer.claim(viewer, world.room, drop, "one") for _ in range(2)))
        later = await issuer.claim(viewer, world.room, drop, "one")  # the drop has sold out meanwhile
    assert twice[0] == twice[1] == later
    assert await world.scalar("SELECT count(*) FROM coupons") == 1


async def test_a_second_claim_is_refused_at_the_viewers_limit(world: World) -> None:
    drop = await world.drop(await world.campaign(per_viewer=2), stock=10)
    (viewer,) = await world.viewers(1)

    async def claim(key: str) -> object:
        try:
            return (await issuer.claim(viewer, world.room, drop, key)).id
        except Refusal as refusal:
            return refusal.code

    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        at_once = await asyncio.gather(*map(claim, "abc"))
        assert at_once[2] == "limit_reached" and len(set(at_once)) == 3
        assert await claim("d") == "limit_reached"
    assert await world.execute("SELECT n FROM coupons ORDER BY n") == [(1,), (2,)]
    told = await world.execute("SELECT payload FROM outbox WHERE topic = 'coupons.issued' ORDER BY id")
    viewers = [[grant["viewer"] for grant in msgspec.json.decode(row[0])["grants"]] for row in told]
    assert viewers == [[str(viewer.subject)]] * 2, "one event may not name a viewer twice"
    await _audited(world)


async def test_the_card_says_what_it_is_and_where(world: World) -> None:
    drop = await world.drop(await world.campaign())
    await world.store("S2", north_m=900)
    (viewer,) = await world.viewers(1, north_m=700)
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        card = await issuer.claim(viewer, world.room, drop, "one")
    assert (card.store, card.store_name, card.terms, card.distance_m) == ("S2", "S2店", "满100减20", 500)
    assert card.valid_from is not None and card.valid_until > card.valid_from
    assert await world.execute("SELECT id, state, claim_key FROM coupons") == [(card.id, "issued", "one")]
    assert await world.execute("SELECT coupon_id, transition FROM ledger") == [(card.id, "issue")]
    assert await world.execute("SELECT outcome FROM decisions") == [("issued",)]


async def test_everybody_gets_their_own_reason(world: World) -> None:
    campaign = await world.campaign(min_tier=1)
    drop = await world.drop(campaign)
    near = (await world.viewers(1, tier=1))[0]
    far = (await world.viewers(1, tier=1, north_m=3_100))[0]
    nowhere = (await world.viewers(1, tier=1, north_m=None))[0]
    stale = (await world.viewers(1, tier=1, at=now() - timedelta(minutes=11)))[0]
    vague = (await world.viewers(1, tier=1, accuracy_m=1_500))[0]
    plain = (await world.viewers(1, tier=0))[0]
    stranger = Principal(near.brand, new_id(), Role.VIEWER, "?", near.expires_at)
    viewers = [near, far, nowhere, stale, vague, plain, stranger]
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        answers = await _claims(issuer, world, drop, viewers)
        assert isinstance(answers[0], CouponCard)
        assert answers[1:] == [
            "out_of_range", "location_missing", "location_stale", "location_uncertain", "tier", "forbidden",
        ]  # fmt: skip
        other = Principal("other", near.subject, Role.VIEWER, "?", near.expires_at)  # type: ignore[arg-type]
        assert await _claims(issuer, world, drop, [other]) == ["not_found"]
        assert await _claims(issuer, world, new_id(), [near]) == ["not_found"]
        assert await _claims(issuer, world, await world.drop(campaign, "push"), [near]) == ["not_found"]
        assert await _claims(issuer, world, drop, [world.guide]) == ["forbidden"]
    await _audited(world)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE drops SET opens_at = now() + interval '1 hour', ends_at = now() + interval '2 hours'", "not_started"),
        ("UPDATE drops SET ends_at = now() - interval '1 second'", "ended"),
        ("UPDATE drops SET state = 'ended', end_reason = 'stopped'", "ended"),
        ("UPDATE rooms SET state = 'ended'", "ended"),
        ("UPDATE campaigns SET state = 'paused'", "campaign_state"),
        ("UPDATE campaigns SET stock = 0", "sold_out"),
    ],
)
async def test_a_drop_that_gives_nothing_says_why(world: World, change: str, reason: str) -> None:
    drop = await world.drop(await world.campaign())
    viewers = await world.viewers(2)
    await world.execute(change)
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        assert await _claims(issuer, world, drop, viewers) == [reason] * 2
    assert await world.scalar("SELECT count(*) FROM coupons") == 0


async def test_the_holdout_gets_none_and_is_remembered(world: World) -> None:
    drop = await world.drop(await world.campaign(holdout_percent=50, stock=100), stock=100)
    viewers = await world.viewers(40)
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        answers = await _claims(issuer, world, drop, viewers)
    held = answers.count("held_out")
    assert 5 < held < 35
    assert await world.scalar("SELECT count(*) FROM decisions WHERE outcome = 'held_out'") == held
    await _audited(world)


async def test_a_full_store_sends_its_viewers_to_the_next(world: World) -> None:
    for place in range(2, 8):
        await world.store(f"S{place}", north_m=place * 50)
    drop = await world.drop(await world.campaign(store_quota=2, stock=100), stock=100)
    viewers = await world.viewers(16)
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        answers = await _claims(issuer, world, drop, viewers)
        assert [a.store for a in answers if isinstance(a, CouponCard)] == [
            f"S{place}" for place in range(1, 8) for _ in range(2)
        ]
        assert answers[14:] == ["sold_out"] * 2
        assert await _claims(issuer, world, drop, await world.viewers(1)) == ["sold_out"]
    await _audited(world)


async def test_only_the_campaigns_own_stores_give(world: World) -> None:
    other = await world.store("S2", north_m=500)
    campaign = await world.campaign(all_stores=False)
    await world.execute("INSERT INTO campaign_stores (campaign_id, store_id) VALUES (:c, :s)", c=campaign, s=other)
    drop = await world.drop(campaign)
    (viewer,) = await world.viewers(1)
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        assert (await issuer.claim(viewer, world.room, drop, "one")).store == "S2"


async def test_a_full_queue_refuses_at_once(world: World) -> None:
    drop = await world.drop(await world.campaign())
    viewers = await world.viewers(4)
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions), queue=3) as issuer:
        answers = await _claims(issuer, world, drop, viewers)
        assert answers[3] == "busy" and "busy" not in answers[:3]
        again = await asyncio.gather(
            *(issuer.claim(v, world.room, drop, "again") for v in viewers), return_exceptions=True
        )
        assert isinstance(again[3], Refusal) and again[3].retry_after
        assert all(isinstance(a, CouponCard) for a in await _claims(issuer, world, drop, viewers[:3]))


@pytest.mark.parametrize("claim_id", ["", "x" * 201, "a\0b", "\ud800"])
async def test_an_id_that_cannot_be_stored_is_refused(world: World, claim_id: str) -> None:
    drop = await world.drop(await world.campaign())
    (viewer,) = await world.viewers(1)
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        with pytest.raises(Refusal, match="invalid"):
            await issuer.claim(viewer, world.room, drop, claim_id)


async def test_a_viewer_who_leaves_does_not_break_the_batch(world: World) -> None:
    drop = await world.drop(await world.campaign())
    viewers = await world.viewers(3)
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        claims = [asyncio.create_task(issuer.claim(v, world.room, drop, "one")) for v in viewers]
        await asyncio.sleep(0)
        claims[1].cancel()
        done = await asyncio.gather(*claims, return_exceptions=True)
        assert isinstance(done[0], CouponCard) and isinstance(done[2], CouponCard)
        assert isinstance(done[1], asyncio.CancelledError)
        # What was granted to them all the same is found by the retry.
        again = await issuer.claim(viewers[1], world.room, drop, "one")
    assert await world.scalar("SELECT count(*) FROM coupons WHERE viewer_id = :v", v=viewers[1].subject) == 1
    assert await world.scalar("SELECT id FROM coupons WHERE viewer_id = :v", v=viewers[1].subject) == again.id


async def test_claims_without_a_database_are_unavailable_and_the_next_batch_works(kernel: Kernel, world: World) -> None:
    drop = await world.drop(await world.campaign())
    viewers = await world.viewers(2)
    engine = create_engine(kernel.settings)
    async with Issuer(create_sessions(engine), Catchments(create_sessions(engine))) as issuer:
        assert isinstance((await _claims(issuer, world, drop, viewers[:1]))[0], CouponCard)
        # A transaction of ours holds the campaign, so the batch waits in the database while it is cut off.
        async with kernel.sessions() as holding, holding.begin():
            await holding.execute(ledger.text("SELECT 1 FROM campaigns FOR UPDATE"))
            waiting = asyncio.create_task(_claims(issuer, world, drop, viewers[1:]))
            await world.somebody_waits()
            await world.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            assert await waiting == ["unavailable"]
        assert isinstance((await _claims(issuer, world, drop, viewers[1:]))[0], CouponCard)
    await engine.dispose()
    await _audited(world)


async def test_a_batch_that_takes_too_long_is_unavailable(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issuing, "BATCH_TIMEOUT_SECONDS", 0.2)
    drop = await world.drop(await world.campaign())
    viewers = await world.viewers(1)
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        async with world.kernel.sessions() as holding, holding.begin():
            await holding.execute(ledger.text("SELECT 1 FROM campaigns FOR UPDATE"))
            assert await _claims(issuer, world, drop, viewers) == ["unavailable"]
        monkeypatch.undo()
        assert isinstance((await _claims(issuer, world, drop, viewers))[0], CouponCard)
    await _audited(world)


async def test_stopping_answers_whoever_still_waits(world: World) -> None:
    drop = await world.drop(await world.campaign())
    viewers = await world.viewers(2)
    async with world.kernel.sessions() as holding, holding.begin():
        await holding.execute(ledger.text("SELECT 1 FROM campaigns FOR UPDATE"))
        issuer = Issuer(world.kernel.sessions, Catchments(world.kernel.sessions))
        issuer.start()
        waiting = asyncio.create_task(_claims(issuer, world, drop, viewers))
        await world.somebody_waits()
        late = asyncio.create_task(_claims(issuer, world, drop, viewers))
        await asyncio.sleep(0)
        await issuer.stop()
        assert await waiting == ["unavailable"] * 2
        assert await late == ["unavailable"] * 2


def test_batches_grow_with_the_line_up_to_half_of_it() -> None:
    sizes = {line: len(issuing._next_of(deque([None] * line))) for line in (1, 400, 900, 1_200, 3_000, 20_000)}  # type: ignore[list-item]
    assert sizes == {1: 1, 400: 400, 900: 500, 1_200: 600, 3_000: 1_500, 20_000: 2_000}


async def test_what_viewers_have_is_looked_up_one_by_one_however_empty_the_campaign_was_when_it_was_planned(
    world: World,
) -> None:
    statement = FORMER.text.replace(":campaign", "CAST(:campaign AS uuid)")
    asked = {"campaign": await world.campaign(), "viewers": [new_id() for _ in range(500)]}
    for mode in ("force_custom_plan", "force_generic_plan"):
        await world.execute("TRUNCATE coupons CASCADE")
        async with world.kernel.sessions() as session:
            await session.execute(text(f"SET LOCAL plan_cache_mode = {mode}"))
            plan = "\n".join(await session.scalars(text(f"EXPLAIN {statement}"), asked))
        assert re.search(r"Index Cond: \(\(viewer_id = w.viewer_id\) AND \(campaign_id = ", plan), plan
        assert "Hash" not in plan and "Merge" not in plan, plan


@pytest.mark.parametrize("planner", [{}, PROBES], ids=["as usual", "as claims are"])
async def test_however_small_tables_were_when_claims_were_planned_each_viewer_is_looked_up(
    world: World, planner: dict[str, str]
) -> None:
    """Some try a campaign in the afternoon, the tables are analysed with a few rows in them, and the storm comes on
    the connections that have their plans already: read whole, a table would cost each batch all that it holds then."""
    drop = await world.drop(await world.campaign(stock=100), stock=100)
    viewers = await world.viewers(60)
    # Far away is what PostgreSQL believes by default, and wherever nobody told it of a quick disk.
    engine = create_engine(world.kernel.settings, name="planned", planner={**planner, "random_page_cost": "4"})
    catchments = Catchments(world.kernel.sessions)
    async with catchments, Issuer(create_sessions(engine), catchments) as issuer:
        for viewer in viewers[:20]:
            await issuer.claim(viewer, world.room, drop, "one")
        await world.execute("ANALYZE coupons, members, locations, ledger, drop_viewers")
        for viewer in viewers[20:40]:
            await issuer.claim(viewer, world.room, drop, "one")
        await engine.dispose()  # what a connection has counted is told when it ends
        before = await _read_whole(world)
        assert all(isinstance(answer, CouponCard) for answer in await _claims(issuer, world, drop, viewers[40:]))
    await engine.dispose()
    read = await _read_whole(world) - before
    assert (read == 0) is (planner == PROBES), "else this test could not fail"


async def _read_whole(world: World) -> int:
    """How often the tables of a claim were read whole, as connections told that have ended."""
    while await world.scalar("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'planned'"):
        await asyncio.sleep(0.01)
    tables = "('coupons', 'members', 'locations', 'drop_viewers')"
    return int(await world.scalar(f"SELECT sum(seq_scan) FROM pg_stat_user_tables WHERE relname IN {tables}"))


async def test_a_claims_id_may_hold_any_sign(world: World) -> None:
    drop = await world.drop(await world.campaign(per_viewer=9), stock=9)
    (viewer,) = await world.viewers(1)
    keys = ['{"a"', "b\\", "NULL", "c,d}", "\n' é", '\\"']
    async with Catchments(world.kernel.sessions) as catchments, Issuer(world.kernel.sessions, catchments) as issuer:
        cards = await asyncio.gather(*(issuer.claim(viewer, world.room, drop, key) for key in keys))
        again = await asyncio.gather(*(issuer.claim(viewer, world.room, drop, key) for key in keys))
    assert [card.id for card in again] == [card.id for card in cards]
    assert {row[0] for row in await world.execute("SELECT claim_key FROM coupons")} == set(keys)
    await _audited(world)


async def test_a_claim_alone_and_far_from_every_store_is_out_of_range(world: World) -> None:
    drop = await world.drop(await world.campaign())
    far = await world.viewers(1, north_m=9_000)
    async with Catchments(world.kernel.sessions) as catchments, Issuer(world.kernel.sessions, catchments) as issuer:
        assert await _claims(issuer, world, drop, far) == ["out_of_range"]
