"""Frames that are nearly right: the published examples with values, fields and bytes changed, for tests by chance."""

import json
from typing import Any

import msgspec
from hypothesis import strategies as st

from live.asyncapi import EXAMPLES

CLIENT: dict[str, dict[str, Any]] = msgspec.json.decode(EXAMPLES.read_bytes())["client"]

ODD = [
    "null", "true", "0", "-1", "-0.0", "1.5", "1e308", "1e999", "-1e999", "9223372036854775808", "1" + "0" * 400, "NaN",
    '""', '"x"', '"\\u0000"', '"\0"', '"\\ud800"', '"\\udc00\\ud800"', '"\ud800"', '"\\u202e\\u200b"', '"\\x"',
    '"' + "x" * 1100 + '"', '"' + "😀" * 900 + '"', '"00000000-0000-0000-0000-000000000000"', "[]", "{}", "[null]",
    '{"t":"hello"}', "[" * 600 + "]" * 600, '{"a":' * 300 + "1" + "}" * 300, "[" * 1500, "",
]  # fmt: skip
"""JSON values, and what only looks like one: of the wrong type, huge, deep, half a surrogate pair, NUL."""
NAMES = ['""', '"mood"', '"T"', '"\\u0000"', '"__proto__"', "1", "null"]
TYPES = [json.dumps(example["t"]) for example in CLIENT.values()]


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """The text of a frame with up to four things wrong with it."""
    example = draw(st.sampled_from(list(CLIENT.values())))
    fields = [(json.dumps(name), json.dumps(value, ensure_ascii=False)) for name, value in example.items()]
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(fields) - 1))
        name, value = fields[place]
        match draw(st.sampled_from(["replace", "repeat", "retype", "drop", "add", "swap"])):
            case "replace":
                fields[place] = name, draw(st.sampled_from(ODD))
            case "repeat":
                fields.append((name, draw(st.sampled_from([value, *ODD]))))
            case "retype":
                fields[0] = fields[0][0], draw(st.sampled_from([*TYPES, *ODD]))
            case "drop" if len(fields) > 1:
                del fields[place]
            case "add":
                fields.append((draw(st.sampled_from(NAMES)), draw(st.sampled_from(ODD))))
            case _:
                fields[place], fields[0] = fields[0], fields[place]
    data = ("{" + ",".join(f"{name}:{value}" for name, value in fields) + "}").encode("utf-8", "surrogatepass")
    if draw(st.booleans()):
        return data
    cut = draw(st.integers(0, len(data)))
    return data[:cut] + draw(st.binary(max_size=4)) + data[draw(st.integers(cut, len(data))) :]
