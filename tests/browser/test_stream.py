"""A real picture: ffmpeg pushes it, nginx takes it and asks us, the viewer's page plays it."""

import asyncio
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import asyncpg
import httpx
import pytest
from people import Office, Person

from app.processes import bound
from app.up import Stack
from kernel.clock import now
from live import media

ARTEFACTS = Path(__file__).parents[2] / "artefacts" / "pages"
SECONDS = 120
PICTURE = (
    *("-re", "-f", "lavfi", "-i", "testsrc=size=180x320:rate=10", "-f", "lavfi", "-i", "sine=frequency=440"),
    *("-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "10", "-pix_fmt", "yuv420p"),
    *("-c:a", "aac", "-f", "flv"),
)


def until(look: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.05)
    return found


@contextmanager
def camera(address: str) -> Iterator[subprocess.Popen[bytes]]:
    """ffmpeg, pushing a test picture with sound."""
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", *PICTURE, address]
    process = subprocess.Popen(bound(command, "KILL"), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def turned_away(address: str) -> bool:
    with camera(address) as process:
        _, said = process.communicate(timeout=SECONDS)
    return process.returncode != 0 and b"rtmp" in said


class Backstage:
    """What one sees with the keys to the house: REST as ops, and the rows."""

    def __init__(self, stack: Stack) -> None:
        body = {"brand": "demo", "role": "ops", "account": "ops-01"}
        token = httpx.post(f"{stack.api}/v1/auth/dev", json=body).raise_for_status().json()["token"]
        self._api = httpx.Client(base_url=f"{stack.api}/v1", headers={"Authorization": f"Bearer {token}"})
        self._database_url = stack.settings.database_url
        self.rooms = [room["id"] for room in self("GET", "/rooms?state=live")["items"]]

    def __call__(self, method: str, path: str) -> Any:
        answer = self._api.request(method, path).raise_for_status()
        return answer.json() if answer.content else None

    def sql(self, statement: str, room: str) -> Any:
        async def ask() -> Any:
            connection = await asyncpg.connect(self._database_url)
            try:
                return await connection.fetchval(statement, UUID(room))
            finally:
                await connection.close()

        return asyncio.run(ask())

    def publishing(self, room: str) -> bool:
        return bool(self.sql("SELECT count(*) FROM publications WHERE room_id = $1", room))

    def paused(self, room: str) -> bool:
        return self.sql("SELECT paused_at FROM rooms WHERE id = $1", room) is not None

    def has_picture(self, room: str) -> bool:
        """Whether there is something to play, newer than the server's start of the stream."""
        found = httpx.get(self("GET", f"/rooms/{room}")["playback"]["hls"])
        return found.status_code == 200 and ".ts" in found.text


@pytest.fixture(scope="module")
def backstage(studio: Stack) -> Iterator[Backstage]:
    opened = Backstage(studio)
    yield opened
    opened._api.close()


def _opens(open_browser: Callable[..., Any], studio: Stack, page: str, name: str, **query: str) -> Person:
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    driver = open_browser()
    driver.get(f"{studio.api}/{page}?{urlencode({'brand': 'demo', **query})}")
    return Person(driver, ARTEFACTS, name)


def _playing(viewer: Person) -> bool:
    return bool(viewer.driver.find_elements("css selector", ".stage.playing"))


def _plays(viewer: Person) -> bool:
    """Whether the picture moves: its clock goes on, and frames came out of the decoder."""
    look = "const v = document.querySelector('.playing video'); return v && [v.currentTime, v.videoWidth, v.readyState]"
    before, after = viewer.script(look), None
    deadline = time.monotonic() + 2
    while before and time.monotonic() < deadline:
        after = viewer.script(look)
        if after and after[0] > before[0] and after[1] == 180 and after[2] >= 2:
            return True
        time.sleep(0.05)
    return False


def test_strangers_and_old_addresses_are_turned_away(studio: Stack, backstage: Backstage) -> None:
    room = backstage.rooms[0]
    given = backstage("POST", f"/rooms/{room}/stream")
    address, name = given["push_url"], given["key"].partition("?")[0]
    assert studio.settings.stream_push_url in address
    old = media.sign(studio.settings.stream_key.get_secret_value(), name, now() - timedelta(minutes=1))
    assert turned_away(f"{given['server']}/{name}?{old}")
    assert turned_away(f"{given['server']}/{name}")
    assert not backstage.publishing(room)
    assert not backstage.has_picture(room)


def _address(guide: Person) -> tuple[str, str]:
    """Server and key, as the guide reads them off the page."""
    server, key = (guide.sees(f"#{field}").get_attribute("value") for field in ("streamServerField", "streamKeyField"))
    assert server
    assert key
    return server, key


@pytest.mark.timeout(600)
def test_a_picture_goes_from_the_guides_camera_to_the_viewers_phone(
    studio: Stack, backstage: Backstage, open_browser: Callable[..., Any]
) -> None:
    host = Office(studio.api, "guide", "guide-05")
    room = host.room("桂花新茶")
    guide = _opens(open_browser, studio, "guide", "stream-guide", account="guide-05", room=room)

    # Before the start: the address, in the two parts that OBS asks for, and as a code to scan.
    guide.sees("#stream[data-state=waiting]", "等画面")
    guide.picture("scheduled")
    guide.taps("#openStream")
    server, key = _address(guide)
    guide.sees("#streamUntil", "前开始推流有效")
    loaded = "const code = document.querySelector('.stream .qr'); return code.complete && code.naturalWidth > 0"
    guide.until(lambda: guide.script(loaded), "the code to scan")
    guide.picture("address")
    assert guide.overflow() == 0
    assert guide.unnamed() == []
    guide.taps("[data-copy=streamKeyField]")
    guide.sees(".toast", "已复制")
    guide.confirms("#streamWithdraw")
    guide.until(lambda: _address(guide)[1] != key, "another key")
    assert turned_away(f"{server}/{key}"), "withdrawn"
    server, key = _address(guide)
    address = f"{server}/{key}"
    guide.closes_sheets()
    guide.taps("#start")

    viewer = _opens(open_browser, studio, "watch", "stream", account="stream", room=room)
    viewer.sees(".standin")
    assert not _playing(viewer)
    with camera(address):
        until(lambda: backstage.publishing(room), "the stream's beginning")
        guide.sees("#stream[data-state=arriving]", "画面正常")
        guide.picture("arrives")
        until(lambda: backstage.has_picture(room), "a playlist")
        viewer.until(lambda: _plays(viewer), "a moving picture")
        viewer.sees_no(".standin")
        viewer.picture("plays")
        viewer.taps(".sound")
        assert viewer.script("return document.querySelector('video').muted") is False
        assert turned_away(address), "one camera a room"
        assert backstage.publishing(room)

    # The camera was killed, not stopped: a phone that lost its network.
    until(lambda: not backstage.publishing(room), "the stream's end")
    assert not backstage.paused(room), "there is a grace"
    guide.sees("#stream[data-state=lost]", "画面断了")
    guide.sees("#streamFor", ":")
    guide.picture("lost")
    backstage.sql("UPDATE rooms SET stream_lost_at = stream_lost_at - interval '1 minute' WHERE id = $1", room)
    until(lambda: backstage.paused(room), "the pause")
    viewer.until(lambda: not _playing(viewer), "the drawn scene")
    guide.driver.get(f"{studio.api}/ops?{urlencode({'brand': 'demo', 'account': 'ops-01'})}")
    row = f"tr[data-room='{room}'] [data-picture"
    guide.sees(f"{row}=lost]", "画面断了，自")
    guide.script("document.getElementById('roomsTitle').scrollIntoView()")
    guide.picture("ops-lost")
    with camera(address):
        until(lambda: not backstage.paused(room), "the room's going on")
        viewer.until(lambda: _plays(viewer), "the picture, back by itself")
        guide.sees(f"{row}=arriving]", "画面正常，自")
        guide.taps("[data-language]")
        guide.sees(f"{row}=arriving]", "picture since")
    assert viewer.console() == guide.console() == []
