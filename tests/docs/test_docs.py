"""The pages say what the code says."""

import re
from pathlib import Path

import pytest
import yaml

import app.api  # noqa: F401 - every table
from kernel.errors import CATALOGUE
from kernel.postgres import Table
from kernel.settings import PREFIX, Settings
from live.contract import markdown
from live.wire import Close

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_the_protocol_page_holds_the_tables_made_from_the_wire() -> None:
    page = (DOCS / "protocol.md").read_text()
    assert page.split("<!-- wire -->")[1].split("<!-- /wire -->")[0].strip() == markdown().strip()


def test_the_settings_table_is_complete_and_names_nothing_else() -> None:
    rows = re.findall(rf"^\| `{PREFIX}(\w+)` \|", (DOCS / "operations.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(name.upper() for name in Settings.model_fields)


def test_every_refusal_code_is_listed_with_its_status() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (.+) \|$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert {code: (int(status), sentence) for code, status, sentence in rows} == CATALOGUE


def test_the_javascript_client_knows_every_close_code() -> None:
    codes = (ROOT / "web" / "client" / "nearcast.js").read_text().partition("export const Close")[2].partition("});")[0]
    assert {name: int(code) for name, code in re.findall(r"(\w+): (\d{4})", codes)} == {
        close.name: close.value for close in Close
    }


@pytest.mark.parametrize("page", sorted([*DOCS.rglob("*.md"), ROOT / "README.md"]), ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = [int(page.name[:4]) for page in sorted((DOCS / "decisions").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))


def test_the_compose_file_publishes_the_servers_at_the_addresses_it_suggests() -> None:
    text = (ROOT / "deploy" / "compose.yaml").read_text()
    services = yaml.safe_load(text)["services"]
    for name in ("postgres", "redis"):
        for port in services[name]["ports"]:
            assert f":{port.split(':')[1]}/" in text, "the suggested address uses the published port"


def test_the_page_on_privacy_names_every_table_and_no_other() -> None:
    page = (DOCS / "privacy.md").read_text()
    about_people = page.partition("## What is kept about people")[2].partition("In Redis, besides")[0]
    cells = re.findall(r"^\| [^|]+ \| ([^|]+) \|", about_people, re.MULTILINE)[1:]
    about_nobody = page.partition("## What is about nobody")[2].partition("##")[0]
    named = re.findall(r"`(\w+)`", " ".join(cells).replace("(`allow`)", "") + about_nobody)
    assert sorted(named) == sorted(Table.metadata.tables)


def test_the_page_on_privacy_names_every_time_that_can_be_set() -> None:
    page = (DOCS / "privacy.md").read_text()
    times = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields if name.startswith("keep_")}
    assert times <= set(re.findall(r"`(\w+)`", page))


def test_what_the_security_page_says_is_tried_is_tried() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`", (DOCS / "security.md").read_text())
    assert len(named) > 20
    for path, test in named:
        source = (ROOT / path).read_text()
        assert not test or f"def {test}(" in source, f"{path} has no {test}"


def test_what_the_reliability_page_says_was_measured_is_tested() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", (DOCS / "reliability.md").read_text())
    assert len(named) > 5
    for path, test in named:
        assert f"def {test}(" in (ROOT / path).read_text(), f"{path} has no {test}"
