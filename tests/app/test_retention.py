"""What is over is forgotten: each datum after its own time, in pieces, by any number of workers."""

import asyncio
from datetime import timedelta

import httpx
from sqlalchemy import text
from world import BRAND, World

from app import retention, worker
from app.processes import free_port
from coupons import ledger
from coupons.issuing import Issuer
from geo.catchments import Catchments
from kernel.clock import now
from kernel.ids import new_id
from kernel.postgres import transaction
from kernel.process import Kernel
from live import reports
from live.bus import Kept
from live.comments import store as store_comments


async def an_evening(world: World) -> None:
    """Something of every kind, as old as a moment."""
    me, other = await world.viewers(2)
    drop = await world.drop(await world.campaign())
    async with Catchments(world.kernel.sessions) as catchments, Issuer(world.kernel.sessions, catchments) as issuer:
        card = await issuer.claim(me, world.room, drop, "one")
    said = Kept(new_id(), me.subject, "小林", "viewer", "你好", 0)
    async with transaction(world.kernel.sessions) as session:
        await store_comments(session, world.room, [said])
    async with transaction(world.kernel.sessions) as session:
        await reports.report(session, other, world.room, said.id, "spam")
    await world.review(card.id, state="expired", decided_at=now())
    values = {"room": world.room, "viewer": other.subject, "brand": BRAND, "drop": drop, "coupon": card.id,
              "store": world.stores["S1"], "by": world.ops.subject}  # fmt: skip
    for statement in (
        "INSERT INTO doubts VALUES (:room, :viewer, 'jumped', :brand, now(), now())",
        "INSERT INTO drop_viewers VALUES (:drop, :viewer, NULL, 'refused', 'sold_out', 500, now())",
        "INSERT INTO visits VALUES (gen_random_uuid(), :brand, :store, :viewer, :by, now())",
        "INSERT INTO reminders (room_id, viewer_id, outcome, settled_at) VALUES (:room, :viewer, 'sent', now())",
        "INSERT INTO coupon_reminders (coupon_id, due_at, outcome, settled_at) VALUES (:coupon, now(), 'sent', now())",
        "INSERT INTO mutes VALUES (:room, :viewer, now(), :by, now())",
        "INSERT INTO bans VALUES (:room, :viewer, now(), :by, now())",
        "INSERT INTO brand_mutes VALUES (:brand, :viewer, now(), :by, now())",
        "INSERT INTO brand_bans VALUES (:brand, :viewer, now(), :by, now())",
        "UPDATE outbox SET published_at = now()",
        "INSERT INTO idempotency_keys VALUES (:brand, :viewer, 'key', '', '', now())",
        "INSERT INTO erasures (subject, brand_id, at) VALUES (gen_random_uuid(), :brand, now())",
        "UPDATE rooms SET state = 'ended', ended_at = now()",
        "UPDATE drops SET state = 'ended', ends_at = now()",
    ):
        used = {name: value for name, value in values.items() if f":{name}" in statement}
        await world.execute(statement, **used)


async def test_each_datum_goes_after_its_own_time_and_the_books_stay(world: World) -> None:
    await an_evening(world)
    wanted = retention.rules(world.kernel.settings)
    assert len({rule.datum for rule in wanted}) == len(wanted)
    counts = {
        rule.datum: await world.scalar(f"SELECT count(*) FROM {rule.table}")
        for rule in wanted
    }  # fmt: skip
    assert all(counts.values()), "there is something of each"
    at = now()
    for rule in wanted:
        early = await retention.forget(world.kernel.sessions, [rule], at + rule.keep - timedelta(minutes=1))
        assert early == {}, rule
        gone = await retention.forget(world.kernel.sessions, [rule], at + rule.keep + timedelta(minutes=1))
        assert gone == {rule.datum: counts[rule.datum]}, rule
    assert await world.scalar("SELECT count(*) FROM reports") == 0, "reports go with the comment"
    assert await world.scalar("SELECT count(*) FROM coupons") == 1
    async with world.kernel.sessions() as session:
        assert (await ledger.audit(session)).findings == []


async def test_two_workers_share_what_goes_in_pieces_and_it_is_counted(world: World) -> None:
    await world.execute(
        "INSERT INTO visits SELECT gen_random_uuid(), :brand, :store, gen_random_uuid(), gen_random_uuid(),"
        " now() - interval '400 days' + n * interval '1 second' FROM generate_series(1, 95) AS n",
        brand=BRAND, store=world.stores["S1"],
    )  # fmt: skip
    before = retention.REMOVED.labels("visits")._value.get()
    wanted = [rule for rule in retention.rules(world.kernel.settings) if rule.datum == "visits"]
    at = now()
    removed = await asyncio.gather(
        *(retention.forget(world.kernel.sessions, wanted, at, chunk=10) for _ in range(3))
    )  # fmt: skip
    left: int = await world.scalar("SELECT count(*) FROM visits")
    assert sum(gone.get("visits", 0) for gone in removed) + left == 95
    assert (await retention.forget(world.kernel.sessions, wanted, at)).get("visits", 0) == left
    assert retention.REMOVED.labels("visits")._value.get() == before + 95


async def test_the_worker_shows_what_it_counted(kernel: Kernel) -> None:
    retention.REMOVED.labels("fixes").inc(0)
    port = free_port()
    settings = kernel.settings.model_copy(update={"worker_port": port})
    async with worker._metrics(settings), httpx.AsyncClient() as client:
        shown = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    assert 'nearcast_retention_removed_total{datum="fixes"}' in shown


async def test_decisions_are_found_by_their_drop_to_be_forgotten(world: World) -> None:
    (rule,) = (rule for rule in retention.rules(world.kernel.settings) if rule.datum == "decisions")
    question = f"EXPLAIN SELECT ctid FROM {rule.table} WHERE {rule.condition} LIMIT 2000"
    async with world.kernel.sessions() as session:
        # Of an empty table everything is as cheap as its index.
        await session.execute(text("SET LOCAL enable_seqscan = off"))
        await session.execute(text("SET LOCAL enable_hashjoin = off"))
        plan = (await session.scalars(text(question), {"before": now()})).all()
    assert "ix_drop_viewers_forgotten" in "\n".join(plan), plan
