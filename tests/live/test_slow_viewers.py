"""Viewers who do not read: they cost a constant, delay nobody, and miss nothing once they read again."""

import asyncio
import socket

from roomworld import World
from swarm import Swarm
from viewers import UNHURRIED, Client, announced, coupon, gateway, principal, until, watching
from websockets.asyncio.client import connect

from live import wire
from live.bus import RedisBus
from live.connection import HARD_LIMIT

TEXT = "满" * 3000
STUCK = 3


async def test_viewers_who_stop_reading_are_bounded_closed_and_come_back_whole(world: World) -> None:
    kernel, bus, texts = world.kernel, RedisBus(world.kernel.redis), list[str]()
    async with gateway(kernel) as one, watching(one.url, kernel.keyring, world.room) as good:
        swarm = Swarm([one.url], world.room)
        try:
            stuck = [swarm.join(kernel.keyring.issue(principal())) for _ in range(STUCK)]
            await until(lambda: all(viewer.welcomes for viewer in stuck))
            for viewer in stuck:
                assert viewer.transport is not None
                viewer.transport.pause_reading()
            largest = 0
            while one.tally.closes["slow"] < STUCK:
                assert len(texts) < 5000, "what waits for the stuck viewers grows without bound"
                texts.append(f"{len(texts)} {TEXT}")
                await bus.publish(world.room, texts[-1][:8], event=announced(texts[-1]))
                # Told while the others are stuck, one tick for each event.
                want = len(texts)
                await good.event(wire.Announced, lambda _, want=want: good.seq == want)
                good.events.clear()
                waiting = [connection.transport.get_write_buffer_size() for connection in one.connections]
                largest = max([largest, *waiting])
            frame = len(announced(texts[-1])) + 100
            assert largest + frame >= HARD_LIMIT
            assert largest <= HARD_LIMIT + 2 * frame
            assert one.hub.rooms[world.room].audience.size == 1

            for viewer in stuck:
                if viewer.transport is not None:
                    viewer.transport.resume_reading()
            await until(lambda: all(viewer.told[-1:] == texts[-1:] for viewer in stuck))
            assert swarm.gone_wrong() == []
            for viewer in stuck:
                assert viewer.told == texts
                first, *later = [recovered for _, _, recovered in viewer.welcomes]
                assert not first
                assert later
                assert all(later)
        finally:
            swarm.close()


async def test_who_missed_more_than_a_socket_takes_is_told_it_piece_by_piece(world: World) -> None:
    """Sent at one go it would be cut off as too slow, and the viewer would come back with the same wish, for ever."""
    kernel, bus, token = world.kernel, RedisBus(world.kernel.redis), world.kernel.keyring.issue(world.viewer)
    many, mine = 1500, coupon("压在最后的券")
    async with gateway(kernel) as one:
        async with watching(one.url, kernel.keyring, world.room) as before:
            start = before.position
        for begin in range(0, many, 50):
            told = (announced(f"{n} {TEXT}") for n in range(begin, begin + 50))
            await asyncio.gather(*(bus.publish(world.room, f"e{begin}.{n}", event=one) for n, one in enumerate(told)))
        await bus.publish(world.room, "c", private={world.viewer.subject: wire.encoder.encode(mine)})
        await until(lambda: one.hub.rooms[world.room].seq == start.seq + many + 1)
        # A small window, as of a phone far away: what is sent stays with the gateway until it is read.
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
        plain.setblocking(False)
        host, _, port = one.url.removeprefix("ws://").partition(":")
        await asyncio.get_running_loop().sock_connect(plain, (host, int(port)))
        async with connect(
            f"{one.url}/v1/rooms/{world.room}/live",
            sock=plain,
            compression=None,
            max_size=None,
            max_queue=1,
            **UNHURRIED,
        ) as joining:
            me = Client(joining)
            me.seq = start.seq
            await me.send(wire.Hello(token, start))
            welcome = await me.next()
            assert (welcome.recovered, welcome.missed) == (True, many + 1)
            room = one.hub.rooms[world.room]
            await until(lambda: room.late)
            assert max(each.transport.get_write_buffer_size() for each in room.late) < HARD_LIMIT
            await bus.publish(world.room, "last", event=announced("最后"))  # comes behind what was missed
            await me.event(wire.Announced, lambda e: e.text == "最后")
            assert me.seq == start.seq + many + 2
            numbers = [int(event.text.split()[0]) for event in me.certain()[:-1]]
            assert sorted(numbers) == list(range(many))
            assert [frame.coupon.id for frame in me.frames if isinstance(frame, wire.CouponGranted)] == [mine.id]
            assert not room.late
            assert room.audience.size == 1
            assert one.tally.closes["slow"] == 0


async def test_a_socket_that_reads_nothing_at_all_is_cut_off_in_the_end(world: World) -> None:
    """Not even the close: the gateway must not wait for an answer that never comes."""
    kernel, bus = world.kernel, RedisBus(world.kernel.redis)
    async with gateway(kernel) as one:
        swarm = Swarm([one.url], world.room)
        try:
            dead = swarm.join(kernel.keyring.issue(principal()))
            await until(lambda: dead.welcomes)
            assert dead.transport is not None
            dead.transport.pause_reading()
            told = 0
            while not one.tally.closes["slow"]:
                await bus.publish(world.room, f"e{told}", event=announced(TEXT * 4))
                told += 1
                await asyncio.sleep(0)
            await until(lambda: not one.connections)
        finally:
            swarm.close()
