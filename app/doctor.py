"""``nearcast doctor``: what would go wrong tonight because of how things are set up, and what to do about it."""

import asyncio
import base64
import binascii
import os
import resource
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import ValidationError
from redis.asyncio import RedisCluster
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app import migrations
from app.problems import of_settings
from coupons.issuing import WORKERS
from kernel.clock import now
from kernel.postgres import create_engine
from kernel.redis import Client, create_client
from kernel.settings import PREFIX, Settings

State = Literal["ok", "warn", "fail"]
POSTGRES_OLDEST, POSTGIS_OLDEST, REDIS_OLDEST = 14, (3, 1), 7
SOCKETS_WANTED = 20_000
"""Descriptors with which a gateway holds a peak on one core."""
KEY_BYTES = 32
CLOCKS_WARN_SECONDS, CLOCKS_FAIL_SECONDS = 1.0, 5.0
"""Clocks that differ by more shift the opening of drops; by still more, tokens and QR codes end early or late."""
SERVER_SECONDS = 10.0
DURABLE = ("fsync", "full_page_writes", "synchronous_commit")
"""PostgreSQL's settings without which a crash takes back what was answered."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and (unless ``state`` is ``ok``) what to do."""

    check: str
    state: State
    said: str
    advice: str = ""


def read_settings() -> tuple[Settings | None, list[Finding]]:
    """The environment's settings, None if they cannot be read; and what is wrong with them."""
    try:
        settings = Settings()
    except ValidationError as error:
        return None, [
            Finding("settings", "fail", of_settings(error), "Correct these; docs/operations.md lists every setting.")
        ]
    return settings, advised(settings, os.environ)


def advised(settings: Settings, environment: Mapping[str, str]) -> list[Finding]:
    """What ``settings`` would lead to, and what ``environment`` says that nothing reads."""
    found = []
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    if unknown := sorted(name for name in environment if name.startswith(PREFIX) and name not in known):
        said = f"nothing reads {', '.join(unknown)}"
        found.append(Finding("settings", "warn", said, "Look for a typing mistake; docs/operations.md has the names."))
    loopback = settings.api_host in ("127.0.0.1", "::1", "localhost")
    if settings.dev_login and not loopback:
        said = f"dev login is on, and the API listens on {settings.api_host}: anyone can become anyone"
        found.append(Finding("login", "fail", said, f"Unset {PREFIX}DEV_LOGIN."))
    elif not settings.dev_login and not (settings.wechat_app_id and settings.wechat_secret.get_secret_value()):
        said = "neither WeChat's credentials nor dev login are set: nobody can log in"
        found.append(Finding("login", "warn", said, f"Set {PREFIX}WECHAT_APP_ID and {PREFIX}WECHAT_SECRET."))
    for name, key in settings.token_keys.items():
        if len(key.get_secret_value()) < KEY_BYTES:
            said = f"the token key {name} has less than {KEY_BYTES} characters"
            found.append(
                Finding("keys", "fail", said, "Add a longer one at the end; remove this one when it is unused.")
            )
    if (problem := _coupon_key(settings)) is not None:
        found.append(problem)
    if not settings.token_keys and settings.database_url:
        said = "each machine makes token keys of its own under the state folder: one's tokens are strange to the next"
        found.append(Finding("keys", "warn", said, f"Set {PREFIX}TOKEN_KEYS and {PREFIX}COUPON_KEY everywhere."))
    return found or [Finding("settings", "ok", "make sense")]


def _coupon_key(settings: Settings) -> Finding | None:
    if settings.coupon_key is None:
        return None
    try:
        length = len(base64.b64decode(settings.coupon_key.get_secret_value(), validate=True))
    except binascii.Error:
        length = 0
    if length == KEY_BYTES:
        return None
    advice = "Make one: `openssl rand -base64 32`. Codes signed by another key are no longer taken."
    return Finding("keys", "fail", "the coupon key is not 32 bytes in base64", advice)


