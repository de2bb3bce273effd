"""``python -m loadtest.bench.report``: the latest full results into ``docs/performance.md``, and its picture.

Each table stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``. A bench that was not run in full is left as it is.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from loadtest.bench.machine import ROOT, SCRATCH
from loadtest.bench.picture import delay_against_viewers
from loadtest.bench.tables import NAMES

PAGE = Path("docs/performance.md")
PICTURE = Path("docs/pictures/delay-against-viewers.svg")


def _rows(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _fanout(result: dict[str, Any]) -> str:
    rows = []
    for name, figures in result["servers"].items():
        ratio = result.get(f"vs_{name}")
        rows.append([
            NAMES[name], f"{figures['us_per_frame']:.1f}", f"{1e6 / figures['us_per_frame']:,.0f}",
            f"{figures['wall_frames_per_s']:,}", "" if ratio is None else f"{ratio:.2f} ×",
        ])  # fmt: skip
    head = ["server", "CPU µs a frame", "frames/s/core", "frames/s by the clock", "Nearcast is"]
    told = f"{result['viewers']:,} viewers, {result['frame_bytes']} bytes a frame"
    told += f"; the receiver used {result['receiver_us']:.1f} µs a frame."
    return f"{told}\n\n{_rows(head, rows)}"


def _peak(result: dict[str, Any]) -> str:
    rows = [
        [
            f"{step['viewers']:,}",
            f"{step['certain_p50_ms']:.0f} / {step['certain_p99_ms']:.0f}",
            str(step["certain_lost"]),
            f"{step['lossy_p50_ms']:.0f} / {step['lossy_p99_ms']:.0f}",
            f"{step['lossy_shown'] / max(1, step['lossy_owed']):.1%}",
            f"{step['deliveries_per_s_core'] / 1e6:.1f} M",
            f"{step['gateway_busy']:.0%}",
            f"{step['receiver_busy']:.0%}",
            f"{step['us_per_single_event']:.1f}",
        ]
        for step in result["steps"]
    ]
    head = ["viewers", "certain p50 / p99, ms", "lost", "comments p50 / p99, ms", "shown", "events/s/core",
            "gateway's core", "receiver's core", "µs for an event alone"]  # fmt: skip
    return f"{_rows(head, rows)}\n\nGrowth of the last column: {result['growth_1k_20k']:.2f} ×."


def _joins(result: dict[str, Any]) -> str:
    rows = [
        [
            name,
            f"{storm[name]['per_s_core']:,}",
            f"{storm[name]['per_s_wall']:,}",
            f"{storm[name]['receiver_busy']:.0%}",
            f"{storm[name]['welcome_bytes']:,}",
        ]
        for storm in result["storms"]
        for name in ("joins", "resumes")
    ]
    head = ["storm", "/s/core", "/s by the clock", "receiver's core", "bytes of a welcome"]
    told = f"{result['viewers']:,} viewers a storm, {result['missed']} certain events missed"
    told += f"; recovered {result['recovered']:.1%}."
    return f"{told}\n\n{_rows(head, rows)}"


def _memory(result: dict[str, Any]) -> str:
    return (
        f"{result['viewers']:,} viewers: **{result['kib_per_viewer']:.2f} KiB** each"
        f" ({result['kib_per_viewer_just_joined']:.2f} right after the last one joined), above"
        f" {result['before_kib'] / 1024:.0f} MiB for the process with a few viewers."
    )


def replaced(page: str, name: str, text: str) -> str:
    """``page`` with ``text`` between the marks of ``name``. Raises ValueError if they are not there."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if begin not in page or end not in page:
        raise ValueError(f"the page has no place for {name}")
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"


def main() -> int:
    """Write page and picture; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.report", description=__doc__)
    parser.add_argument(
        "--results", type=Path, default=SCRATCH / "results", help="where the benches kept their results"
    )
    chosen = parser.parse_args()
    page = (ROOT / PAGE).read_text()
    written = []
    for name, make in (("fanout", _fanout), ("peak", _peak), ("joins", _joins), ("memory", _memory)):
        path = chosen.results / f"{name}.json"
        result = json.loads(path.read_text()) if path.exists() else None
        if result is None or result["quick"]:
            sys.stderr.write(f"{name}: no full run, left as it is\n")
            continue
        page = replaced(page, name, f"{result['machine']}. {make(result)}")
        if name == "peak":
            caption = "How late events are: 500 comments/s, one gateway on one core"
            (ROOT / PICTURE).write_text(delay_against_viewers(result["steps"], caption))
        written.append(name)
    (ROOT / PAGE).write_text(page)
    sys.stdout.write(f"written: {', '.join(written) or 'nothing'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
