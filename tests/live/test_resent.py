"""One person's commands on several sockets of a gateway, at once or one after the other: what counts, and what is said
again to whom."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from roomworld import World
from sqlalchemy import text
from viewers import Coupons, gateway, telling, until, watching

from kernel.postgres import transaction
from live import wire
from live.bus import RedisBus


async def _code(client: Any, id: str, text: str) -> str:
    await client.send(wire.Comment(id, text))
    ack = await client.ack(id)
    return "ok" if ack.error is None else ack.error.code


async def test_slow_mode_holds_who_leaves_and_comes_back_and_who_opens_another_socket(world: World) -> None:
    keyring = world.kernel.keyring
    async with gateway(world.kernel) as one, telling(world.kernel):
        async with (
            watching(one.url, keyring, world.room, world.guide) as guide,
            watching(one.url, keyring, world.room, world.viewer) as me,
            watching(one.url, keyring, world.room, world.viewer) as beside,
        ):
            await guide.send(wire.Slow("s", 120))
            await me.event(wire.RoomChanged, lambda event: event.room.slow_seconds == 120)
            assert await _code(me, "1", "一") == "ok"
            assert await _code(beside, "2", "二") == "too_fast"
        await until(lambda: not one.connections)
        async with watching(one.url, keyring, world.room, world.viewer) as back:
            assert await _code(back, "3", "三") == "too_fast"


async def test_a_command_under_way_is_answered_on_the_socket_that_took_the_place_of_a_lost_one(world: World) -> None:
    keyring, coupons = world.kernel.keyring, Coupons()
    coupons.gate.clear()
    claim = wire.Claim("c", UUID(int=1))
    async with (
        gateway(world.kernel, issuer=coupons) as one,
        watching(one.url, keyring, world.room, world.viewer) as lost,
    ):
        await lost.send(claim)
        await lost.send(wire.Ping())
        await lost.frame(wire.Pong)
        lost.socket.transport.abort()
        async with watching(one.url, keyring, world.room, world.viewer) as back:
            await back.send(claim)
            await back.send(wire.Ping())
            await back.frame(wire.Pong)
            coupons.gate.set()
            assert (await back.ack("c")).coupon is not None
    assert coupons.claims == ["c"]


async def test_a_pin_said_again_on_another_socket_is_one_pin(world: World) -> None:
    keyring = world.kernel.keyring
    async with (
        gateway(world.kernel) as one,
        watching(one.url, keyring, world.room, world.guide) as phone,
        watching(one.url, keyring, world.room, world.guide) as tablet,
    ):
        for socket in (phone, tablet):
            await socket.send(wire.Pin("p", world.latte))
            assert (await socket.ack("p")).ok
    async with transaction(world.kernel.sessions) as session:
        assert await session.scalar(text("SELECT count(*) FROM outbox")) == 1


class Stumbling(RedisBus):
    """Loses what it is given first."""

    stumbled = False

    async def cast(self, room: UUID, events: Sequence[bytes], *, keep: Sequence[bytes] = ()) -> None:
        if keep and not self.stumbled:
            self.stumbled = True
            raise OSError("gone")
        await super().cast(room, events, keep=keep)


async def test_a_comment_refused_for_now_gets_through_later_under_its_id(world: World) -> None:
    keyring = world.kernel.keyring
    async with (
        gateway(world.kernel, bus=Stumbling(world.kernel.redis)) as one,
        watching(one.url, keyring, world.room, world.viewer) as me,
        watching(one.url, keyring, world.room, world.viewer) as beside,
    ):
        one.hub.rooms[world.room].slow_seconds = 60
        assert await _code(me, "1", "好看") == "unavailable"
        assert await _code(beside, "1", "好看") == "ok"
        assert await _code(me, "1", "好看") == "ok"
        heard = await me.event(wire.Commented)
        assert heard.text == "好看"
        assert [event for event in me.events if isinstance(event, wire.Commented)] == [heard]
