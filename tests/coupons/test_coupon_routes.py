"""The coupons' REST interface, from a campaign to the till."""

import base64
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from tills import Caller, serving
from world import World

from coupons import drops
from coupons.codes import Signer
from coupons.issuing import Issuer
from kernel.identity import Principal
from kernel.ids import BrandId, new_id

TERMS = {
    "title": "满30减8",
    "kind": "amount",
    "amount_fen": 800,
    "threshold_fen": 3000,
    "stock": 50,
    "valid_days": 7,
}


class Api(Caller):
    """Refusals are their codes."""

    async def refused(self, who: Principal | None, method: str, path: str, body: Any = None, **more: Any) -> str:
        return str((await super().refused(who, method, path, body, **more))["code"])


@pytest.fixture
async def api(world: World, issuer: Issuer) -> AsyncIterator[Api]:
    async with serving(world.kernel, signer=Signer.from_settings(world.kernel.settings), issuer=issuer) as client:
        yield Api(world, client)


async def _running(api: Api, **changes: Any) -> dict[str, Any]:
    made = await api.ok(api.world.ops, "POST", "/campaigns", TERMS | changes)
    running: dict[str, Any] = await api.ok(api.world.ops, "POST", f"/campaigns/{made['id']}/run")
    return running


# ---- campaigns -----------------------------------------------------------------------------------------------------


async def test_a_campaign_goes_from_draft_to_ended(api: Api, world: World) -> None:
    made = await api.ok(world.ops, "POST", "/campaigns", TERMS)
    assert (made["state"], made["terms"], made["issued"], made["store_codes"]) == ("draft", "满30减8", 0, None)
    path = f"/campaigns/{made['id']}"
    assert await api.refused(world.ops, "POST", f"{path}/pause") == "campaign_state"
    for action, state in (("run", "running"), ("run", "running"), ("pause", "paused"), ("run", "running")):
        assert (await api.ok(world.ops, "POST", f"{path}/{action}"))["state"] == state
    assert (await api.ok(world.ops, "POST", f"{path}/end"))["state"] == "ended"
    assert await api.refused(world.ops, "POST", f"{path}/run") == "campaign_state"
    assert (await api.ok(world.guide, "GET", path))["state"] == "ended"
    assert await api.refused(world.guide, "POST", f"{path}/run") == "forbidden"
    assert await api.refused(world.ops, "GET", f"/campaigns/{new_id()}") == "not_found"


async def test_a_repeated_request_makes_one_campaign(api: Api, world: World) -> None:
    twice = [await api.ok(world.ops, "POST", "/campaigns", TERMS, key="k") for _ in range(2)]
    assert twice[0] == twice[1]
    assert await world.scalar("SELECT count(*) FROM campaigns") == 1


@pytest.mark.parametrize(
    "change",
    [
        {"amount_fen": None},
        {"amount_fen": 4000},
        {"kind": "percent"},
        {"kind": "gift"},
        {"valid_days": None},
        {"title": "a\0b"},
        {"title": " "},
        {"stock": 0},
        {"stock": 2**31},
        {"amount_fen": 2**63},
        {"radius_m": 49},
        {"store_codes": ["nowhere"]},
        {"store_codes": []},
        {"claim_from": "2026-06-18T12:00:00Z", "claim_until": "2026-06-18T12:00:00Z"},
        {"claim_from": "2150-02-01T00:00:00Z", "valid_until": "2150-01-01T00:00:00Z"},
        {"claim_until": "2025-12-31T00:00:00Z"},
        {"valid_until": "2025-12-31T00:00:00Z"},
        {"valid_until": "9999-12-31T23:59:59Z"},
        {"valid_until": "0001-01-01T00:00:00Z"},
        {"valid_until": 4e11},
        {"valid_until": "2027-01-01T00:00:00"},
    ],
)
async def test_terms_that_make_no_sense_are_refused(api: Api, world: World, change: dict[str, Any]) -> None:
    answer = (await api(world.ops, "POST", "/campaigns", TERMS | change)).json()
    assert answer["code"] == "invalid"
    # One that came to be judged as a whole names the field, too.
    named = [answer["field"]] if "field" in answer else [error["at"].split(".")[1] for error in answer["errors"]]
    needed = {"percent": "percent_off", "gift": "gift"}.get(str(change.get("kind")))
    assert set(named) <= {*change, needed, "valid_until"}, answer
    assert await world.scalar("SELECT count(*) FROM campaigns") == 0


