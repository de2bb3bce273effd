"""Every invariant of the audit: a lie is planted for each, found by exactly those that must see it, and taken back."""

from typing import NamedTuple

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from world import SIGNER_SEED, World

from coupons import drops, ledger, redemption
from coupons.codes import Signer
from coupons.invariants import INVARIANTS
from coupons.issuing import Issuer
from geo.catchments import Catchments
from kernel.clock import now
from kernel.ids import new_id
from kernel.postgres import transaction

_ONE = "(SELECT id FROM coupons WHERE state = 'issued' ORDER BY id LIMIT 1)"
_USED = "(SELECT id FROM coupons WHERE state = 'redeemed')"


def _without(table: str, constraint: str) -> str:
    return f"ALTER TABLE {table} DROP CONSTRAINT ck_{table}_{constraint}"


def _review(state: str, asked: str, sign: str) -> str:
    """A review of somebody who has a coupon already."""
    decided = "gen_random_uuid(), now(), gen_random_uuid()" if state == "granted" else "NULL, NULL, NULL"
    return f"""
        INSERT INTO reviews (id, brand_id, campaign_id, drop_id, room_id, viewer_id, store_id, within_m, signs, state,
                             asked_at, expires_at, decided_by, decided_at, coupon_id)
        SELECT gen_random_uuid(), brand_id, campaign_id, drop_id, room_id, viewer_id, store_id, 500, ARRAY['{sign}'],
               '{state}', {asked}, now() + interval '2 hours', {decided}
        FROM coupons WHERE id = {_ONE}
    """


class Lie(NamedTuple):
    """SQL that makes one invariant false, and the others that cannot but see it too."""

    sql: tuple[str, ...]
    also: frozenset[str] = frozenset()


def lie(*sql: str, also: str = "") -> Lie:
    return Lie(sql, frozenset(also.split()))


