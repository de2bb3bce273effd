"""Logs: a JSON object a line where no person reads along, with who said it and what it was part of."""

import json
import os
import pty
import subprocess
import sys

SAY = (
    "import structlog, logging\n"
    "from kernel import log\n"
    "from kernel.settings import Settings\n"
    "log.configure(Settings(), 'gateway')\n"
    "structlog.contextvars.bind_contextvars(request='r-1')\n"
    "structlog.get_logger().info('drop_opened', drop='d-1', room='房', token='secret-1', lng=121.5)\n"
    "logging.getLogger('a.library').warning('from %s', 'outside')\n"
    "try: 1 / 0\n"
    "except ZeroDivisionError: structlog.get_logger().exception('broke')\n"
)


def said(stderr: int | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NEARCAST_")}
    pipe = subprocess.PIPE if stderr is None else stderr
    ran = subprocess.run([sys.executable, "-c", SAY], stderr=pipe, text=True, check=True, env=environment)
    return ran.stderr or ""


def test_without_a_terminal_every_line_is_an_object_with_its_ids_and_no_secret() -> None:
    lines = said().splitlines()
    told, library, broke = map(json.loads, lines)
    assert {
        "event": "drop_opened",
        "drop": "d-1",
        "room": "房",
        "process": "gateway",
        "request": "r-1",
    }.items() <= told.items()
    assert told["timestamp"].endswith("Z")
    assert (told["token"], told["lng"]) == ("[redacted]", "[redacted]")
    assert (library["event"], library["level"]) == ("from outside", "warning")
    assert "ZeroDivisionError" in broke["exception"]


def test_on_a_terminal_it_is_for_people() -> None:
    ours, theirs = pty.openpty()
    try:
        said(theirs)
        shown = os.read(ours, 100_000).decode()
    finally:
        os.close(theirs)
        os.close(ours)
    assert "drop_opened" in shown
    assert '"event"' not in shown
    assert "secret-1" not in shown
