"""Results become a page and a picture."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from loadtest.bench.picture import COST_LINES, LINES, cost_against, delay_against_viewers
from loadtest.bench.report import BENCHES, PAGE, pictures, replaced
from loadtest.bench.tables import figures

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
STEPS = [
    {"viewers": viewers, "certain_p50_ms": 10.0, "certain_p99_ms": late, "lossy_p50_ms": 40.0, "lossy_p99_ms": 90.0}
    for viewers, late in ((1000, 20.0), (10_000, 180.0), (20_000, 400.0))
]


def points(line: ElementTree.Element) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.attrib["points"].split())]


def test_the_picture_has_a_line_for_each_figure_and_later_is_higher() -> None:
    lines = [
        points(line) for line in ElementTree.fromstring(delay_against_viewers(STEPS, "a & b")).iter(f"{SVG}polyline")
    ]
    assert len(lines) == len(LINES)
    certain_p99 = lines[[line[0] for line in LINES].index("certain_p99_ms")]
    assert [y for _, y in certain_p99] == sorted((y for _, y in certain_p99), reverse=True)
    assert [x for x, _ in certain_p99] == sorted(x for x, _ in certain_p99)
    assert len({y for _, y in lines[1]}) == 1


def test_one_step_is_a_picture_too() -> None:
    assert "<polyline" in delay_against_viewers(STEPS[:1], "")


def test_the_growth_of_a_drop_is_shown_along_one_thing_at_a_time() -> None:
    sizes = [
        {"viewers": viewers, "stores": stores, "granted": viewers, "commit_s": 1.0, "seconds": seconds,
         "per_viewer_s": 50.0, "vs_per_viewer": 9.0, "floor_s": 0.5, "floor_vs_per_viewer": 9.0, "python_us": 20.0,
         "postgres_us": 30.0}
        for viewers, stores, seconds in ((1000, 50, 0.04), (4000, 50, 0.2), (100, 50, 0.003), (1000, 900, 0.05))
    ]  # fmt: skip
    for key, steps in (("viewers", 3), ("stores", 2)):
        lines = list(ElementTree.fromstring(cost_against(key, sizes)).iter(f"{SVG}polyline"))
        assert len(lines) == len(COST_LINES)
        clock = points(lines[0])
        assert len(clock) == steps
        assert [x for x, _ in clock] == sorted(x for x, _ in clock)
        assert clock[0][1] > clock[-1][1], "a coupon of the biggest took longest, which is higher up"
    drop = {"bench": "drop", "sizes": sizes}
    assert [row[:3] for row in figures(drop).rows][1] == ["4,000", "50", "4,000"]
    assert pictures(drop).keys() == {"drop-against-viewers.svg", "drop-against-stores.svg"}


def test_the_page_is_changed_between_the_marks_only() -> None:
    page = "before\n<!-- joins -->\nold\n<!-- /joins -->\nafter\n"
    assert replaced(page, "joins", "new") == "before\n<!-- joins -->\nnew\n<!-- /joins -->\nafter\n"
    with pytest.raises(ValueError, match="peak"):
        replaced(page, "peak", "new")


def test_the_page_has_a_place_for_every_bench() -> None:
    page = (ROOT / PAGE).read_text()
    for name in BENCHES:
        assert replaced(page, name, "x")


def test_a_quick_run_does_not_replace_the_figures_of_a_full_one(tmp_path: Path) -> None:
    (tmp_path / "memory.json").write_text(json.dumps({"bench": "memory", "quick": True}))
    before = (ROOT / PAGE).read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "loadtest.bench.report", "--results", str(tmp_path)],
        cwd=ROOT, capture_output=True, check=True, text=True,
    )  # fmt: skip
    assert done.stdout == "written: nothing\n"
    assert (ROOT / PAGE).read_bytes() == before
