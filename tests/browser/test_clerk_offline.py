"""A clerk whose network is cut goes on scanning, and learns what became of it when the network is back."""

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from people import Person

from app.up import Stack
from coupons import codes, ledger
from coupons.codes import Signer
from kernel.clock import now
from kernel.ids import new_id
from kernel.postgres import create_engine, create_sessions

ARTEFACTS = Path(__file__).parents[2] / "artefacts" / "till"
CODES = 5


async def _coupons(stack: Stack) -> tuple[list[tuple[str, UUID]], list[str]]:
    """Two stores as code and id, and codes: all of the first store but for the last one."""
    connection = await asyncpg.connect(stack.settings.database_url)
    try:
        stores = [tuple(row) for row in await connection.fetch("SELECT code, id FROM stores ORDER BY code LIMIT 2")]
        guide = await connection.fetchval("SELECT id FROM staff WHERE role = 'guide' LIMIT 1")
        room, campaign, drop = new_id(), new_id(), new_id()
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO rooms (id, brand_id, guide_id, title) VALUES ($1, 'demo', $2, '离线')", room, guide
            )
            await connection.execute(
                "INSERT INTO campaigns (id, brand_id, kind, title, amount_fen, threshold_fen, stock, issued,"
                " valid_days, state) VALUES ($1, 'demo', 'amount', '满30减8', 800, 3000, 100, $2, 7, 'running')",
                campaign, CODES,
            )  # fmt: skip
            await connection.execute(
                "INSERT INTO drops (id, campaign_id, room_id, by, mode, stock, issued, state, opens_at, ends_at)"
                " VALUES ($1, $2, $3, $4, 'claim', 100, $5, 'ended', now(), now() + interval '1 hour')",
                drop, campaign, room, guide, CODES,
            )  # fmt: skip
            made = codes.new_codes(CODES)
            for place, code in enumerate(made):
                store, viewer, coupon = stores[place == CODES - 1][1], new_id(), new_id()
                await connection.execute(
                    "INSERT INTO campaign_stores (campaign_id, store_id, issued) VALUES ($1, $2, 1)"
                    " ON CONFLICT (campaign_id, store_id) DO UPDATE SET issued = campaign_stores.issued + 1",
                    campaign, store,
                )  # fmt: skip
                await connection.execute(
                    "INSERT INTO coupons (id, brand_id, campaign_id, viewer_id, n, drop_id, room_id, store_id, code,"
                    " valid_from, valid_until, issued_at) VALUES ($1, 'demo', $2, $3, 1, $4, $5, $6, $7,"
                    " now() - interval '1 hour', now() + interval '1 day', now())",
                    coupon, campaign, viewer, drop, room, store, code,
                )  # fmt: skip
                await connection.execute("INSERT INTO ledger (coupon_id, transition) VALUES ($1, 'issue')", coupon)
    finally:
        await connection.close()
    return stores, made


async def _findings(stack: Stack) -> Any:
    engine = create_engine(stack.settings)
    async with create_sessions(engine)() as session:
        found = (await ledger.audit(session)).findings
    await engine.dispose()
    return found


