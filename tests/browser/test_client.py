"""The JavaScript client in a browser and in Node, and the pages' modules in the browser that runs them."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest

from kernel.errors import CATALOGUE
from live import wire
from live.typescript import declarations

HERE = Path(__file__).parent
PAGES = HERE.parents[1] / "web/pages"
CLIENT = HERE.parents[1] / "web/client"
EVERYWHERE = tuple(
    f"{name}.test.js" for name in ("client", "clock", "opening", "outbox", "reconnect", "storm", "wechat")
)
"""What needs no page runs in Node too: a mini-program has no page either."""
SUITES = (*EVERYWHERE, "pages.test.js", "till.test.js")
RUN = """
const done = arguments[arguments.length - 1];
(async () => {
  for (const suite of arguments[0]) await import(`/tests/${suite}`);
  return (await import('/tests/check.js')).run();
})().then(done, (error) => done({'loading the tests': String(error.stack ?? error)}));
"""


def _names(suites: tuple[str, ...] = SUITES) -> list[str]:
    return [name for suite in suites for name in re.findall(r"^test\('(.+?)', ", (HERE / suite).read_text(), re.M)]


@pytest.fixture(scope="module")
def outcomes(open_browser: Any, files: str) -> dict[str, str | None]:
    driver = open_browser()
    driver.get(f"{files}/")
    found: dict[str, str | None] = driver.execute_async_script(RUN, list(SUITES))
    return found


@pytest.mark.parametrize("name", _names())
def test_in_the_browser(outcomes: dict[str, str | None], name: str) -> None:
    assert name in outcomes, outcomes
    assert outcomes[name] is None, outcomes[name]


def test_nothing_else_went_wrong_in_the_browser(outcomes: dict[str, str | None]) -> None:
    assert set(outcomes) == set(_names())


@pytest.fixture(scope="module")
def in_node() -> dict[str, str | None]:
    ran = subprocess.run(["node", HERE / "node.js", *EVERYWHERE], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, str | None] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize("name", _names(EVERYWHERE))
def test_in_node(in_node: dict[str, str | None], name: str) -> None:
    assert name in in_node, in_node
    assert in_node[name] is None, in_node[name]


def _tags(union: Any) -> set[str]:
    return {frame.__struct_config__.tag for frame in get_args(union)}


def test_the_client_says_and_hears_what_the_wire_defines() -> None:
    script = (CLIENT / "nearcast.js").read_text()
    said = set(re.findall(r"\{t: '(\w+)'", script))
    heard = set(re.findall(r"case '(\w+)':", script))
    assert said == _tags(wire.ClientFrame)
    assert heard == _tags(wire.ServerFrame)


def test_the_types_of_frames_and_events_are_those_of_the_wire() -> None:
    """`nearcast protocol --typescript > web/client/wire.d.ts` writes them anew."""
    assert (CLIENT / "wire.d.ts").read_text() == declarations()


def test_every_refusal_has_a_sentence_in_both_languages() -> None:
    refusals = (PAGES / "words.js").read_text().partition("export const REFUSALS")[2]
    said = dict(re.findall(r"^  (\w+): \['(.+?)', '", refusals, re.M))
    assert set(CATALOGUE) <= set(said)


def test_every_word_that_the_pages_ask_for_is_in_the_dictionary_once() -> None:
    named = re.findall(r"^  (\w+): \[", (PAGES / "words.js").read_text().partition("export const REFUSALS")[0], re.M)
    words = set(named)
    assert len(named) == len(words), "of two words of one name, the later one is shown in both places"
    html = "".join(page.read_text() for page in PAGES.glob("*.html"))
    scripts = "".join(script.read_text() for script in PAGES.glob("*.js") if script.name not in ("words.js", "dom.js"))
    asked = set(re.findall(r'data-t(?:-\w+)?="(\w+)"', html))
    asked |= set(re.findall(r"\bt\('(\w+)'", scripts))
    asked |= set(re.findall(r"\b(?:t|label|title|placeholder): \[?'(\w+)'", scripts))
    asked |= set(re.findall(r"\bsay\([^,()]+(?:\([^()]*\))?, '(\w+)'", scripts))
    assert len(asked) > 150
    assert asked <= words


def test_pages_load_nothing_from_elsewhere() -> None:
    for file in [*PAGES.glob("*.*"), *(PAGES.parent / "client").glob("*.js")]:
        for address in re.findall(r"https?://[^\s'\"`)]+|(?<![:\w])//[a-z0-9.-]+\.[a-z]{2,}/", file.read_text()):
            assert address.startswith("http://www.w3.org/"), f"{file.name}: {address}"


def test_no_page_has_a_script_in_its_html() -> None:
    for page in PAGES.glob("*.html"):
        assert re.findall(r"<script(?![^>]* src=)|\son\w+=|javascript:", page.read_text()) == []


def test_nothing_is_ever_parsed_as_html() -> None:
    for script in PAGES.glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(", script.read_text()
        )
