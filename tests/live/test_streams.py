"""Streams as guides, viewers and media servers meet them over REST."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from roomworld import World, make_world
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.clock import now
from kernel.http import Kernel, install_error_handlers
from kernel.postgres import transaction
from kernel.settings import SettingMissing, Settings
from live import media, rooms, streams
from live.life import pause_lost
from live.routes import router

KEY, PLAY_KEY = "push-key", "play-key"
PUSH, PLAY = "rtmp://push.example.com/live", "https://play.example.com/live"


def studio_settings(settings: Settings, **more: Any) -> Settings:
    told = {
        "stream_push_url": PUSH,
        "stream_key": SecretStr(KEY),
        "stream_play_url": {"hls": PLAY, "flv": PLAY, "rtmp": "rtmp://play.example.com/live"},
        "stream_play_key": SecretStr(PLAY_KEY),
    }
    return settings.model_copy(update=told | more)


@pytest.fixture
async def world(kernel: Kernel) -> World:
    return await make_world(
        Kernel(studio_settings(kernel.settings), kernel.engine, kernel.sessions, kernel.redis, kernel.keyring)
    )


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.state.kernel = world.kernel
    app.include_router(router)
    install_error_handlers(app)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as opened:
        yield opened


class Studio:
    """A guide with an address, and a media server that reports as nginx-rtmp does."""

    def __init__(self, world: World, client: httpx.AsyncClient) -> None:
        self.world = world
        self.client = client
        self.heard: dict[UUID, str] = {}

    async def ask(self, who: str, method: str, path: str) -> httpx.Response:
        token = self.world.kernel.keyring.issue(getattr(self.world, who))
        return await self.client.request(method, f"/v1{path}", headers={"Authorization": f"Bearer {token}"})

    async def key(self, room: UUID | None = None, who: str = "guide") -> str:
        """``name?txSecret=…&txTime=…``, as OBS takes it."""
        answer = await self.ask(who, "POST", f"/rooms/{room or self.world.room}/stream")
        assert answer.status_code == 200, answer.text
        return str(answer.json()["key"])

    async def says(self, call: str, key: str, client: str = "1", **more: str) -> httpx.Response:
        name, _, query = key.partition("?")
        said = {
            "app": "live", "tcurl": "rtmp://127.0.0.1/live", "addr": "127.0.0.1", "clientid": client, "call": call,
            "name": name, "type": "live", **more,
        }  # fmt: skip
        path = "/v1/streams/unpublish" if call == "publish_done" else "/v1/streams/publish"
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        return await self.client.post(path, content=f"{urlencode(said)}&{query}", headers=form)

    async def refused(self, call: str, key: str, code: str, **more: str) -> None:
        answer = await self.says(call, key, **more)
        assert (answer.status_code >= 400, answer.json()["code"]) == (True, code)

    async def publishing(self, room: UUID | None = None) -> list[str]:
        query = text("SELECT client FROM publications WHERE room_id = :room ORDER BY since, client")
        async with self.world.kernel.sessions() as session:
            return list((await session.scalars(query, {"room": room or self.world.room})).all())

    async def age(self, column: str) -> None:
        """Move this moment of the room a minute back."""
        query = text(f"UPDATE rooms SET {column} = {column} - interval '1 minute' WHERE id = :room")
        async with transaction(self.world.kernel.sessions) as session:
            await session.execute(query, {"room": self.world.room})

    def stream(self, room: UUID | None = None) -> str | None:
        """What the room's life heard last of its stream."""
        return self.heard.get(room or self.world.room)