LIES: dict[str, list[Lie]] = {
    "campaign_issued": [
        lie("UPDATE campaigns SET issued = issued - 1"),
        lie("UPDATE campaigns SET issued = issued + 1"),
    ],
    "campaign_stock": [lie(_without("campaigns", "stock"), "UPDATE campaigns SET stock = issued - 1")],
    "drop_issued": [
        lie("UPDATE drops SET issued = issued + 1 WHERE mode = 'push'"),
        lie("UPDATE drops SET issued = issued - 1 WHERE mode = 'push'"),
    ],
    "drop_stock": [lie(_without("drops", "stock"), "UPDATE drops SET stock = 4 WHERE mode = 'push'")],
    "store_issued": [
        lie("UPDATE campaign_stores SET issued = issued + 1"),
        lie("DELETE FROM campaign_stores"),
        lie("INSERT INTO campaign_stores (campaign_id, store_id, issued) SELECT id, :store, 1 FROM campaigns"),
    ],
    "store_quota": [lie(_without("campaign_stores", "quota"), "UPDATE campaign_stores SET quota = 1")],
    "campaign_returned": [
        lie("UPDATE campaigns SET returned = 1"),
        lie("UPDATE campaigns SET return_expired = true, returned = 1"),
    ],
    "store_returned": [lie("UPDATE campaign_stores SET returned = 1")],
    "viewer_limit": [
        lie(f"UPDATE coupons SET n = 3 WHERE id = {_ONE}"),
        lie("UPDATE campaigns SET per_viewer = 1"),
    ],
    "campaign_day": [
        lie("UPDATE campaigns SET per_day = 3, day_issued = 3"),
        lie("UPDATE campaigns SET per_day = 100, day_issued = 0"),
        lie("UPDATE campaigns SET per_day = 100, day = day + 1"),
    ],
    "drop_minute": [
        lie("UPDATE campaigns SET per_minute = 2"),
        lie("UPDATE campaigns SET per_minute = 100", "UPDATE drops SET minute_issued = 1"),
        lie("UPDATE campaigns SET per_minute = 100", "UPDATE drops SET minute = minute + 1"),
    ],
    "coupon_state": [
        lie(_without("coupons", "redeemed"), f"UPDATE coupons SET redeemed_at = now() WHERE id = {_ONE}"),
        lie(_without("coupons", "state"), f"UPDATE coupons SET state = 'given' WHERE id = {_ONE}", also="ledger_state"),
    ],
    "coupon_amount": [
        lie(f"UPDATE coupons SET amount_fen = 123 WHERE id = {_ONE}"),
        lie(
            """UPDATE campaigns SET distance_tiers = '[{"within_m": 500, "amount_fen": 3000}]'""",
            f"UPDATE coupons SET amount_fen = 500 WHERE id = {_ONE}",
        ),
    ],
    "coupon_parents": [
        lie("UPDATE coupons SET room_id = :other"),
        lie("UPDATE coupons SET brand_id = 'other'"),
        lie("UPDATE campaigns SET brand_id = 'other'", also="coupon_store"),
        lie(
            "ALTER TABLE drops DROP CONSTRAINT fk_drops_campaign_id_campaigns", "UPDATE drops SET campaign_id = :other"
        ),
    ],
    "coupon_store": [
        lie("UPDATE stores SET brand_id = 'other' WHERE code = 'S1'"),
        lie(f"UPDATE coupons SET store_id = :other WHERE id = {_ONE}", also="store_issued"),
        lie(
            "UPDATE campaigns SET all_stores = false",
            "UPDATE campaign_stores SET store_id = :store",
            also="store_issued",
        ),
    ],
    "coupon_held": [
        lie(f"UPDATE coupons SET held_until = now() - interval '2 minutes', valid_from = now() WHERE id = {_ONE}")
    ],
    "coupon_code": [
        lie(f"UPDATE coupons SET code = 'O' || substr(code, 2) WHERE id = {_ONE}"),
        lie("ALTER TABLE coupons DROP CONSTRAINT uq_coupons_code", "UPDATE coupons SET code = repeat('A', 16)"),
    ],
    "claim_twice": [lie("UPDATE coupons SET claim_key = 'x' WHERE claim_key IS NOT NULL")],
    "ledger_ids": [
        lie(
            "UPDATE ledger SET id = (SELECT min(id) FROM ledger), at = at + id * interval '1 microsecond'"
            " WHERE transition = 'issue'"
        )
    ],
    "ledger_order": [
        lie(f"INSERT INTO ledger (coupon_id, transition) VALUES ({_ONE}, 'issue')"),
        lie(
            f"INSERT INTO ledger (coupon_id, transition) VALUES ({_ONE}, 'expire'), ({_ONE}, 'issue')",
            also="ledger_times",
        ),
    ],
    "ledger_state": [
        lie(f"DELETE FROM ledger WHERE coupon_id = {_ONE}"),
        lie(f"INSERT INTO ledger (coupon_id, transition) VALUES ({_ONE}, 'expire')", also="ledger_times"),
        lie(f"UPDATE coupons SET state = 'expired' WHERE id = {_ONE}"),
        lie("INSERT INTO ledger (coupon_id, transition) VALUES (:other, 'issue')"),
    ],
    "reminded_once": [
        lie(f"INSERT INTO ledger (coupon_id, transition) VALUES ({_ONE}, 'remind'), ({_ONE}, 'remind')"),
        lie("INSERT INTO ledger (coupon_id, transition) VALUES (:other, 'remind')"),
    ],
    "ledger_times": [
        lie("UPDATE ledger SET at = at + interval '2 minutes' WHERE transition = 'issue'"),
        lie(
            f"INSERT INTO ledger (coupon_id, transition) VALUES ({_ONE}, 'expire')",
            f"UPDATE coupons SET state = 'expired' WHERE id = {_ONE}",
        ),
    ],
    "ledger_redemptions": [
        lie("UPDATE ledger SET redemption_id = NULL WHERE transition = 'reverse'"),
        lie(
            f"INSERT INTO ledger (coupon_id, transition) VALUES ({_ONE}, 'expire'), ({_ONE}, 'redeem')",
            also="ledger_order ledger_state ledger_times",
        ),
    ],
    # Lines that are in order and that each have their redemption leave exactly one standing, so others see it too.
    "redeemed_once": [
        lie("DELETE FROM redemptions WHERE reversed_at IS NULL", also="ledger_redemptions"),
        lie("UPDATE redemptions SET reversed_at = NULL", also="ledger_redemptions"),
        lie(f"UPDATE coupons SET state = 'issued', redeemed_at = NULL WHERE id = {_USED}", also="ledger_state"),
        lie(
            "DROP INDEX uq_redemptions_standing",
            "INSERT INTO redemptions (id, coupon_id, store_id, clerk_id, key, at)"
            " SELECT :other, coupon_id, store_id, clerk_id, 'again', at FROM redemptions WHERE reversed_at IS NULL",
            also="ledger_redemptions",
        ),
    ],
    "redeemed_store": [
        lie("UPDATE coupons SET store_id = :store", "UPDATE campaign_stores SET store_id = :store"),
    ],
    "redeemed_in_time": [
        lie("UPDATE redemptions SET at = at + interval '1 year', reversed_at = reversed_at + interval '1 year'"),
        lie("UPDATE coupons SET valid_from = now() + interval '1 hour'"),
        lie("UPDATE redemptions SET reversed_at = at + interval '61 minutes' WHERE reversed_at IS NOT NULL"),
        lie("UPDATE redemptions SET reversed_at = at - interval '1 second' WHERE reversed_at IS NOT NULL"),
    ],
    "ownerless": [lie(f"UPDATE coupons SET ownerless = true WHERE id = {_ONE}")],
    "redemption_discount": [
        lie("UPDATE redemptions SET discount_fen = order_fen + 1"),
        lie("UPDATE redemptions SET discount_fen = -1"),
        lie("UPDATE redemptions SET discount_fen = discount_fen + 1, order_fen = NULL"),
        lie("UPDATE campaigns SET threshold_fen = 10000000"),
        lie("UPDATE campaigns SET kind = 'gift', gift = '杯子'"),
        lie("UPDATE campaigns SET kind = 'percent', percent_off = 1"),
    ],
    "review_granted": [lie(_review("granted", "now()", "jumped"))],
    "review_passed_by": [lie(_review("open", "now() - interval '1 hour'", "jumped"))],
    "review_signs": [lie(_review("open", "now() + interval '1 hour'", "frozen"))],
    "held_out": [
        lie(
            "INSERT INTO drop_viewers (drop_id, viewer_id, outcome, reason)"
            " SELECT d.id, k.viewer_id, 'held_out', 'held_out' FROM drops d, coupons k"
            f" WHERE d.id <> k.drop_id AND k.id = {_ONE}"
        )
    ],
}


