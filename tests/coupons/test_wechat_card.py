"""Coupons for WeChat's own card wallet: how they are signed, when the ticket is asked for, when there is no card."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest
from pydantic import SecretStr
from world import World

from coupons import codes, wallet
from coupons.push import run_push
from coupons.wechat_card import AGAIN, Cards, signature
from kernel.clock import now
from kernel.errors import Refusal


class Stub:
    """A stand-in for WeChat's server: real HTTP on a free port."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[str] = []
        self.answers: dict[str, object] = {
            "/cgi-bin/stable_token": {"access_token": "TOKEN", "expires_in": 7200},
            "/cgi-bin/ticket/getticket": {"errcode": 0, "errmsg": "ok", "ticket": "TICKET", "expires_in": 7200},
        }

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        target = urlsplit(head.split(" ", 2)[1])
        length = next((line for line in head.lower().splitlines() if line.startswith("content-length:")), ": 0")
        sent = (await reader.readexactly(int(length.partition(":")[2]))).decode()
        self.asked.append(f"{target.path} {sent}{parse_qs(target.query) or ''}")
        body = json.dumps(self.answers[target.path]).encode()
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    stub = Stub()
    async with await asyncio.start_server(stub.serve, "127.0.0.1", 0) as server:
        stub.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield stub


def test_the_signature_is_the_sha1_of_the_sorted_values() -> None:
    # "1404896688" < "abc" < "jonyqin_1434008071" < "ojZ8…" < "pjZ8…": as strings, whatever they mean.
    values = ["ojZ8YtyVyr30HheH3CM73y7h4jJE", "jonyqin_1434008071", "pjZ8Yt1XGILfi-FUsewpnnolGgZk", "1404896688", "abc"]
    joined = "1404896688abcjonyqin_1434008071ojZ8YtyVyr30HheH3CM73y7h4jJEpjZ8Yt1XGILfi-FUsewpnnolGgZk"
    assert signature(values) == signature(reversed(values)) == hashlib.sha1(joined.encode()).hexdigest()


async def test_a_coupon_becomes_a_signed_card_and_the_ticket_is_asked_for_once(world: World, stub: Stub) -> None:
    (viewer, other) = await world.viewers(2)
    drop = await world.drop(await world.campaign(wechat_card="pCard", title="有卡"), "push", 2)
    plain = await world.drop(await world.campaign(), "push", 2)
    for each in (drop, plain):
        await run_push(world.kernel.sessions, each)
    settings = world.kernel.settings.model_copy(
        update={
            "wechat_base_url": stub.url,
            "wechat_card_app_id": "wxOFFICIAL",
            "wechat_card_secret": SecretStr("HUSH"),
        }
    )

    async def coupon(of: UUID) -> tuple[UUID, str]:
        query = "SELECT id, code FROM coupons WHERE drop_id = :drop AND viewer_id = :viewer"
        (row,) = await world.execute(query, drop=of, viewer=viewer.subject)
        return row.id, row.code

    mine, code = await coupon(drop)
    at = now()
    async with Cards(settings) as cards, world.kernel.sessions() as session:
        both = await asyncio.gather(*(cards.card("pCard", "C", at) for _ in range(2)))
        card = await wallet.wechat_card(session, viewer, mine, cards, at)
        assert len(stub.asked) == 2
        assert '"appid":"wxOFFICIAL"' in stub.asked[0]
        assert stub.asked[1] == "/cgi-bin/ticket/getticket {'access_token': ['TOKEN'], 'type': ['wx_card']}"
        told = json.loads(card.card_ext)
        assert card.card_id == "pCard"
        assert told["code"] == codes.display(code).replace("-", "")
        assert codes.parse(told["code"]) == code  # as a till reads it
        values = ["TICKET", str(told["timestamp"]), "pCard", told["code"], told["nonce_str"]]
        assert told["signature"] == hashlib.sha1("".join(sorted(values)).encode()).hexdigest()
        assert len({json.loads(one.card_ext)["nonce_str"] for one in (*both, card)}) == 3
        with pytest.raises(Refusal, match="no_card"):
            await wallet.wechat_card(session, viewer, (await coupon(plain))[0], cards, at)
        with pytest.raises(Refusal, match="no_card"):
            await wallet.wechat_card(session, viewer, mine, None, at)
        with pytest.raises(Refusal, match="not_found"):
            await wallet.wechat_card(session, other, mine, cards, at)
        with pytest.raises(Refusal, match="coupon_expired"):
            await wallet.wechat_card(session, viewer, mine, cards, at + timedelta(days=30))
        # Before the ticket ends it is renewed; while WeChat gives none it is left alone for a while.
        later = at + timedelta(seconds=7200)
        stub.answers["/cgi-bin/ticket/getticket"] = {"errcode": 45009, "errmsg": "reach max api daily quota limit"}
        for _ in range(2):
            with pytest.raises(Refusal, match="unavailable"):
                await cards.card("pCard", "C", later)
        assert len(stub.asked) == 4
        stub.answers["/cgi-bin/ticket/getticket"] = {"ticket": "NEXT", "expires_in": 7200}
        assert (await cards.card("pCard", "C", later + AGAIN)).card_id == "pCard"