@pytest.fixture
def studio(world: World, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> Studio:
    opened = Studio(world, client)

    def heard(news: str, tell: Callable[[AsyncSession, UUID], Awaitable[None]]) -> None:
        async def listen(session: AsyncSession, room: UUID) -> None:
            opened.heard[room] = news
            await tell(session, room)

        monkeypatch.setattr(rooms, tell.__name__, listen)

    heard("on", rooms.stream_found)
    heard("off", rooms.stream_lost)
    return opened


def expired(key: str) -> str:
    name = key.partition("?")[0]
    return f"{name}?{media.sign(KEY, name, now() - timedelta(seconds=1))}"


# ---- addresses -----------------------------------------------------------------------------------------------------


async def test_a_guide_gets_an_address_that_expires_and_viewers_one_to_play(world: World, studio: Studio) -> None:
    answer = (await studio.ask("guide", "POST", f"/rooms/{world.room}/stream")).json()
    assert answer["push_url"] == f"{PUSH}/{answer['key']}"
    assert answer["server"] == PUSH
    name, _, query = answer["key"].partition("?")
    assert media.room_of(name) == world.room
    until = datetime.fromtimestamp(int(dict(parse_qsl(query))["txTime"], 16), UTC)
    assert until == datetime.fromisoformat(answer["expires_at"])
    assert answer["qr"].startswith("<svg")
    assert timedelta(hours=11) < until - now() <= timedelta(hours=12)

    played = (await studio.ask("viewer", "GET", f"/rooms/{world.room}")).json()["playback"]
    assert played["hls"].startswith(f"{PLAY}/{name}.m3u8?txSecret=")
    assert played["flv"].startswith(f"{PLAY}/{name}.flv?txSecret=")
    assert played["rtmp"].startswith(f"rtmp://play.example.com/live/{name}?txSecret=")
    offered = media.offered(played["hls"].partition("?")[2])
    assert offered is not None
    assert media.standing(PLAY_KEY, name, offered, now()) is media.Standing.GOOD
    assert media.standing(KEY, name, offered, now()) is media.Standing.FORGED, "who may play may not push"


async def test_an_address_is_for_the_rooms_guide_and_for_ops(world: World, studio: Studio) -> None:
    for who, code in (("viewer", "forbidden"), ("other_guide", "forbidden"), ("stranger", "not_found")):
        for method in ("POST", "GET", "DELETE"):
            assert (await studio.ask(who, method, f"/rooms/{world.room}/stream")).json()["code"] == code, who
    key = await studio.key(who="ops")
    assert (await studio.says("publish", key)).status_code == 200


async def test_the_guide_and_ops_see_whether_the_picture_arrives(world: World, studio: Studio) -> None:
    async def seen() -> tuple[str, datetime | None]:
        shown = (await studio.ask("guide", "GET", f"/rooms/{world.room}/stream")).json()
        listed = (await studio.ask("ops", "GET", "/ops/rooms")).json()["items"]
        by_room = {item["room"]["id"]: item["stream"] for item in listed}
        assert by_room == {str(world.room): shown, str(world.planned): None}
        return shown["state"], shown["since"] and datetime.fromisoformat(shown["since"])

    assert await seen() == ("waiting", None)
    key = await studio.key()
    await studio.says("publish", key)
    state, since = await seen()
    assert (state, since is not None) == ("arriving", True)
    await studio.says("publish", key, client="2")  # the phone's other network
    await studio.says("publish_done", key, client="2")
    assert await seen() == (state, since), "the picture never broke off"
    await studio.says("publish_done", key)
    state, lost = await seen()
    assert since is not None
    assert lost is not None
    assert (state, lost > since) == ("lost", True)
    # Whoever goes on without it waits for it like in the beginning.
    await studio.age("stream_lost_at")
    await studio.ask("guide", "POST", f"/rooms/{world.room}/pause")
    await studio.ask("guide", "POST", f"/rooms/{world.room}/start")
    assert await seen() == ("waiting", None)


async def test_an_ended_room_has_neither(world: World, studio: Studio) -> None:
    key = await studio.key()
    await studio.ask("guide", "POST", f"/rooms/{world.room}/end")
    assert (await studio.ask("guide", "POST", f"/rooms/{world.room}/stream")).json()["code"] == "room_ended"
    assert (await studio.ask("viewer", "GET", f"/rooms/{world.room}")).json()["playback"] is None
    await studio.refused("publish", key, "room_ended")
    await studio.refused("update_publish", key, "room_ended")


async def test_without_a_media_server_there_is_no_address_and_nothing_to_play(world: World, kernel: Kernel) -> None:
    app = FastAPI()
    app.state.kernel = kernel
    app.include_router(router)
    install_error_handlers(app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
        studio = Studio(world, client)
        for method in ("POST", "GET"):
            assert (await studio.ask("guide", method, f"/rooms/{world.room}/stream")).json()["code"] == "stream_off"
        assert (await studio.ask("viewer", "GET", f"/rooms/{world.room}")).json()["playback"] is None
        name = f"{world.room.hex}-{'0' * 12}"
        unsigned = f"{name}?{media.sign('', name, now() + timedelta(hours=1))}"
        await studio.refused("publish", unsigned, "stream_key_invalid")


def test_a_key_is_asked_for_and_another_one_for_playing() -> None:
    with pytest.raises(SettingMissing, match="NEARCAST_STREAM_KEY"):
        streams.Studio.from_settings(Settings(stream_push_url=PUSH))
    with pytest.raises(SettingMissing, match="NEARCAST_STREAM_PLAY_KEY"):
        streams.Studio.from_settings(Settings(stream_key=SecretStr("a"), stream_play_key=SecretStr("a")))


def test_one_play_address_stands_for_all_ways_and_json_names_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEARCAST_STREAM_PLAY_URL", PLAY)
    settings = Settings()
    assert settings.stream_play_url == {"hls": PLAY, "flv": PLAY, "rtmp": "rtmp://play.example.com/live"}
    monkeypatch.setenv("NEARCAST_STREAM_PLAY_URL", '{"hls": "http://127.0.0.1:9/hls"}')
    settings = Settings()
    assert settings.stream_play_url == {"hls": "http://127.0.0.1:9/hls"}
    monkeypatch.setenv("NEARCAST_STREAM_PLAY_URL", settings.environment()["NEARCAST_STREAM_PLAY_URL"])
    assert Settings() == settings
    monkeypatch.setenv("NEARCAST_STREAM_PLAY_URL", "")
    assert Settings().stream_play_url == {}
    monkeypatch.setenv("NEARCAST_STREAM_PLAY_URL", '{"webrtc": "x"}')
    with pytest.raises(ValueError, match="webrtc"):
        Settings()


# ---- what media servers ask and tell -------------------------------------------------------------------------------


async def test_a_stream_begins_goes_on_and_ends(world: World, studio: Studio) -> None:
    key = await studio.key()
    assert (await studio.says("publish", key)).json() == {"code": 0}
    assert (await studio.says("publish", key)).json() == {"code": 0}, "told twice is told once"
    assert await studio.publishing() == ["1"]
    assert studio.stream() == "on"
    assert (await studio.says("update_publish", expired(key))).status_code == 200, "it outlives its key"
    assert (await studio.says("publish_done", expired(key))).json() == {"code": 0}
    assert await studio.publishing() == []
    assert studio.stream() == "off"
    await studio.says("publish", key, client="2")
    assert studio.stream() == "on"


async def test_a_rehearsal_leaves_the_room_scheduled_and_is_remembered(world: World, studio: Studio) -> None:
    key = await studio.key(world.planned)
    assert (await studio.says("publish", key)).status_code == 200
    page = (await studio.ask("viewer", "GET", f"/rooms/{world.planned}")).json()
    assert page["state"] == "scheduled"
    assert studio.stream(world.planned) == "on"
    assert (await studio.ask("guide", "POST", f"/rooms/{world.planned}/start")).status_code == 204
    assert studio.stream(world.planned) == "on"


async def test_wrong_keys_are_refused_before_the_database_is_asked(
    world: World, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, other = await studio.key(), await studio.key(world.planned)
    name, _, query = key.partition("?")

    async def asked(*_: object) -> None:
        raise AssertionError("the database was asked")

    monkeypatch.setattr(streams, "_locked", asked)
    await studio.refused("publish", expired(key), "stream_key_expired")
    elsewhere = f"{other.partition('?')[0]}?{query}"
    played = (await studio.ask("viewer", "GET", f"/rooms/{world.room}")).json()["playback"]["rtmp"]
    for wrong in (name, f"{name}?", f"{name}?txSecret=&txTime=", elsewhere, "test", f"test?{query}",
                  played.rpartition("/")[2]):  # fmt: skip
        for call in ("publish", "update_publish", "publish_done"):
            await studio.refused(call, wrong, "stream_key_invalid")


async def test_what_the_pusher_puts_into_its_address_does_not_speak_for_the_server(
    world: World, studio: Studio
) -> None:
    """A guide with a key to one room must not begin or end the stream of another."""
    mine, theirs = await studio.key(), await studio.key(world.planned)
    name, _, query = mine.partition("?")
    await studio.says("publish", theirs, client="7")
    assert (await studio.says("publish", f"{theirs.partition('?')[0]}?name={name}&{query}")).status_code == 403
    injected = f"{name}?clientid=7&call=publish_done&name={theirs.partition('?')[0]}&{query}"
    assert (await studio.says("publish", injected, client="8")).status_code == 200
    assert await studio.publishing() == ["8"]
    assert await studio.publishing(world.planned) == ["7"]


async def test_only_what_published_can_end_and_a_refused_second_one_ends_nothing(world: World, studio: Studio) -> None:
    """nginx asks us about a second publisher, then turns it away itself, and tells us that it ended."""
    key = await studio.key()
    await studio.says("publish", key, client="1")
    await studio.says("publish_done", key, client="99")
    assert await studio.publishing() == ["1"]
    await studio.says("publish", key, client="2")
    await studio.says("publish_done", key, client="2")
    assert await studio.publishing() == ["1"]
    assert studio.stream() == "on"


async def test_a_guide_who_changed_networks_keeps_the_stream_when_the_old_connection_dies(
    world: World, studio: Studio
) -> None:
    key = await studio.key()
    await studio.says("publish", key, client="old")
    await studio.says("publish", key, client="new")
    await studio.says("publish_done", key, client="old")
    assert await studio.publishing() == ["new"]
    assert studio.stream() == "on"


async def test_an_end_that_was_never_told_does_not_keep_the_stream_for_ever(world: World, studio: Studio) -> None:
    key = await studio.key()
    await studio.says("publish", key, client="ghost")
    await studio.says("publish", key, client="1")
    async with transaction(world.kernel.sessions) as session:
        await session.execute(text("UPDATE publications SET since = since - interval '2 minutes'"))
        await session.execute(text("UPDATE publications SET since = since - interval '1 hour' WHERE client = 'ghost'"))
    await studio.says("publish_done", key, client="1")
    assert await studio.publishing() == []
    assert studio.stream() == "off"


async def test_a_media_server_that_dies_is_noticed_by_its_silence(world: World, studio: Studio) -> None:
    key = await studio.key()
    await studio.says("publish", key, client="reported")
    await studio.says("publish", key, client="never reported")

    async def silence() -> int:
        async with transaction(world.kernel.sessions) as session:
            await session.execute(text("UPDATE publications SET since = since - interval '1 minute'"))
            await session.execute(text("UPDATE publications SET heard_at = heard_at - interval '1 minute'"))
            return await streams.forget_silent(session)

    assert await silence() == 0, "SRS reports none"
    await studio.says("update_publish", key, client="reported")
    assert await silence() == 1
    assert await studio.publishing() == ["never reported"]
    assert studio.stream() == "on"
    await studio.says("publish_done", key, client="never reported")

    await studio.says("update_publish", key, client="reported")
    assert studio.stream() == "on", "it lives after all"
    assert await silence() == 1
    assert studio.stream() == "off"


async def test_a_withdrawn_address_is_worth_nothing_and_viewers_get_another(world: World, studio: Studio) -> None:
    key = await studio.key()
    await studio.says("publish", key)
    assert (await studio.ask("guide", "DELETE", f"/rooms/{world.room}/stream")).status_code == 204
    assert studio.stream() == "off"
    for call in ("publish", "update_publish", "publish_done"):
        await studio.refused(call, key, "stream_key_invalid")
    fresh = await studio.key()
    assert fresh.partition("?")[0] != key.partition("?")[0]
    played = (await studio.ask("viewer", "GET", f"/rooms/{world.room}")).json()["playback"]["hls"]
    assert fresh.partition("?")[0] in played
    assert (await studio.says("publish", fresh)).status_code == 200


async def test_srs_and_tencent_say_the_same_in_json(world: World, studio: Studio) -> None:
    key = await studio.key()
    name, _, query = key.partition("?")
    dialects = [
        lambda begins: {
            "action": "on_publish" if begins else "on_unpublish", "client_id": "9308h583",
            "ip": "10.0.0.9", "vhost": "__defaultVhost__", "app": "live", "tcUrl": "rtmp://10.0.0.1/live",
            "stream": name, "param": f"?{query}", "server_id": "vid-0xk989d", "service_id": "382k3290",
            "stream_url": f"/live/{name}", "stream_id": "vid-124q9y3",
        },
        lambda begins: {"action": "on_publish" if begins else "on_unpublish", "client_id": 1985, "stream": name,
                        "param": f"?{query}"},
        lambda begins: {"event_type": int(begins), "stream_id": name, "stream_param": query, "sequence": "6674468",
                        "t": 1781784067, "sign": "", "appname": "live"},
    ]  # fmt: skip
    for said in dialects:
        begun = await studio.client.post("/v1/streams/publish", json=said(True))
        assert (begun.status_code, begun.json()) == (200, {"code": 0})
        assert len(await studio.publishing()) == 1
        assert (await studio.client.post("/v1/streams/publish", json=said(False))).status_code == 400, "the wrong hook"
        ended = await studio.client.post("/v1/streams/unpublish", json=said(False))
        assert (ended.status_code, ended.json()) == (200, {"code": 0})
        assert await studio.publishing() == []


async def test_nonsense_is_answered_with_a_refusal(studio: Studio) -> None:
    bodies = [
        b"", b"{", b"{}", b"[]", b'{"stream": {}}', b"\xff", b"call=publish&name=\xff", b"a=1&" * 100, b"x" * 20_000,
        b"call=publish&clientid=" + b"1" * 300, b'{"stream": "a", "action": "on_publish", "client_id": "\\u0000"}',
        b'{"stream": ' + b"[" * 16_000,
    ]  # fmt: skip
    for body in bodies:
        for path in ("publish", "unpublish"):
            answer = await studio.client.post(f"/v1/streams/{path}", content=body)
            assert answer.status_code in (400, 403), (body, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"


async def test_beginnings_and_ends_at_once_leave_the_truth(world: World, studio: Studio) -> None:
    key = await studio.key()
    clients = [str(number) for number in range(6)]
    await asyncio.gather(*(studio.says("publish", key, client=one) for one in clients))
    assert sorted(await studio.publishing()) == clients
    await asyncio.gather(*(studio.says("publish_done", key, client=one) for one in clients))
    assert await studio.publishing() == []
    assert studio.stream() == "off"


async def test_the_room_pauses_when_the_stream_is_lost_and_goes_on_when_it_is_back(
    world: World, studio: Studio
) -> None:
    key = await studio.key()
    await studio.says("publish", key)
    await studio.says("publish_done", key)
    async with transaction(world.kernel.sessions) as session:
        await session.execute(text("UPDATE rooms SET stream_lost_at = stream_lost_at - interval '1 minute'"))
        assert await pause_lost(session) == 1
    await studio.says("publish", key, client="2")
    told = [event.room.paused_at is not None for event, _ in await world.events() if hasattr(event, "room")]
    assert told == [True, False]
