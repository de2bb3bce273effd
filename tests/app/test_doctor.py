"""``nearcast doctor`` on real servers: content with good ones, and it finds what was broken on purpose."""

import base64
import json
import resource
from datetime import timedelta
from typing import cast

import pytest
from pydantic import SecretStr
from redis.asyncio import RedisCluster
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection
from typer.testing import CliRunner

from app import doctor
from app.cli import cli
from kernel import log
from kernel.clock import now
from kernel.postgres import transaction
from kernel.process import Kernel
from kernel.settings import Settings

GOOD = {
    "token_keys": {"2026": SecretStr("k" * 32)},
    "coupon_key": SecretStr(base64.b64encode(bytes(32)).decode()),
    "wechat_app_id": "wx1",
    "wechat_secret": SecretStr("s"),
}


def told(findings: list[doctor.Finding], check: str) -> doctor.Finding:
    found = [finding for finding in findings if finding.check == check]
    assert len(found) == 1, findings
    assert found[0].said
    assert bool(found[0].advice) == (found[0].state != "ok")
    return found[0]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own PostgreSQL does not wait for the disk; it is to pass for one that does."""
    monkeypatch.setattr(doctor, "DURABLE", ("synchronous_commit",))


@pytest.mark.usefixtures("synced")
async def test_servers_of_a_good_installation_are_found_good(settings: Settings) -> None:
    findings = await doctor.examine(settings)
    assert {finding.check for finding in findings} >= {
        "descriptors", "postgresql", "durability", "connections", "postgis", "schema", "postgresql clock", "redis",
        "redis clock",
    }  # fmt: skip
    assert [finding for finding in findings if finding.state == "fail"] == []


async def test_a_schema_that_was_changed_by_hand_and_a_broken_index_are_found(
    settings: Settings, kernel: Kernel
) -> None:
    async with transaction(kernel.sessions) as session:
        await session.execute(text("DROP INDEX ix_stores_position"))
        await session.execute(
            text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_stores_trade_area'::regclass")
        )
    findings = await doctor.examine(settings)
    assert told(findings, "schema").state == "fail"
    assert "ix_stores_position" in told(findings, "schema").said
    assert "ix_stores_trade_area" in told(findings, "indexes").said


async def test_a_database_that_may_lose_what_it_committed_is_found(settings: Settings, kernel: Kernel) -> None:
    assert settings.database_url is not None
    database = settings.database_url.rpartition("/")[2]
    async with transaction(kernel.sessions) as session:
        await session.execute(text(f"ALTER DATABASE {database} SET synchronous_commit = off"))
    try:
        finding = told(await doctor.examine(settings), "durability")
    finally:
        async with transaction(kernel.sessions) as session:
            await session.execute(text(f"ALTER DATABASE {database} RESET synchronous_commit"))
    assert finding.state == "fail"
    assert "fsync, full_page_writes, synchronous_commit off" in finding.said


async def test_too_few_connections_no_autovacuum_and_no_postgis_are_found(kernel: Kernel) -> None:
    async with kernel.engine.connect() as connection:

        class Unswept:
            """The server, but for what is set for all of it."""

            async def scalar(self, asked: TextClause) -> object:
                return "off" if str(asked) == "SHOW autovacuum" else await connection.scalar(asked)

        await connection.execute(text("UPDATE pg_extension SET extname = 'gone' WHERE extname = 'postgis'"))
        findings = [finding async for finding in doctor._postgres(cast(AsyncConnection, Unswept()), pool=1000)]
        await connection.rollback()
    assert told(findings, "connections").state == told(findings, "autovacuum").state == "warn"
    assert "enough for 0 processes" in told(findings, "connections").said
    assert told(findings, "postgis").state == "fail"
    assert findings[-1].check == "postgis", "without it there is no schema to compare"


@pytest.mark.parametrize(("info", "state"), [
    ({"cluster_state": "ok"}, "ok"),
    ({"cluster_state": b"fail"}, "fail"),
    ({"127.0.0.1:7000": {"cluster_state": "fail"}}, "fail"),
])  # fmt: skip
async def test_a_cluster_with_a_gap_is_found(info: dict[str, object], state: str) -> None:
    class Client:
        async def cluster_info(self, target_nodes: object) -> dict[str, object]:
            assert target_nodes is RedisCluster.RANDOM
            return info

    assert told([await doctor._cluster(cast(RedisCluster, Client()))], "redis cluster").state == state


async def test_servers_that_do_not_answer_are_findings_and_not_an_error(settings: Settings, free_port: int) -> None:
    away = settings.model_copy(
        update={
            "database_url": f"postgresql://a@127.0.0.1:{free_port}/a",
            "redis_url": f"redis://127.0.0.1:{free_port}",
        }
    )
    findings = await doctor.examine(away)
    assert told(findings, "postgresql").state == told(findings, "redis").state == "fail"


@pytest.mark.parametrize(
    ("change", "environment", "check", "state"),
    [
        ({}, {}, "settings", "ok"),
        ({}, {"NEARCAST_API_PROT": "1"}, "settings", "warn"),
        ({"dev_login": True, "api_host": "0.0.0.0"}, {}, "login", "fail"),
        ({"wechat_secret": SecretStr("")}, {}, "login", "warn"),
        ({"token_keys": {"2026": SecretStr("short")}}, {}, "keys", "fail"),
        ({"coupon_key": SecretStr("no base64!")}, {}, "keys", "fail"),
        ({"coupon_key": SecretStr(base64.b64encode(bytes(31)).decode())}, {}, "keys", "fail"),
        ({"token_keys": {}, "database_url": "postgresql://a/b"}, {}, "keys", "warn"),
    ],
)
def test_settings_that_would_hurt_are_found(
    change: dict[str, object], environment: dict[str, str], check: str, state: str
) -> None:
    findings = doctor.advised(Settings.model_validate({**GOOD, **change}), environment)
    assert told(findings, check).state == state
    assert len(findings) == 1


def test_few_descriptors_old_versions_and_clocks_apart_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    assert doctor.limits().state == "warn"
    assert "1,024" in doctor.limits().said
    assert doctor._version("redis", (6,), (7,)).state == "fail"
    assert doctor._version("postgis", (3, 10), (3, 9)).state == "ok"
    assert [doctor._clock("redis", now() + timedelta(seconds=apart)).state for apart in (0, -2, 60)] == [
        "ok", "warn", "fail",
    ]  # fmt: skip


def test_redis_that_forgets_or_throws_away_is_found() -> None:
    info = {"redis_version": "7.0.15", "aof_enabled": 0}
    config = {"maxmemory": "100000000", "maxmemory-policy": "allkeys-lru"}
    found = {finding.check: finding.state for finding in doctor._redis("redis", info, config)}
    assert found == {"redis": "ok", "redis log": "warn", "redis memory": "fail"}


@pytest.mark.usefixtures("synced")
def test_the_command_says_it_for_people_and_for_machines_and_its_exit_code_is_the_verdict(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    # Loggers would keep the runner's standard error, which is closed once it has run.
    monkeypatch.setattr(log, "configure", lambda *_: None)
    good = CliRunner().invoke(cli, ["doctor"])
    assert good.exit_code == 0, good.output
    assert "postgis: version" in good.output
    monkeypatch.setenv("NEARCAST_REDIS_URL", f"redis://127.0.0.1:{free_port}")
    bad = CliRunner().invoke(cli, ["doctor", "--json"])
    assert bad.exit_code == 1
    lines = [json.loads(line) for line in bad.stdout.splitlines() if line.startswith("{")]
    assert [line["check"] for line in lines if line["state"] == "fail"] == ["redis"]
    assert settings.database_url is not None
    assert settings.database_url not in bad.output
    monkeypatch.setenv("NEARCAST_API_PORT", "many")
    wrong = CliRunner().invoke(cli, ["doctor"])
    assert wrong.exit_code == 1
    assert "NEARCAST_API_PORT" in wrong.output
