"""The pages as their people use them: what one can tap, type and read there."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    NoSuchElementException,
    StaleElementReferenceException,
)
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

PHONE = (390, 844)
DESK = (1360, 900)
"""Screens, in CSS pixels."""
SECONDS = 120
SOON_SECONDS = 3
_NOT_YET = (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    NoSuchElementException,
    StaleElementReferenceException,
)
_REST = """
const done = arguments[0];
const moving = document.getAnimations().filter((one) => one.effect.getComputedTiming().iterations !== Infinity);
const late = new Promise((resolve) => setTimeout(resolve, 1500));
Promise.race([Promise.allSettled(moving.map((one) => one.finished)), late]).then(() => done());
"""
# At one go in the page: controls come and go while one asks for each of them.
_UNNAMED = """
const name = (one) => one.getAttribute('aria-label') || one.labels?.[0]?.textContent || one.textContent || one.title;
return [...document.querySelectorAll('button, a[href], input, select, textarea')]
  .filter((one) => one.checkVisibility() && !name(one)?.trim()).map((one) => one.outerHTML);
"""
_CONFIRM = """
const button = document.querySelector(arguments[0]);
const asked = button.classList.contains('asking');
button.click();
return asked;
"""
Found = TypeVar("Found")


class Person:
    """Somebody with a browser. Waits are for events, with a deadline; pictures go to ``artefacts``."""

    def __init__(self, driver: Chrome, artefacts: Path, name: str) -> None:
        self.driver = driver
        self._artefacts = artefacts
        self._name = name

    def until(self, look: Callable[[], Found | None], what: str) -> Found:
        """What ``look`` finds, once it finds something true."""
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                if found := look():
                    return found
            except _NOT_YET:
                pass
            if time.monotonic() > deadline:
                self.picture("failed")
                raise AssertionError(f"{self._name}: {what} did not happen; console: {self.console()}")
            time.sleep(0.05)

    def sees(self, css: str, text: str = "") -> WebElement:
        """A visible element, with ``text`` somewhere in it."""
        return self.until(lambda: self._find(css, text), f"{css} with {text!r}")

    def sees_soon(self, css: str, text: str = "") -> bool:
        """Whether there is such an element within seconds: for what is tried again if not."""
        deadline = time.monotonic() + SOON_SECONDS
        while time.monotonic() < deadline:
            with suppress(*_NOT_YET):
                if self._find(css, text):
                    return True
            time.sleep(0.05)
        return False

    def _find(self, css: str, text: str) -> WebElement | None:
        for element in self.driver.find_elements(By.CSS_SELECTOR, css):
            if element.is_displayed() and text in element.text:
                return element
        return None

    def sees_no(self, css: str, text: str = "") -> None:
        """No such element is visible (any more)."""
        self.until(lambda: self._find(css, text) is None, f"{css} with {text!r} gone")

    def taps(self, css: str, text: str = "") -> None:
        """Tap the element once it can be tapped."""

        def tap() -> bool:
            element = self.sees(css, text)
            if not element.is_enabled():
                return False
            element.click()
            return True

        self.until(tap, f"a tap on {css}")

    def confirms(self, css: str) -> None:
        """Tap what asks once more. It asks for seconds only, which a loaded machine may spend between two taps: so the
        second tap looks and taps in one step."""
        self.taps(css)
        self.until(lambda: self.script(_CONFIRM, css), f"confirming {css}")

    def types(self, css: str, text: str, *, enter: bool = False) -> None:
        field = self.sees(css)
        field.clear()
        field.send_keys(text + (Keys.ENTER if enter else ""))

    def chooses(self, css: str, option: str) -> None:
        """The ``option`` of a list, by its words."""
        self.sees(f"{css} option", option).click()

    def closes_sheets(self) -> None:
        """Close what lies over the page, one after the other."""

        def closed() -> bool:
            if self.driver.find_elements(By.CSS_SELECTOR, "dialog[open]"):
                self.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
            return not self.driver.find_elements(By.CSS_SELECTOR, "dialog[open]")

        self.until(closed, "all sheets closed")

    def script(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def picture(self, name: str) -> None:
        """Keep a screenshot, once what moves has come to rest."""
        self.driver.execute_async_script(_REST)
        self.driver.save_screenshot(str(self._artefacts / f"{self._name}-{name}.png"))

    def console(self) -> list[str]:
        """Errors the page reported, without the refusals that the network log repeats."""
        entries = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [
            entry["message"]
            for entry in entries
            if entry["level"] == "SEVERE" and "status of 4" not in entry["message"]
        ]

    def unnamed(self) -> list[str]:
        """Visible controls that a screen reader could not name."""
        found: list[str] = self.script(_UNNAMED)
        return found

    def overflow(self) -> int:
        """By how many pixels the page is wider than the screen."""
        width: int = self.script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return width


class Office:
    """Somebody of the staff, operations if nobody is named, at REST: for what the pages do not do."""

    def __init__(self, api: str, role: str = "ops", account: str = "ops-01") -> None:
        self._api = api
        signed_in = httpx.post(f"{api}/v1/auth/dev", json={"brand": "demo", "role": role, "account": account})
        self._headers = {"Authorization": f"Bearer {signed_in.raise_for_status().json()['token']}"}

    def get(self, path: str) -> Any:
        return httpx.get(self._api + path, headers=self._headers).raise_for_status().json()

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = httpx.post(self._api + path, headers=self._headers, json=body or {}).raise_for_status()
        return answer.json() if answer.content else None

    def put(self, path: str, body: dict[str, Any]) -> Any:
        return httpx.put(self._api + path, headers=self._headers, json=body).raise_for_status().json()

    def room(self, title: str, **plan: Any) -> str:
        """A room with four products on its shelf; returns its id."""
        products = [one["id"] for one in self.get("/v1/products?limit=4")["items"]]
        return str(self.post("/v1/rooms", {"title": title, "products": products, **plan})["id"])

    def campaign(self, title: str, **terms: Any) -> str:
        """A campaign that runs; returns its id."""
        made = self.post("/v1/campaigns", {"title": title, "stock": 50, "valid_days": 7, "radius_m": 3000, **terms})
        self.post(f"/v1/campaigns/{made['id']}/run")
        return str(made["id"])