async def test_campaigns_are_listed_newest_first_in_pages(api: Api, world: World) -> None:
    made = [await api.ok(world.ops, "POST", "/campaigns", TERMS | {"store_codes": ["S1"]}) for _ in range(3)]
    first = await api.ok(world.guide, "GET", "/campaigns?limit=2")
    rest = await api.ok(world.guide, "GET", f"/campaigns?limit=2&cursor={first['next']}")
    listed = first["items"] + rest["items"]
    assert [one["id"] for one in listed] == [one["id"] for one in reversed(made)]
    assert listed[0]["store_codes"] == ["S1"] and rest["next"] is None
    for cursor in ("x", "WyJ4Il0", "é"):
        assert await api.refused(world.guide, "GET", f"/campaigns?cursor={cursor}") == "invalid"


async def test_stock_is_changed_by_whoever_knows_what_it_is(api: Api, world: World) -> None:
    campaign = await _running(api)
    path = f"/campaigns/{campaign['id']}/stock"
    assert (await api.ok(world.ops, "PATCH", path, {"current": 50, "target": 80}))["stock"] == 80
    answer = await api(world.ops, "PATCH", path, {"current": 50, "target": 90})
    assert (answer.json()["code"], answer.json()["stock"]) == ("budget_conflict", 80)
    await world.viewers(3)
    drop = await api.ok(world.guide, "POST", f"/rooms/{world.room}/drops", {"campaign": campaign["id"], "mode": "push"})
    await drops.run_push(world.kernel.sessions, drop["id"])
    answer = await api(world.ops, "PATCH", path, {"current": 80, "target": 2})
    assert answer.json()["code"] == "budget_conflict"
    assert answer.json()["detail"] == "3 coupons are given already; the stock cannot be less than that."
    assert (await api.ok(world.ops, "PATCH", path, {"current": 80, "target": 3}))["issued"] == 3


async def test_a_campaign_that_is_ended_keeps_its_stock(api: Api, world: World) -> None:
    campaign = await _running(api)
    path = f"/campaigns/{campaign['id']}"
    await api.ok(world.ops, "POST", f"{path}/end")
    for target in (50, 80):
        answer = await api(world.ops, "PATCH", f"{path}/stock", {"current": 50, "target": target})
        assert (answer.status_code, answer.json()["code"], answer.json()["state"]) == (409, "campaign_state", "ended")
    stale = await api(world.ops, "PATCH", f"{path}/stock", {"current": 49, "target": 80})
    assert stale.json()["code"] == "campaign_state"
    assert (await api.ok(world.ops, "GET", path))["stock"] == 50


async def test_a_campaign_keeps_its_rules(api: Api, world: World) -> None:
    chosen = {
        "per_day": 20,
        "per_minute": 5,
        "reserve_percent": 30,
        "segments": ["new", "vip"],
        "doubt": "refuse",
        "distance_tiers": [{"within_m": 500, "amount_fen": 1500}, {"within_m": 1000, "amount_fen": 1000}],
        "usable_from": "22:00",
        "usable_until": "02:00",
    }
    made = await api.ok(world.ops, "POST", "/campaigns", TERMS | chosen)
    assert made == made | chosen
    assert made["terms"] == "满30最高减15 限22:00–02:00"
    assert await api.ok(world.guide, "GET", f"/campaigns/{made['id']}") == made


async def test_rules_that_cannot_be_carried_out_are_refused(api: Api, world: World) -> None:
    wrong: list[dict[str, Any]] = [
        {"usable_from": "22:00"},
        {"usable_from": "22:00", "usable_until": "22:00"},
        {"usable_from": "24:00", "usable_until": "22:00"},
        {"usable_from": 3, "usable_until": "22:00"},
        {"segments": []},
        {"segments": ["rich"]},
        {"doubt": "perhaps"},
        {"per_day": 0},
        {"distance_tiers": []},
        {"distance_tiers": [{"within_m": 500, "amount_fen": 3001}]},
        {"distance_tiers": [{"within_m": 500, "amount_fen": 1}, {"within_m": 500, "amount_fen": 1}]},
        {"kind": "percent", "percent_off": 10, "distance_tiers": [{"within_m": 500, "amount_fen": 1}]},
    ]
    for change in wrong:
        assert await api.refused(world.ops, "POST", "/campaigns", TERMS | change) == "invalid", change


