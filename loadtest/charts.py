"""Lines over time as SVG by hand, to stand inside a page; wide enough to be read on a phone."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from loadtest.bench.picture import nice

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 10, 24
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400)
"""Seconds between two moments that are written below a chart."""
COLOURS = ("#047857", "#b45309", "#1d4ed8", "#be185d", "#6d28d9", "#0e7490", "#4d7c0f", "#475569")


@dataclass(frozen=True)
class Series:
    """A line: its name (HTML), and points of seconds and value; None leaves a gap.

    Lines of one ``colour`` (a place in ``COLOURS``) belong together, and a ``faint`` one is the lesser of them.
    """

    name: str
    points: Sequence[tuple[float, float | None]]
    colour: int | None = None
    faint: bool = False

    def style(self, place: int) -> tuple[str, str]:
        """Colour and dashes of the line that is drawn as the ``place``-th."""
        return COLOURS[(place if self.colour is None else self.colour) % len(COLOURS)], "3 3" if self.faint else ""


def words(zh: str, en: str) -> str:
    """A text in both languages; the page shows one of them."""
    return f'<span class="zh">{escape(zh)}</span><span class="en">{escape(en)}</span>'


def chart(series: Sequence[Series], marks: Sequence[float] = ()) -> str:
    """The lines with axes and a legend below; ``marks`` are moments at which something happened."""
    shown = [line for line in series if any(value is not None for _, value in line.points)]
    if not shown:
        return f'<p class="none">{words("没有数据", "nothing to show")}</p>'
    end = max(1.0, *(at for line in shown for at, _ in line.points))
    top = nice(max(1e-9, *(value or 0.0 for line in shown for _, value in line.points)))

    def x(at: float) -> float:
        return LEFT + max(0.0, at) / end * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    for part in range(5):
        value = top * part / 4
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y(value):.1f}" x2="{WIDTH - RIGHT}" y2="{y(value):.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y(value) + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    for at in _seconds(end):
        anchor = "end" if at > end * 0.97 else "middle"
        parts.append(f'<text x="{x(at):.1f}" y="{HEIGHT - 7}" text-anchor="{anchor}">{_clock(at)}</text>')
    parts += [
        f'<line class="mark" x1="{x(at):.1f}" y1="{TOP}" x2="{x(at):.1f}" y2="{HEIGHT - BOTTOM}"/>' for at in marks
    ]
    for number, line in enumerate(shown):
        colour, dashes = line.style(number)
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        for run in _runs(line.points):
            points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in run)
            parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.8"{dashed} points="{points}"/>')
    parts.append("</svg>")
    keys = "".join(
        f'<span class="key"><i style="{_swatch(*line.style(number))}"></i>{line.name}</span>'
        for number, line in enumerate(shown)
    )
    return "".join(parts) + f'<p class="keys">{keys}</p>'


def _seconds(end: float) -> list[float]:
    """Where the time is written below a chart: round moments, six at most."""
    step = next((step for step in STEPS if end / step < 6), STEPS[-1])
    return [step * place for place in range(int(end / step) + 1)]


def _clock(at: float) -> str:
    return f"{at:g} s" if at < 120 else f"{at / 60:g} min"


def _swatch(colour: str, dashes: str) -> str:
    return f"border-top: 3px {'dotted' if dashes else 'solid'} {colour}"


def _runs(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    runs: list[list[tuple[float, float]]] = [[]]
    for at, value in points:
        if value is None:
            runs.append([])
        else:
            runs[-1].append((at, value))
    return [run if len(run) > 1 else [run[0], (run[0][0] + 0.5, run[0][1])] for run in runs if run]


def _short(value: float) -> str:
    for limit, sign in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:g}{sign}"
    return f"{value:g}"
