"""What the benches show of a result: one table each, for the terminal and for the page."""

from dataclasses import dataclass
from typing import Any

NAMES = {
    "nearcast": "Nearcast gateway",
    "floor": "bare loop of `socket.send`",
    "broadcast": "`websockets.broadcast()`",
    "fastapi": "FastAPI, `send_text` in a loop",
    "socketio": "Socket.IO, room emit",
    "claims nearcast": "Nearcast, group commit",
    "claims single": "one statement and one commit a claim, told the store",
    "claims single_finds": "the same, finding the nearest store, as Nearcast does",
    "claims redis": "a Lua script in Redis, AOF always",
}

NOTABLY_BEHIND_MS = 100
"""A receiver that was behind for so long may have made the delays it measured."""


@dataclass(frozen=True)
class Figures:
    """A table: what stands above it, its columns (text first, then figures), its rows, and what stands below."""

    above: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    below: str = ""


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f} ×"


def _fanout(result: dict[str, Any]) -> Figures:
    floor = result["servers"]["floor"]["us_per_frame"]
    rows = [
        [
            NAMES[name],
            f"{server['us_per_frame']:.1f}",
            f"{server['kernel_share']:.0%}",
            f"{1e6 / server['us_per_frame']:,.0f}",
            f"{server['wall_frames_per_s']:,}",
            _times(result.get(f"vs_{name}")),
            _times(None if name == "floor" else server["us_per_frame"] / floor),
        ]
        for name, server in result["servers"].items()
    ]
    return Figures(
        f"One frame of {result['frame_bytes']} bytes to each of {result['viewers']:,} viewers",
        (
            "server",
            "CPU µs a frame",
            "in the kernel",
            "frames/s/core",
            "frames/s by the clock",
            "Nearcast is",
            "floor is",
        ),
        rows,
        f"The receiver used {result['receiver_us']:.1f} µs of its own core a frame, {result['receiver_busy']:.0%} of it"
        " over the whole bench.",
    )


def _receiver(step: dict[str, Any]) -> str:
    """How busy it was, and for how long at a time it was behind, where that shows in the delays."""
    behind = step.get("receiver_behind_ms", 0)  # a result of before has none
    return f"{step['receiver_busy']:.0%}" + (f", {behind} ms behind" if behind >= NOTABLY_BEHIND_MS else "")


def _peak(result: dict[str, Any]) -> Figures:
    rows = [
        [
            f"{step['viewers']:,}" + (" on two" if step.get("gateways", 1) == 2 else ""),
            f"{step['certain_p50_ms']:.0f} / {step['certain_p99_ms']:.0f}",
            _first(step, "certain_p99_ms"),
            str(step["certain_lost"] + step.get("first", {}).get("certain_lost", 0)),
            f"{step['lossy_p50_ms']:.0f} / {step['lossy_p99_ms']:.0f}",
            f"{step['lossy_shown'] / max(1, step['lossy_owed']):.1%}",
            f"{step['next_door_p99_ms']:.0f}",
            _first(step, "next_door_p99_ms"),
            f"{step['deliveries_per_s_core'] / 1e6:.2f} M",
            f"{step['frame_bytes'] / 1000:.1f} kB",
            f"{step['gateway_busy']:.0%}",
            _receiver(step),
            f"{step['us_per_single_event']:.1f}",
        ]
        for step in result["steps"]
    ]
    columns = ("viewers", "certain p50/p99 ms", "at first", "lost", "comments p50/p99 ms", "shown",
               "next door p99 ms", "at first", "events/s/core", "frame", "gateway", "receiver", "µs alone")  # fmt: skip
    above = "One room, 500 comments/s, 200 likes/s, 2 pins or announcements a second"
    below = [f"Growth of the last column: {result['growth_1k_20k']:.2f} ×."]
    if any("first" in step for step in result["steps"]):
        below.append("“At first”: in the seconds before, when the new sockets' buffers are filled for the first time.")
    if any(step.get("gateways", 1) == 2 for step in result["steps"]):
        below.append("“On two”: the viewers are on two gateways, which share the core and are counted together.")
    if (alone := result.get("alone_ms")) is not None:  # a result of before has neither
        below.append(
            f"An event alone, through Redis to ten viewers: p50 {alone['p50']:.0f} ms, p99 {alone['p99']:.0f} ms."
        )
    if (revoked := result.get("revoked_ms")) is not None:
        below.append(
            f"Kicks, mutes and bans from REST to a gateway: p50 {revoked['p50']} ms, at most {revoked['max']} ms."
        )
    return Figures(above, columns, rows, " ".join(below))


