"""Writes what a run measured into docs/reliability.md: ``python tests/faults/table.py FAULTS_OUT``."""

import json
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
MARKS = "<!-- measured -->\n", "<!-- /measured -->"
FAULTS = {
    "test_a_process_of_each_kind_is_killed": "`kill -9`, also in the middle of drops",
    "test_everything_is_killed_at_once": "all of ours, PostgreSQL and Redis killed at once, both servers started again",
    "test_redis_is_killed_and_started_again": "Redis killed, away for a second, started again",
    "test_redis_stands_still": "Redis stands still for 10 s",
    "test_redis_is_out_of_memory": "Redis refuses to write for 10 s (`maxmemory`, `noeviction`)",
    "test_postgresql_is_restarted": "PostgreSQL stopped and started again",
    "test_postgresql_stands_still": "PostgreSQL stands still for 10 s",
    "test_the_disk_of_the_database_is_full": "PostgreSQL's disk is full",
    "test_the_database_has_no_connection_left": "all of PostgreSQL's connections are taken, and ours ended",
    "test_the_cable_to_the_database_is_pulled": "the cable to PostgreSQL is pulled for 20 s",
    "test_all_connections_to_the_database_are_gone_without_a_word": "PostgreSQL's connections are gone without a word",
    "test_a_gateway_stands_still_for_twenty_seconds": "a gateway stands still for 20 s",
    "test_the_network_between_gateways_and_redis_breaks": "the network between gateways and Redis",
    "test_hundreds_never_read": "500 viewers who never read",
    "test_thousands_connect_and_say_nothing": "3,000 connections that say nothing, or byte by byte",
    "test_a_gateways_clock_jumps": "a gateway's clock jumps",
}


def row(figures: dict) -> str:
    test, _, case = figures["test"].removesuffix("]").partition("[")
    answers = sum(number for code, number in figures["answers"].items() if code[0] in "45")
    cells = (
        FAULTS[test] + (f": {case}" if case else ""),
        f"{figures['ready']:.1f} s",
        f"{figures['told']:.1f} s",
        "yes" if figures["recovered"] else "no: told so",
        str(answers),
        f"`tests/faults/{figures['file']}::{test}`",
    )
    return f"| {' | '.join(cells)} |\n"


def write(lines: list[str]) -> None:
    """The newest figures of each test, in the order of ``FAULTS``."""
    newest = {figures["test"]: figures for figures in map(json.loads, lines) if figures["test"].split("[")[0] in FAULTS}
    order = sorted(newest.values(), key=lambda figures: [*FAULTS].index(figures["test"].split("[")[0]))
    head = "| fault | ready | told | resumed | refused | test |\n|---|---|---|---|---|---|\n"
    before, after = PAGE.read_text().split(MARKS[0])[0], PAGE.read_text().split(MARKS[1])[1]
    PAGE.write_text(before + MARKS[0] + head + "".join(map(row, order)) + MARKS[1] + after)


if __name__ == "__main__":
    write(Path(sys.argv[1]).read_text().splitlines())
