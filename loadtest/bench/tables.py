"""What the benches print before their JSON line."""

from typing import Any

from rich.console import Console
from rich.table import Table

NAMES = {
    "nearcast": "Nearcast gateway",
    "floor": "bare loop of socket.send (floor)",
    "broadcast": "websockets.broadcast()",
    "fastapi": "FastAPI, send_text in a loop",
    "socketio": "Socket.IO, room emit",
}


def table(title: str, *columns: str) -> Table:
    """A table whose first column is text and whose others are figures."""
    made = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        made.add_column(column, justify="right" if place else "left")
    return made


def _fanout(result: dict[str, Any]) -> Table:
    shown = table(
        f"one {result['frame_bytes']}-byte frame to each of {result['viewers']:,} viewers",
        "server", "CPU µs a frame", "frames/s/core", "frames/s by the clock", "Nearcast is",
    )  # fmt: skip
    for name, figures in result["servers"].items():
        ratio = result.get(f"vs_{name}")
        shown.add_row(
            NAMES[name],
            f"{figures['us_per_frame']:.2f}",
            f"{1e6 / figures['us_per_frame']:,.0f}",
            f"{figures['wall_frames_per_s']:,}",
            "" if ratio is None else f"{ratio:.2f} ×",
        )
    shown.caption = f"receiver: {result['receiver_us']:.2f} µs a frame, {result['receiver_busy']:.0%} of its core"
    return shown


def _peak(result: dict[str, Any]) -> Table:
    shown = table(
        "one room, 500 comments/s, 200 likes/s, 2 pins or announcements a second; delays in ms",
        "viewers", "certain p50", "p99", "lost", "comments p50", "p99", "shown", "events/s/core", "frame", "gateway",
        "receiver", "µs alone",
    )  # fmt: skip
    for step in result["steps"]:
        shown.add_row(
            f"{step['viewers']:,}",
            f"{step['certain_p50_ms']:.0f}",
            f"{step['certain_p99_ms']:.0f}",
            str(step["certain_lost"]),
            f"{step['lossy_p50_ms']:.0f}",
            f"{step['lossy_p99_ms']:.0f}",
            f"{step['lossy_shown'] / max(1, step['lossy_owed']):.1%}",
            f"{step['deliveries_per_s_core'] / 1e6:.2f} M",
            f"{step['frame_bytes'] / 1000:.1f} kB",
            f"{step['gateway_busy']:.0%}",
            f"{step['receiver_busy']:.0%}",
            f"{step['us_per_single_event']:.1f}",
        )
    return shown


def _joins(result: dict[str, Any]) -> Table:
    shown = table(
        f"storms of {result['viewers']:,} viewers; those who come back missed {result['missed']} certain events",
        "storm", "/s/core", "/s by the clock", "gateway CPU s", "receiver", "welcome", "whole",
    )  # fmt: skip
    for storm in result["storms"]:
        for name in ("joins", "resumes"):
            figures = storm[name]
            shown.add_row(
                name,
                f"{figures['per_s_core']:,}",
                f"{figures['per_s_wall']:,}",
                f"{figures['gateway_cpu_s']:.2f}",
                f"{figures['receiver_busy']:.0%}",
                f"{figures['welcome_bytes']:,} B",
                f"{figures['recovered']:,}" if name == "resumes" else "",
            )
    return shown


def _memory(result: dict[str, Any]) -> Table:
    shown = table("resident memory of the gateway", "when", "MiB", "KiB a viewer")
    shown.add_row("nobody there", f"{result['empty_kib'] / 1024:.1f}", "")
    shown.add_row("a few there", f"{result['before_kib'] / 1024:.1f}", "")
    shown.add_row(f"{result['viewers']:,} more came", "", f"{result['kib_per_viewer_just_joined']:.2f}")
    shown.add_row("and stayed", f"{result['settled_kib'] / 1024:.1f}", f"{result['kib_per_viewer']:.2f}")
    return shown


def show(result: dict[str, Any], console: Console) -> None:
    """Print the table of ``result``."""
    make = {"fanout": _fanout, "peak": _peak, "joins": _joins, "memory": _memory}[result["bench"]]
    console.print(make(result))
