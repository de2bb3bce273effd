"""``python -m loadtest.bench.coupons NAME [--quick]``: a table, and one JSON line at the end of standard output."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import uvloop

from loadtest.bench.__main__ import RESULTS, save, show
from loadtest.bench.coupons import claims, drop, nearby

BENCHES: dict[str, Any] = {"claims": claims, "drop": drop, "nearby": nearby}


def main() -> None:
    """Run one bench."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.coupons", description=__doc__)
    parser.add_argument("name", choices=tuple(BENCHES))
    parser.add_argument("--quick", action="store_true", help="at most 45 s, with fewer rounds and sizes")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the whole result is kept as JSON")
    chosen = parser.parse_args()
    bench = BENCHES[chosen.name]
    result = uvloop.run(bench.measure(bench.Plan.quick() if chosen.quick else bench.Plan()))
    save(result, chosen.quick, chosen.results)
    show(result)
    sys.stdout.write(json.dumps({name: result[name] for name in bench.FIELDS}) + "\n")


if __name__ == "__main__":
    main()
