"""Subscribe messages against a stand-in for WeChat's server that speaks real HTTP, as the worker sends them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import insert
from tokenstub import WeChat, asked_with_token

from app.notifier import Notifier
from guides.notices import Notices
from guides.tables import Member
from kernel.ids import new_id
from kernel.postgres import transaction
from kernel.process import Kernel
from kernel.tables import Brand
from live.ports import Reminder


def wechat() -> AbstractAsyncContextManager[WeChat]:
    return asked_with_token("/cgi-bin/message/subscribe/send", lambda body: str(body["touser"]), {"errcode": 0})


@asynccontextmanager
async def notifying(kernel: Kernel, url: str) -> AsyncIterator[Notifier]:
    settings = kernel.settings.model_copy(update={"wechat_base_url": url, "wechat_app_id": "wx1"})
    async with Notices(settings, kernel.sessions, "TPL") as notices:
        yield Notifier(settings, notices)


async def members(kernel: Kernel, *openids: str) -> list[Reminder]:
    """A reminder for each of some new members."""
    ids = [new_id() for _ in openids]
    async with transaction(kernel.sessions) as session:
        await session.execute(insert(Brand).values(id="acme", name="Acme"))
        rows = [
            {"id": id, "brand_id": "acme", "openid": openid, "name": openid}
            for id, openid in zip(ids, openids, strict=True)
        ]
        await session.execute(insert(Member), rows)
    return [reminder(id) for id in ids]


def reminder(viewer: UUID, title: str = "周五新品试喝") -> Reminder:
    at = datetime(2026, 6, 18, 12, 30, tzinfo=UTC)
    return Reminder(viewer, new_id(), title, "阿May", live=False, at=at, zone="Asia/Shanghai")


async def said(notifier: Notifier, reminders: list[Reminder]) -> dict[UUID, str]:
    return {told.viewer: outcome async for told, outcome in notifier.remind(reminders)}


async def settled(notifier: Notifier, reminders: list[Reminder]) -> dict[UUID, str]:
    """As ``said``, once there is a token."""
    async with asyncio.timeout(60):
        while "later" in (outcomes := await said(notifier, reminders)).values():
            await asyncio.sleep(0.01)
    return outcomes


async def test_the_template_is_filled_and_opens_the_room(kernel: Kernel) -> None:
    [told] = await members(kernel, "o-1")
    told = reminder(told.viewer, "长" * 30)
    async with wechat() as stub, notifying(kernel, stub.url) as notifier:
        assert await settled(notifier, [told]) == {told.viewer: "sent"}
        [(token, body)] = stub.asked
    assert token == "T1"
    assert body == {
        "touser": "o-1",
        "template_id": "TPL",
        "page": f"pages/room/index?room={told.room}",
        "data": {
            "thing1": {"value": "长" * 19 + "…"},
            "time2": {"value": "2026-06-18 20:30"},
            "thing3": {"value": "阿May"},
        },
    }


async def test_each_answer_means_what_wechat_says_it_means(kernel: Kernel) -> None:
    cases = {
        "fine": ({"errcode": 0}, "sent"),
        "refuses": ({"errcode": 43101, "errmsg": "user refuse to accept the msg"}, "refused"),
        "nobody": ({"errcode": 40003}, "unknown"),
        "wrong": ({"errcode": 47003}, "failed"),
        "busy": ({"errcode": -1}, "later"),
        "quota": ({"errcode": 45009}, "later"),
        "broken": (500, None),
        "silent": (None, None),
        "odd": ([], None),
    }
    everybody = await members(kernel, *cases)
    stranger = reminder(new_id())
    async with wechat() as stub, notifying(kernel, stub.url) as notifier:
        await settled(notifier, everybody[:1])
        stub.answers = {openid: answer for openid, (answer, _) in cases.items()}
        outcomes = await said(notifier, [*everybody, stranger])
    expected = {told.viewer: outcome for told, (_, outcome) in zip(everybody, cases.values(), strict=True)}
    assert {viewer: outcomes.get(viewer) for viewer in expected} == expected
    assert outcomes[stranger.viewer] == "unknown"


async def test_a_token_that_wechat_refuses_is_replaced_and_the_reminder_goes_out(kernel: Kernel) -> None:
    everybody = await members(kernel, *(f"o{n}" for n in range(30)))
    async with wechat() as stub, notifying(kernel, stub.url) as notifier:
        await settled(notifier, everybody[:1])
        stub.answers = {f"o{n}": {"errcode": 42001} for n in range(30)}
        assert set((await said(notifier, everybody)).values()) == {"later"}
        stub.answers = {}
        assert set((await settled(notifier, everybody)).values()) == {"sent"}
        assert stub.asked[-1][0] == "T2"
        assert len(stub.tokens) == 2


async def test_without_wechat_nothing_went_out(kernel: Kernel, free_port: int) -> None:
    [told] = await members(kernel, "o-1")
    async with notifying(kernel, f"http://127.0.0.1:{free_port}") as notifier:
        assert await said(notifier, [told]) == {told.viewer: "later"}


async def test_whoever_stops_listening_leaves_no_request_behind(kernel: Kernel) -> None:
    everybody = await members(kernel, *(f"o{n}" for n in range(5)))
    async with wechat() as stub, notifying(kernel, stub.url) as notifier:
        await settled(notifier, everybody[:1])
        sending = notifier.remind(everybody)
        assert (await anext(sending))[1] == "sent"
        await sending.aclose()
        assert not [task for task in asyncio.all_tasks() if "one" in str(task.get_coro())]
