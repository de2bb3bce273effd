"""``python -m loadtest.bench.coupons NAME [--quick]``: a table, and one JSON line at the end of standard output."""

import argparse
import json
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from loadtest.bench.coupons import claims, drop, nearby
from loadtest.bench.machine import describe

BENCHES: dict[str, Any] = {"claims": claims, "drop": drop, "nearby": nearby}


def _rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    if result["bench"] == "claims":
        return [{"contender": name, **found} for name, found in result["contenders"].items()]
    return list(result["sizes"])


def _show(result: dict[str, Any]) -> None:
    rows = _rows(result)
    table = Table(title=f"{result['bench']} ({describe()})", title_justify="left", caption=result.get("durability"))
    for name in rows[0]:
        table.add_column(name)
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int | float) else str(value) for value in row.values()))
    Console(highlight=False, width=140).print(table)


def main() -> None:
    """Run one bench."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.coupons", description=__doc__)
    parser.add_argument("name", choices=tuple(BENCHES))
    parser.add_argument("--quick", action="store_true", help="at most 45 s, with fewer rounds and sizes")
    chosen = parser.parse_args()
    bench = BENCHES[chosen.name]
    result = uvloop.run(bench.measure(bench.Plan.quick() if chosen.quick else bench.Plan()))
    _show(result)
    print(json.dumps({name: result[name] for name in bench.FIELDS}))


if __name__ == "__main__":
    main()
