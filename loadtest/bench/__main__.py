"""``python -m loadtest.bench NAME [--quick]``: a table, and one JSON line at the end of standard output."""

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtest.bench import fanout, joins, memory, peak
from loadtest.bench.house import House
from loadtest.bench.machine import SCRATCH, CannotMeasure, cores, describe, on_core
from loadtest.bench.tables import figures

RESULTS = SCRATCH / "results"


def run(name: str, quick: bool, house: House) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Measure in ``house``; everything that came out, and the fields that the JSON line shows."""
    match name:
        case "fanout":
            return fanout.measure(house, fanout.Plan.quick() if quick else fanout.Plan()), fanout.FIELDS
        case "peak":
            return peak.measure(house, peak.Plan.quick() if quick else peak.Plan.full()), peak.FIELDS
        case "joins":
            return joins.measure(house, joins.Plan.quick() if quick else joins.Plan()), joins.FIELDS
        case _:
            return memory.measure(house, memory.Plan.quick() if quick else memory.Plan()), memory.FIELDS


def save(result: dict[str, Any], quick: bool, folder: Path) -> None:
    """Keep the whole result for ``python -m loadtest.bench.report``; whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['bench']}.json"
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(result | {"machine": describe(), "quick": quick}, indent=1) + "\n")
    fresh.rename(path)


def show(result: dict[str, Any]) -> None:
    """Print the table of ``result``."""
    shown = figures(result)
    table = Table(title=shown.above, title_justify="left", caption=shown.below or None, caption_justify="left")
    for place, column in enumerate(shown.columns):
        table.add_column(column, justify="right" if place else "left")
    for row in shown.rows:
        table.add_row(*(cell.replace("`", "") for cell in row))
    Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(table)


def main() -> int:
    """Run one bench; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description=__doc__)
    parser.add_argument("name", choices=("fanout", "peak", "joins", "memory"))
    parser.add_argument("--quick", action="store_true", help="at most 45 s, with fewer viewers or rounds")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the whole result is kept as JSON")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server, other = cores()
    if server == other:
        sys.stderr.write("There is one core only: server and receiver share it, and the figures say little.\n")
    try:
        with on_core(other), House() as house:
            result, fields = run(chosen.name, chosen.quick, house)
    except CannotMeasure as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    save(result, chosen.quick, chosen.results)
    show(result)
    sys.stdout.write(json.dumps({field: result[field] for field in fields}) + "\n")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