def _first(step: dict[str, Any], name: str) -> str:
    return f"{step['first'][name]:.0f}" if "first" in step else "–"


def _joins(result: dict[str, Any]) -> Figures:
    rows = [
        [
            name,
            f"{storm[name]['per_s_core']:,}",
            f"{storm[name]['per_s_wall']:,}",
            f"{storm[name]['gateway_cpu_s']:.2f}",
            f"{storm[name]['receiver_busy']:.0%}",
            f"{storm[name]['welcome_bytes']:,} B",
        ]
        for storm in result["storms"]
        for name in ("joins", "resumes")
    ]
    return Figures(
        f"Storms of {result['viewers']:,} viewers; those who come back missed {result['missed']} certain events",
        ("storm", "/s/core", "/s by the clock", "gateway CPU s", "receiver", "welcome"),
        rows,
        f"Recovered: {result['recovered']:.4%}.",
    )


def _memory(result: dict[str, Any]) -> Figures:
    rows = [
        ["nobody there", f"{result['empty_kib'] / 1024:.1f}", ""],
        ["a few there", f"{result['before_kib'] / 1024:.1f}", ""],
        [f"{result['viewers']:,} more came", f"{result['joined_kib'] / 1024:.1f}",
         f"{result['kib_per_viewer_just_joined']:.2f}"],
        ["and stayed", f"{result['settled_kib'] / 1024:.1f}", f"{result['kib_per_viewer']:.2f}"],
    ]  # fmt: skip
    return Figures("Resident memory of the gateway", ("when", "MiB", "KiB a viewer"), rows)


def _claims(result: dict[str, Any]) -> Figures:
    ratios = {
        "single": result["vs_single"],
        "single_finds": result["vs_single_finds"],
        "redis": result["vs_redis_lua_aof"],
    }
    rows = [
        [
            NAMES[f"claims {name}"],
            f"{found['per_s']:,}",
            f"{found['p50_ms']:,} / {found['p99_ms']:,}",
            f"{ratios[name]:.1f} ×" if name in ratios else "",
            f"{found['floor_is']:.1f} ×",
        ]
        for name, found in result["contenders"].items()
    ]
    rows.append([f"the rows alone, {result['at_once']} a commit", f"{result['floor_per_s']:,}", "", "", ""])
    return Figures(
        f"{result['callers']:,} callers who claim again as soon as they are answered",
        ("who", "claims/s", "p50/p99 ms", "Nearcast is", "the rows alone are"),
        rows,
        f"CPU time of a claim: {result['python_us']:.0f} µs of Python, the callers' included, and"
        f" {result['postgres_us']:.0f} µs of PostgreSQL. Oversold: {result['oversold']}. {result['durability']}.",
    )


def _drop(result: dict[str, Any]) -> Figures:
    rows = [
        [
            f"{size['viewers']:,}",
            f"{size['stores']:,}",
            f"{size['granted']:,}",
            f"{size['commit_s']:.1f}",
            f"{size['seconds']:.1f}",
            f"{size['per_viewer_s']:.0f}",
            f"{size['vs_per_viewer']:.1f} ×",
            f"{size['floor_s']:.1f}",
            f"{size['floor_vs_per_viewer']:.1f} ×",
            f"{size['python_us']:.0f}",
            f"{size['postgres_us']:.0f}",
        ]
        for size in result["sizes"]
    ]
    columns = ("viewers", "stores", "coupons", "all committed s", "all on the bus s", "one query a viewer s",
               "Nearcast is", "the rows alone s", "these are", "Python µs a coupon",
               "PostgreSQL µs a coupon")  # fmt: skip
    return Figures("A push drop to everybody in the room, nine in ten of whom stand near a store", columns, rows)


def _nearby(result: dict[str, Any]) -> Figures:
    rows = [
        [
            f"{size['stores']:,}",
            f"{size['memory_per_s']:,}",
            f"{size['pairs_a_fix']:.1f}",
            f"{size['taken_per_s']:,}",
            f"{size['postgis_p50_ms']:.2f} / {size['postgis_p99_ms']:.2f}",
        ]
        for size in result["sizes"]
    ]
    columns = ("stores", "fixes/s in memory", "stores in reach of a fix", "fixes/s taken in", "PostGIS p50/p99 ms")
    return Figures("Fixes matched to stores", columns, rows)


def figures(result: dict[str, Any]) -> Figures:
    """The table of ``result``, whichever bench it is of."""
    make = {
        "fanout": _fanout,
        "peak": _peak,
        "joins": _joins,
        "memory": _memory,
        "claims": _claims,
        "drop": _drop,
        "nearby": _nearby,
    }[result["bench"]]
    return make(result)
