"""The whole path through the four pages, in browsers, against the whole of Nearcast."""

import json
import os
import signal
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from people import DESK, Office, Person
from selenium.webdriver.common.by import By

from app.up import Stack


def _stand_near(viewer: Person, store: dict[str, Any]) -> None:
    """Consent, and pretend to stand 300 m from ``store``."""
    viewer.taps("#openStores")
    viewer.sees("#agree")
    viewer.picture("consent")
    viewer.taps("#agree")
    viewer.chooses("#standCity", store["city"])
    viewer.chooses("#standStore", store["name"])
    viewer.taps("#stand")
    viewer.sees("[data-store]", store["name"])
    viewer.picture("stores")
    viewer.closes_sheets()


def _release(guide: Person, campaign: str, mode: str) -> None:
    """Drop coupons of ``campaign`` once the preview says that somebody would get one."""
    guide.taps("#openDrop")

    def somebody() -> bool:
        # Fixes are written in batches: ask again until the viewer's is there.
        guide.taps(f"[data-campaign='{campaign}']")
        return guide.sees("#eligible").text not in ("", "0")

    guide.until(somebody, "a viewer in range")
    guide.taps(f"[data-mode='{mode}']")
    guide.picture(f"drop-{mode}")
    guide.taps("#dropGo")
    guide.sees("[data-drop]")


def _compares(ops: Person) -> None:
    """How far people came, as pictures: by room, by store, by guide."""
    shown: set[str | None] = set()
    for spot in ("room", "store", "guide"):
        ops.taps(f"#compareBy [data-by={spot}]")

        def another() -> bool:
            row = ops.sees("#compare [data-spot]")
            redeemed = row.find_element(By.CSS_SELECTOR, "[data-figure=redeemed]")
            return row.get_attribute("data-spot") not in shown and float(redeemed.get_attribute("height") or 0) > 1.5

        ops.until(another, f"conversion by {spot}")
        shown.add(ops.sees("#compare [data-spot]").get_attribute("data-spot"))
    ops.picture("compare")


def _redeem(clerk: Person, code: str, amount: str = "") -> None:
    clerk.types("#code", code, enter=True)
    clerk.sees("#confirm")
    if amount:
        clerk.types("#amount", amount)
    clerk.picture("found")
    clerk.taps("#confirm")


