"""The JavaScript client against real gateways that are killed under it: in Chromium, and in Node as a mini-program."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any

import httpx
import pytest

from app.up import Stack

HERE = Path(__file__).parent
SECONDS = 120
"""A deadline costs only when something is wrong."""
JOIN = """
const [options, done] = [arguments[0], arguments[arguments.length - 1]];
window.heard = [];
(async () => {
  const {connect} = await import('/client/nearcast.js');
  window.room = connect(options);
  for (const type of ['state', 'welcome', 'announce']) room.on(type, (value) => heard.push([type, value]));
})().then(() => done(null), (error) => done(String(error)));
"""
SAY = """
const [text, done] = [JSON.parse(arguments[0]), arguments[arguments.length - 1]];
room.comment(text).then(() => heard.push(['said', JSON.stringify(text)]), ({code}) => heard.push(['refused', code]));
done();
"""

Heard = Callable[[], list[tuple[str, Any]]]
Viewer = tuple[Heard, Callable[[str], None]]
"""What they heard so far, and a way to let them comment."""


def until(look: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not look():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@contextmanager
def in_node(options: dict[str, Any]) -> Iterator[Viewer]:
    heard: list[tuple[str, Any]] = []
    with subprocess.Popen(
        ["node", HERE / "viewer.js", json.dumps(options)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as viewer:
        assert viewer.stdin is not None
        assert viewer.stdout is not None
        lines = viewer.stdout
        listener = Thread(target=lambda: heard.extend(tuple(json.loads(line)) for line in lines))
        listener.start()

        def say(text: str) -> None:
            assert viewer.stdin is not None
            viewer.stdin.write(f"{json.dumps(text)}\n")
            viewer.stdin.flush()

        try:
            yield lambda: list(heard), say
        finally:
            viewer.stdin.close()
            try:
                assert viewer.wait(30) == 0
            finally:
                viewer.kill()  # says nothing to one that has ended
                listener.join()


@contextmanager
def in_chromium(driver: Any, api: str, options: dict[str, Any]) -> Iterator[Viewer]:
    driver.get(f"{api}/")
    assert driver.execute_async_script(JOIN, options) is None
    yield (
        lambda: [tuple(one) for one in driver.execute_script("return heard")],
        lambda text: driver.execute_async_script(SAY, json.dumps(text)),
    )
    driver.execute_script("room.close()")


class House:
    """A running stack, as its operations see it."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.told: list[str] = []
        self._headers = {"Authorization": f"Bearer {self.token('ops', 'ops-01')}"}
        self.room: str = self.get("/v1/rooms?state=live")["items"][0]["id"]
        self.sockets: list[str] = self.get(f"/v1/rooms/{self.room}")["sockets"]

    def token(self, role: str, account: str) -> str:
        body = {"brand": "demo", "role": role, "account": account}
        answer = httpx.post(f"{self._stack.api}/v1/auth/dev", json=body).raise_for_status()
        return str(answer.json()["token"])

    def get(self, path: str) -> Any:
        return httpx.get(self._stack.api + path, headers=self._headers).raise_for_status().json()

    @contextmanager
    def two_viewers(self, open_browser: Callable[..., Any]) -> Iterator[dict[str, Viewer]]:
        """One in Node and one in Chromium, both welcomed."""

        def options(account: str) -> dict[str, Any]:
            return {"room": self.room, "sockets": self.sockets, "token": self.token("viewer", account)}

        with (
            in_node(options("node-viewer")) as node,
            in_chromium(open_browser(), self._stack.api, options("chromium-viewer")) as chromium,
        ):
            viewers = {"node": node, "chromium": chromium}
            for name, (heard, _) in viewers.items():
                until(lambda heard=heard: "welcome" in dict(heard()), f"{name} being welcomed")
            yield viewers

    def tell(self, count: int, viewers: dict[str, Viewer], *, wait: bool = True) -> None:
        """Announce ``count`` things; with ``wait``, return once all viewers have heard all there were, and check it."""
        for _ in range(count):
            self.told.append(f"第{len(self.told) + 1}件事")
            path = f"{self._stack.api}/v1/rooms/{self.room}/announce"
            httpx.post(path, headers=self._headers, json={"text": self.told[-1]}, timeout=60).raise_for_status()
        for name, (heard, _) in viewers.items() if wait else ():
            until(lambda heard=heard: len(announced(heard)) >= len(self.told), f"{name} hearing all")
            assert announced(heard) == self.told, name

    def comments(self) -> list[str]:
        return [comment["text"] for comment in self.get(f"/v1/rooms/{self.room}/comments")["items"]]

    def kill(self, *names: str) -> None:
        """Each of them is running at that moment: one killed before may still be on its way back."""
        for name in names:
            until(lambda name=name: self._killed(name), f"{name} running again, to be killed")

    def _killed(self, name: str) -> bool:
        process = self._stack.children[name].process
        assert process is not None
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True


def announced(heard: Heard) -> list[str]:
    return [value["text"] for type, value in heard() if type == "announce"]


def said_in_the_end(name: str, heard: Heard, say: Callable[[str], None]) -> str:
    """What was answered; said anew for as long as gateways take longer to come back than a command waits."""
    for refused in range(20):

        def answered(refused: int = refused) -> bool:
            return "said" in dict(heard()) or len(answers(heard, "refused")) > refused

        until(answered, f"{name} being answered")
        if said := answers(heard, "said"):
            return str(json.loads(said[0]))
        assert answers(heard, "refused")[-1] in ("offline", "no_answer"), name
        say(f"我在{name}\ud83d {refused}")
    raise AssertionError(f"{name} is never answered")


def answers(heard: Heard, kind: str) -> list[str]:
    return [value for type, value in heard() if type == kind]


def test_viewers_of_killed_gateways_hear_everything_once_and_say_everything_once(
    stack: Stack, open_browser: Callable[..., Any]
) -> None:
    house = House(stack)
    assert len(house.sockets) == 2
    with house.two_viewers(open_browser) as viewers:
        house.tell(3, viewers)
        house.kill("gateway-1")
        house.tell(3, viewers)
        house.kill("gateway-1", "gateway-2")
        for name, (_, say) in viewers.items():
            # Without a gateway: it waits for one. The emoji is cut in two, which no gateway could read.
            say(f"我在{name}\ud83d")
        house.tell(4, viewers)
        for name, (heard, say) in viewers.items():
            text = said_in_the_end(name, heard, say).replace("\ud83d", "\ufffd")
            until(lambda text=text: house.comments().count(text), f"{text} being kept")
            assert house.comments().count(text) == 1
            welcomes = [value for type, value in heard() if type == "welcome"]
            assert len(welcomes) > 1, f"{name} was not cut off"
            assert all(welcome["recovered"] for welcome in welcomes[1:]), name
    assert viewers["node"][0]()[-1] == ("state", {"state": "closed", "code": 1000, "reason": "left"})


@pytest.mark.deep
@pytest.mark.timeout(900)
def test_viewers_hear_everything_once_while_gateways_are_killed_again_and_again(
    stack: Stack, open_browser: Callable[..., Any]
) -> None:
    house = House(stack)
    chance = Random(4)
    with house.two_viewers(open_browser) as viewers:
        for _ in range(12):
            house.kill(*chance.choice([("gateway-1",), ("gateway-2",), ("gateway-1", "gateway-2")]))
            house.tell(chance.randrange(1, 8), viewers, wait=chance.random() < 0.7)
        house.tell(1, viewers)
