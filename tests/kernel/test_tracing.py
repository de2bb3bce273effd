"""Traces cost nothing while nobody asked for them, and what travels with an event can be read again."""

import subprocess
import sys

import pytest

from kernel import tracing

ORIGIN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class _Here:
    def here(self) -> str:
        return ORIGIN


def test_without_an_endpoint_no_process_loads_what_makes_or_sends_traces() -> None:
    # redis-py looks for the SDK's metrics by itself, and loads them where it finds them.
    look = (
        "import sys, app.api, app.gateway, app.worker, app.cli\n"
        "from kernel import tracing\n"
        "from kernel.settings import Settings\n"
        "tracing.configure(Settings(otlp_endpoint=''), 'api')\n"
        "print([name for name in sys.modules if name.startswith("
        "('opentelemetry.sdk.trace', 'opentelemetry.exporter', 'opentelemetry.proto', 'google.protobuf', 'requests'))])"
    )
    ran = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, cwd=".")
    assert ran.stdout.strip() == "[]"


def test_off_nothing_is_begun_and_nothing_is_added() -> None:
    asked = []

    def origins() -> object:
        asked.append(1)
        yield ORIGIN

    for mark in (
        tracing.span("a"),
        tracing.follow("a", ORIGIN),
        tracing.gather("a", origins()),
        tracing.begin("a", ""),
    ):
        assert mark is tracing.UNTRACED
        with mark as inner:
            inner.note("b", drop="x")
        mark.end()
    assert not asked, "a batch does not even look at whose claims it holds"
    assert tracing.here() == ""
    assert tracing.carried(b'{"a":1}') == b'{"a":1}'


def test_what_is_carried_is_found_again_and_the_payload_stays_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_tracing", _Here())
    carried = tracing.carried(b'{"a":1}')
    assert carried == b'{"traceparent":"' + ORIGIN.encode() + b'","a":1}'
    assert tracing.origin_of(carried) == ORIGIN
    assert tracing.carried(b"{}") == b"{}"
    assert tracing.origin_of(b'{"a":1}') == ""
