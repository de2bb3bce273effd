"""What ops sees of a real evening: every promised metric moves, Prometheus finds a series for every query, and one drop
can be followed through all processes."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import yaml
from collector import Collector, Told
from prometheus_client.parser import text_string_to_metric_families

from app.processes import bound, free_port
from app.up import Stack

pytestmark = [pytest.mark.deep, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
PATIENCE = 240
Found = TypeVar("Found")
UUID_LIKE = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")
MOVES = {
    "gateway": (
        "joins_total", "viewers", "rooms", "frames_total", "events_total", "written_bytes_total", "ready", "sockets",
        "delay_seconds_count", "bus_delay_seconds_count", "commands_total", "resident_bytes", "bus_healthy",
    ),
    "worker": (
        "nearcast_relay_events_total", "nearcast_relay_lag_seconds_count", "nearcast_push_coupons_total",
        "process_resident_memory_bytes", "nearcast_loop_lag_seconds",
    ),
    "api": ("nearcast_http_request_seconds_count", "nearcast_redemptions_total", "process_resident_memory_bytes"),
}  # fmt: skip
CLAIMS = ("nearcast_claims_total", "nearcast_claim_batch_size_count", "nearcast_claim_batch_seconds_count")
UNITS = ("_seconds", "_bytes", "_total", "_events", "_size")
COUNTS_OF_THINGS = {"viewers", "sockets", "rooms", "rooms_mending", "slow_viewers", "commands_running"}
FLAGS = {"ready", "bus_healthy"}


def until(look: Callable[[], Found | None], what: str) -> Found:
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.25)
    return found


@pytest.fixture(scope="module")
def addresses(traced: Stack) -> dict[str, list[str]]:
    worker = f"http://127.0.0.1:{traced.children['worker'].environment['NEARCAST_WORKER_PORT']}"
    return {"api": [traced.api], "gateway": traced.gateways, "worker": [worker]}


@pytest.fixture(scope="module")
def evening(traced: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The demo's audience, for as long as somebody looks."""
    command = [sys.executable, "-m", "app.cli", "demo", "--api", traced.api, "--viewers", "24"]
    with (tmp_path_factory.mktemp("evening") / "log").open("wb") as output:
        playing = subprocess.Popen(bound(command, "TERM"), stdout=output, stderr=output, cwd=ROOT)
    yield
    playing.terminate()
    playing.wait()


