"""The published description of the room socket: well formed, and true of what a gateway really says."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from time import time
from typing import Any, cast, get_args

import jsonschema_rs
import msgspec
import pytest
from hypothesis import given, settings
from mutants import mutants
from roomworld import World
from viewers import UNHURRIED, Client, coupon, gateway, principal
from websockets.asyncio.client import ClientConnection, connect

from app import relay
from kernel.clock import milliseconds, now
from kernel.errors import CATALOGUE
from kernel.identity import Principal
from kernel.ids import new_id
from live import asyncapi, wire
from live.bus import RedisBus
from live.wire import Close

DOCUMENT = json.loads(asyncapi.encoded())
GROUPS = {"client": wire.ClientFrame, "server": wire.ServerFrame, "events": wire.RoomEvent}
EVERYTHING = [frame for union in GROUPS.values() for frame in get_args(union)]


def at(pointer: str) -> Any:
    """What a JSON pointer with ``#`` leads to."""
    here = DOCUMENT
    for part in pointer.removeprefix("#/").split("/"):
        here = here[part.replace("~1", "/").replace("~0", "~")]
    return here


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from references(part)


def validator(name: str) -> jsonschema_rs.Draft7Validator:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return jsonschema_rs.Draft7Validator(schema, validate_formats=True)


VALIDATORS = {frame: validator(frame.__name__) for frame in EVERYTHING}


def check(data: str, group: str) -> type[Any]:
    """Validate one frame or event as received against the message that its ``t`` names; returns its class."""
    (frame,) = [one for one in get_args(GROUPS[group]) if one.__struct_config__.tag == json.loads(data)["t"]]
    VALIDATORS[frame].validate(json.loads(data))
    return frame


# ---- the form ------------------------------------------------------------------------------------------------------


def test_the_document_has_the_parts_of_asyncapi_3() -> None:
    known = {"asyncapi", "id", "info", "servers", "defaultContentType", "channels", "operations", "components"}
    assert {"asyncapi", "info"} <= set(DOCUMENT) <= known
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(DOCUMENT["info"])
    for server in DOCUMENT["servers"].values():
        assert {"host", "protocol"} <= set(server)
        assert all(f"{{{name}}}" in server["host"] for name in server["variables"])
    room = DOCUMENT["channels"]["room"]
    assert set(room["parameters"]) == {"room"}
    assert "{room}" in room["address"]
    assert room["bindings"]["ws"]["method"] == "GET"


def test_every_reference_leads_somewhere() -> None:
    targets = set(references(DOCUMENT))
    assert len(targets) > 50
    for target in targets:
        assert isinstance(at(target), dict), target


def test_operations_speak_of_the_messages_of_their_channel() -> None:
    said: dict[str, list[str]] = {}
    for operation in DOCUMENT["operations"].values():
        assert operation["action"] in ("send", "receive")
        channel = operation["channel"]["$ref"]
        assert at(channel) in DOCUMENT["channels"].values()
        for message in operation["messages"]:
            assert message["$ref"].startswith(f"{channel}/messages/"), "not a message of the operation's own channel"
            said.setdefault(operation["action"], []).append(at(message["$ref"])["$ref"].rpartition("/")[2])
    assert said["receive"] == [frame.__name__ for frame in get_args(wire.ClientFrame)]
    assert said["send"] == [frame.__name__ for frame in (*get_args(wire.ServerFrame), *get_args(wire.RoomEvent))]


def test_schemas_are_json_schemas_and_none_is_left_over() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for name, schema in schemas.items():
        jsonschema_rs.Draft7Validator({**schema, "components": DOCUMENT["components"]})
        assert jsonschema_rs.meta.is_valid({**schema, "$schema": "http://json-schema.org/draft-07/schema#"}), name
    assert {target.rpartition("/")[2] for target in references(DOCUMENT) if "/schemas/" in target} == set(schemas)


