"""The picture of delay against viewers, as SVG by hand: a few lines need no library."""

from collections.abc import Callable, Sequence
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
BUDGET_MS = 250
_TICKS = (1, 2, 5)


def nice(highest: float) -> float:
    """The round number at or above ``highest`` at which the axis ends."""
    for power in range(6):
        for tick in _TICKS:
            if tick * 10**power >= highest:
                return float(tick * 10**power)
    return highest


def _axes(viewers: Sequence[int], top: float, x: Callable[[float], float], y: Callable[[float], float]) -> list[str]:
    parts = []
    for part in range(6):
        value = top * part / 5
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y(value):.1f}" x2="{WIDTH - RIGHT}" y2="{y(value):.1f}"/>')
        parts.append(f'<text class="note" x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for count in viewers:
        parts.append(
            f'<text class="note" x="{x(count):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{count:,}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="note" x="{middle}" y="{HEIGHT - 14}" text-anchor="middle">viewers in one room</text>')
    parts.append(f'<text class="note" x="{LEFT - 8}" y="{TOP - 12}" text-anchor="end">ms</text>')
    return parts


def _line(
    steps: Sequence[dict[str, Any]], key: str, style: str, x: Callable[[float], float], y: Callable[[float], float]
) -> str:
    points = " ".join(f"{x(step['viewers']):.1f},{y(step[key]):.1f}" for step in steps)
    return f'<polyline fill="none" stroke-width="2.5" {style} points="{points}"/>'


def _labels(steps: Sequence[dict[str, Any]], y: Callable[[float], float]) -> list[str]:
    """The lines' names at their right ends, moved apart where they would cover each other."""
    parts, lowest = [], HEIGHT * 1.0
    for key, name, colour, _ in sorted(LINES, key=lambda line: steps[-1][line[0]]):
        lowest = min(lowest - 17, y(steps[-1][key]) + 4)
        parts.append(f'<text x="{WIDTH - RIGHT + 12}" y="{lowest:.1f}" fill="{colour}">{escape(name)}</text>')
    return parts


def delay_against_viewers(steps: Sequence[dict[str, Any]], caption: str) -> str:
    """The steps of a ``peak`` result as an SVG document."""
    viewers = [step["viewers"] for step in steps]
    top = nice(max([BUDGET_MS, *(step[key] for step in steps for key, *_ in LINES)]))
    low, high = log10(min(viewers)), log10(max(viewers))

    def x(count: float) -> float:
        part = (log10(count) - low) / (high - low) if high > low else 0.5
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    def y(ms: float) -> float:
        return HEIGHT - BOTTOM - ms / top * (HEIGHT - TOP - BOTTOM)

    budget = y(BUDGET_MS)
    lines = [
        _line(steps, key, f'stroke="{colour}" stroke-dasharray="{dashes}"' if dashes else f'stroke="{colour}"', x, y)
        for key, _, colour, dashes in LINES
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-size="14"'
            " font-family=\"-apple-system, 'Segoe UI', 'Noto Sans', 'Noto Sans CJK SC', sans-serif\">",
            "<title>Delay against viewers</title>",
            "<style>.grid { stroke: #e2e8f0 } .note { fill: #475569; font-size: 12px }",
            ".budget { stroke: #dc2626; stroke-dasharray: 2 4 }</style>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
            f'<text x="{LEFT}" y="22" font-weight="600" fill="#0f172a">{escape(caption)}</text>',
            *_axes(viewers, top, x, y),
            f'<line class="budget" x1="{LEFT}" y1="{budget:.1f}" x2="{WIDTH - RIGHT}" y2="{budget:.1f}"/>',
            f'<text class="note" x="{LEFT + 6}" y="{budget - 5:.1f}">budget of certain events, p99</text>',
            *lines,
            *_labels(steps, y),
            "</svg>\n",
        ]
    )
