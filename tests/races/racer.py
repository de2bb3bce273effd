"""One process of a race: reads its task as JSON from its first argument, waits for the start, says what it got.

It prints ``ready`` when it is connected, starts when a line comes on standard input, and prints one JSON line.
"""

import asyncio
import json
import sys
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from coupons import campaigns, drops, ledger, push, redemption
from coupons.codes import Signer
from coupons.issuing import Issuer
from coupons.tables import Campaign
from geo.catchments import Catchments
from kernel.clock import now
from kernel.errors import Refusal
from kernel.identity import Principal, Role
from kernel.postgres import Sessions, create_engine, create_sessions, transaction
from kernel.settings import Settings


def _who(role: Role, subject: str, store: str | None = None) -> Principal:
    expires = now() + timedelta(hours=1)
    return Principal("acme", UUID(subject), role, role.value, expires, None if store is None else UUID(store))  # type: ignore[arg-type]


async def claim(sessions: Sessions, task: dict[str, Any]) -> list[str]:
    """Each viewer claims once, all at the same time: the coupon's id, or the refusal's code.

    With ``below`` only half of them: the others as soon as the campaign's stock is below that.
    """

    async def one(viewer: str) -> str:
        try:
            card = await issuer.claim(_who(Role.VIEWER, viewer), UUID(task["room"]), UUID(task["drop"]), task["key"])
        except Refusal as refusal:
            return refusal.code
        return str(card.id)

    async with Issuer(sessions, Catchments(sessions)) as issuer:
        await _start()
        viewers, below = task["viewers"], task.get("below")
        if below is None:
            return list(await asyncio.gather(*map(one, viewers)))
        first = await asyncio.gather(*map(one, viewers[::2]))
        while (await _campaign(sessions, task)).stock >= below:
            await asyncio.sleep(0.001)
        return first + await asyncio.gather(*map(one, viewers[1::2]))


async def redeem(sessions: Sessions, task: dict[str, Any]) -> list[str]:
    """Redeem one code with each key, at the same time: the redemption's id, or the refusal's code."""
    signer, presented = Signer(bytes.fromhex(task["seed"])), redemption.Presented(task["code"], None)

    async def one(key: str) -> str:
        clerk = _who(Role.CLERK, str(uuid4()), task["store"])
        try:
            async with transaction(sessions) as session:
                used = await redemption.redeem(session, clerk, presented, 20_000, key, signer, now())
        except Refusal as refusal:
            return refusal.code
        return str(used.id)

    await _start()
    return list(await asyncio.gather(*map(one, task["keys"])))


async def take_back(sessions: Sessions, task: dict[str, Any]) -> list[str]:
    """Reverse one redemption several times at once: when it was taken back, or the refusal's code."""

    async def one() -> str:
        clerk = _who(Role.CLERK, str(uuid4()), task["store"])
        try:
            async with transaction(sessions) as session:
                used = await redemption.reverse(session, clerk, UUID(task["redemption"]), now())
        except Refusal as refusal:
            return refusal.code
        return str(used.reversed_at)

    await _start()
    return list(await asyncio.gather(*(one() for _ in range(task["times"]))))


async def expire(sessions: Sessions, task: dict[str, Any]) -> list[str]:
    """Sweep as of a moment, several times at once, until nothing is left: how many coupons each of them expired."""
    moment = datetime.fromisoformat(task["moment"])

    async def sweep() -> str:
        total = 0
        while done := await ledger.expire_due(sessions, moment, task.get("chunk", 1000)):
            total += done
        return str(total)

    await _start()
    return list(await asyncio.gather(*(sweep() for _ in range(task["times"]))))


async def lower_budget(sessions: Sessions, task: dict[str, Any]) -> list[str]:
    """Lower a campaign's stock by a few again and again, from when ``given`` coupons are given until all are: the stock
    it was left with."""
    ops = _who(Role.OPS, str(uuid4()))
    campaign = UUID(task["campaign"])
    await _start()
    while (await _campaign(sessions, task)).issued < task["given"]:
        await asyncio.sleep(0.001)
    while True:
        seen = await _campaign(sessions, task)
        if seen.issued >= seen.stock or seen.stock <= task["least"]:
            return [str(seen.stock)]
        with suppress(Refusal):  # claims were faster
            async with transaction(sessions) as session:
                await campaigns.change_stock(session, ops, campaign, seen.stock, seen.stock - task["step"])


async def _campaign(sessions: Sessions, task: dict[str, Any]) -> Campaign:
    async with sessions() as session:
        return await campaigns.get(session, "acme", UUID(task["campaign"]))


async def run_push(sessions: Sessions, task: dict[str, Any]) -> list[str]:
    """Run a push drop in small chunks: how many coupons this process granted."""
    push.CHUNK = task["chunk"]
    await _start()
    return [str(await drops.run_push(sessions, UUID(task["drop"])))]


async def _start() -> None:
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)


async def main() -> None:
    task = json.loads(sys.argv[1])
    engine = create_engine(Settings())
    async with engine.connect():
        pass
    races = {"claim": claim, "redeem": redeem, "reverse": take_back, "expire": expire, "push": run_push}
    do = (races | {"budget": lower_budget})[task["do"]]
    got = await do(create_sessions(engine), task)
    await engine.dispose()
    print(json.dumps(got), flush=True)


asyncio.run(main())
