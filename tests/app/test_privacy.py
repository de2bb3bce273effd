"""What a person may ask for: everything that is kept about them, and that it be erased."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from httpx import ASGITransport, AsyncClient
from sqlalchemy import text
from world import BRAND, World, make_world

from app import privacy, relay
from app.api import create_app
from app.keys import with_keys
from coupons import ledger, redemption, reminders, visits, wallet
from coupons.codes import Signer
from coupons.issuing import Issuer
from coupons.redemption import Presented
from geo import consents
from geo.catchments import Catchments
from guides import bindings, members
from kernel.clock import now
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.ids import new_id
from kernel.outbox import emit
from kernel.postgres import transaction
from kernel.process import Kernel
from live import bans, comments, reports, rooms
from live import reminders as room_reminders
from live.bus import Kept, RedisBus

PERSON = "绝无仅有的小林"
OTHER = "旁人阿华"
WORDS = "我今天想喝桂花乌龙"


@pytest.fixture
async def world(kernel: Kernel) -> World:
    return await make_world(replace(kernel, settings=with_keys(kernel.settings)))


@pytest.fixture
def signer(world: World) -> Signer:
    return Signer.from_settings(world.kernel.settings)


@asynccontextmanager
async def api(world: World) -> AsyncIterator[AsyncClient]:
    app = create_app(world.kernel)
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app), base_url="http://api") as client,
    ):
        yield client


def bearer(world: World, who: Principal) -> dict[str, str]:
    return {"Authorization": f"Bearer {world.kernel.keyring.issue(who)}"}


async def everything(world: World, signer: Signer) -> tuple[Principal, Principal, dict[str, UUID]]:
    """A member about whom there is something of every kind, and another one who did the same."""
    me, other = await world.viewers(2)
    await world.execute("UPDATE members SET name = :name WHERE id = :id", name=PERSON, id=me.subject)
    await world.execute("UPDATE members SET name = :name WHERE id = :id", name=OTHER, id=other.subject)
    campaign, returning = await world.campaign(per_viewer=2), await world.campaign(return_expired=True)
    drop, back = await world.drop(campaign), await world.drop(returning)
    cards = {}
    async with Catchments(world.kernel.sessions) as catchments, Issuer(world.kernel.sessions, catchments) as issuer:
        for who in (me, other):
            for which, where in (("used", drop), ("unused", drop), ("back", back)):
                cards[which, who.subject] = await issuer.claim(who, world.room, where, f"{which}-key")
    at = now()
    async with transaction(world.kernel.sessions) as session:
        used = Presented(cards["used", me.subject].code, None)
        await redemption.redeem(session, world.clerk(), used, 12_000, "till-key", signer, at, order="ORDER-1")
        for who in (me, other):
            await consents.give(session, BRAND, who.subject, "2026-05", at - timedelta(days=90))
            await consents.give(session, BRAND, who.subject, "2026-11", at)
            await bindings.bind(session, BRAND, who.subject, world.guide.subject, at)
            await reminders.subscribe(session, who, cards["unused", who.subject].id, at)
            await wallet.seen(session, who.subject, [cards["unused", who.subject].id])
        await visits.record(session, world.clerk(), signer.show_member(me.subject, at.timestamp()), signer, at)
        said = {who.subject: Kept(new_id(), who.subject, name, "viewer", WORDS, int(at.timestamp() * 1000))
                for who, name in ((me, PERSON), (other, OTHER))}  # fmt: skip
        await comments.store(session, world.room, list(said.values()))
    async with transaction(world.kernel.sessions) as session:
        await reports.report(session, me, world.room, said[other.subject].id, "spam")
        await reports.report(session, other, world.room, said[me.subject].id, "abuse")
        await rooms.mute(session, world.guide, world.room, me.subject, 600)
        await rooms.mute(session, world.ops, world.room, me.subject, 600, "brand")
        await bans.ban(session, world.guide, world.room, me.subject, 600)
        await bans.ban_brand(session, world.ops, me.subject, 600)
        await rooms.hush(session, world.guide, world.room, on=True, allow=[me.subject])
        planned = await rooms.create(session, world.guide, "明天")
        for who in (me, other):
            await room_reminders.subscribe(session, who, planned)
    for who in (me, other):
        await world.review(cards["unused", who.subject].id)
    await world.execute(
        "INSERT INTO doubts VALUES (:room, :viewer, 'jumped', :brand, now(), now())",
        room=world.room, viewer=me.subject, brand=BRAND,
    )  # fmt: skip
    await world.execute(
        "INSERT INTO idempotency_keys (brand_id, subject, key, fingerprint, answer)"
        " VALUES (:brand, :subject, 'mine', '', '{}')", brand=BRAND, subject=me.subject,
    )  # fmt: skip
    return me, other, {which: card.id for (which, who), card in cards.items() if who == me.subject}


def documented_fields() -> dict[str, set[str]]:
    page = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text().partition("## Taking out")[2]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", page, re.MULTILINE)
    return {subject: set(re.findall(r"`(\w+)`", fields)) for subject, fields in rows}


async def dump(world: World) -> dict[str, list[str]]:
    """Every row of every table as text; what is in the outbox in clear."""
    tables = await world.execute(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
        " AND table_name NOT IN ('spatial_ref_sys', 'alembic_version')"
    )
    rows = {
        name: [row[0] for row in await world.execute(f"SELECT row_to_json(t)::text FROM {name} t")]
        for (name,) in tables
    }
    payloads = await world.execute("SELECT convert_from(payload, 'UTF8') FROM outbox")
    return rows | {"outbox": [row[0] for row in payloads]}


async def findings(world: World) -> list[Any]:
    async with world.kernel.sessions() as session:
        return (await ledger.audit(session)).findings


async def tell_all(world: World) -> None:
    while await relay.turn(world.kernel.sessions, RedisBus(world.kernel.redis)):
        pass


async def test_taken_out_is_everything_of_mine_and_nothing_of_others(world: World, signer: Signer) -> None:
    me, other, mine = await everything(world, signer)
    async with api(world) as client:
        answer = await client.get("/v1/me/export", headers=bearer(world, me))
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    taken = answer.json()
    assert taken.keys() == {"format", "made_at", *privacy.SUBJECTS}
    assert [subject for subject in privacy.SUBJECTS if not taken[subject]] == [], "there is something of every kind"
    assert (taken["account"][0]["name"], taken["account"][0]["openid"]) == (PERSON, str(me.subject))
    assert [consent["version"] for consent in taken["consents"]] == ["2026-05", "2026-11"]
    assert taken["locations"][0]["datum"] == "gcj02"
    assert {coupon["id"] for coupon in taken["coupons"]} == {str(coupon) for coupon in mine.values()}
    [used] = [coupon for coupon in taken["coupons"] if coupon["state"] == "redeemed"]
    assert [(step["event"], step["order"]) for step in used["history"]] == [("issue", None), ("redeem", "ORDER-1")]
    assert [comment["text"] for comment in taken["comments"]] == [WORDS]
    assert {(s["kind"], s["room"] is None) for s in taken["sanctions"]} == {
        (kind, everywhere) for kind in ("mute", "ban") for everywhere in (True, False)
    }
    assert {subject: set(taken[subject][0]) for subject in privacy.SUBJECTS} == documented_fields()
    for theirs in (OTHER, str(other.subject), "阿May", "运营", str(world.ops.subject)):
        assert theirs not in answer.text


async def test_who_was_erased_is_nowhere_and_the_books_still_hold(world: World, signer: Signer) -> None:
    me, other, mine = await everything(world, signer)
    await tell_all(world)
    before = await dump(world)
    assert any(str(me.subject) in row for row in before["outbox"]), "told events name people"
    async with api(world) as client:
        headers = bearer(world, me)
        at_once = await asyncio.gather(*(client.delete("/v1/me", headers=headers) for _ in range(2)))
        again = await client.delete("/v1/me", headers=headers)
        assert [answer.status_code for answer in (*at_once, again)] == [204] * 3, "any other time is as the first"
        for method, path in (("GET", "/v1/me"), ("GET", "/v1/me/export"), ("POST", "/v1/auth/refresh")):
            refused = await client.request(method, path, headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (401, "account_erased")
    after = await dump(world)
    for named in (str(me.subject), PERSON):
        holding = {table for table, rows in after.items() if any(named in row for row in rows)}
        assert holding <= {"erasures"}, named
    assert WORDS in "".join(after["comments"]), "the other one's comment stays"
    theirs = [
        sum(str(other.subject) in row for table, rows in kept.items() if table != "outbox" for row in rows)
        for kept in (before, after)
    ]
    assert theirs[1] == theirs[0] - 1, "nothing of theirs goes but their report of a comment that is gone"
    for kept in ("coupons", "drop_viewers", "redemptions", "ledger", "visits", "attendance"):
        assert len(after[kept]) == len(before[kept]), kept
    assert await findings(world) == []

    # What was not used ends as any coupon does: with its line in the ledger, and back into the stock if it may.
    stock = "SELECT sum(stock) FROM campaigns WHERE return_expired"
    had = await world.scalar(stock)
    assert await ledger.expire_due(world.kernel.sessions, now()) == 1
    assert await ledger.expire_due(world.kernel.sessions, now() + timedelta(hours=25)) == 1
    assert await world.scalar(stock) == had + 1
    states = dict(await world.execute(
        "SELECT id, state FROM coupons WHERE id = ANY(:ids)", ids=list(mine.values())
    ))  # fmt: skip
    assert states == {mine["used"]: "redeemed", mine["unused"]: "expired", mine["back"]: "expired"}
    assert await findings(world) == []


async def test_fixes_on_their_way_and_an_erasure_do_not_wait_for_each_other(world: World) -> None:
    me, *_ = await world.viewers(1)
    async with transaction(world.kernel.sessions) as session:
        await consents.give(session, BRAND, me.subject, "2026-11", now())

    async def erase() -> None:
        async with transaction(world.kernel.sessions) as session:
            await privacy.erase(session, BRAND, me.subject, now())

    async with transaction(world.kernel.sessions) as session:
        # As geo.locations: the consent first, then a sign of doubt, which refers to the account.
        await session.execute(text("SELECT 1 FROM location_consents FOR SHARE"))
        erasing = asyncio.create_task(erase())
        await world.somebody_waits()
        await session.execute(
            text("INSERT INTO doubts VALUES (:room, :me, 'jumped', :brand, now(), now())"),
            {"room": world.room, "me": me.subject, "brand": BRAND},
        )
    await erasing
    assert await world.scalar("SELECT count(*) FROM doubts") == 0


async def test_whoever_comes_back_is_somebody_new(world: World) -> None:
    me, *_ = await world.viewers(1)
    async with transaction(world.kernel.sessions) as session:
        assert await privacy.erase(session, BRAND, me.subject, now())
    async with transaction(world.kernel.sessions) as session:
        assert not await privacy.erase(session, BRAND, me.subject, now())
        again = await members.welcome(session, BRAND, str(me.subject))
    assert again.id != me.subject
    assert (again.name, again.orders) == (members.NAMELESS, 0)


@pytest.mark.parametrize("who", ["nobody", "somebody of another brand"])
async def test_there_is_nothing_to_erase_or_take_out_of_strangers(world: World, who: str) -> None:
    me, *_ = await world.viewers(1)
    subject = new_id() if who == "nobody" else me.subject
    brand = BRAND if who == "nobody" else "other"
    with pytest.raises(Refusal) as refused:
        async with transaction(world.kernel.sessions) as session:
            await privacy.erase(session, brand, subject, now())
    assert refused.value.code == "not_found"
    with pytest.raises(Refusal) as refused:
        await anext(privacy.export(world.kernel.sessions, brand, subject, now()))
    assert refused.value.code == "not_found"


async def test_staff_cannot_erase_themselves(world: World) -> None:
    async with api(world) as client:
        for who in (world.guide, world.ops, world.clerk()):
            for method, path in (("DELETE", "/v1/me"), ("GET", "/v1/me/export")):
                assert (await client.request(method, path, headers=bearer(world, who))).json()["code"] == "forbidden"
        assert (await client.delete("/v1/me")).json()["code"] == "token_missing"


async def test_what_was_under_way_is_swept_until_it_is_surely_over(world: World) -> None:
    me, other = await world.viewers(2)
    drop = await world.drop(await world.campaign())
    async with Catchments(world.kernel.sessions) as catchments, Issuer(world.kernel.sessions, catchments) as issuer:
        await issuer.claim(other, world.room, drop, "late")
    async with transaction(world.kernel.sessions) as session:
        await privacy.erase(session, BRAND, me.subject, now())
    # What commits after it: a coupon, a gateway's note of who was there, a comment that was still on its way.
    for table in ("coupons", "drop_viewers", "attendance"):
        await world.execute(
            f"UPDATE {table} SET viewer_id = :me WHERE viewer_id = :other", me=me.subject, other=other.subject
        )
    async with transaction(world.kernel.sessions) as session:
        await comments.store(session, world.room, [Kept(new_id(), me.subject, PERSON, "viewer", WORDS, 0)])
        await emit(session, "live.event", world.room, {"viewer": str(me.subject)})
    await world.execute("UPDATE outbox SET published_at = now()")
    at = now()
    both = await asyncio.gather(
        *(privacy.sweep(world.kernel.sessions, world.kernel.redis, at) for _ in range(2))
    )  # fmt: skip
    assert sum(both) == 1, "two workers do not do it twice"
    for table, rows in (await dump(world)).items():
        assert table == "erasures" or not any(str(me.subject) in row or PERSON in row for row in rows), table
    assert await findings(world) == []
    swept = [await privacy.sweep(world.kernel.sessions, world.kernel.redis, at + after) for after in privacy.SWEEPS]
    assert swept == [1, 1, 1, 1]
    assert await world.scalar("SELECT due_at FROM erasures") is None
