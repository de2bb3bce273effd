"""Processes are found and named by what they are; gateways elsewhere are asked."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from loadtest.watch import Metrics, Sample, descendants, role

TOLD = b"""# HELP nearcast_gateway_viewers viewers
nearcast_gateway_viewers 12.0
nearcast_gateway_shed_total{what="comment"} 30.0
nearcast_gateway_shed_total{what="slow"} 4.0
nearcast_gateway_shed_total{what="join"} 500.0
nearcast_gateway_resident_bytes 1.048576e+08
"""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([sys.executable, "-m", "app.cli", "gateway"], "gateway"),
        ([sys.executable, "-m", "app.cli", "token"], None),
        (["/usr/bin/redis-server", "127.0.0.1:6379"], "redis"),
        (["postgres:", "nearcast", "nearcast", "idle"], "postgres"),
        (["bash"], None),
    ],
)
def test_a_process_is_what_its_command_line_says(arguments: list[str], expected: str | None) -> None:
    assert role(arguments) == expected


def test_children_and_their_children_are_found() -> None:
    grandchild = "import subprocess,sys; p=subprocess.Popen(['cat'], stdin=0); print(p.pid, flush=True); p.wait()"
    command = [sys.executable, "-c", grandchild]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        inner = int(child.stdout.readline())
        found = descendants(os.getpid())
        assert found.index(child.pid) < found.index(inner)
        child.stdin.close()


class Gateway(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = self.path == "/metrics"
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(TOLD if found else b"")

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def gateway() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Gateway) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_gateways_elsewhere_tell_what_they_left_out_and_their_memory(gateway: str) -> None:
    sample = Sample(1.0)
    metrics = Metrics([f"ws://{gateway}", f"ws://{gateway}/", f"ws://{gateway}/behind-a-proxy"])
    metrics.look(sample, processes=True)
    metrics.close()
    assert (sample.shed, sample.viewers, metrics.offered) == (68, 24, True)
    assert sample.memory == {"gateway 1": 100.0, "gateway 2": 100.0}


def test_where_nobody_tells_nothing_is_made_up(gateway: str) -> None:
    sample = Sample(1.0)
    metrics = Metrics([f"ws://{gateway}/behind-a-proxy"])
    metrics.look(sample, processes=True)
    metrics.close()
    assert (sample.shed, sample.viewers, sample.memory, metrics.offered) == (None, None, {}, False)