def figures(address: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(httpx.get(f"{address}/metrics", timeout=60).text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def moved(addresses: list[str], names: tuple[str, ...], prefix: str = "") -> list[str]:
    """Those of ``names`` that are above nothing in none of the processes."""
    seen = [figures(address) for address in addresses]
    return [name for name in names if not any(value > 0 for one in seen for _, value in one.get(prefix + name, []))]


def test_every_promised_metric_moves_and_no_label_is_unbounded(
    traced: Stack, addresses: dict[str, list[str]], evening: None
) -> None:
    for kind, names in MOVES.items():
        prefix = "nearcast_gateway_" if kind == "gateway" else ""
        left: list[str] = []

        def all_moved(kind: str = kind, names: tuple[str, ...] = names, prefix: str = prefix) -> bool:
            left[:] = moved(addresses[kind], names, prefix)  # noqa: B023
            return not left  # noqa: B023

        try:
            until(all_moved, kind)
        except AssertionError:
            pytest.fail(f"{kind}: {left} did not move")
    until(lambda: not moved(addresses["gateway"], CLAIMS), "claims")
    for kind, places in addresses.items():
        for address in places:
            _sound(kind, figures(address))


def _sound(kind: str, found: dict[str, list[tuple[dict[str, str], float]]]) -> None:
    for name, samples in found.items():
        if not name.startswith("nearcast_") or name.endswith("_created"):
            continue
        bare = re.sub(r"_(bucket|sum|count)$", "", name)
        short = bare.removeprefix("nearcast_gateway_")
        assert bare.endswith(UNITS) or short in COUNTS_OF_THINGS | FLAGS, f"{name} has no unit"
        assert len(samples) < 700, f"{name} has {len(samples)} series"
        for labels, _ in samples:
            for label, value in labels.items():
                assert not UUID_LIKE.search(value), f"{name}: {label} is an identifier"


# ---- Prometheus ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prometheus(addresses: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A real one with our rules, that scrapes the stack every second."""
    home, port = tmp_path_factory.mktemp("prometheus"), free_port()
    made = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    made["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    made["rule_files"] = [str(ROOT / "deploy/prometheus/alerts.yml")]
    for job in made["scrape_configs"]:
        hosts = addresses[job["job_name"].removeprefix("nearcast-")]
        job["static_configs"] = [{"targets": [host.removeprefix("http://") for host in hosts]}]
    (home / "prometheus.yml").write_text(yaml.safe_dump(made))
    command = [
        "prometheus", f"--config.file={home}/prometheus.yml", f"--storage.tsdb.path={home}/data",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
    ]  # fmt: skip
    running = subprocess.Popen(bound(command, "KILL"))
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=60) as client:
            yield client
    finally:
        running.terminate()
        running.wait()


def queries() -> dict[str, str]:
    """Every query of dashboards and alerts; of an alert what it compares, of an absence what must be there."""
    found = {}
    for page in sorted((ROOT / "deploy/grafana").glob("*.json")):
        for panel in json.loads(page.read_text())["panels"]:
            for target in panel["targets"]:
                found[f"{page.stem}: {panel['title']} {target['refId']}"] = target["expr"]
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"][0]["rules"]
    for rule in rules:
        bare = re.sub(r" (>|<|==) [\d.e]+$", "", rule["expr"])
        found[f"alert {rule['alert']}"] = re.sub(r"^absent\((.*)\)$", r"\1", bare)
    return found


def test_every_query_of_dashboards_and_alerts_finds_series(prometheus: httpx.Client, evening: None) -> None:
    left = queries()
    assert len(left) > 60

    def ask() -> bool:
        for name, query in list(left.items()):
            try:
                asked = prometheus.get("/query", params={"query": query})
            except httpx.HTTPError:
                return False  # not listening yet
            if asked.status_code == 503:
                return False  # listening, and not ready: it says so in plain text
            answer = asked.json()
            assert answer["status"] == "success", f"{name}: {answer}"
            if answer["data"]["result"]:
                del left[name]
        return not left

    try:
        until(ask, "series")
    except AssertionError:
        pytest.fail(f"nothing is found for {left}")
    rules: Any = prometheus.get("/rules").json()["data"]["groups"]
    assert {rule["health"] for group in rules for rule in group["rules"]} <= {"ok", "unknown"}
    assert {target["health"] for target in prometheus.get("/targets").json()["data"]["activeTargets"]} == {"up"}


# ---- traces --------------------------------------------------------------------------------------------------------


def _reaches(spans: list[Told], *way: tuple[str, str]) -> bool:
    """Whether a span is there for every (process, name) of ``way``, each a descendant of the one before."""
    by_id = {span.id: span for span in spans}

    def under(span: Told, ancestor: Told) -> bool:
        while span.parent and span.parent in by_id:
            span = by_id[span.parent]
            if span is ancestor:
                return True
        return False

    now = [span for span in spans if (span.service, span.name) == way[0] and not span.parent]
    for service, name in way[1:]:
        candidates = [span for span in spans if (span.service, span.name) == (service, name)]
        now = [span for span in candidates if any(under(span, former) for former in now)]
    return bool(now)


def test_one_drop_is_one_trace_from_the_request_to_the_last_socket(
    traced: Stack, collector: Collector, evening: None
) -> None:
    api, gateway, worker = "nearcast-api", "nearcast-gateway", "nearcast-worker"
    with httpx.Client(base_url=traced.api, timeout=60) as client:
        signed = client.post("/v1/auth/dev", json={"brand": "demo", "account": "ops-01", "role": "ops"}).json()
        client.headers["Authorization"] = f"Bearer {signed['token']}"

        def push() -> str | None:
            """The fixes of viewers have to be there first, so again until somebody got a coupon."""
            rooms = client.get("/v1/rooms", params={"state": "live"}).json()["items"]
            campaigns = client.get("/v1/campaigns").json()["items"]
            for room in rooms[:1]:
                for campaign in campaigns:
                    body = {"campaign": campaign["id"], "mode": "push", "stock": 5, "seconds": 30}
                    key = {"Idempotency-Key": f"eyes-{time.monotonic()}", "X-Request-Id": "eyes-12345678"}
                    answer = client.post(f"/v1/rooms/{room['id']}/drops", json=body, headers=key)
                    if answer.status_code == 201:
                        assert answer.headers["X-Request-Id"] == "eyes-12345678"
                        return str(answer.json()["id"])
            return None

        drop = until(push, "a push drop")

    request = (api, "POST /v1/rooms/{room}/drops")
    relayed, told = (worker, "relay"), (gateway, "tell viewers")

    def some(*way: tuple[str, str]) -> bool:
        return any(_reaches(spans, *way) for spans in collector.traces().values())

    until(lambda: some(request, relayed, told), "the drop's opening")
    until(
        lambda: (
            some(request, (worker, "push coupons"), relayed, told)
            or some((gateway, "command drop"), (worker, "push coupons"), relayed, told)
        ),
        "coupons pushed",
    )
    until(lambda: some((gateway, "command claim"), (gateway, "decide claims"), relayed, told), "a claim")
    mine = [span for span in collector.spans if span.attributes.get("nearcast.drop") == drop]
    assert {span.service for span in mine} >= {api}, "found by the drop's identifier"


def test_traces_tell_of_nobody_and_of_no_place(traced: Stack, collector: Collector, evening: None) -> None:
    until(lambda: len(collector.spans) > 20, "spans")
    with collector.lock:
        spans, raw = list(collector.spans), list(collector.raw)
    known = {"room", "drop", "topic", "claims", "coupons", "seq", "sockets", "status", "request"}
    for span in spans:
        assert set(span.attributes) <= {f"nearcast.{name}" for name in known} | {"error.type"}, span
    secret = str(json.loads(traced.children["api"].environment["NEARCAST_TOKEN_KEYS"]).popitem()[1]).encode()
    for body in raw:
        assert secret not in body
        assert b"eyJ" not in body, "the beginning of a token"


def test_processes_log_objects_and_lines_of_a_request_name_it(traced: Stack, evening: None) -> None:
    for child in traced.children.values():
        for line in child.log.read_text().splitlines():
            told = json.loads(line)
            assert {"event", "level", "timestamp"} <= told.keys(), line
            assert told.get("process", child.arguments[0]) == child.arguments[0]
