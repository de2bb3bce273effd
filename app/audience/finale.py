"""The end of the evening: the room ends for everybody, books are compared, and one line says how it was."""

import asyncio
from typing import Any
from uuid import UUID

from app.audience.evening import Evening
from app.audience.host import Host
from app.audience.stage import Stage
from app.audience.tally import Tally
from app.audience.viewer import Viewer
from live import wire

OPS = "ops-01"
FINALE_SECONDS = 40
"""However bad things are, the summary comes after so long."""
SETTLE_SECONDS = 15
WALLETS = 8
"""Viewers whose wallet is compared with what they heard."""
NEAR_SHARE = 0.8
"""Of the fixes near a store, those that must find one: trade areas may leave some out."""


async def finale(evening: Evening) -> None:
    """End the main room and check what can be checked only now."""
    stage = evening.stage
    try:
        async with asyncio.timeout(FINALE_SECONDS):
            await _compare_wallets(evening)
            await _end(evening)
            await _compare_funnel(evening)
            if evening.hasty is not None:
                await stage.tried("end a campaign", _end_campaign(stage, evening.hasty))
    except TimeoutError:
        stage.tally.problem("the evening did not end in time")
    for viewer in evening.crowd.came:
        viewer.check_order()
    found, tried = stage.tally.counts["near_fixes_with_store"], stage.tally.counts["near_fixes"]
    if tried >= 20:
        stage.tally.expect(found >= NEAR_SHARE * tried, "fixes near a store found none", f"{found} of {tried}")


async def _end_campaign(stage: Stage, campaign: UUID) -> None:
    ops = await stage.rest.sign_in("ops", OPS)  # the token of the beginning may have ended meanwhile
    await stage.rest.call("POST", f"/v1/campaigns/{campaign}/end", ops.token)


async def _end(evening: Evening) -> None:
    """Everybody who is in the room must hear that it is over, and nothing certain may be missing before it."""
    main = evening.main
    present = [v for v in evening.crowd.came if v.in_room and v.scene is main.scene]
    if not main.here.is_set() or await main.command(wire.End) is None:
        return
    deadline = asyncio.get_running_loop().time() + SETTLE_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        if _heard_the_end(main) and all(viewer.heard_the_end or not viewer.in_room for viewer in present):
            break
        await asyncio.sleep(0.05)
    evening.stage.tally.expect(_heard_the_end(main), "the guide did not hear the end")
    for viewer in present:
        viewer.check_order()
        missing = viewer.missing_at_end()
        evening.stage.tally.expect(missing == 0, "a certain event never came", f"{missing} missing at the end")


def _heard_the_end(host: Host) -> bool:
    return any(isinstance(event, wire.RoomChanged) and event.room.state == "ended" for event in host.scene.told)


async def _compare_wallets(evening: Evening) -> None:
    """What the wallet holds of tonight's drops must have come over the socket."""
    stage = evening.stage
    for viewer in [v for v in evening.crowd.came if v.coupons and v.in_room][:WALLETS]:
        for _ in range(10):
            silent = await _unheard(stage, viewer)
            if not silent:
                break
            await asyncio.sleep(0.3)  # granted just now, still on its way
        if viewer.in_room:  # who lost the line meanwhile hears of it on coming back
            stage.tally.expect(not silent, "a coupon in the wallet that never came over the socket", silent)


async def _unheard(stage: Stage, viewer: Viewer) -> int:
    assert viewer.account is not None
    wallet = await stage.tried("wallet", stage.rest.every("/v1/me/coupons", viewer.account.token, limit=100))
    heard = {str(coupon) for coupon in viewer.coupons}
    drops = {str(drop) for drop in stage.campaign_of}
    return sum(card.get("drop") in drops and card["id"] not in heard for card in wallet or [])


async def _compare_funnel(evening: Evening) -> None:
    """The funnel narrows."""
    stage, main = evening.stage, evening.main
    assert main.account is not None
    attended = any(viewer.welcomes and viewer.scene is main.scene for viewer in evening.crowd.came)
    for _ in range(10):
        funnel = await stage.tried(
            "funnel", stage.rest.call("GET", f"/v1/rooms/{main.scene.id}/funnel", main.account.token)
        )
        if funnel is None or funnel["in_room"] or not attended:
            break
        await asyncio.sleep(0.5)  # attendance is written in batches
    if funnel is not None:
        stage.tally.expect(funnel["redeemed"] <= funnel["issued"], "more redeemed than issued", funnel)
        stage.tally.expect(funnel["issued"] <= funnel["offered"], "more issued than offered", funnel)
        stage.tally.expect(funnel["in_room"] > 0 or not attended, "a full room that nobody was in", funnel)


def progress(evening: Evening, second: float) -> dict[str, Any]:
    """How it is going, for a status line."""
    counts = evening.stage.tally.counts
    return {
        "second": round(second),
        "online": evening.crowd.online,
        "comments": counts["comments"],
        "delivered": counts["delivered"],
        "coupons_issued": counts["coupons_issued"],
        "redeemed": counts["redeemed"],
    }


def summary(tally: Tally, shed: int | None) -> dict[str, Any]:
    """The last line: figures of the whole evening; ``problems`` is empty if all was as it should be."""
    counts = tally.counts
    return {
        "viewers": counts["viewers"],
        "comments": counts["comments"],
        "delivered": counts["delivered"],
        "shed": shed,
        "coupons_issued": counts["coupons_issued"],
        "redeemed": counts["redeemed"],
        "reversed": counts["reversed"],
        "visits": counts["visits"],
        "drops": counts["drops"],
        "likes": counts["likes"],
        "fixes": counts["fixes"],
        "lines_lost": counts["lines_lost"],
        "resumes": counts["resumes"],
        "resumes_elsewhere": counts["resumes_elsewhere"],
        "recovered_events": counts["recovered_events"],
        "comment_delay_ms": {"p50": tally.comment_delay.percentile(0.5), "p99": tally.comment_delay.percentile(0.99)},
        "comment_ack_ms": {"p50": tally.comment_ack.percentile(0.5), "p99": tally.comment_ack.percentile(0.99)},
        "refused": dict(sorted(tally.refused.items())),
        "checks": counts["checks"],
        "problems": tally.problems,
    }
