"""Whether all is well, as a guide and as operations see it, while something goes wrong for real."""

import os
import signal
from collections.abc import Callable

import pytest
from people import PHONE, Office, Person
from selenium.webdriver.common.by import By

from app.up import Stack

pytestmark = [pytest.mark.deep, pytest.mark.timeout(600)]


def test_a_gateway_that_stands_still_is_told_to_guide_and_operations_and_so_is_its_return(
    stack: Stack, visit: Callable[..., Person]
) -> None:
    host = Office(stack.api, "guide", "guide-03")
    room = host.room("周末茶席")
    host.post(f"/v1/rooms/{room}/start")
    guide = visit("guide", "health-guide", account="guide-03", brand="demo", room=room)
    viewer = visit("watch", "health-viewer", account="health-viewer", name="小鹿", room=room)
    ops = visit("ops", "health-ops", PHONE, account="ops-01", brand="demo")

    host.post(f"/v1/rooms/{room}/announce", {"text": "欢迎"})
    viewer.sees("#announcement", "欢迎")
    guide.sees("#honest", "一切正常")
    assert guide.sees("#honest").get_attribute("data-state") == "well"
    guide.picture("well")
    ops.until(lambda: len(ops.driver.find_elements(By.CSS_SELECTOR, "#eyes [data-fact]")) == 15, "all tiles")
    ops.sees("#eyesState", "一切正常")
    ops.picture("well")
    assert guide.overflow() == ops.overflow() == 0

    standing = [stack.children[name].process for name in ("gateway-1", "gateway-2")]
    try:
        for process in standing:
            assert process is not None
            os.kill(process.pid, signal.SIGSTOP)
        guide.until(
            lambda: guide.sees("#honest").get_attribute("data-state") == "unwell", "trouble on the guide's line"
        )
        guide.picture("unwell")
        ops.sees("#eyes [data-fact=gateways][data-beyond]")
        ops.sees("#eyesState", "项异常")
        ops.picture("unwell")
    finally:
        for process in standing:
            assert process is not None
            os.kill(process.pid, signal.SIGCONT)
    guide.sees("#honest", "一切正常")
    ops.sees_no("#eyes [data-fact=gateways][data-beyond]")

    guide.taps("[data-language]")
    guide.sees("#honest", "All is well")
    ops.taps("[data-language]")
    ops.sees("#eyesTitle", "Is all well")
    assert ops.overflow() == 0
    ops.picture("english")
