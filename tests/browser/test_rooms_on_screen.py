"""Rooms as they are lived: order among their people, and the way from an announcement to a summary."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from people import DESK, Office, Person
from selenium.webdriver import ActionChains

from app.up import Stack

Visit = Callable[..., Person]


def _press(person: Person, css: str, text: str) -> None:
    """A long press, as on a phone, held until its sheet is there."""
    ActionChains(person.driver).click_and_hold(person.sees(css, text)).perform()
    person.sees("[data-reason]")
    ActionChains(person.driver).release().perform()


def _about(guide: Person, text: str) -> None:
    """The sheet about the author of a comment."""
    guide.sees_no("dialog[open]")
    guide.taps("#feed button", text)
    guide.sees("[data-act=delete]")


@pytest.mark.timeout(600)
def test_a_comment_is_answered_by_its_guide_its_readers_and_operations(stack: Stack, visit: Visit) -> None:
    host = Office(stack.api, "guide", "guide-02")
    room = host.room("老白茶怎么喝")
    host.post(f"/v1/rooms/{room}/start")
    guide = visit("guide", "order-guide", account="guide-02", brand="demo", room=room)
    loud = visit("watch", "order-loud", account="order-loud", name="大嗓门", room=room)
    calm = visit("watch", "order-calm", account="order-calm", name="小满", room=room)
    ops = visit("ops", "order-ops", DESK, account="ops-01")

    # A reader reports what was said; operations take it down everywhere.
    loud.types("#text", "加我领内部价", enter=True)
    calm.sees("#comments li", "加我领内部价")
    _press(calm, "#comments li", "加我领内部价")
    calm.picture("report")
    calm.taps("[data-reason=spam]")
    ops.sees("#openCases", "1")
    ops.taps("#tabSafety")
    ops.sees("[data-comment]", "广告刷屏 1")
    ops.picture("safety")
    ops.taps("[data-verdict=delete]")
    calm.sees_no("#comments li", "加我领内部价")
    ops.sees_no("[data-comment]")

    # The guide mutes its author, who is told until when; operations see the mute and lift it.
    loud.types("#text", "我就要说", enter=True)
    _about(guide, "我就要说")
    guide.picture("person")
    guide.taps("[data-mute='604800']")
    loud.sees("#voice", "你被禁言了")
    assert not loud.sees("#text").is_enabled()
    loud.picture("muted")
    ops.taps("#mutes [data-viewer] button")
    loud.sees_no("#voice")

    # The room is muted; one viewer is invited to speak, then everybody may again.
    guide.taps("#openOrder")
    guide.taps("#hush")
    calm.sees("#voice", "全员禁言中")
    _about(guide, "我就要说")
    guide.taps("[data-act=allow]")
    loud.sees("#voice", "主播请你发言")
    loud.types("#text", "谢谢主播", enter=True)
    calm.sees("#comments li", "谢谢主播")
    assert not calm.sees("#text").is_enabled()
    guide.taps("#hushed button")
    calm.sees_no("#voice")

    # A word that operations forbid is refused in the room, and kept for its author to put in another way.
    ops.types("#words", "龙井村")
    ops.sees("#wordsState", "有改动还没保存")
    ops.taps("#wordsSave")
    ops.sees("#wordsState", "1 个词")

    def refused() -> bool:
        # The gateways know the word a moment after the console does: until then it goes through.
        loud.types("#text", "我在龙井村等你", enter=True)
        return loud.sees_soon(".toast", "有不合适的词")

    loud.until(refused, "the word being refused")
    assert loud.sees("#text").get_attribute("value") == "我在龙井村等你"

    people = {"guide": guide, "loud": loud, "calm": calm, "ops": ops}
    assert {name: person.console() for name, person in people.items()} == {name: [] for name in people}


@pytest.mark.timeout(600)
def test_a_show_from_its_announcement_to_its_summary(stack: Stack, visit: Visit) -> None:
    host = Office(stack.api, "guide", "guide-03")
    soon = datetime.now(UTC) + timedelta(hours=26)
    room = host.room("周末茶席", scheduled_at=soon.isoformat())
    guide = visit("guide", "show-guide", account="guide-03", brand="demo", room=room)
    viewer = visit("watch", "show-viewer", account="show-viewer", name="小鹿", room=room)
    rude = visit("watch", "show-rude", account="show-rude", name="路过", room=room)

    # Before the start: a countdown by the server's clock, and a wish to be reminded.
    viewer.sees("#startsIn", "1 天")
    guide.sees("#startTold", "距开播 1 天")
    viewer.taps("#remind")
    viewer.sees("#remind", "会提醒你")
    viewer.sees("#waiting", "1 人在等")
    viewer.picture("scheduled")
    viewer.driver.refresh()
    viewer.sees("#remind", "会提醒你")
    guide.picture("scheduled")
    guide.taps("#start")
    viewer.sees_no("#cover")

    # Who is here; one is asked to leave, comes back, and may then not come in any more.
    guide.taps("#openRoster")
    guide.sees("[data-viewer]", "路过")
    guide.picture("roster")
    guide.taps("[data-viewer]", "路过")
    guide.confirms("[data-act=kick]")
    rude.sees("#over", "你被请出了直播间")
    rude.taps("#overAgain")
    rude.types("#text", "我又来了", enter=True)
    _about(guide, "我又来了")
    guide.confirms("[data-ban='86400']")
    rude.sees("#over", "你暂时不能进这个直播间")
    rude.picture("banned")

    # A pause: viewers are told, talk on, and are told when it goes on.
    guide.sees_no("dialog[open]")
    guide.taps("#pause")
    viewer.sees("#backSoon", "主播马上回来")
    viewer.types("#text", "等你回来", enter=True)
    viewer.sees("#comments .mine", "等你回来")
    viewer.picture("paused")
    guide.picture("paused")
    guide.taps("#start", "回来了")
    viewer.sees_no("#backSoon")

    # The end: thanks on one side, the summary on the other.
    guide.taps("#rail button")
    viewer.sees("#pinned", "讲解中")
    guide.confirms("#end")
    guide.sees(".summary [data-figure=fUniques]", "2")
    guide.sees(".summary .chapters li")
    guide.picture("summary")
    viewer.sees("#over", "2 人来过")
    viewer.picture("over")
    guide.taps("#copySummary")
    guide.sees(".toast", "已复制")

    people = {"guide": guide, "viewer": viewer, "rude": rude}
    assert {name: person.console() for name, person in people.items()} == {name: [] for name in people}
