"""Everybody's return as a picture: bars for a terminal, and an SVG document. Pure."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from app.capacity import storm

Named = tuple[str, storm.Outcome]
BARS = " ▁▂▃▄▅▆▇█"
PLAIN_BARS = " .:-=+*%@"
COLUMNS = 48
WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 60, 180, 40, 52
POINTS = 240
COLOURS = ("#047857", "#b45309", "#1d4ed8", "#be185d", "#6d28d9", "#475569")


def span(outcomes: Sequence[Named]) -> float:
    """Seconds that show all of them: until nearly everybody of the slowest is back, rounded up to whole fives."""
    last = max((outcome.back(0.999) or storm.LONGEST_STORM_SECONDS for _, outcome in outcomes), default=0.0)
    return max(5.0, 5.0 * -(-last // 5))


def bars(outcomes: Sequence[Named], *, plain: bool = False) -> list[str]:
    """A line for each storm: along it the seconds go by, and its height is the part of the affected who are back."""
    heights, end = PLAIN_BARS if plain else BARS, span(outcomes)
    width = max((len(name) for name, _ in outcomes), default=0)
    lines = [
        f"  {name.ljust(width)}  "
        + "".join(_bar(heights, share) for _, share in outcome.curve(end, COLUMNS + 1)[1:])
        for name, outcome in outcomes
    ]  # fmt: skip
    scale = f"0 s{f'{end / 2:g} s'.rjust(COLUMNS // 2 - 2)}".ljust(COLUMNS - 4) + f"{end:g} s".rjust(4)
    return [*lines, f"  {' ' * width}  {scale}"]


def _bar(heights: str, share: float) -> str:
    # Full only when everybody is back, and empty only when nobody is.
    if share <= 0 or share >= 1:
        return heights[0 if share <= 0 else -1]
    return heights[1 + int(share * (len(heights) - 2))]


def svg(outcomes: Sequence[Named], caption: str) -> str:
    """The same as lines; a storm whose name begins with an ellipsis is the dashed variant of the one before."""
    end = span(outcomes)

    def x(at: float) -> float:
        return LEFT + at / end * (WIDTH - LEFT - RIGHT)

    def y(share: float) -> float:
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-size="13"'
        " font-family=\"-apple-system, 'Segoe UI', 'Noto Sans', 'Noto Sans CJK SC', sans-serif\">",
        "<title>Who is back, second by second</title>",
        "<style>.grid { stroke: #e2e8f0 } .note { fill: #475569; font-size: 12px }</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="22" font-weight="600" fill="#0f172a">{escape(caption)}</text>',
    ]
    for part in range(5):
        parts.append(
            f'<line class="grid" x1="{LEFT}" y1="{y(part / 4):.1f}" x2="{WIDTH - RIGHT}" y2="{y(part / 4):.1f}"/>'
            f'<text class="note" x="{LEFT - 8}" y="{y(part / 4) + 4:.1f}" text-anchor="end">{part * 25} %</text>'
        )
    for part in range(6):
        at = end * part / 5
        parts.append(
            f'<text class="note" x="{x(at):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{at:g} s</text>'
        )
    colour = -1
    for place, (name, outcome) in enumerate(outcomes):
        variant = name.startswith("…")
        colour += not variant
        style = f'stroke="{COLOURS[colour % len(COLOURS)]}"' + (' stroke-dasharray="5 4"' if variant else "")
        points = " ".join(f"{x(at):.1f},{y(share):.1f}" for at, share in outcome.curve(end, POINTS))
        key = TOP + 12 + place * 22
        parts.append(
            f'<polyline fill="none" stroke-width="2.2" {style} points="{points}"/>'
            f'<line stroke-width="2.2" {style} x1="{WIDTH - RIGHT + 14}" y1="{key}" x2="{WIDTH - RIGHT + 38}"'
            f' y2="{key}"/><text class="note" x="{WIDTH - RIGHT + 44}" y="{key + 4}">{escape(name)}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="note" x="{middle}" y="{HEIGHT - 12}" text-anchor="middle">after the loss</text></svg>\n'
    )
    return "\n".join(parts)
