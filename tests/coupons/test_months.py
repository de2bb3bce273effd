"""The ledger's lines lie in the partition of their month, which is there before them."""

import asyncio
from datetime import UTC, datetime, timedelta

from world import World

from coupons import ledger, months
from kernel.clock import now
from kernel.ids import new_id
from kernel.postgres import transaction

_WHERE = "SELECT CAST(tableoid::regclass AS text), count(*) FROM ledger GROUP BY 1 ORDER BY 1"


async def _write(world: World, at: datetime) -> None:
    await world.execute("INSERT INTO ledger (coupon_id, transition, at) VALUES (:id, 'issue', :at)", id=new_id(), at=at)


async def _keep_ready(world: World, moment: datetime) -> list[str]:
    async with transaction(world.kernel.sessions) as session:
        return await months.keep_ready(session, moment)


async def test_months_are_ready_ahead_and_lines_without_one_are_filed_later(world: World) -> None:
    assert await _keep_ready(world, now()) == [], "a migrated database has this month and the next ones"
    far = datetime(2041, 12, 31, 23, 59, 59, tzinfo=UTC)
    for at in (now(), far, far + timedelta(seconds=1), far + timedelta(seconds=2)):
        await _write(world, at)
    assert await world.execute(_WHERE) == [(f"ledger_{now().astimezone(UTC):%Y_%m}", 1), ("ledger_default", 3)]
    async with world.kernel.sessions() as session:
        report = await ledger.audit(session)
    assert report.unfiled == 3 and "3 ledger lines" in report.document()["warnings"][0]

    # Two workers at once, one of which leaves it to the other; a second turn finds nothing to do.
    made = await asyncio.gather(*(_keep_ready(world, far) for _ in range(2)))
    names = ["ledger_2041_12", "ledger_2042_01", "ledger_2042_02", "ledger_2042_03"]
    assert [*made[0], *made[1]] == names, "each month once, over the turn of a year"
    assert await _keep_ready(world, far) == []
    filed = dict(await world.execute(_WHERE))
    assert (filed["ledger_2041_12"], filed["ledger_2042_01"], filed.get("ledger_default")) == (1, 2, None)

    # What the whole table has, the new months have: the key, the index, the check, and numbers that go on.
    indexes = "SELECT count(*) FROM pg_indexes WHERE tablename IN ('ledger_2041_12', 'ledger_default')"
    assert await world.scalar(indexes) == 4
    await _write(world, far)
    assert await world.scalar("SELECT count(DISTINCT id) FROM ledger") == 5
    checks = "SELECT count(*) FROM pg_constraint WHERE conrelid = 'ledger_2041_12'::regclass AND contype = 'c'"
    assert await world.scalar(checks) == 1


async def test_a_month_is_made_while_lines_are_being_written(world: World) -> None:
    async with transaction(world.kernel.sessions) as writing:
        line = "INSERT INTO ledger (coupon_id, transition) VALUES (gen_random_uuid(), 'issue')"
        await writing.execute(ledger.text(line))
        assert len(await _keep_ready(world, datetime(2050, 5, 5, tzinfo=UTC))) == 4
