"""Alert rules and dashboards: checked by Prometheus's own tool, and by what the pages say about them."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

import app.api
import app.worker  # noqa: F401 - every metric
from live.metrics import COUNTERS, GAUGES, Exposition, Tally

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus"
LABELS = {
    one._name: sorted(one._labelnames) for one in REGISTRY._collector_to_names if isinstance(one, MetricWrapperBase)
}
DASHBOARDS = sorted((ROOT / "deploy/grafana").glob("*.json"))


def promtool(*arguments: str) -> str:
    ran = subprocess.run(["promtool", *arguments], cwd=RULES, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((RULES / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


def test_rules_and_configuration_are_sound() -> None:
    promtool("check", "rules", "alerts.yml")
    promtool("check", "config", "prometheus.yml")


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    promtool("test", "rules", "alerts.test.yml")
    tested = {case["name"] for case in yaml.safe_load((RULES / "alerts.test.yml").read_text())["tests"]}
    assert tested == {f"{alert['alert']} {how}" for alert in alerts() for how in ("fires", "keeps quiet")}


def test_every_alert_has_a_runbook_of_its_own() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    headings = re.findall(r"^### (\w+)$", page, re.MULTILINE)
    assert headings == [alert["alert"] for alert in alerts()]
    for alert in alerts():
        assert alert["annotations"]["runbook"] == f"docs/operations.md#{alert['alert'].lower()}"
        assert alert["labels"]["severity"] in ("page", "warn")


def exist() -> dict[str, list[str]]:
    """Every metric of ours, with its labels."""
    gateway = Exposition(Tally(), lambda: dict.fromkeys([*GAUGES, *COUNTERS], 0))
    found: dict[str, list[str]] = {}
    for family in [*gateway.collect(), *REGISTRY.collect()]:
        if family.name.startswith("nearcast_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found[name] = LABELS.get(
                family.name, sorted({label for one in family.samples for label in one.labels} - {"le"})
            )
    return found


def test_the_page_lists_every_metric_with_its_labels_and_no_other() -> None:
    page = (ROOT / "docs/operations.md").read_text().partition("<!-- metrics -->")[2].partition("<!-- /metrics -->")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", page, re.MULTILINE)
    assert {name: sorted(re.findall(r"\w+", labels)) for name, labels in rows} == exist()


def test_alerts_and_dashboards_ask_for_nothing_that_is_not_told() -> None:
    """Whether the answers are not empty either, a real Prometheus says in ``test_eyes.py``."""
    asked = [alert["expr"] for alert in alerts()]
    for page in DASHBOARDS:
        asked += [target["expr"] for panel in json.loads(page.read_text())["panels"] for target in panel["targets"]]
    told = set(exist())
    for query in asked:
        for name in re.findall(r"\bnearcast_\w+", re.sub(r'"[^"]*"', "", query)):
            assert {name, re.sub(r"_(bucket|sum|count)$", "", name)} & told, f"{name} of {query}"
    assert len(asked) > 60


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_are_whole(dashboard: Path) -> None:
    board = json.loads(dashboard.read_text())
    assert board["uid"] == f"nearcast-{dashboard.stem}"
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 5
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["targets"]
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, f"{panel['title']} covers another panel"
        assert max(x for x, _ in cells) < 24
        taken |= cells