def _network(clerk: Person, *, there: bool) -> None:
    clerk.driver.execute_cdp_cmd("Network.enable", {})
    conditions = {"offline": not there, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    clerk.driver.execute_cdp_cmd("Network.emulateNetworkConditions", conditions)
    clerk.until(lambda: clerk.script("return navigator.onLine") is there, f"network {there}")


@pytest.mark.timeout(300)
def test_without_a_network_the_till_goes_on_and_says_later_what_was_refused(
    stack: Stack, open_browser: Callable[..., Any]
) -> None:
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    stores, (plain, ordered, used, unsent, theirs) = asyncio.run(_coupons(stack))
    assert stack.settings.coupon_key is not None
    signer = Signer(base64.b64decode(stack.settings.coupon_key.get_secret_value()))

    def qr(code: str, ago_s: float = 0) -> str:
        return signer.show_coupon(code, now().timestamp() - ago_s)

    driver = open_browser()
    driver.get(f"{stack.api}/clerk?{urlencode({'account': 'offline-clerk', 'store': stores[0][0]})}")
    clerk = Person(driver, ARTEFACTS, "clerk")
    clerk.sees("#code")
    clerk.until(lambda: clerk.script("return localStorage.getItem('nearcast.till.keys')"), "the keys")

    def refused(text: str, why: str) -> None:
        clerk.types("#code", text, enter=True)
        clerk.sees(".verdict.no", why)
        clerk.taps(".verdict .button")

    def redeemed_alone(code: str, amount: str = "", order: str = "") -> None:
        clerk.types("#code", qr(code), enter=True)
        clerk.sees("#confirmAlone")
        if amount:
            clerk.types("#amount", amount)
        if order:
            clerk.types("#order", order)
        clerk.picture("alone")
        clerk.taps("#confirmAlone")
        clerk.sees(".verdict.yes", "已记下")
        clerk.taps(".verdict .button")

    # One is looked up while there is a network, which is gone when it is to be redeemed.
    clerk.types("#code", qr(unsent), enter=True)
    clerk.sees("#confirm")
    _network(clerk, there=False)
    clerk.taps("#confirm")
    clerk.sees(".verdict.yes", "已记下")
    clerk.taps(".verdict .button")

    redeemed_alone(plain)
    redeemed_alone(ordered, "42.50", "A-17")
    redeemed_alone(used)
    redeemed_alone(theirs)
    refused(qr(plain), "刚才已经离线核销过了")
    refused(qr(plain, ago_s=100), "二维码已过期")
    refused(Signer(b"\x09" * 32).show_coupon(plain, now().timestamp()), "券码输错了")
    refused(codes.display(plain), "验不了手输的券码")
    clerk.sees("#waitingCount", "5 张")
    clerk.picture("waiting")

    # Meanwhile another till of the store uses one of them.
    who = {"brand": "demo", "role": "clerk", "account": "other-clerk", "store_code": stores[0][0]}
    token = httpx.post(f"{stack.api}/v1/auth/dev", json=who, timeout=60).raise_for_status().json()["token"]
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": str(uuid4())}
    httpx.post(
        f"{stack.api}/v1/redemptions", json={"code": codes.display(used)}, headers=headers, timeout=60
    ).raise_for_status()

    _network(clerk, there=True)
    clerk.sees("[data-conflict=already_redeemed]", "这张券已经用过了")
    clerk.sees("[data-conflict=wrong_store]", "这张券属于别的门店")
    clerk.sees_no("#waitingCount")
    clerk.picture("conflicts")
    clerk.taps("#tabToday")
    clerk.until(lambda: len(clerk.driver.find_elements("css selector", "[data-redemption]")) == 4, "four stand")
    clerk.sees("[data-redemption]", "¥42.50 · −¥8 · A-17 · 离线")
    # The day's sheet, caught where the browser would keep it.
    clerk.script(
        "let blob; const make = URL.createObjectURL;"
        "URL.createObjectURL = (what) => make.call(URL, blob = what);"
        "HTMLAnchorElement.prototype.click = function () {"
        " blob.text().then((text) => { window.sheet = [this.download, text]; }); };"
    )
    clerk.taps("#closing")
    name, sheet = clerk.until(lambda: clerk.script("return window.sheet"), "the sheet")
    assert name.startswith("closing-20") and name.endswith(".csv")
    assert sheet.count("redemption,满30减8") == 4 and "A-17,42.50,8.00" in sheet
    assert asyncio.run(_findings(stack)) == []

    # A conflict stays, also on a reloaded page, until somebody has seen it.
    clerk.driver.refresh()
    clerk.taps("[data-sale] [data-dismiss]")
    clerk.until(lambda: len(clerk.driver.find_elements("css selector", "[data-conflict]")) == 1, "one conflict left")
    clerk.taps("[data-sale] [data-dismiss]")
    clerk.sees_no("#waiting")
    assert not [line for line in clerk.console() if "ERR_INTERNET_DISCONNECTED" not in line]
    assert clerk.unnamed() == []
    assert clerk.overflow() == 0