@pytest.mark.timeout(300)
def test_from_the_guides_phone_to_a_coupon_redeemed_at_the_till(stack: Stack, visit: Callable[..., Person]) -> None:
    office = Office(stack.api)
    pushed = office.campaign("到店满30减8", kind="amount", amount_fen=800, threshold_fen=3000)
    claimed = office.campaign("到店兑换：桂花乌龙一杯", kind="gift", gift="桂花乌龙一杯")
    store = office.get("/v1/stores?limit=1")["items"][0]

    # The guide makes a room and goes live.
    guide = visit("guide", "guide", account="guide-01", brand="demo")
    guide.taps("#newRoom")
    guide.types("#newTitle", "秋夜茶席")
    goods = guide.until(lambda: guide.driver.find_elements(By.CSS_SELECTOR, ".option[role=checkbox]"), "products")
    for option in goods[:4]:
        option.click()
    guide.taps("dialog form .main")
    guide.taps("#start")
    guide.sees("#badge", "直播中")
    room = guide.driver.current_url.partition("room=")[2].partition("&")[0]

    # A viewer comes in.
    viewer = visit("watch", "viewer", account="page-viewer", name="小鹿", room=room)
    viewer.sees("#title", "秋夜茶席")
    viewer.until(lambda: viewer.sees("#viewers").text == "1", "being counted")
    guide.until(lambda: guide.sees("#viewers").text == "1", "seeing the viewer counted")

    # The guide shows a product and puts up a notice.
    guide.taps("#rail button")
    viewer.sees("#pinned", "讲解中")
    guide.taps("#openAnnounce")
    guide.types("#announceText", "今晚九点抽三位朋友送好礼")
    guide.taps("#announceGo")
    viewer.sees("#announcement", "今晚九点抽三位朋友送好礼")

    # Talk, likes, and a comment taken down.
    viewer.types("#text", "这个茶 <b>好香</b>", enter=True)
    viewer.sees("#comments .mine", "这个茶 <b>好香</b>")
    guide.sees("#feed", "这个茶 <b>好香</b>")
    for _ in range(3):
        viewer.taps("#heart")
    guide.until(lambda: guide.sees("#likes").text == "3", "the likes")
    viewer.types("#text", "这句要删掉", enter=True)
    guide.taps("#feed button", "这句要删掉")
    guide.taps("[data-act=delete]")
    viewer.sees_no("#comments li", "这句要删掉")

    # Near a store, a coupon is pushed.
    _stand_near(viewer, store)
    viewer.picture("room")
    guide.picture("room")
    _release(guide, pushed, "push")
    viewer.sees(".arrival", "到店满30减8")
    viewer.picture("arrival")
    viewer.taps(".arrival .main")
    viewer.until(lambda: viewer.sees(".qr").get_attribute("data-payload"), "the QR code")
    viewer.picture("coupon")
    code = viewer.sees(".pass .code").text
    viewer.closes_sheets()

    # Another one is grabbed.
    _release(guide, claimed, "claim")
    viewer.sees(".grab", "抢")
    viewer.picture("grab")
    viewer.taps(".grab")
    viewer.sees(".arrival", "桂花乌龙")
    viewer.closes_sheets()
    viewer.taps("#openWallet")
    viewer.until(lambda: len(viewer.driver.find_elements(By.CSS_SELECTOR, ".wallet .ticket")) == 2, "two coupons")
    viewer.picture("wallet")
    viewer.taps(".wallet .ticket", "桂花乌龙")
    qr = str(viewer.until(lambda: viewer.sees(".couponSheet .qr").get_attribute("data-payload"), "the QR code"))

    # At the till of the coupon's store: yes once, no the second time, taken back, then by QR.
    mine = next(one for one in office.get("/v1/ops/stores?limit=5000")["items"] if one["issued"])
    clerk = visit("clerk", "clerk", account="page-clerk", store=mine["code"])
    clerk.sees("#store", mine["name"])
    _redeem(clerk, code, "42.50")
    clerk.sees(".verdict.yes", "已核销")
    clerk.sees(".verdict.yes", "¥34.50")
    clerk.picture("yes")
    clerk.taps(".verdict .button")
    clerk.types("#code", code, enter=True)
    clerk.sees(".verdict.no", "这张券已经用过了")
    clerk.sees(".verdict.no", mine["name"])
    clerk.picture("no")
    clerk.taps(".verdict .button")
    clerk.taps("#tabToday")
    clerk.confirms("[data-reverse]")
    clerk.sees(".done.reversed", "已撤销")
    clerk.picture("today")
    clerk.taps("#tabRedeem")
    _redeem(clerk, qr)
    clerk.sees(".verdict.yes", "已核销")
    clerk.taps(".verdict .button")
    _redeem(clerk, code, "42.50")
    clerk.sees(".verdict.yes", "已核销")

    # Operations see it.
    ops = visit("ops", "ops", DESK, account="ops-01")
    ops.taps("#rooms .room", "秋夜茶席")
    ops.until(lambda: ops.sees("[data-step=redeemed] b").text not in ("", "0"), "the redemption in the funnel")
    ops.until(lambda: len(ops.driver.find_elements(By.CSS_SELECTOR, "[data-gateway]")) == 2, "two gateways")
    assert ops.driver.find_elements(By.CSS_SELECTOR, "#map .halo")
    ops.picture("desk")
    _compares(ops)

    # The room ends.
    guide.confirms("#end")
    guide.sees("dialog", "直播结束了")
    guide.picture("results")
    viewer.closes_sheets()
    viewer.sees("#over", "直播结束了")
    viewer.picture("over")

    people = {"guide": guide, "viewer": viewer, "clerk": clerk, "ops": ops}
    assert {name: person.console() for name, person in people.items()} == {name: [] for name in people}