@pytest.mark.parametrize("frame", EVERYTHING, ids=lambda frame: frame.__name__)
def test_every_frame_is_a_message_with_its_meaning_its_class_and_a_valid_example(frame: type[Any]) -> None:
    message = DOCUMENT["components"]["messages"][frame.__name__]
    assert message["name"] == frame.__struct_config__.tag
    assert message["description"].split()[:3] == frame.__doc__.replace("``", "`").split()[:3]
    assert "``" not in message["description"]
    kind = getattr(frame, "kind", wire.Kind.CERTAIN if frame in (wire.CouponGranted, wire.Review) else None)
    assert message.get("x-nearcast-class") == kind
    for example in message["examples"]:
        VALIDATORS[frame].validate(example["payload"])


def test_messages_are_the_frames_and_events_and_nothing_else() -> None:
    assert list(DOCUMENT["components"]["messages"]) == [frame.__name__ for frame in EVERYTHING]


def test_close_and_refusal_codes_are_listed() -> None:
    room = DOCUMENT["channels"]["room"]
    assert {close["code"]: close["reconnect"] for close in room["x-nearcast-closes"]} == {
        code.value: code < 4500 for code in Close
    }
    assert all(close["meaning"] for close in room["x-nearcast-closes"])
    assert [refusal["code"] for refusal in room["x-nearcast-refusals"]] == list(CATALOGUE)
    assert room["x-nearcast-versions"] == sorted(wire.VERSIONS)


@pytest.mark.parametrize(
    ("frame", "data"),
    [
        (wire.Like, '{"t":"like","n":0}'),
        (wire.Comment, '{"t":"comment","id":"c1"}'),
        (wire.Comment, '{"t":"comment","id":"","text":"x"}'),
        (wire.Tap, '{"t":"tap","product":"a flask"}'),
        (wire.Locate, '{"t":"locate","lng":181,"lat":31,"datum":"gcj02"}'),
        (wire.Locate, '{"t":"locate","lng":121,"lat":31,"datum":"mars"}'),
        (wire.Ping, '{"t":"pong"}'),
        (wire.Batch, '{"t":"batch","e":[{"t":"unpin"}]}'),
    ],
)
def test_schemas_refuse_what_the_wire_refuses(frame: type[Any], data: str) -> None:
    assert not VALIDATORS[frame].is_valid(json.loads(data))


