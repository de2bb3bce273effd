"""``python -m loadtest.bench.coupons NAME [--quick]``: a table, and one JSON line at the end of standard output."""

import argparse
import json
from typing import Any

import uvloop

from loadtest.bench.coupons import claims, drop, nearby

BENCHES: dict[str, Any] = {"claims": claims, "drop": drop, "nearby": nearby}


def main() -> None:
    """Run one bench."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.coupons", description=__doc__)
    parser.add_argument("name", choices=tuple(BENCHES))
    parser.add_argument("--quick", action="store_true", help="at most 45 s, with fewer rounds and sizes")
    chosen = parser.parse_args()
    bench = BENCHES[chosen.name]
    result = uvloop.run(bench.measure(bench.Plan.quick() if chosen.quick else bench.Plan()))
    print(json.dumps({name: result[name] for name in bench.FIELDS}))


if __name__ == "__main__":
    main()
