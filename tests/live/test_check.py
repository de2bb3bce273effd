"""Comments that are looked at outside before the room sees them."""

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from roomworld import World
from viewers import Client, gateway, watching

from live import wire
from live.ports import Unchecked


class Judge:
    """Says what the text says; of ``silence`` nothing for ever."""

    def __init__(self) -> None:
        self.asked: list[tuple[UUID, str]] = []

    async def check(self, viewer: UUID, text: str) -> Any:
        self.asked.append((viewer, text))
        if text == "silence":
            await asyncio.Event().wait()
        if text == "away":
            raise Unchecked("away")
        return text


async def outcome(client: Client, text: str) -> str | None:
    await client.send(wire.Comment(text, text))
    answer = await client.ack(text)
    return None if answer.error is None else answer.error.code


@pytest.mark.parametrize(("policy", "down"), [("pass", None), ("refuse", "unavailable")])
async def test_verdicts_and_the_policy_when_there_is_none(world: World, policy: str, down: str | None) -> None:
    settings = world.kernel.settings.model_copy(update={"msg_sec_check_down": policy})
    kernel, judge = replace(world.kernel, settings=settings), Judge()
    async with (
        gateway(kernel, checker=judge) as one,
        watching(one.url, kernel.keyring, world.room, world.viewer) as me,
    ):
        assert await outcome(me, "pass") is None
        assert await outcome(me, "review") is None
        assert await outcome(me, "risky") == "blocked_words"
        assert await outcome(me, "silence") == down
        assert await outcome(me, "away") == down
        assert one.tally.checks == {"pass": 1, "review": 1, "risky": 1, "down": 2}
        assert judge.asked[0] == (world.viewer.subject, "pass")


async def test_staff_are_not_looked_at_and_our_own_words_come_first(world: World) -> None:
    judge = Judge()
    async with (
        gateway(world.kernel, checker=judge) as one,
        watching(one.url, world.kernel.keyring, world.room, world.guide) as guide,
        watching(one.url, world.kernel.keyring, world.room, world.viewer) as me,
    ):
        assert await outcome(guide, "risky") is None
        assert await outcome(me, "加微信") == "blocked_words"
        assert judge.asked == []
