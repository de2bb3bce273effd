"""``msgSecCheck`` against a stand-in for WeChat's server that speaks real HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert
from tokenstub import WeChat, asked_with_token

from guides.content_check import CheckFailed, ContentCheck
from guides.tables import Member
from kernel.ids import new_id
from kernel.postgres import transaction
from kernel.process import Kernel
from kernel.tables import Brand

GOOD = {"errcode": 0, "result": {"suggest": "pass", "label": 100}}
RISKY = {"errcode": 0, "result": {"suggest": "risky", "label": 20001}}


def wechat() -> AbstractAsyncContextManager[WeChat]:
    return asked_with_token("/wxa/msg_sec_check", lambda body: str(body["content"]), GOOD)


async def member(kernel: Kernel) -> UUID:
    id = new_id()
    async with transaction(kernel.sessions) as session:
        await session.execute(insert(Brand).values(id="acme", name="Acme"))
        await session.execute(insert(Member).values(id=id, brand_id="acme", openid="o-1", name="小林"))
    return id


@asynccontextmanager
async def checking(kernel: Kernel, url: str) -> AsyncIterator[ContentCheck]:
    update = {"wechat_base_url": url, "wechat_app_id": "wx1"}
    async with ContentCheck(kernel.settings.model_copy(update=update), kernel.sessions) as check:
        yield check


async def verdict(check: ContentCheck, viewer: UUID, text: str) -> str:
    """The verdict, once there is a token."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await check.check(viewer, text)
            except CheckFailed as failure:
                assert str(failure) == "no access token", failure
                await asyncio.sleep(0.01)


async def test_wechat_is_asked_with_token_and_openid_and_believed(kernel: Kernel) -> None:
    viewer = await member(kernel)
    async with wechat() as stub, checking(kernel, stub.url) as check:
        stub.answers["坏"] = RISKY
        assert await verdict(check, viewer, "好") == "pass"
        assert await verdict(check, viewer, "坏") == "risky"
        assert stub.asked[0] == ("T1", {"version": 2, "scene": 2, "openid": "o-1", "content": "好"})
        assert stub.tokens == [{"grant_type": "client_credential", "appid": "wx1", "secret": ""}]


@pytest.mark.parametrize("answer", [500, {"errcode": -1}, {"errcode": 0}, [], {"result": {"suggest": "dance"}}])
async def test_an_answer_that_is_none_is_said_to_be_none(kernel: Kernel, answer: Any) -> None:
    viewer = await member(kernel)
    async with wechat() as stub, checking(kernel, stub.url) as check:
        await verdict(check, viewer, "好")
        stub.answers["怪"] = answer
        with pytest.raises(CheckFailed):
            await check.check(viewer, "怪")
        with pytest.raises(CheckFailed, match="no openid"):
            await check.check(new_id(), "好")


async def test_a_token_that_wechat_refuses_is_replaced(kernel: Kernel) -> None:
    viewer = await member(kernel)
    async with wechat() as stub, checking(kernel, stub.url) as check:
        await verdict(check, viewer, "好")
        stub.answers["旧"] = {"errcode": 42001}
        with pytest.raises(CheckFailed, match="42001"):
            await check.check(viewer, "旧")
        assert await verdict(check, viewer, "好") == "pass"
        assert stub.asked[-1][0] == "T2"


async def test_without_wechat_there_is_no_verdict_and_no_wait(kernel: Kernel, free_port: int) -> None:
    async with checking(kernel, f"http://127.0.0.1:{free_port}") as check:
        with pytest.raises(CheckFailed, match="no access token"):
            await check.check(new_id(), "好")
