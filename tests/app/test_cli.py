"""The `nearcast` command as an operator types it."""

import asyncio
import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import jwt
import pytest
from typer.testing import CliRunner

from app.cli import cli
from guides import members
from kernel.clock import now
from kernel.identity import Keyring, Role
from kernel.ids import new_id
from kernel.outbox import emit
from kernel.postgres import transaction
from kernel.process import Kernel
from kernel.settings import Settings
from kernel.tables import Brand


async def nearcast(settings: Settings, *arguments: str, standard_input: str = "") -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.cli", *arguments,
        env=os.environ | settings.environment(),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, errors = await process.communicate(standard_input.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()


async def test_tokens_are_valid_for_this_installation_each_for_somebody_else(settings: Settings) -> None:
    code, out, errors = await nearcast(settings, "token", "--role", "viewer", "--count", "3")
    assert code == 0, errors
    ring = Keyring.from_settings(settings)
    people = [ring.verify(token, now()) for token in out.split()]
    assert len({person.subject for person in people}) == 3
    assert {person.role for person in people} == {Role.VIEWER}


async def test_a_token_of_a_named_subject_carries_it(settings: Settings) -> None:
    subject = str(new_id())
    _, out, _ = await nearcast(settings, "token", "--role", "ops", "--subject", subject, "--brand", "b", "--hours", "1")
    claims = jwt.decode(out.strip(), options={"verify_signature": False})
    assert (claims["sub"], claims["role"], claims["brand"]) == (subject, "ops", "b")


@pytest.mark.parametrize("arguments", [
    ("--role", "king"), ("--role", "clerk"), ("--role", "viewer", "--store", str(new_id())),
    ("--role", "viewer", "--count", "0"), ("--role", "viewer", "--subject", str(new_id()), "--count", "2"),
])  # fmt: skip
def test_a_token_that_makes_no_sense_is_refused(arguments: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli, ["token", *arguments])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


async def test_the_audit_of_a_sound_database_says_so(settings: Settings) -> None:
    code, out, errors = await nearcast(settings, "audit")
    assert (code, out.splitlines()[-1]) == (0, "audit ok"), errors


async def test_the_audit_names_what_is_wrong_and_fails(kernel: Kernel) -> None:
    connection = await asyncpg.connect(kernel.settings.database_url)
    await connection.execute("INSERT INTO ledger (coupon_id, transition) VALUES ($1, 'issue')", new_id())
    await connection.close()
    code, out, _ = await nearcast(kernel.settings, "audit")
    assert code == 1
    assert out.splitlines()[-1] == "audit FAILED"
    assert "ledger" in out.splitlines()[0]


async def test_an_event_that_no_relay_tells_is_a_finding_once_it_is_overdue(kernel: Kernel) -> None:
    async with transaction(kernel.sessions) as session:
        await emit(session, "live.event", new_id(), {})
    code, out, _ = await nearcast(kernel.settings, "audit")
    assert (code, "1 events wait to be told" in out) == (0, True)
    connection = await asyncpg.connect(kernel.settings.database_url)
    await connection.execute("UPDATE outbox SET created_at = now() - interval '5 minutes'")
    await connection.close()
    code, out, _ = await nearcast(kernel.settings, "audit", "--json")
    document = json.loads(out)
    assert (code, document["ok"]) == (1, False)
    assert [one["name"] for one in document["invariants"] if not one["ok"]] == ["outbox_told"]


async def test_migrate_goes_down_and_up(settings: Settings) -> None:
    for revision in ("base", "head"):
        code, out, errors = await nearcast(settings, "migrate", revision)
        assert (code, out) == (0, f"The database is at {revision}.\n"), errors


async def test_the_protocol_is_printed_from_the_code(settings: Settings) -> None:
    code, out, _ = await nearcast(settings, "protocol")
    assert code == 0
    assert "| `hello` |" in out
    assert "| 4503 | room_unknown |" in out
    code, out, _ = await nearcast(settings, "protocol", "--asyncapi")
    assert (code, json.loads(out)["asyncapi"]) == (0, "3.0.0")


async def test_stores_are_imported_refused_lines_named_and_a_second_import_updates(settings: Settings) -> None:
    path = settings.state_dir / "stores.csv"
    head = "code,name,brand,city,address,lng,lat,datum\n"
    path.write_text(
        head + "a,甲店,B,上海市,某路1号,121.47,31.23,gcj02\nb,乙店,B,上海市,某路2号,31.23,121.47,gcj02\n",
        encoding="utf-8",
    )
    code, out, errors = await nearcast(settings, "stores", "import", str(path))
    assert code == 1
    assert "3" in out + errors
    assert "swapped" in (out + errors).lower()
    path.write_text(head + "a,甲店新址,B,上海市,某路3号,121.48,31.24,wgs84\n", encoding="utf-8")
    code, out, errors = await nearcast(settings, "stores", "import", str(path))
    assert code == 0, out + errors
    connection = await asyncpg.connect(settings.database_url)
    assert [tuple(row) for row in await connection.fetch("SELECT code, name, source_datum FROM stores")] == [
        ("a", "甲店新址", "wgs84")
    ]
    await connection.close()


async def test_datum_converts_lines_and_names_bad_ones(settings: Settings) -> None:
    code, out, errors = await nearcast(
        settings,
        "datum",
        "--from",
        "wgs84",
        "--to",
        "gcj02",
        standard_input="116.404,39.915\nnonsense\n126.978,37.5665\n",
    )
    lines = [tuple(map(float, line.split(","))) for line in out.split()]
    assert lines[0] == pytest.approx((116.41024449916938, 39.91640428150164), abs=1e-9)
    assert lines[1] == (126.978, 37.5665)  # Seoul is where it is
    assert (code, "2" in errors) == (1, True)


async def test_a_process_without_keys_says_which_setting_is_missing(settings: Settings) -> None:
    code, _, errors = await nearcast(settings.model_copy(update={"token_keys": {}}), "api")
    assert code == 2
    assert "NEARCAST_TOKEN_KEYS" in errors
    assert "Traceback" not in errors


async def test_a_member_who_writes_a_letter_gets_their_data_and_is_erased(kernel: Kernel) -> None:
    async with transaction(kernel.sessions) as session:
        session.add(Brand(id="acme", name="Acme"))
        await session.flush()
        member = await members.welcome(session, "acme", "openid-1", name="小林")
    code, out, errors = await nearcast(kernel.settings, "export", "openid-1", "--brand", "acme")
    assert code == 0, errors
    assert json.loads(out)["account"][0]["name"] == "小林"
    code, out, _ = await nearcast(kernel.settings, "erase", str(member.id), standard_input="n\n")
    assert (code, "Erased" in out) == (1, False)
    code, out, errors = await nearcast(kernel.settings, "erase", str(member.id), "--yes")
    assert (code, "Erased" in out) == (0, True), errors
    for verb in ("erase", "export"):
        code, _, errors = await nearcast(kernel.settings, verb, str(member.id))
        assert code == 2
        assert errors.strip().splitlines()[-1] == "There is no such member (any more)."


NOWHERE = {
    "NEARCAST_DATABASE_URL": "postgresql://keeper:0pen-sesame@127.0.0.1:1/x",
    "NEARCAST_REDIS_URL": "redis://127.0.0.1:1",
}


@pytest.mark.parametrize("arguments", [
    ("audit",), ("audit", "--json"), ("migrate",), ("export", "somebody"), ("erase", "--yes", "somebody"),
    ("stores", "import"), ("campaigns", "import"),
])  # fmt: skip
def test_a_database_that_is_not_there_is_said_in_one_line_and_is_no_verdict(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    if arguments[-1] == "import":
        listed = tmp_path / "list.csv"
        listed.write_text(
            "code,name,brand,city,address,lng,lat,datum\nS1,店,店,上海,路,121.4,31.2,gcj02\n"
            if arguments[0] == "stores"
            else "key,title,kind,amount_fen,stock\nK1,券,amount,500,10\n"
        )
        arguments = (*arguments, str(listed))
    done = _typed(*arguments, **NOWHERE)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == ["The database at 127.0.0.1:1 cannot be reached: Connection refused"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"NEARCAST_DATABASE_URL": "0pen-sesame"}, "NEARCAST_DATABASE_URL is no address of a database"),
        ({"NEARCAST_DATABASE_URL": "postgresql://x:0pen-sesame@h:port/x"}, "NEARCAST_DATABASE_URL is no address"),
        ({"NEARCAST_API_PORT": "0pen-sesame"}, "NEARCAST_API_PORT: "),
        ({"NEARCAST_TOKEN_KEYS": "0pen-sesame"}, "token_keys"),
        ({"NEARCAST_TOKEN_KEYS": '{"a": ["0pen-sesame"]}'}, "NEARCAST_TOKEN_KEYS: "),
        ({"NEARCAST_REDIS_URL": "ftp://0pen-sesame"}, "NEARCAST_REDIS_URL begins with none of redis://"),
    ],
)
def test_a_setting_that_cannot_be_read_is_named_without_its_value(wrong: dict[str, str], said: str) -> None:
    keys = {"NEARCAST_TOKEN_KEYS": '{"a": "0123456789abcdef0123456789abcdef"}', "NEARCAST_COUPON_KEY": _COUPON_KEY}
    done = _typed("gateway", **(NOWHERE | keys | wrong))
    assert done.returncode == 2
    assert said in done.stderr
    assert "0pen-sesame" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


_COUPON_KEY = base64.b64encode(bytes(32)).decode()


def _typed(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("NEARCAST_")}
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        env=inherited | environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
