"""A frame of the protocol with a value that its field cannot have: it costs that command, and nothing else."""

import re
from dataclasses import dataclass
from typing import get_args

import msgspec
from msgspec import Raw, Struct

from kernel.errors import Refusal
from live import wire

_FRAMES = {frame.__struct_config__.tag: frame for frame in get_args(wire.ClientFrame) if frame is not wire.Hello}
_TOO_LONG = "Expected `str` of length <="
_PLACE = re.compile(r" - at `\$\.(\w+)[^`]*`$|^Object missing required field `(\w+)`$")


class _Outline(Struct):
    """What is read of such a frame."""

    t: str
    id: Raw = Raw(b"null")


_outlines = msgspec.json.Decoder(_Outline)
_ids = msgspec.json.Decoder(wire.Id | None)


@dataclass(frozen=True, slots=True)
class Misfit:
    """``id`` is that of the command; None for a frame that is never answered."""

    id: str | None
    refusal: Refusal


def misfit(data: bytes | bytearray, error: msgspec.ValidationError) -> Misfit | None:
    """What to say to ``data``, of which the decoder said ``error``; None if it is no frame that this version knows, or
    a command without an id to answer to. ``hello`` is not looked at: who cannot introduce themselves does not come in.
    """
    try:
        outline = _outlines.decode(data)
        frame = _FRAMES[outline.t]
        fields = {field.name: field for field in msgspec.structs.fields(frame)}
        id = _ids.decode(outline.id) if "id" in fields else None
    except (KeyError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if id is None and "id" in fields and fields["id"].required:
        return None
    # Only what is wrong and where: the decoder's own words may repeat what was sent.
    words = str(error)
    place = _PLACE.search(words)
    name = None if place is None else place[1] or place[2]
    code = "too_long" if words.startswith(_TOO_LONG) else "invalid"
    return Misfit(id, Refusal(code, field=name) if name in fields else Refusal(code))
