"""The room protocol as text, made from ``wire.py``, so that the published contract cannot drift from the code."""

from typing import Any, get_args

import msgspec

from live import connection, desk, lately, session, wire

CLOSE_MEANINGS = {
    wire.Close.DRAINING: "this gateway is being replaced",
    wire.Close.SLOW: "too many unsent bytes; resume from your position",
    wire.Close.SILENT: "no answer to pings",
    wire.Close.UNAVAILABLE: "a service behind the gateway does not answer, or the room's log began anew",
    wire.Close.TOKEN_EXPIRED: "get a fresh token, then come back",
    wire.Close.HELLO_TIMEOUT: "no hello within 10 s",
    wire.Close.BAD_FRAME: "a frame that is not of this protocol, or too long",
    wire.Close.TOKEN_INVALID: "this token is not one of ours",
    wire.Close.ROOM_UNKNOWN: "no such room in your brand",
    wire.Close.ROOM_ENDED: "the room has ended",
    wire.Close.FLOOD: "far more frames than a person can make",
    wire.Close.REPLACED: "the same person opened too many sockets to this room",
    wire.Close.VERSION: "this server does not speak the client's version of the protocol; update the client",
    wire.Close.KICKED: "a guide closed your sockets; only the person themselves may come back, by joining anew",
    wire.Close.BANNED: "you may not be in this room for now",
    wire.Close.ERASED: "this account was erased; forget its token",
}


def _fields(frame: type[msgspec.Struct]) -> str:
    shown = [f"`{field.name}`" if field.required else f"`{field.name}?`" for field in msgspec.structs.fields(frame)]
    return " ".join(shown)


def sentence(frame: type[msgspec.Struct]) -> str:
    """What ``frame`` means, in Markdown."""
    return " ".join((frame.__doc__ or "").replace("``", "`").split())


def _rows(frames: Any) -> list[str]:
    rows = []
    for frame in get_args(frames):
        kind = f"{frame.kind} | " if issubclass(frame, wire.Event) else ""
        rows.append(f"| `{frame.__struct_config__.tag}` | {kind}{_fields(frame)} | {sentence(frame)} |")
    return rows


def _limits() -> list[str]:
    comments = f"{lately.COMMENT_BURST:g} at once, then {lately.COMMENTS_PER_SECOND:g} a second"
    frames = f"{session.FRAME_BURST:g} at once, then {session.FRAMES_PER_SECOND:g} a second"
    answers = f"the last {lately.ANSWERS} of a person in a room, for {session.REMEMBERED_SECONDS:g} s"
    limits = [
        ("a frame from a client", f"{wire.MAX_CLIENT_FRAME:,} bytes", "close 4501"),
        ("frames from a client", frames, "close 4505"),
        ("comments of a viewer in a room, on one gateway", comments, "`too_fast`"),
        ("comments in slow mode, on one gateway", "1 in the room's `slow_seconds`", "`too_fast`"),
        ("a comment or announcement", f"{wire.MAX_TEXT} characters", "`too_long`"),
        ("the same comment again, on one gateway", f"after {session.DUPLICATE_SECONDS:g} s", "`duplicate`"),
        ("commands of a person under way, on one gateway", f"{desk.COMMANDS_EACH}", "`busy`"),
        ("answers remembered for a resend, on one gateway", answers, "see *Commands*"),
        ("sockets of one person to one room, on one gateway", f"{desk.SAME_VIEWER}", "the oldest is closed with 4506"),
        ("time to the hello", f"{connection.HELLO_SECONDS} s", "close 4500"),
        ("silence, pings included", f"{connection.SILENT_SECONDS} s", "close 4003"),
        ("bytes waiting for a viewer", f"{connection.SOFT_LIMIT // 1024} KiB", "no lossy events until they are read"),
        ("bytes waiting for a viewer", f"{connection.HARD_LIMIT // 1024} KiB", "close 4002"),
    ]
    return [f"| {what} | {limit} | {beyond} |" for what, limit, beyond in limits]


def markdown() -> str:
    """The tables of ``docs/protocol.md``: frames in both directions, events with their class, close codes, limits."""
    closes = []
    for close in wire.Close:
        again = "come back" if close < 4500 else "do not"
        closes.append(f"| {close.value} | {close.name.lower()} | {again} | {CLOSE_MEANINGS[close]} |")
    sections = [
        ("### Client → server", "| `t` | fields | meaning |\n|---|---|---|", _rows(wire.ClientFrame)),
        ("### Server → client", "| `t` | fields | meaning |\n|---|---|---|", _rows(wire.ServerFrame)),
        (
            "### Events, inside `batch`",
            "| `t` | class | fields | meaning |\n|---|---|---|---|",
            _rows(wire.RoomEvent),
        ),
        ("### Close codes", "| code | name | reconnect | meaning |\n|---|---|---|---|", closes),
        ("### Limits", "| what | limit | beyond it |\n|---|---|---|", _limits()),
    ]
    return "\n\n".join(f"{title}\n\n{head}\n" + "\n".join(rows) for title, head, rows in sections) + "\n"
