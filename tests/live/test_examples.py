"""The published examples: read and written by the wire, and the clients' ones answered by a real gateway."""

import json
from contextlib import AsyncExitStack
from typing import Any, get_args
from uuid import UUID

import pytest
from mutants import CLIENT
from roomworld import World
from viewers import UNHURRIED, Client, Coupons, gateway, last_words, until, watching
from websockets.asyncio.client import connect

from kernel.clock import now
from kernel.errors import CATALOGUE
from kernel.ids import new_id
from kernel.postgres import transaction
from live import wire
from live.asyncapi import EXAMPLES
from live.tables import Comment
from live.wire import Close

GROUPS = {
    "client": (wire.ClientFrame, wire.client_frames),
    "server": (wire.ServerFrame, wire.server_frames),
    "events": (wire.RoomEvent, wire.room_events),
}
ALL = json.loads(EXAMPLES.read_bytes())
GUIDES = {frame.__name__ for frame in get_args(wire.GuideCommand)}
ONE_BY_ONE = [(group, name) for group, examples in ALL.items() for name in examples]


@pytest.mark.parametrize("group", GROUPS)
def test_every_frame_and_event_has_an_example_and_nothing_else_has(group: str) -> None:
    assert sorted(ALL[group]) == sorted(frame.__name__ for frame in get_args(GROUPS[group][0]))


@pytest.mark.parametrize(("group", "name"), ONE_BY_ONE)
def test_example_is_read_and_written_again_without_a_difference(group: str, name: str) -> None:
    decoder = GROUPS[group][1]
    frame: Any = decoder.decode(json.dumps(ALL[group][name]))  # type: ignore[attr-defined]
    assert type(frame).__name__ == name
    written = wire.encoder.encode(frame)
    assert json.loads(written) == ALL[group][name]
    again: Any = decoder.decode(written)  # type: ignore[attr-defined]
    # What a batch holds stays bytes until it is looked at.
    assert wire.encoder.encode(again) == written if isinstance(frame, wire.Batch) else again == frame


def test_what_a_batch_and_an_ack_hold_is_of_the_contract_too() -> None:
    for event in ALL["server"]["Batch"]["e"]:
        wire.room_events.decode(json.dumps(event))
    error = ALL["server"]["Ack"]["error"]
    assert error["message"] == CATALOGUE[error["code"]][1]
    assert ALL["server"]["Bye"]["code"] in set(Close)


async def test_every_example_of_a_client_is_answered_as_the_page_says(world: World) -> None:
    """Ids are those of the test's world where the example means something that exists; all else is as published."""
    keyring, coupons = world.kernel.keyring, Coupons()
    real = {CLIENT["Pin"]["product"]: world.latte, CLIENT["Mute"]["viewer"]: world.viewer.subject}
    renewed = {CLIENT["Renew"]["token"]: keyring.issue(world.viewer)}

    def text(name: str) -> str:
        told = json.dumps(CLIENT[name], ensure_ascii=False)
        for example, meant in (real | renewed).items():
            told = told.replace(example, str(meant))
        return told

    async with transaction(world.kernel.sessions) as session:
        said = Comment(id=UUID(CLIENT["Report"]["comment"]), room_id=world.room, author_id=new_id(), author_name="小周",
                       author_role="viewer", text="加我", at=now())  # fmt: skip
        session.add(said)
    async with gateway(world.kernel, issuer=coupons) as one, AsyncExitStack() as stack:

        async def enter(room: Any, who: Any) -> Client:
            return await stack.enter_async_context(watching(one.url, keyring, room, who))

        guide, early = await enter(world.room, world.guide), await enter(world.planned, world.guide)
        me = await enter(world.room, world.viewer)
        answered = {"Hello"}
        for name in CLIENT:
            asks = guide if name in GUIDES else me
            asks = early if name == "Start" else asks
            if name == "Hello":
                continue
            await asks.socket.send(text(name))
            if name == "Ping":
                assert (await asks.frame(wire.Pong)).now > 1_700_000_000_000
            elif "id" in CLIENT[name]:
                ack = await asks.ack(CLIENT[name]["id"])
                assert ack.ok, (name, ack)
                made = {"Comment": ack.comment, "Claim": ack.coupon, "Drop": ack.drop, "Locate": ack.stores}
                assert made.get(name, True), f"{name} made nothing"
            answered.add(name)
        assert answered == set(CLIENT)
        await me.send(wire.Ping())  # the unanswered ones did no harm
        await me.frame(wire.Pong)
        await until(lambda: coupons.shown)
        assert [str(shown) for _, many in coupons.shown for shown in many] == [CLIENT["Seen"]["coupon"]]
        await until(lambda: one.tally.joins == 3)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, Close.TOKEN_INVALID),  # as published: its token is nobody's
        ({"v": 1}, Close.TOKEN_INVALID),
        ({"v": 2}, Close.VERSION),
    ],
)
async def test_the_published_hello_is_understood_and_another_version_turned_away(
    world: World, change: dict[str, Any], code: Close
) -> None:
    async with gateway(world.kernel) as one, connect(f"{one.url}/v1/rooms/{world.room}/live", **UNHURRIED) as socket:
        await socket.send(json.dumps({**CLIENT["Hello"], **change}))
        bye, closed = await last_words(socket)
    assert bye is not None
    assert (bye.code, closed) == (code, code)
    assert ("speaks version 1" in bye.reason) == (code is Close.VERSION)


async def test_the_published_hello_with_a_token_opens_the_door(world: World) -> None:
    async with gateway(world.kernel) as one, connect(f"{one.url}/v1/rooms/{world.room}/live", **UNHURRIED) as socket:
        await socket.send(json.dumps({**CLIENT["Hello"], "token": world.kernel.keyring.issue(world.viewer)}))
        welcome = await Client(socket).next()
        assert isinstance(welcome, wire.Welcome)
        assert not welcome.recovered  # its position is of a log that this room never had
