"""Where somebody is stands in one table and nowhere else: looked for in logs, metrics, dumps, Redis and exports."""

import logging
import re
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
import structlog
from callers import Somebody, first_store
from websockets.asyncio.client import ClientConnection, connect

from app import audience
from app.up import Stack
from geo.datum import Datum, to_canonical
from kernel import log
from kernel.redis import create_client
from kernel.settings import Settings
from live import wire

Pair = tuple[float, float]


def traces(places: Sequence[tuple[Pair, Datum]]) -> list[bytes]:
    """How ``places`` could look wherever they were written: as given and in the canonical frame, to about a metre."""
    return written({number for pair, datum in places for number in (*pair, *to_canonical(*pair, datum))}, 5)


def written(numbers: Iterable[float], decimals: int) -> list[bytes]:
    """How ``numbers`` could look: as so many digits, and as the eight bytes of a float, raw or in hexadecimal."""
    found: list[bytes] = []
    for number in numbers:
        found.append(re.sub(rf"(\.\d{{{decimals}}}).*", r"\1", f"{number:.9f}").encode())
        for order in "<>":
            packed = struct.pack(f"{order}d", number)
            found += [packed, packed.hex().encode(), packed.hex().upper().encode()]
    return found


def holding(texts: dict[str, bytes], needles: Sequence[bytes]) -> set[str]:
    """Which of ``texts`` hold any of ``needles``."""
    return {name for name, text in texts.items() if any(needle in text for needle in needles)}


# ---- a traceback is not pretty -------------------------------------------------------------------------------------


@pytest.fixture
def logged(settings: Settings) -> Iterator[None]:
    """Whatever the test does to logging is undone."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize("library", [False, True], ids=["ours", "a library's"])
def test_a_traceback_shows_no_variables(
    capfd: pytest.CaptureFixture[str], settings: Settings, logged: None, form: str, library: bool
) -> None:
    log.configure(settings.model_copy(update={"log_format": form}), "test")
    lng, token = 121.4739137, "eyJ-secret"

    def fail(lng: float, token: str) -> None:
        raise ZeroDivisionError("in the middle of it")

    try:
        fail(lng, token)
    except ZeroDivisionError:
        if library:
            logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
        else:
            structlog.get_logger().exception("broke")
    said = capfd.readouterr().err
    assert "in the middle of it" in said
    assert "Traceback" in said
    assert str(lng) not in said
    assert token not in said


# ---- real processes ------------------------------------------------------------------------------------------------


async def say(socket: ClientConnection, *frames: wire.Frame | str) -> None:
    for frame in frames:
        await socket.send(frame if isinstance(frame, str) else wire.encoder.encode(frame).decode())


async def hear(socket: ClientConnection, id: str) -> wire.Ack:
    while True:
        frame = wire.server_frames.decode(await socket.recv())
        if isinstance(frame, wire.Ack) and frame.id == id:
            return frame


async def files(stack: Stack) -> dict[str, bytes]:
    """Every log of every process, PostgreSQL's and Redis' own among them."""
    folder = stack.settings.state_dir
    return {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and (path.suffix == ".log" or "log" in path.parent.name)
    }


async def metrics(stack: Stack) -> dict[str, bytes]:
    worker = f"http://127.0.0.1:{stack.children['worker'].environment['NEARCAST_WORKER_PORT']}"
    async with httpx.AsyncClient(timeout=60) as client:
        return {
            f"{one}/metrics": (await client.get(f"{one}/metrics")).raise_for_status().content
            for one in (stack.api, *stack.gateways, worker)
        }


def dumped(stack: Stack, *more: str) -> bytes:
    assert stack.settings.database_url is not None
    [newest, *_] = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_dump"), reverse=True)
    return subprocess.run([newest, stack.settings.database_url, *more], check=True, capture_output=True).stdout


def audited(stack: Stack) -> bytes:
    command = [sys.executable, "-m", "app.cli", "audit"]
    done = subprocess.run(command, env=stack.children["worker"].environment, capture_output=True, check=True)
    return done.stdout + done.stderr


async def redis_values(stack: Stack) -> dict[str, bytes]:
    client: Any = create_client(stack.settings)
    read = {
        b"string": client.get, b"hash": client.hgetall, b"set": client.smembers, b"stream": client.xrange,
        b"list": lambda key: client.lrange(key, 0, -1), b"zset": lambda key: client.zrange(key, 0, -1),
    }  # fmt: skip
    try:
        found: dict[str, bytes] = {}
        async for key in client.scan_iter():
            value = await read[await client.type(key)](key)
            found[f"redis {key.decode()}"] = key + b" " + flat(value)
        return found
    finally:
        await client.aclose()


def flat(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict):
        return b" ".join(flat(key) + b" " + flat(one) for key, one in value.items())
    if isinstance(value, list | tuple | set):
        return b" ".join(map(flat, value))
    return str(value).encode()


KEPT = "SELECT ST_X(position::geometry), ST_Y(position::geometry) FROM locations"


async def evening(stack: Stack) -> list[bytes]:
    """The demo's audience plays a short evening; returns how the positions that are kept of it could look, to a
    centimetre: there are so many of them that fewer digits are somebody else's as well."""
    assert await audience.run(stack.api, 40, 12) == 0
    assert stack.settings.database_url is not None
    database = await asyncpg.connect(stack.settings.database_url)
    try:
        places = [tuple(row) for row in await database.fetch(KEPT)]
        told = await database.fetchrow("SELECT count(*), count(redeemed_at) FROM coupons")
    finally:
        await database.close()
    assert len(places) > 10 and min(told) > 0, "there was something to find"
    return written({number for place in places for number in place}, 7)