async def _evening(world: World) -> None:
    """Five coupons pushed; two claimed by one viewer: one is used, one was used and taken back."""
    campaign = await world.campaign(stock=50, store_quota=40, per_viewer=2)
    await world.viewers(5)
    assert await drops.run_push(world.kernel.sessions, await world.drop(campaign, "push", 20)) == 5
    claimed = await world.drop(campaign, "claim", 20)
    clerk, signer = world.clerk(), Signer(SIGNER_SEED)
    (viewer,) = await world.viewers(1)
    async with Issuer(world.kernel.sessions, Catchments(world.kernel.sessions)) as issuer:
        cards = [await issuer.claim(viewer, world.room, claimed, key) for key in ("one", "two")]
    async with transaction(world.kernel.sessions) as session:
        for place, card in enumerate(cards):
            presented = redemption.Presented(card.code, None)
            used = await redemption.redeem(session, clerk, presented, 15_000, f"k{place}", signer, now())
        await redemption.reverse(session, clerk, used.id, now())


async def _found(session: AsyncSession, lies: Lie, names: dict[str, object]) -> set[str]:
    """What the audit finds once ``lies`` are told; they are taken back before this returns."""
    async with session.begin_nested() as told:
        for sql in lies.sql:
            await session.execute(text(sql), {name: value for name, value in names.items() if f":{name}" in sql})
        report = await ledger.audit(session)
        assert not report.ok
        assert all(one.count and one.examples for one in report.findings)
        await told.rollback()
    return {one.code for one in report.findings}


async def test_every_invariant_finds_its_lie_and_is_content_once_that_is_taken_back(world: World) -> None:
    assert list(LIES) == [invariant.name for invariant in INVARIANTS], "each invariant has lies, in the same order"
    await _evening(world)
    names = {"store": await world.store("S9"), "other": new_id()}
    await world.execute(
        "INSERT INTO rooms (id, brand_id, guide_id, title) VALUES (:id, 'acme', :guide, '另')",
        id=names["other"],
        guide=world.guide.subject,
    )
    wrong = []
    async with world.kernel.sessions() as session:
        for name, lies in LIES.items():
            for one in lies:
                found = await _found(session, one, names)
                if found != {name} | one.also:
                    wrong.append((name, one.sql, found))
                assert (await ledger.audit(session)).findings == [], "what was taken back is still found"
    assert wrong == []


async def test_the_report_for_machines_names_every_invariant_and_what_it_looked_at(world: World) -> None:
    await _evening(world)
    async with transaction(world.kernel.sessions) as session:
        honest = (await ledger.audit(session)).document()
        await session.execute(text("UPDATE campaigns SET issued = issued - 1"))
        await session.execute(text("UPDATE outbox SET created_at = now() - interval '2 minutes'"))
        document = (await ledger.audit(session)).document()
    assert msgspec.json.decode(msgspec.json.encode(document)) == document
    names = [*LIES, ledger.OUTBOX_TOLD]
    for one in (honest, document):
        assert [invariant["name"] for invariant in one["invariants"]] == names
        assert all(set(i) == {"name", "says", "checked", "found", "examples", "ok"} for i in one["invariants"])
    assert honest["ok"] and all(one["ok"] and not one["examples"] for one in honest["invariants"])
    assert honest["coupons"] == {"issued": 7, "standing": 6, "redeemed": 1, "expired": 0, "voided": 0}
    checked = {one["name"]: one["checked"] for one in honest["invariants"]}
    assert (checked["campaign_issued"], checked["coupon_code"], checked["ledger_order"]) == (1, 7, 10)
    assert not document["ok"]
    bad = {one["name"]: (one["found"], len(one["examples"])) for one in document["invariants"] if not one["ok"]}
    waiting = document["outbox"]["waiting"]
    assert bad == {"campaign_issued": (1, 1), ledger.OUTBOX_TOLD: (waiting, min(waiting, ledger.EXAMPLES))}