def _stands(viewer: Person, store: dict[str, Any]) -> None:
    """Say that one is near ``store``; the sheet of stores is open."""
    viewer.chooses("#standCity", store["city"])
    viewer.chooses("#standStore", store["name"])
    viewer.taps("#stand")
    viewer.sees("[data-store]", store["name"])


def _travels_too_fast(viewer: Person, away: dict[str, Any], here: dict[str, Any]) -> None:
    """In another city one moment and here the next: a strong sign."""
    viewer.taps("#openStores")
    viewer.taps("#agree")
    _stands(viewer, away)
    viewer.taps("dialog .button", "重新定位")
    _stands(viewer, here)
    viewer.closes_sheets()


@pytest.mark.timeout(400)
def test_a_doubtful_viewer_waits_for_operations_and_hears_their_decision(
    stack: Stack, visit: Callable[..., Person]
) -> None:
    office, guide = Office(stack.api), Office(stack.api, "guide", "guide-01")
    room = guide.room("核实茶席")
    guide.post(f"/v1/rooms/{room}/start")
    stores = office.get("/v1/stores?limit=200")["items"]
    here = stores[0]
    away = next(store for store in stores if store["city"] != here["city"])
    terms = {"kind": "amount", "amount_fen": 800, "threshold_fen": 3000, "doubt": "review"}
    granted, refused = office.campaign("核实后满30减8", **terms), office.campaign("核实后满30减9", **terms)

    viewer = visit("watch", "review-viewer", account="page-doubtful", name="小疑", room=room)
    viewer.until(lambda: viewer.sees("#viewers").text == "1", "being counted")
    _travels_too_fast(viewer, away, here)
    ops = visit("ops", "review-ops", DESK, account="ops-01")
    ops.taps("#tabSafety")

    def claims(campaign: str) -> str:
        drop = guide.post(f"/v1/rooms/{room}/drops", {"campaign": campaign, "mode": "claim", "stock": 5})["id"]
        grab = f"[data-drop='{drop}'] .grab"
        # Fixes are written in batches: the first tap may come before the viewer's is there.
        viewer.until(lambda: _grabbed(viewer, grab), "the claim being looked at")
        viewer.sees(grab, "核实中")
        assert not viewer.sees(grab).is_enabled()
        return str(drop)

    def case(title: str) -> str:
        row = ops.sees("#reviews [data-review]", title)
        assert "小疑" in row.text and here["name"] in row.text
        assert row.find_elements(By.CSS_SELECTOR, ".why .badge"), "the reasons stand beside it"
        return f"[data-review='{row.get_attribute('data-review')}']"

    # Granted: the coupon arrives by itself.
    claims(granted)
    viewer.picture("waits")
    assert viewer.overflow() <= 0
    row = case("核实后满30减8")
    ops.picture("case")
    ops.taps(f"{row} [data-decision=approve]")
    ops.sees_no(row)
    viewer.sees(".arrival", "核实后满30减8")
    viewer.picture("granted")
    viewer.closes_sheets()

    # Refused: the viewer is told so, and what they have stays.
    claims(refused)
    row = case("核实后满30减9")
    ops.taps(f"{row} [data-decision=refuse]")
    viewer.sees(".toast", "没有通过核实")
    viewer.picture("refused")
    ops.sees_no(row)
    viewer.taps("#openWallet")
    viewer.until(lambda: len(viewer.driver.find_elements(By.CSS_SELECTOR, ".wallet .ticket")) == 1, "one coupon")

    # Withdrawn after all, by its code.
    viewer.taps(".wallet .ticket", "核实后满30减8")
    code = viewer.sees(".couponSheet .code").text
    viewer.closes_sheets()
    for typed, said in ((code[:-3], "券码输错"), (code, "已作废：核实后满30减8")):
        ops.types("#voidCode", typed)
        ops.confirms("#voidNow")
        ops.sees(".toast", said)
    ops.picture("withdrawn")
    assert not ops.sees("#voidCode").get_attribute("value")
    viewer.taps("#openWallet")
    viewer.sees(".wallet .ticket", "已作废")
    assert viewer.console() == []
    assert ops.console() == []
    _switches_language_without_a_network(ops)


