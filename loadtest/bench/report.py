"""``python -m loadtest.bench.report``: the latest full results into ``docs/performance.md``, and its pictures.

Each table stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``. A bench that was not run in full is left as it is.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from loadtest.bench.machine import ROOT, SCRATCH
from loadtest.bench.picture import cost_against, delay_against_viewers
from loadtest.bench.tables import figures

PAGE = Path("docs/performance.md")
PICTURES = Path("docs/pictures")
BENCHES = ("fanout", "peak", "joins", "memory", "claims", "drop", "nearby")


def markdown(result: dict[str, Any]) -> str:
    """The table of ``result`` as the page shows it."""
    shown = figures(result)
    lines = [list(shown.columns), ["---", *["---:"] * (len(shown.columns) - 1)], *shown.rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join(filter(None, [f"{shown.above} ({result['machine']}):", table, shown.below]))


def replaced(page: str, name: str, text: str) -> str:
    """``page`` with ``text`` between the marks of ``name``. Raises ValueError if they are not there."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if begin not in page or end not in page:
        raise ValueError(f"the page has no place for {name}")
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"


def pictures(result: dict[str, Any]) -> dict[str, str]:
    """The pictures of ``result`` by the names of their files."""
    if result["bench"] == "peak":
        caption = "How late events are: 500 comments/s, gateways on one core"
        return {"delay-against-viewers.svg": delay_against_viewers(result["steps"], caption)}
    if result["bench"] == "drop":
        return {f"drop-against-{key}.svg": cost_against(key, result["sizes"]) for key in ("viewers", "stores")}
    return {}


def main() -> int:
    """Write page and pictures; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.report", description=__doc__)
    parser.add_argument(
        "--results", type=Path, default=SCRATCH / "results", help="where the benches kept their results"
    )
    parser.add_argument("--quick", action="store_true", help="take the results of quick runs, too")
    chosen = parser.parse_args()
    page = (ROOT / PAGE).read_text()
    written = []
    for name in BENCHES:
        path = chosen.results / f"{name}.json"
        result = json.loads(path.read_text()) if path.exists() else None
        if result is None or (result["quick"] and not chosen.quick):
            sys.stderr.write(f"{name}: no full run, left as it is\n")
            continue
        page = replaced(page, name, markdown(result))
        for file, picture in pictures(result).items():
            (ROOT / PICTURES / file).write_text(picture)
        written.append(name)
    (ROOT / PAGE).write_text(page)
    sys.stdout.write(f"written: {', '.join(written) or 'nothing'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
