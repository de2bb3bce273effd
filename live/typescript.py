"""Frames and events of the room protocol as TypeScript declarations, made from ``wire.py``: types for the client."""

from collections.abc import Iterable, Sequence
from typing import get_args

import msgspec
from msgspec import inspect

from live import wire
from live.contract import sentence

_HEAD = """/**
 * Frames and events of the room socket, made from `live/wire.py` by `nearcast protocol --typescript`.
 * Times are milliseconds since 1970, money is integer fen, identifiers are UUIDs.
 */
"""


def declarations() -> str:
    """The text of ``web/client/wire.d.ts``."""
    client, server, events = (get_args(union) for union in (wire.ClientFrame, wire.ServerFrame, wire.RoomEvent))
    shapes: dict[str, str] = {}
    for frame in (*client, *server, *events):
        _declare(frame, shapes)
    heard = "".join(f"  {event.__struct_config__.tag}: {event.__name__};\n" for event in events)
    parts = [
        _HEAD,
        *shapes.values(),
        _union("ClientFrame", client),
        _union("ServerFrame", server),
        _union("RoomEvent", events),
        f"/** What a listener hears, by the event's `t`. */\nexport interface RoomEvents {{\n{heard}}}\n",
    ]
    return "\n".join(parts)


def _union(name: str, members: Sequence[type]) -> str:
    return f"export type {name} =\n" + "\n".join(f"  | {member.__name__}" for member in members) + ";\n"


def _declare(struct: type[msgspec.Struct], shapes: dict[str, str]) -> None:
    """Add ``struct`` to ``shapes``, after the structs that it is made of."""
    if struct.__name__ in shapes:
        return
    shape = inspect.type_info(struct)
    assert isinstance(shape, inspect.StructType)
    lines = [f"  t: '{shape.tag}';\n"] if shape.tag else []
    for field in shape.fields:
        for part in _structs(field.type):
            _declare(part, shapes)
        # What may be left out is left out, never null.
        name = _name(field.type, null=field.required)
        lines.append(f"  {field.encode_name}{'' if field.required else '?'}: {name};\n")
    shapes[struct.__name__] = f"/** {sentence(struct)} */\nexport interface {struct.__name__} {{\n{''.join(lines)}}}\n"


def _structs(kind: inspect.Type) -> Iterable[type[msgspec.Struct]]:
    match kind:
        case inspect.StructType(cls=cls):
            yield cls
        case inspect.UnionType(types=types):
            for one in types:
                yield from _structs(one)
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            yield from _structs(item)


def _name(kind: inspect.Type, *, null: bool = True) -> str:
    match kind:
        case inspect.StructType(cls=cls):
            return cls.__name__
        case inspect.UnionType(types=types):
            return " | ".join(_name(one) for one in types if null or not isinstance(one, inspect.NoneType))
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return f"{_name(item)}[]"
        case inspect.LiteralType(values=values):
            return " | ".join(f"'{value}'" for value in values)
        case inspect.IntType() | inspect.FloatType():
            return "number"
        case inspect.StrType() | inspect.UUIDType():
            return "string"
        case inspect.BoolType():
            return "boolean"
        case inspect.NoneType():
            return "null"
        case inspect.RawType():
            return "RoomEvent"  # what a batch holds, encoded before
        case _:
            raise TypeError(f"no TypeScript for {kind}")