def _switches_language_without_a_network(ops: Person) -> None:
    """What was answered is said in the other language at once."""
    ops.driver.execute_cdp_cmd("Network.enable", {})
    nothing = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    ops.driver.execute_cdp_cmd("Network.emulateNetworkConditions", nothing)
    ops.taps("#tabOverview")
    ops.sees("#eyes [data-fact=joins]", "/秒")
    ops.taps("main [data-language]")
    ops.sees("#eyes [data-fact=joins]", "/s")
    ops.sees("#fresh", "No network")


def _grabbed(viewer: Person, grab: str) -> bool:
    viewer.closes_sheets()
    if "核实中" not in viewer.sees(grab).text:
        viewer.taps(grab)
    return viewer.sees_soon(grab, "核实中")


def test_at_night_guides_and_viewers_are_told_when_coupons_arrive(stack: Stack, visit: Callable[..., Person]) -> None:
    office, guide_rest = Office(stack.api), Office(stack.api, "guide", "guide-02")
    campaign = office.campaign("夜里满30减8", kind="amount", amount_fen=800, threshold_fen=3000)
    store = office.get("/v1/stores?limit=1")["items"][0]
    room = guide_rest.room("夜谈")
    guide_rest.post(f"/v1/rooms/{room}/start")
    by_day = office.get("/v1/ops/limits")
    clock = datetime.now(ZoneInfo("Asia/Shanghai"))
    night = {"quiet_from": f"{clock - timedelta(hours=2):%H:%M}", "quiet_until": f"{clock + timedelta(hours=2):%H:%M}"}
    viewer = visit("watch", "night-viewer", account="page-night", name="小夜", room=room)
    viewer.until(lambda: viewer.sees("#viewers").text == "1", "being counted")
    _stand_near(viewer, store)
    guide = visit("guide", "night-guide", account="guide-02", brand="demo", room=room)
    office.put("/v1/ops/limits", by_day | night)
    try:
        guide.taps("#openDrop")

        def somebody() -> bool:
            guide.taps(f"[data-campaign='{campaign}']")
            return guide.sees("#eligible").text not in ("", "0")

        guide.until(somebody, "a viewer in range")
        zone = ZoneInfo(guide.script("return Intl.DateTimeFormat().resolvedOptions().timeZone"))
        morning = f"{(clock + timedelta(hours=2)).astimezone(zone):%H:%M} 送到"
        guide.sees("#heldUntil", morning)
        guide.picture("preview")
        guide.taps("#dropGo")
        guide.sees("#drops [data-drop]", morning)
        viewer.sees("#drops [data-mode=push]", morning)
        guide.until(lambda: "剩 49/50" in guide.sees("#drops [data-drop]").text, "a coupon being given")
        viewer.picture("held")
        guide.picture("held")
        viewer.sees_no(".arrival")
        viewer.taps("#openWallet")
        viewer.sees(".wallet")
        viewer.sees_no(".wallet .ticket")
        for person in (viewer, guide):
            assert person.overflow() <= 0
            assert person.console() == []
    finally:
        office.put("/v1/ops/limits", by_day)


