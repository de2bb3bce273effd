"""A real Chromium, and the pages' modules from disk."""

from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar
from urllib.parse import urlencode

import pytest
from people import PHONE, Person
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from app.up import Stack

ROOT = Path(__file__).parents[2]
ARTEFACTS = ROOT / "artefacts" / "pages"
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-prefers-reduced-motion",  # there is no GPU: every moving picture would be painted by the cores under test
)

OpenBrowser = Callable[..., webdriver.Chrome]
Visit = Callable[..., Person]


@pytest.fixture(scope="module")
def open_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBrowser]:
    """Opens browsers, each a person of their own: ``open_browser(size)``; all are closed at the end."""
    opened: list[webdriver.Chrome] = []

    def open_one(size: tuple[int, int] = PHONE) -> webdriver.Chrome:
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
            options.add_argument(argument)
        width, height = size
        if size == PHONE:
            metrics = {"width": width, "height": height, "pixelRatio": 2, "touch": True}
            options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
        opened.append(driver)
        driver.set_window_size(width, height)
        driver.set_script_timeout(120)
        return driver

    yield open_one
    for driver in opened:
        driver.quit()


@pytest.fixture
def visit(open_browser: OpenBrowser, stack: Stack) -> Iterator[Visit]:
    """Opens a page as somebody: ``visit("watch", "name of the pictures", account=…)``; they leave with the test."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    drivers: list[webdriver.Chrome] = []

    def open_page(page: str, name: str, size: tuple[int, int] | None = None, /, **query: str) -> Person:
        driver = open_browser(size) if size else open_browser()
        drivers.append(driver)
        driver.get(f"{stack.api}/{page}?{urlencode(query)}")
        return Person(driver, ARTEFACTS, name)

    yield open_page
    for driver in drivers:
        driver.quit()


class _Files(SimpleHTTPRequestHandler):
    """The same addresses as the API gives the pages' files, and the tests' own scripts."""

    places: ClassVar = {
        "client": ROOT / "web/client",
        "pages": ROOT / "web/pages",
        "tests": ROOT / "tests/browser",
        "web": ROOT / "web",
    }

    def translate_path(self, path: str) -> str:
        first, _, rest = path.lstrip("/").partition("?")[0].partition("/")
        folder = self.places.get(first)
        return str(folder / rest) if folder else str(ROOT / "tests/browser/blank.html")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def files() -> Iterator[str]:
    """Address of a server for the pages' modules alone: no API behind it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=str(ROOT)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()