async def test_ops_read_and_set_the_brands_limits(api: Api, world: World) -> None:
    none = {
        "cap_coupons": None,
        "cap_days": None,
        "quiet_from": None,
        "quiet_until": None,
        "quiet_claims": False,
        "guide_drops_a_day": None,
    }
    assert await api.ok(world.ops, "GET", "/ops/limits") == none
    chosen = none | {"cap_coupons": 3, "cap_days": 7, "quiet_from": "22:00", "quiet_until": "08:00"}
    assert await api.ok(world.ops, "PUT", "/ops/limits", chosen) == chosen
    assert await api.ok(world.ops, "GET", "/ops/limits") == chosen
    assert await world.execute("SELECT id FROM brands WHERE cap_coupons IS NULL") == [("other",)]
    for half in ({"cap_days": 7}, {"quiet_from": "22:00"}, {"quiet_from": "22:00", "quiet_until": "22:00"}):
        assert await api.refused(world.ops, "PUT", "/ops/limits", half) == "invalid"
    for wrong in (
        {"cap_coupons": 0, "cap_days": 1},
        {"quiet_from": "9", "quiet_until": "10"},
        {"guide_drops_a_day": 0},
    ):
        assert await api.refused(world.ops, "PUT", "/ops/limits", wrong) == "invalid"
    assert await api.refused(world.guide, "GET", "/ops/limits") == "forbidden"
    assert await api.refused(world.guide, "PUT", "/ops/limits", chosen) == "forbidden"
    assert await api.ok(world.ops, "PUT", "/ops/limits", {}) == none


# ---- drops and claims ----------------------------------------------------------------------------------------------


async def test_a_guide_previews_opens_lists_and_stops_a_drop(api: Api, world: World) -> None:
    campaign = await _running(api)
    await world.viewers(2)
    body = {"campaign": campaign["id"]}
    seen = await api.ok(world.guide, "POST", f"/rooms/{world.room}/drops/preview", body)
    assert (seen["located"], seen["in_range"], seen["eligible"], seen["reasons"]) == (2, 2, 2, {})
    assert seen["stores"] == [{"code": "S1", "name": "S1店", "viewers": 2}]
    asked = body | {"mode": "claim", "stock": 5, "seconds": 60}
    twice = [await api.ok(world.guide, "POST", f"/rooms/{world.room}/drops", asked, key="k") for _ in range(2)]
    assert twice[0] == twice[1]
    listed = await api.ok(world.ops, "GET", f"/rooms/{world.room}/drops")
    assert [(one["id"], one["left"]) for one in listed["items"]] == [(twice[0]["id"], 5)]
    assert (await api.ok(world.guide, "POST", f"/drops/{twice[0]['id']}/end"))["end_reason"] == "stopped"


async def test_a_claim_needs_its_id_and_the_room(api: Api, world: World) -> None:
    drop = await world.drop(await world.campaign())
    (viewer,) = await world.viewers(1)
    path = f"/drops/{drop}/claims"
    assert await api.refused(viewer, "POST", path) == "idempotency_key_missing"
    first = await api.ok(viewer, "POST", path, key="c1")
    assert await api.ok(viewer, "POST", path, key="c1") == first
    assert await api.refused(viewer, "POST", path, key="c2") == "limit_reached"
    assert await api.refused(world.guide, "POST", path, key="c") == "forbidden"
    assert await api.refused(viewer, "POST", f"/drops/{new_id()}/claims", key="c") == "not_found"
    await world.execute("DELETE FROM attendance")
    assert await api.refused(viewer, "POST", path, key="c3") == "not_in_room"