@pytest.mark.timeout(900)
async def test_positions_are_in_one_table_and_nowhere_else(stack: Stack) -> None:
    theirs = await evening(stack)
    viewer, doubter = Somebody(stack.api, "viewer", "far-traveller"), Somebody(stack.api, "viewer", "without-consent")
    ops = Somebody(stack.api, "ops", "ops-01")
    store = first_store(ops)
    room = ops.get("/v1/rooms?state=live").json()["items"][0]["id"]
    around: list[tuple[Pair, Datum]] = [
        ((round(store["lng"], 2) + 0.0013717 + place * 0.0011113, round(store["lat"], 2) + 0.0017371), datum)
        for place, datum in enumerate(("wgs84", "gcj02", "bd09"))
    ]  # type: ignore[misc]
    needles = traces(around)

    async def looked_at() -> dict[str, bytes]:
        return {
            **await files(stack), **await metrics(stack), **await redis_values(stack),
            "dump": dumped(stack, "--exclude-table-data=locations"),
        }  # fmt: skip

    assert holding(await looked_at(), needles) == set(), "these numbers are nobody else's"
    assert holding({"locations": dumped(stack, "--table=locations")}, theirs), "what is kept would be seen"
    assert holding(await looked_at(), theirs) == set()

    viewer.put("/v1/me/consents/location", {"version": "2026-11"})
    terms = {
        "title": "满30减8",
        "kind": "amount",
        "amount_fen": 800,
        "threshold_fen": 3000,
        "stock": 9,
        "valid_days": 7,
    }
    campaign = ops.post("/v1/campaigns", {**terms, "radius_m": 9000, "per_viewer": 3})["id"]
    ops.post(f"/v1/campaigns/{campaign}/run", {})
    released = {"campaign": campaign, "mode": "claim", "stock": 9, "seconds": 600}
    drop = UUID(ops.post(f"/v1/rooms/{room}/drops", released)["id"])
    granted: list[wire.CouponCard | None] = []
    url = stack.gateways[0].replace("http", "ws")
    for (lng, lat), datum in around:
        for query in (
            f"lng={lng}&lat={lat}&datum={datum}", f"lng={lng}&lat={lat}&datum=mars", f"lng={lng}x&lat={lat}",
            f"lng={lng}&lat=9{lat}&datum={datum}",
        ):  # fmt: skip
            viewer.get(f"/v1/stores/nearby?{query}")
            viewer.get(f"/v1/me/wallet?order=nearest&{query}")
        viewer.get(f"/v1/{lng}/{lat}")
        viewer.put("/v1/me/consents/location", {"version": {"lng": lng, "lat": lat}})
        refused = f'{{"t":"locate","lng":{lng},"lat":"{lat}"}}'
        async with connect(f"{url}/v1/rooms/{room}/live?lng={lng}&lat={lat}", open_timeout=90) as socket:
            await say(socket, wire.Hello(viewer.token), wire.Locate(lng, lat, datum, None, f"vague-{datum}"))
            await say(socket, wire.Locate(lng, lat, datum, 12.0, f"fix-{datum}"))
            assert (await hear(socket, f"vague-{datum}")).error is not None
            assert (await hear(socket, f"fix-{datum}")).ok
            kept = dumped(stack, "--table=locations")
            assert holding({"locations": kept}, needles), "what is kept would be seen"
            await say(socket, wire.Claim(f"claim-{datum}", drop))
            granted.append((await hear(socket, f"claim-{datum}")).coupon)
            await say(socket, refused)
        async with connect(f"{url}/v1/rooms/{room}/live", open_timeout=90) as socket:
            await say(socket, wire.Hello(doubter.token), wire.Locate(lng, lat, datum, 12.0, f"no-{datum}"))
            error = (await hear(socket, f"no-{datum}")).error
            assert error is not None
            assert error.code == "consent_missing"

    assert any(granted), "a coupon that came of it is looked through as well"

    # The database fails in the middle of it: errors of ours, and the server's own log.
    database = await asyncpg.connect(stack.settings.database_url)
    (lng, lat), datum = around[0]
    try:
        await database.execute("ALTER TABLE locations RENAME TO away")
        await database.execute("ALTER TABLE stores RENAME COLUMN position TO away")
        assert viewer.get(f"/v1/stores/nearby?lng={lng}&lat={lat}&datum={datum}").status_code == 500
        async with connect(f"{url}/v1/rooms/{room}/live", open_timeout=90) as socket:
            await say(socket, wire.Hello(viewer.token), wire.Locate(lng, lat, datum, 12.0, "broken"))
            assert (await hear(socket, "broken")).error is not None
    finally:
        await database.execute("ALTER TABLE away RENAME TO locations")
        await database.execute("ALTER TABLE stores RENAME COLUMN away TO position")
    closing = ops.get(f"/v1/till/closing?store={store['code']}").content
    seen = {**await looked_at(), "closing": closing, "audit": audited(stack)}
    assert holding(seen, needles) == set()
    assert not [name for name, text in seen.items() if viewer.token.encode() in text], "nor is a token"

    # What would have been found: one number of each kind, planted where it must not be.
    planted = Path(next(name for name in seen if name.endswith("api.log")))
    planted.write_bytes(planted.read_bytes() + f"lng={lng}\n".encode())
    client: Any = create_client(stack.settings)
    await client.set("planted", struct.pack(">d", lat))
    await client.aclose()
    await database.execute("UPDATE rooms SET announcement = $1 WHERE id = $2", f"{to_canonical(lng, lat, datum)}", room)
    await database.close()
    assert holding(await looked_at(), needles) == {str(planted), "redis planted", "dump"}
