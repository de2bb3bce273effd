"""What guides do over REST, as viewers of several gateways see it: who is sent away, and what is explained last."""

import asyncio

import msgspec
from roomworld import World, snapshot
from test_room_routes import Caller, serve
from viewers import Client, closed, principal, until, watching

from kernel.ids import new_id
from live import wire
from live.gateway import Gateway
from live.wire import Close

PINS = 12


async def test_a_mute_a_kick_and_a_ban_over_rest_hold_on_a_gateway_that_nobody_asked(
    world: World, two: tuple[Gateway, Gateway]
) -> None:
    keyring, room = world.kernel.keyring, world.room
    async with (
        serve(world.kernel) as client,
        watching(two[0].url, keyring, room, principal("小周")) as witness,
        watching(two[1].url, keyring, room, world.viewer) as me,
    ):
        api, viewer = Caller(world, client), {"viewer": str(world.viewer.subject)}
        assert (await api("guide", "POST", f"/rooms/{room}/mute", viewer | {"seconds": 60})).is_success
        await me.event(wire.Muted)
        await me.send(wire.Comment("c", "还能说吗"))
        refused = (await me.ack("c")).error
        assert refused is not None
        assert refused.code == "muted"
        assert (await api("guide", "POST", f"/rooms/{room}/kick", viewer)).is_success
        assert await closed(me) == Close.KICKED
        async with watching(two[1].url, keyring, room, world.viewer) as again:
            assert again.frames[0].muted_until is not None
            assert (await api("guide", "POST", f"/rooms/{room}/ban", viewer | {"seconds": 60})).is_success
            assert await closed(again) == Close.BANNED
        await witness.event(wire.Banned)
        assert [type(one) for one in witness.certain()] == [wire.Muted, wire.Kicked, wire.Banned]


def _shown(client: Client) -> str | None:
    """The product that ``client`` shows: its snapshot's, then whatever it was told."""
    pin = client.frames[0].pin
    product = None if pin is None else pin.product.id
    for event in client.events:
        if isinstance(event, wire.Pinned):
            product = event.product.id
        elif isinstance(event, wire.Unpinned):
            product = None
    return product and str(product)


async def test_pins_that_race_end_as_the_log_says_for_everybody_and_for_who_comes_amid_them(
    world: World, two: tuple[Gateway, Gateway]
) -> None:
    keyring, room = world.kernel.keyring, world.room
    async with (
        serve(world.kernel) as client,
        watching(two[0].url, keyring, room) as here,
        watching(two[1].url, keyring, room) as there,
    ):
        api, late = Caller(world, client), list[Client]()

        async def command(number: int) -> None:
            what = number % 3
            product = {"product": str((world.latte, world.mocha)[what - 1])}
            answer = await api(
                "guide", "POST", f"/rooms/{room}/{'pin' if what else 'unpin'}", product if what else None
            )
            assert answer.is_success, answer.text

        async def come(number: int, gone: asyncio.Event) -> None:
            async with watching(two[number % 2].url, keyring, room, principal(f"{new_id()}")) as one:
                late.append(one)
                await one.event(wire.Announced)
                await gone.wait()

        gone = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            racing = []
            for number in range(PINS):
                racing.append(asyncio.create_task(command(number)))
                if number % 3 == 2:
                    group.create_task(come(number, gone))
                    await asyncio.sleep(0)
            await asyncio.gather(*racing)
            await until(lambda: len(late) == PINS // 3)
            assert (await api("guide", "POST", f"/rooms/{room}/announce", {"text": "都看到了"})).is_success
            for one in (here, there):
                await one.event(wire.Announced)
            gone.set()
        slot = (await snapshot(world, room))["pin"]
        last = str(msgspec.json.decode(slot, type=wire.PinState).product.id) if slot else None
        assert {_shown(one) for one in (here, there, *late)} == {last}
        assert [one.seq for one in (here, there)] == [here.seq] * 2
        assert sum(isinstance(event, wire.Pinned) for event in here.events) == PINS * 2 // 3
        assert here.certain() == there.certain()
