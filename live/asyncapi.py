"""The room protocol as an AsyncAPI 3 document, made from ``wire.py``; the examples are those of ``examples.json``.

The document describes the gateway: it receives what clients send, and sends what they hear. Events travel inside
``batch`` frames, so they are messages of a channel without an address.
"""

from functools import cache
from pathlib import Path
from typing import Any, get_args

import msgspec

from kernel.errors import CATALOGUE
from live import wire
from live.contract import CLOSE_MEANINGS, sentence

EXAMPLES = Path(__file__).with_name("examples.json")
"""``client``, ``server``, ``events``: the class's name in ``wire`` → one frame or event as JSON."""
_SCHEMAS = "#/components/schemas/"
_MESSAGES = "#/components/messages/"
_UUID = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
_GROUPS = {"client": wire.ClientFrame, "server": wire.ServerFrame, "events": wire.RoomEvent}


@cache
def encoded() -> bytes:
    """``document`` as JSON; made once."""
    return msgspec.json.format(msgspec.json.encode(document()))


def document() -> dict[str, Any]:
    """The whole document."""
    examples = msgspec.json.decode(EXAMPLES.read_bytes())
    messages = {
        frame.__name__: _message(frame, examples[group][frame.__name__])
        for group, union in _GROUPS.items()
        for frame in get_args(union)
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Nearcast rooms",
            "version": str(wire.PROTOCOL_VERSION),
            "description": "One WebSocket is one person in one room. Frames are JSON text; the field `t` names the "
            "type. Times are milliseconds since 1970, money is integer fen, identifiers are UUIDs. Both sides ignore "
            "fields they do not know, and clients ignore types they do not know. `docs/protocol.md` tells the rest.",
        },
        "defaultContentType": "application/json",
        "servers": {
            "gateway": {
                "host": "{socket}",
                "protocol": "wss",
                "description": "A gateway. `GET /v1/rooms/{room}` lists those that serve, as `sockets`.",
                "variables": {"socket": {"default": "127.0.0.1:8081", "description": "Host and port of one of them"}},
            }
        },
        "channels": {"room": _room(), "events": _events()},
        "operations": {
            "hear": _operation("receive", "room", "client", "What a client may send"),
            "tell": _operation("send", "room", "server", "What a client hears"),
            "batch": _operation("send", "events", "events", "What `batch` frames hold"),
        },
        "components": {"messages": messages, "schemas": _schemas()},
    }


def _room() -> dict[str, Any]:
    return {
        "address": "/v1/rooms/{room}/live",
        "title": "A person in a room",
        "description": f"A client's frame has at most {wire.MAX_CLIENT_FRAME} bytes. The first one is `hello`.",
        "parameters": {"room": {"description": "The room's id, a UUID"}},
        "messages": _references("client") | _references("server"),
        "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
        "x-nearcast-versions": sorted(wire.VERSIONS),
        "x-nearcast-closes": [
            {"code": code.value, "name": code.name.lower(), "reconnect": code < 4500, "meaning": CLOSE_MEANINGS[code]}
            for code in wire.Close
        ],
        "x-nearcast-refusals": [{"code": code, "message": message} for code, (_, message) in CATALOGUE.items()],
    }


def _events() -> dict[str, Any]:
    return {
        "address": None,
        "title": "Events of a room",
        "description": "Not messages of their own: they are what `e` of a `batch` holds. `x-nearcast-class` is the "
        "promise about an event's delivery: *certain* (numbered, never left out, replayed on resume), *latest* (only "
        "the newest value matters) or *lossy* (sampled above the room's display rate, and what is left out counted).",
        "messages": _references("events"),
    }


def _references(group: str) -> dict[str, Any]:
    return {frame.__name__: {"$ref": _MESSAGES + frame.__name__} for frame in get_args(_GROUPS[group])}


def _operation(action: str, channel: str, group: str, summary: str) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{frame.__name__}"} for frame in get_args(_GROUPS[group])],
    }


def _message(frame: type[wire.Frame], example: dict[str, Any]) -> dict[str, Any]:
    message = {
        "name": frame.__struct_config__.tag,
        "title": frame.__name__,
        "description": sentence(frame),
        "contentType": "application/json",
        "payload": {"$ref": _SCHEMAS + frame.__name__},
        "examples": [{"payload": example}],
    }
    kind = wire.Kind.CERTAIN if frame in (wire.CouponGranted, wire.Review) else getattr(frame, "kind", None)
    return message if kind is None else {**message, "x-nearcast-class": kind.value}


def _schemas() -> dict[str, Any]:
    _, schemas = msgspec.json.schema_components(_GROUPS.values(), ref_template=_SCHEMAS + "{name}")
    for schema in schemas.values():
        if "description" in schema:
            schema["description"] = " ".join(schema["description"].replace("``", "`").split())
        _spell_out_uuids(schema)
    events = [{"$ref": _SCHEMAS + event.__name__} for event in get_args(wire.RoomEvent)]
    schemas["Batch"]["properties"]["e"]["items"] = {"oneOf": events}
    return schemas


def _spell_out_uuids(schema: Any) -> None:
    """Say by a pattern what a UUID is: JSON Schema of draft 7, which AsyncAPI builds on, has no such format."""
    if isinstance(schema, dict):
        if schema.get("format") == "uuid":
            schema["pattern"] = _UUID
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            _spell_out_uuids(part)
