"""Pictures of what grows with what, as SVG by hand: a few lines need no library."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log10
from typing import Any
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 56, 56
LINES = (
    ("certain_p99_ms", "certain, p99", "#047857", ""),
    ("certain_p50_ms", "certain, median", "#10b981", "5 4"),
    ("lossy_p99_ms", "comments, p99", "#b45309", ""),
    ("lossy_p50_ms", "comments, median", "#f59e0b", "5 4"),
)
COST_LINES = (
    ("wall_us", "by the clock", "#0f172a", ""),
    ("postgres_us", "CPU, PostgreSQL", "#047857", ""),
    ("python_us", "CPU, Python", "#b45309", ""),
)
BUDGET_MS = 250
_TICKS = (1, 2, 5)
_Line = tuple[str, str, str, str]
"""Key of the figure, what the line is called, its colour, its dashes."""


@dataclass(frozen=True)
class _Chart:
    """Figures of ``steps`` (the lines) against their ``key``, which grows by factors; ``budget`` and its name."""

    title: str
    caption: str
    key: str
    along: str
    unit: str
    lines: Sequence[_Line]
    budget: tuple[float, str] | None = None

    def of(self, steps: Sequence[dict[str, Any]]) -> str:
        """The SVG document."""
        steps = sorted(steps, key=lambda step: step[self.key])
        counts = [step[self.key] for step in steps]
        least = [self.budget[0]] if self.budget else []
        top = nice(max([*least, *(step[key] for step in steps for key, *_ in self.lines)]))
        low, high = log10(min(counts)), log10(max(counts))

        def x(count: float) -> float:
            part = (log10(count) - low) / (high - low) if high > low else 0.5
            return LEFT + part * (WIDTH - LEFT - RIGHT)

        def y(value: float) -> float:
            return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)

        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-size="14"'
                " font-family=\"-apple-system, 'Segoe UI', 'Noto Sans', 'Noto Sans CJK SC', sans-serif\">",
                f"<title>{escape(self.title)}</title>",
                "<style>.grid { stroke: #e2e8f0 } .note { fill: #475569; font-size: 12px }",
                ".budget { stroke: #dc2626; stroke-dasharray: 2 4 }</style>",
                f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
                f'<text x="{LEFT}" y="22" font-weight="600" fill="#0f172a">{escape(self.caption)}</text>',
                *self._axes(counts, top, x, y),
                *self._budget(y),
                *(self._line(steps, line, x, y) for line in self.lines),
                *self._labels(steps, y),
                "</svg>\n",
            ]
        )

    def _axes(
        self, counts: Sequence[int], top: float, x: Callable[[float], float], y: Callable[[float], float]
    ) -> list[str]:
        parts = []
        for part in range(6):
            value = top * part / 5
            parts.append(
                f'<line class="grid" x1="{LEFT}" y1="{y(value):.1f}" x2="{WIDTH - RIGHT}" y2="{y(value):.1f}"/>'
            )
            parts.append(f'<text class="note" x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
        for count in counts:
            at = f'x="{x(count):.1f}" y="{HEIGHT - BOTTOM + 20}"'
            parts.append(f'<text class="note" {at} text-anchor="middle">{count:,}</text>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(
            f'<text class="note" x="{middle}" y="{HEIGHT - 14}" text-anchor="middle">{escape(self.along)}</text>'
        )
        parts.append(f'<text class="note" x="{LEFT - 8}" y="{TOP - 12}" text-anchor="end">{self.unit}</text>')
        return parts

    def _budget(self, y: Callable[[float], float]) -> list[str]:
        if self.budget is None:
            return []
        at, name = y(self.budget[0]), self.budget[1]
        return [
            f'<line class="budget" x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}"/>',
            f'<text class="note" x="{LEFT + 6}" y="{at - 5:.1f}">{escape(name)}</text>',
        ]

    def _line(
        self, steps: Sequence[dict[str, Any]], line: _Line, x: Callable[[float], float], y: Callable[[float], float]
    ) -> str:
        key, _, colour, dashes = line
        style = f'stroke="{colour}" stroke-dasharray="{dashes}"' if dashes else f'stroke="{colour}"'
        points = " ".join(f"{x(step[self.key]):.1f},{y(step[key]):.1f}" for step in steps)
        return f'<polyline fill="none" stroke-width="2.5" {style} points="{points}"/>'

    def _labels(self, steps: Sequence[dict[str, Any]], y: Callable[[float], float]) -> list[str]:
        """The lines' names at their right ends, moved apart where they would cover each other."""
        parts, lowest = [], HEIGHT * 1.0
        for key, name, colour, _ in sorted(self.lines, key=lambda line: steps[-1][line[0]]):
            lowest = min(lowest - 17, y(steps[-1][key]) + 4)
            parts.append(f'<text x="{WIDTH - RIGHT + 12}" y="{lowest:.1f}" fill="{colour}">{escape(name)}</text>')
        return parts


def nice(highest: float) -> float:
    """The round number at or above ``highest`` at which the axis ends."""
    for power in range(6):
        for tick in _TICKS:
            if tick * 10**power >= highest:
                return float(tick * 10**power)
    return highest


def delay_against_viewers(steps: Sequence[dict[str, Any]], caption: str) -> str:
    """The steps of a ``peak`` result as an SVG document."""
    budget = (BUDGET_MS, "budget of certain events, p99")
    return _Chart("Delay against viewers", caption, "viewers", "viewers in one room", "ms", LINES, budget).of(steps)


def cost_against(key: str, sizes: Sequence[dict[str, Any]]) -> str:
    """What a coupon of a push drop costs, as an SVG document: the sizes of a ``drop`` result that differ from the first
    in nothing but ``key``, which is ``viewers`` or ``stores``."""
    other = "stores" if key == "viewers" else "viewers"
    alike = [
        size | {"wall_us": size["seconds"] / size["granted"] * 1e6} for size in sizes if size[other] == sizes[0][other]
    ]
    caption = f"What a coupon of a push drop costs: {sizes[0][other]:,} {other}"
    along = {"viewers": "viewers in the room", "stores": "stores of the brand"}[key]
    return _Chart(f"Cost of a drop against {key}", caption, key, along, "µs", COST_LINES).of(alike)