def test_a_viewer_takes_their_data_out_and_is_erased(stack: Stack, visit: Callable[..., Person]) -> None:
    office = Office(stack.api)
    room = office.get("/v1/rooms?state=live")["items"][0]["id"]
    viewer = visit("watch", "mydata", account="page-leaver", name="小满", room=room)
    viewer.until(lambda: int(viewer.sees("#viewers").text) >= 1, "being welcomed")
    viewer.types("#text", "我要走啦", enter=True)
    viewer.sees("#comments .mine", "我要走啦")
    viewer.taps("#openWallet")
    viewer.taps("#myData")
    viewer.sees(".myData", "我的数据")
    viewer.picture("sheet")
    viewer.script(
        "window.taken = null; URL.createObjectURL = (blob) => (blob.text().then((text) => { taken = text; }), '#');"
    )
    viewer.taps("#takeOut")
    taken = json.loads(viewer.until(lambda: viewer.script("return window.taken"), "the file"))
    assert [one["name"] for one in taken["account"]] == ["小满"]
    viewer.taps("#eraseMe")
    assert not viewer.sees("#eraseGo").is_enabled(), "a tick comes first"
    viewer.picture("sure")
    assert viewer.overflow() <= 0
    assert viewer.unnamed() == []
    viewer.taps("#eraseSure")
    viewer.taps("#eraseGo")
    viewer.sees("#erased", "你的数据已删除")
    viewer.until(lambda: not viewer.script("return document.querySelector('#over').hidden"), "the room being left")
    viewer.picture("erased")
    viewer.closes_sheets()
    viewer.sees("#account")
    assert viewer.console() == []


@pytest.mark.parametrize(
    ("page", "account"),
    [("", ""), ("watch", "looker"), ("guide", "guide-01"), ("clerk", "clerk-01"), ("ops", "ops-01")],
)
def test_a_page_fits_the_phone_and_names_its_controls_in_both_languages(
    visit: Callable[..., Person], page: str, account: str
) -> None:
    person = visit(page, f"fit-{page or 'index'}", **({"account": account} if account else {}))
    for language, other in (("zh-CN", "EN"), ("en", "中文")):
        person.sees("main [data-language]", other)
        assert person.script("return document.documentElement.lang") == language
        assert person.overflow() <= 0
        assert person.unnamed() == []
        person.picture(language)
        person.taps("main [data-language]")
    assert person.console() == []


def test_without_an_account_a_page_asks_for_one(visit: Callable[..., Person]) -> None:
    clerk = visit("clerk", "gate")
    clerk.types("#account", "nobody-here", enter=True)
    clerk.sees("[role=alert]", "填写的内容不对")
    clerk.types("#account", "clerk-01", enter=True)
    clerk.sees("#code")
    assert clerk.sees("#store").text


@pytest.mark.deep  # test_gateways_killed does the same without a page
def test_a_viewer_outlives_the_gateways_and_misses_no_announcement(stack: Stack, visit: Callable[..., Person]) -> None:
    office = Office(stack.api)
    room = office.get("/v1/rooms?state=live")["items"][0]["id"]
    viewer = visit("watch", "storm", account="page-storm", room=room)
    viewer.until(lambda: int(viewer.sees("#viewers").text) >= 1, "being welcomed")
    for name in ("gateway-1", "gateway-2"):
        process = stack.children[name].process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
    viewer.sees("#line", "正在重新连接")
    viewer.picture("reconnecting")
    office.post(f"/v1/rooms/{room}/announce", {"text": "刚才说到哪儿了"})
    viewer.sees("#announcement", "刚才说到哪儿了")
    viewer.sees_no("#line")
    viewer.types("#text", "我又回来了", enter=True)
    viewer.sees("#comments .mine", "我又回来了")


def test_long_words_stay_on_the_screen(stack: Stack, visit: Callable[..., Person]) -> None:
    office = Office(stack.api)
    room = office.get("/v1/rooms?state=live")["items"][0]["id"]
    office.post(f"/v1/rooms/{room}/announce", {"text": "Unbreakable" * 18})
    viewer = visit("watch", "long", account="page-long", name="Wolfeschlegelsteinhausenbergerdorff", room=room)
    viewer.taps("#room [data-language]")
    viewer.types("#text", "w" * 200, enter=True)
    viewer.sees("#comments .mine", "w" * 200)
    assert viewer.overflow() <= 0
    assert (
        viewer.script("const room = document.querySelector('#room'); return room.scrollWidth - room.clientWidth") <= 0
    )
    viewer.picture("room")