@pytest.mark.parametrize(("table", "column"), [("bans", "room_id"), ("brand_bans", "brand_id")])
async def test_who_is_banned_claims_nothing_for_having_been_there(
    api: Api, world: World, table: str, column: str
) -> None:
    drop = await world.drop(await world.campaign())
    banned, other = await world.viewers(2)
    path, where = f"/drops/{drop}/claims", world.room if table == "bans" else banned.brand
    await world.execute(
        f"INSERT INTO {table} ({column}, viewer_id, until, by)"
        f" VALUES ('{where}', '{banned.subject}', now() + interval '1 hour', '{world.ops.subject}')"
    )
    assert await api.refused(banned, "POST", path, key="c1") == "banned"
    await api.ok(other, "POST", path, key="c1")
    await world.execute(f"UPDATE {table} SET until = now()")
    await api.ok(banned, "POST", path, key="c1")


# ---- wallet and till -----------------------------------------------------------------------------------------------


async def test_from_the_wallet_to_the_till_and_back(api: Api, world: World) -> None:
    (viewer,) = await world.viewers(1)
    clerk = world.clerk()
    card = await api.ok(viewer, "POST", f"/drops/{await world.drop(await world.campaign())}/claims", key="c")
    assert (await api.ok(viewer, "GET", "/me/coupons"))["items"] == [card]
    assert await api.ok(viewer, "GET", f"/me/coupons/{card['id']}") == card
    qr = await api.ok(viewer, "GET", f"/me/coupons/{card['id']}/qr")
    assert qr["payload"].startswith("NC1.") and qr["svg"].startswith("<svg")

    looked = await api.ok(clerk, "POST", "/redemptions/check", {"qr": qr["payload"]})
    assert (looked["coupon"]["code"], looked["store"]["code"]) == (card["code"], "S1")
    order = {"qr": qr["payload"], "order_fen": 12_000}
    assert await api.refused(clerk, "POST", "/redemptions", order) == "idempotency_key_missing"
    used = await api.ok(clerk, "POST", "/redemptions", order, key="k")
    assert (used["discount_fen"], used["replayed"], used["coupon"]["viewer_name"]) == (2000, False, "v0")
    assert (await api.ok(clerk, "POST", "/redemptions", order, key="k"))["replayed"] is True

    answer = (await api(clerk, "POST", "/redemptions", {"code": card["code"]}, key="k2")).json()
    assert answer["code"] == "already_redeemed"
    assert answer["store"] == {"code": "S1", "name": "S1店"} and answer["redeemed_at"]
    assert await api.refused(viewer, "GET", f"/me/coupons/{card['id']}/qr") == "already_redeemed"
    assert [one["id"] for one in (await api.ok(clerk, "GET", "/redemptions?limit=1"))["items"]] == [used["id"]]
    assert (await api.ok(clerk, "POST", f"/redemptions/{used['id']}/reverse"))["reversed_at"]
    assert (await api.ok(viewer, "GET", "/me/coupons?state=issued"))["items"][0]["id"] == card["id"]

    member = (await api.ok(viewer, "GET", "/me/qr"))["payload"]
    visited = [await api.ok(clerk, "POST", "/visits", {"qr": member}, key="v") for _ in range(2)]
    assert visited[0] == visited[1] and visited[0]["name"] == "v0"
    figures = await api.ok(world.guide, "GET", f"/rooms/{world.room}/funnel")
    assert (figures["issued"], figures["visited"], figures["redeemed"]) == (1, 1, 0)
    (row,) = (await api.ok(world.ops, "GET", "/ops/funnel?by=store"))["items"]
    assert (row["name"], row["coupons"]) == ("S1店", 1)
    (store,) = (await api.ok(world.ops, "GET", "/ops/stores?limit=500"))["items"]
    assert (store["code"], store["issued"]) == ("S1", 1)


