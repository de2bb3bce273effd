import logging
import traceback
from collections.abc import AsyncIterator

import pytest
import structlog
from pydantic import SecretStr
from wechatstub import Answer, Stub, wechat

from guides import wechat as ours
from guides.wechat import WeChat
from kernel.errors import Refusal
from kernel.settings import Settings


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    async with wechat() as running:
        yield running


@pytest.fixture
async def client(stub: Stub) -> AsyncIterator[WeChat]:
    settings = Settings(wechat_base_url=stub.url, wechat_app_id="wx1", wechat_secret=SecretStr("APP-SECRET"))
    found = WeChat(settings)
    yield found
    await found.close()


async def test_a_code_becomes_an_openid(stub: Stub, client: WeChat) -> None:
    assert await client.openid("abc") == "o-abc"
    assert stub.asked == [
        {"appid": "wx1", "secret": "APP-SECRET", "js_code": "abc", "grant_type": "authorization_code"}
    ]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"errcode": 40029, "errmsg": "invalid code"}, "login_failed"),
        ({"errcode": 40163, "errmsg": "code been used"}, "login_failed"),
        ({"errcode": 40226, "errmsg": "code blocked"}, "login_failed"),
        ({"errcode": 40029, "openid": "o1"}, "login_failed"),
        ({}, "login_failed"),
        ({"errcode": 45011, "errmsg": "api minute-quota reach limit"}, "too_fast"),
        ({"errcode": -1, "errmsg": "system error"}, "login_unavailable"),
        (b"<html>502</html>", "login_unavailable"),
        (b"", "login_unavailable"),
        (b"[]", "login_unavailable"),
        (b'{"openid": 7}', "login_unavailable"),
        (b'{"openid": ""}', "login_unavailable"),
        (b'{"openid": "a\\u0000b"}', "login_unavailable"),
        (b'{"openid": "\xff"}', "login_unavailable"),
        (500, "login_unavailable"),
        (302, "login_unavailable"),
    ],
)
async def test_what_wechat_does_not_grant_is_a_refusal(stub: Stub, client: WeChat, answer: Answer, code: str) -> None:
    stub.answers["c"] = answer
    with pytest.raises(Refusal) as refused:
        await client.openid("c")
    assert refused.value.code == code


async def test_an_answer_with_errcode_zero_is_a_success(stub: Stub, client: WeChat) -> None:
    stub.answers["c"] = {"openid": "o1", "session_key": "k", "errcode": 0}
    assert await client.openid("c") == "o1"


async def test_a_silent_wechat_is_given_up_on(stub: Stub, client: WeChat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "TIMEOUT_SECONDS", 0.05)
    stub.answers["c"] = None
    with pytest.raises(Refusal) as refused:
        await client.openid("c")
    assert (refused.value.code, refused.value.status) == ("login_unavailable", 503)


async def test_a_wechat_that_is_not_there_is_unavailable(free_port: int) -> None:
    client = WeChat(Settings(wechat_base_url=f"http://127.0.0.1:{free_port}"))
    with pytest.raises(Refusal) as refused:
        await client.openid("c")
    assert refused.value.code == "login_unavailable"
    await client.close()


async def test_neither_secret_nor_session_key_nor_code_reaches_the_log(
    stub: Stub, client: WeChat, caplog: pytest.LogCaptureFixture
) -> None:
    stub.answers |= {"bad-code": {"errcode": 40029, "errmsg": "x"}, "odd-code": b"garbage", "down-code": 500}
    with caplog.at_level(logging.INFO), structlog.testing.capture_logs() as told:
        await client.openid("good-code")
        for code in ("bad-code", "odd-code", "down-code"):
            with pytest.raises(Refusal) as refused:
                await client.openid(code)
            assert "APP-SECRET" not in "".join(traceback.format_exception(refused.value))
    everything = caplog.text + repr(told)
    assert [line["event"] for line in told] == ["wechat_refused", "wechat_unavailable", "wechat_unavailable"]
    for secret in ("APP-SECRET", "SESSION-KEY", "-code"):
        assert secret not in everything