def limits() -> Finding:
    """How many sockets one process may hold."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= SOCKETS_WANTED:
        return Finding("descriptors", "ok", "enough for a gateway at its peak")
    said = f"a process may open {hard:,} files: a gateway holds about {max(0, hard - 100):,} viewers"
    return Finding("descriptors", "warn", said, "Raise it (`LimitNOFILE=` or `ulimit -Hn`), or run more gateways.")


async def postgres(engine: AsyncEngine, pool: int) -> list[Finding]:
    """What PostgreSQL says of itself; ``pool`` connections are what each of our processes may take."""
    found = []
    try:
        async with asyncio.timeout(SERVER_SECONDS), engine.connect() as connection:
            async for finding in _postgres(connection, pool):
                found.append(finding)
    except (OSError, SQLAlchemyError, TimeoutError) as error:
        said = f"cannot be asked ({type(error).__name__})"
        found.append(Finding("postgresql", "fail", said, f"Is it running, and is {PREFIX}DATABASE_URL right?"))
    return found


async def _postgres(connection: AsyncConnection, pool: int) -> AsyncIterator[Finding]:
    names = ("server_version_num", *DURABLE, "max_connections", "autovacuum")
    shown = {name: str(await connection.scalar(text(f"SHOW {name}"))) for name in names}
    yield _version("postgresql", (int(shown["server_version_num"]) // 10_000,), (POSTGRES_OLDEST,))
    if off := [name for name in DURABLE if shown[name] == "off"]:
        said = f"{', '.join(off)} off: a crash loses or breaks coupons that viewers were told they have"
        yield Finding("durability", "fail", said, "Set them to `on` in postgresql.conf and reload.")
    else:
        yield Finding("durability", "ok", "what was committed survives a crash")
    if shown["autovacuum"] == "off":
        yield Finding("autovacuum", "warn", "off: tables grow for ever", "Set `autovacuum = on`.")
    most = int(shown["max_connections"])
    processes = (most - 5) // pool
    if processes < 8:
        said = f"{most} are allowed, and each process takes up to {pool}: enough for {processes} processes"
        yield Finding("connections", "warn", said, f"Raise max_connections, or lower {PREFIX}DATABASE_POOL.")
    else:
        yield Finding("connections", "ok", f"enough for {processes} processes")
    yield _clock("postgresql", (await connection.scalar(text("SELECT clock_timestamp()"))) or now())
    postgis = await connection.scalar(text("SELECT extversion FROM pg_extension WHERE extname = 'postgis'"))
    if postgis is None:
        advice = "Install PostGIS on the server, then run `nearcast migrate`."
        yield Finding("postgis", "fail", "is not in this database", advice)
        return
    yield _version("postgis", tuple(int(part) for part in postgis.split(".")[:2]), POSTGIS_OLDEST)
    if different := await migrations.differences(connection):
        said = f"{len(different)} differences from what this version expects, such as {_short(different[0])}"
        yield Finding("schema", "fail", said, "Run `nearcast migrate`; what is left then was changed by hand.")
    else:
        yield Finding("schema", "ok", "tables and indexes are this version's")
    broken = (
        await connection.scalars(text("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"))
    ).all()
    if broken:
        said = f"{', '.join(broken)} cannot be used"
        yield Finding("indexes", "fail", said, "`REINDEX INDEX CONCURRENTLY` them.")


async def redis(client: Client) -> list[Finding]:
    """What Redis says of itself; of a Cluster, every master."""
    found = []
    try:
        async with asyncio.timeout(SERVER_SECONDS):
            for name, info, config, clock in await _nodes(client):
                found += [*_redis(name, info, config), _clock(name, clock)]
            if isinstance(client, RedisCluster):
                found.append(await _cluster(client))
    except (OSError, RedisError, TimeoutError) as error:
        said = f"cannot be asked ({type(error).__name__})"
        found.append(Finding("redis", "fail", said, f"Is it running, and is {PREFIX}REDIS_URL right?"))
    return found


async def _nodes(client: Client) -> list[tuple[str, Mapping[str, Any], Mapping[str, str], datetime]]:
    """Name, INFO, CONFIG and clock of each master. CONFIG is empty where the service does not let one look."""
    asked: Any = client
    if isinstance(client, RedisCluster):
        await client.initialize()
        targets = [(f"redis {node.name}", {"target_nodes": node}) for node in client.get_primaries()]
    else:
        targets = [("redis", {})]
    found: list[tuple[str, Mapping[str, Any], Mapping[str, str], datetime]] = []
    for name, where in targets:
        info = await asked.info(**where)
        try:
            config = await asked.config_get("*", **where)
        except RedisError:
            config = {}
        seconds, micros = await asked.time(**where)
        clock = datetime.fromtimestamp(seconds + micros / 1e6, tz=now().tzinfo)
        found.append((name, info, {_plain(key): _plain(value) for key, value in config.items()}, clock))
    return found


def _redis(name: str, info: Mapping[str, Any], config: Mapping[str, str]) -> Sequence[Finding]:
    found = [_version(name, (int(str(info["redis_version"]).partition(".")[0]),), (REDIS_OLDEST,))]
    if not info.get("aof_enabled"):
        said = "appends nothing to disk: a restart empties the rooms' logs, and nobody can resume"
        found.append(Finding(f"{name} log", "warn", said, "Set `appendonly yes`."))
    policy, most = config.get("maxmemory-policy", "noeviction"), config.get("maxmemory", "0")
    if most != "0" and policy != "noeviction":
        said = f"throws keys away when its memory is full ({policy}): rooms would lose events without a word"
        found.append(Finding(f"{name} memory", "fail", said, "Set `maxmemory-policy noeviction`, and enough memory."))
    return found


async def _cluster(client: RedisCluster) -> Finding:
    info: Any = await client.cluster_info(target_nodes=RedisCluster.RANDOM)
    state = _plain(next(iter(info.values())) if "cluster_state" not in info else info["cluster_state"])
    if state == "ok":
        return Finding("redis cluster", "ok", "serves every slot")
    return Finding("redis cluster", "fail", f"is {state}: not every slot is served", "Bring its missing nodes back.")


def _version(name: str, found: tuple[int, ...], oldest: tuple[int, ...]) -> Finding:
    said = f"version {'.'.join(map(str, found))}"
    if found >= oldest:
        return Finding(name, "ok", said)
    return Finding(name, "fail", said, f"Nearcast needs {'.'.join(map(str, oldest))} or newer.")


def _clock(name: str, there: datetime) -> Finding:
    apart = abs((there - now()).total_seconds())
    if apart < CLOCKS_WARN_SECONDS:
        return Finding(f"{name} clock", "ok", "agrees with ours")
    state: State = "fail" if apart >= CLOCKS_FAIL_SECONDS else "warn"
    return Finding(f"{name} clock", state, f"differs from ours by {apart:.1f} s", "Run NTP on both machines.")


def _short(difference: object) -> str:
    """The kind of a difference and the names in it, without the objects that Alembic hands over."""
    first = difference[0] if isinstance(difference, list) else difference
    parts = first if isinstance(first, tuple) else (first,)
    return " ".join(str(getattr(part, "name", part)) for part in parts if part is not None)


def _plain(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


async def examine(settings: Settings) -> list[Finding]:
    """Everything about this machine and the two servers that ``settings`` name."""
    engine, client = create_engine(settings), create_client(settings)
    try:
        return [limits(), *await postgres(engine, settings.database_pool + WORKERS), *await redis(client)]
    finally:
        await engine.dispose()
        await client.aclose()