async def test_the_wallet_is_the_viewers_own_near_expiry_first(api: Api, world: World) -> None:
    one, two = await world.viewers(2)
    for days in (9, 3, 6):
        drop = await world.drop(await world.campaign(valid_days=days))
        for viewer in (one, two):
            await api.ok(viewer, "POST", f"/drops/{drop}/claims", key="c")
    page = await api.ok(one, "GET", "/me/coupons?limit=2")
    rest = await api.ok(one, "GET", f"/me/coupons?limit=2&cursor={page['next']}")
    ends = [card["valid_until"] for card in page["items"] + rest["items"]]
    assert len(ends) == 3 and ends == sorted(ends)
    theirs = (await api.ok(two, "GET", "/me/coupons"))["items"][0]["id"]
    for path in (f"/me/coupons/{theirs}", f"/me/coupons/{theirs}/qr"):
        assert await api.refused(one, "GET", path) == "not_found"
    await world.execute("UPDATE coupons SET valid_until = now() WHERE viewer_id = :v", v=one.subject)
    assert {c["state"] for c in (await api.ok(one, "GET", "/me/coupons"))["items"]} == {"expired"}
    assert (await api.ok(one, "GET", "/me/coupons?state=issued"))["items"] == []
    assert len((await api.ok(one, "GET", "/me/coupons?state=expired"))["items"]) == 3
    assert await api.refused(one, "GET", f"/me/coupons/{page['items'][0]['id']}/qr") == "coupon_expired"


async def test_anybody_can_check_qr_codes_with_the_public_key(api: Api, world: World) -> None:
    key = await api.ok(None, "GET", "/coupon-key")
    assert base64.b64decode(key["key"]) == Signer.from_settings(world.kernel.settings).public_key
    assert (key["algorithm"], key["step_seconds"]) == ("Ed25519", 30)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"code": "a", "qr": "b"},
        {"code": "a\0"},
        {"code": "x" * 65},
        {"qr": "x" * 257},
        {"code": "0", "order_fen": -1},
        {"code": "0", "order_fen": 2**63},
    ],
)
async def test_what_no_till_would_send_is_invalid(api: Api, world: World, body: dict[str, Any]) -> None:
    assert await api.refused(world.clerk(), "POST", "/redemptions", body, key=str(uuid4())) == "invalid"


async def test_a_claims_key_belongs_to_its_drop_and_a_refusal_does_not_use_it_up(api: Api, world: World) -> None:
    campaigns = [await world.campaign(), await world.campaign(state="paused")]
    one, other = [f"/drops/{await world.drop(campaign)}/claims" for campaign in campaigns]
    (viewer,) = await world.viewers(1)
    first = await api.ok(viewer, "POST", one, key="k")
    assert await api.refused(viewer, "POST", other, key="k") == "campaign_state"
    await api.ok(world.ops, "POST", f"/campaigns/{campaigns[1]}/run")
    second = await api.ok(viewer, "POST", other, key="k")
    assert second["id"] != first["id"]
    assert [await api.ok(viewer, "POST", path, key="k") for path in (one, other)] == [first, second]


async def test_a_drop_of_another_brand_is_claimed_as_if_there_were_none(api: Api, world: World) -> None:
    drop = await world.drop(await world.campaign())
    (viewer,) = await world.viewers(1)
    stranger = dataclasses.replace(viewer, brand=BrandId("other"), subject=new_id())
    answers = [await api(stranger, "POST", f"/drops/{one}/claims", key="k") for one in (drop, new_id())]
    assert [answer.status_code for answer in answers] == [404, 404]
    [theirs, nobodys] = [{name: value for name, value in one.json().items() if name != "what"} for one in answers]
    assert theirs == nobodys
    assert (await api.ok(viewer, "POST", f"/drops/{drop}/claims", key="k"))["drop"] == str(drop)


async def test_tills_are_for_clerks_and_figures_for_their_own(api: Api, world: World) -> None:
    (viewer,) = await world.viewers(1)
    for who in (viewer, world.guide, world.ops):
        assert await api.refused(who, "POST", "/redemptions", {"code": "0"}, key="k") == "forbidden"
    assert await api.refused(None, "GET", "/me/coupons") == "token_missing"
    assert await api.refused(viewer, "GET", f"/rooms/{world.room}/funnel") == "forbidden"
    assert await api.refused(world.guide, "GET", "/ops/funnel") == "forbidden"
    assert await api.refused(world.guide, "GET", f"/rooms/{new_id()}/funnel") == "not_found"