@given(mutants())
@settings(max_examples=400, derandomize=True)
def test_what_a_schema_allows_the_wire_reads_and_what_it_reads_the_schema_allows(data: bytes) -> None:
    try:
        plain = json.loads(data, object_pairs_hook=once)
        data.decode()
        json.dumps(plain, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return  # not JSON as the schema means it: a byte that is no text, NaN, half a character, a field given twice
    tags = {frame.__struct_config__.tag: frame for frame in get_args(wire.ClientFrame)}
    frame = tags.get(plain.get("t")) if isinstance(plain, dict) and isinstance(plain.get("t"), str) else None
    try:
        read = wire.client_frames.decode(data)
    except msgspec.MsgspecError:
        assert frame is None or not VALIDATORS[frame].is_valid(plain)
    else:
        assert check(wire.encoder.encode(read).decode(), "client") is type(read)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a field given twice")
    return dict(pairs)


# ---- the truth -----------------------------------------------------------------------------------------------------


class Ear:
    """A socket's ear: validates every frame as it arrives, and remembers which kinds there were."""

    def __init__(self, socket: ClientConnection, kinds: set[type[Any]]) -> None:
        self._socket = socket
        self._kinds = kinds
        self.send = socket.send

    async def recv(self) -> Any:
        data = await self._socket.recv()
        self._kinds.add(check(data, "server"))
        if json.loads(data)["t"] == "batch":
            self._kinds |= {check(json.dumps(event), "events") for event in json.loads(data)["e"]}
        return data


async def test_what_a_gateway_says_is_what_the_document_says(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, kinds = world.kernel, set[type[Any]]()
    bus = RedisBus(kernel.redis)
    product = wire.ProductCard(world.latte, "拿铁", "/art/latte.svg", 2900)
    ends = milliseconds(now()) + 60_000
    drop = wire.DropCard(new_id(), "claim", "满30减10", "满30可用", 10, 10, ends - 60_000, ends, 3000)

    @asynccontextmanager
    async def inside(who: Principal, resume: wire.Position | None = None) -> AsyncIterator[Client]:
        async with connect(f"{one.url}/v1/rooms/{world.room}/live", **UNHURRIED) as socket:
            client = Client(cast(ClientConnection, Ear(socket, kinds)))
            client.seq = resume.seq if resume else 0
            await client.send(wire.Hello(kernel.keyring.issue(who), resume))
            assert isinstance(await client.next(), wire.Welcome)
            yield client

    async with gateway(kernel) as one, inside(world.guide) as guide, inside(world.viewer) as me:
        await me.send(wire.Ping())
        await me.frame(wire.Pong)
        await me.send(wire.Comment("c1", "有白色吗？"))
        assert (await me.ack("c1")).ok
        await me.send(wire.Comment("c2", "有白色吗？"))
        assert (await me.ack("c2")).error is not None
        await me.send(wire.Locate(121.4, 31.2, "gcj02", 20.0, "l"))
        assert (await me.ack("l")).stores == 3
        await me.send(wire.Claim("k", drop.id))
        assert (await me.ack("k")).coupon is not None
        for command in (
            wire.Pin("p", world.latte, 60), wire.Unpin("u"), wire.Announce("a", "满减"), wire.Slow("s", 3),
            wire.Mute("m", new_id(), 60), wire.Kick("k", new_id()), wire.Ban("b", new_id(), 60),
            wire.Delete("d", new_id()),
        ):  # fmt: skip
            await guide.send(command)
            assert (await guide.ack(command.id)).ok
        await relay.turn(kernel.sessions, bus)
        for event in (
            wire.Pinned(product, 1, ends), wire.DropOpened(drop), wire.DropStock(drop.id, 3),
            wire.DropEnded(drop.id, "sold_out"),
        ):  # fmt: skip
            if event.kind is wire.Kind.CERTAIN:
                await bus.publish(world.room, new_id().hex, event=wire.encoder.encode(event))
            else:
                await bus.cast(world.room, [wire.encoder.encode(event)])
        await bus.publish(world.room, "mine", private={world.viewer.subject: wire.encoder.encode(coupon("满减"))})
        await me.frame(wire.CouponGranted)
        review = wire.Review(drop=drop.id, title="满减", state="open", until=1)
        await bus.publish(world.room, "looked at", private={world.viewer.subject: wire.encoder.encode(review)})
        assert (await me.frame(wire.Review)).state == "open"
        for event in (wire.Deleted, wire.DropStock, wire.DropEnded):
            await me.event(event)
        async with inside(principal("小周")):
            await me.event(wire.Joined, lambda e: e.by.name == "小周")
            await me.event(wire.CountsChanged, lambda e: e.counts.viewers == 2)
        with monkeypatch.context() as nearly:
            nearly.setattr("live.connection.time", lambda: time() + 3500)
            for connection in one.connections:
                one.wheel.put(connection, 1)
            await me.frame(wire.Expiring)
        by = wire.Person(new_id(), "小周")
        await bus.cast(world.room, [wire.encoder.encode(wire.Commented(new_id(), by, f"{n}", 1)) for n in range(90)])
        await guide.frame(wire.Shed)
        async with inside(world.viewer, wire.Position(me.epoch, 1)) as again:
            assert again.frames[0].recovered
            await again.event(wire.DropEnded)
        await guide.send(wire.End("e"))
        await guide.ack("e")
        await relay.turn(kernel.sessions, bus)
        await me.event(wire.RoomChanged, lambda e: e.room.state == "ended")
        await me.send(wire.Hello("again"))
        await me.frame(wire.Bye)
    assert kinds == set(get_args(wire.ServerFrame) + get_args(wire.RoomEvent))