async def test_ops_import_campaigns_and_hear_what_is_wrong_with_which(api: Api, world: World) -> None:
    june = TERMS | {"key": "june"}
    body = {"campaigns": [june, TERMS, june | {"key": "july", "stock": 0}]}
    assert await api.refused(world.guide, "POST", "/campaigns/import", body) == "forbidden"
    dry = await api.ok(world.ops, "POST", "/campaigns/import", body | {"dry_run": True})
    done = await api.ok(world.ops, "POST", "/campaigns/import", body)
    assert dry == done
    assert (done["read"], done["new"]) == (3, 1)
    assert [(bad["line"], bad["key"], bad["field"]) for bad in done["errors"]] == [(2, "", "key"), (3, "july", "stock")]
    (made,) = (await api.ok(world.ops, "GET", "/campaigns"))["items"]
    assert (made["key"], made["state"]) == ("june", "draft")
    assert await api.refused(world.ops, "POST", "/campaigns", june) == "invalid"


@pytest.mark.parametrize("odd", ["\ud800", "\udfff", "\0", "a\ud800\0b", "\U0010ffff"])
async def test_what_cannot_be_written_in_an_imported_campaign_is_named_and_the_rest_is_loaded(
    api: Api, world: World, odd: str
) -> None:
    june = TERMS | {"key": "june"}
    wrong = [
        june | {"key": odd + "\ud800"},
        june | {"key": "title", "title": odd + "\0"},
        june | {"key": "unknown", odd: 1},
        june | {"key": "nested", "distance_tiers": [{odd: 1}]},
        june | {"key": "stores", "store_codes": [odd]},
        june | {"key": "kind", "kind": odd},
        june | {"key": [odd]},
    ]
    body = json.dumps({"campaigns": [*wrong, june]})
    answer = await api.client.post(
        "/v1/campaigns/import",
        content=body,
        headers={
            "Authorization": f"Bearer {world.kernel.keyring.issue(world.ops)}",
            "Content-Type": "application/json",
        },
    )
    assert answer.status_code == 200, answer.text
    assert (answer.json()["new"], [bad["line"] for bad in answer.json()["errors"]]) == (1, [1, 2, 3, 4, 5, 6, 7])
    assert all(bad["reason"] and "\0" not in bad["reason"] for bad in answer.json()["errors"])


async def test_ops_see_decide_and_page_through_what_is_under_review(api: Api, world: World) -> None:
    campaign = (await api.ok(world.ops, "POST", "/campaigns", TERMS | {"doubt": "review"}))["id"]
    await api.ok(world.ops, "POST", f"/campaigns/{campaign}/run")
    drop = await world.drop(UUID(campaign))
    viewers = await world.viewers(3, doubt="jumped")
    for viewer in viewers:
        answer = await api(viewer, "POST", f"/drops/{drop}/claims", key="k")
        assert (answer.status_code, answer.json()["code"]) == (409, "under_review")
    (mine,) = (await api.ok(viewers[0], "GET", "/me/reviews"))["items"]
    assert (mine["state"], mine["drop"]) == ("open", str(drop))
    assert await api.refused(world.guide, "GET", "/ops/reviews") == "forbidden"
    page = await api.ok(world.ops, "GET", "/ops/reviews?limit=2")
    rest = await api.ok(world.ops, "GET", f"/ops/reviews?limit=2&cursor={page['next']}")
    found = [*page["items"], *rest["items"]]
    assert [one["viewer"] for one in found] == [str(viewer.subject) for viewer in viewers]
    assert [sign["sign"] for sign in found[0]["signs"]] == ["jumped"]
    granted = await api.ok(world.ops, "POST", f"/ops/reviews/{found[0]['id']}/approve")
    assert (granted["state"], granted["decided_by"]) == ("granted", str(world.ops.subject))
    assert (await api.ok(viewers[0], "POST", f"/drops/{drop}/claims", key="k"))["id"] == granted["coupon"]
    assert (await api.ok(world.ops, "POST", f"/ops/reviews/{found[1]['id']}/refuse"))["state"] == "declined"
    assert await api.refused(world.ops, "POST", f"/ops/reviews/{found[1]['id']}/approve") == "review_settled"
    assert await api.refused(world.ops, "POST", f"/ops/reviews/{new_id()}/approve") == "not_found"
    settled = await api.ok(world.ops, "GET", "/ops/reviews?state=settled")
    assert [one["state"] for one in settled["items"]] == ["declined", "granted"]
