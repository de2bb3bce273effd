"""Campaigns from a file: read, judged by the rules of REST, made, changed by their keys, or refused by name."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner
from world import BRAND, World

from app.campaigns_command import campaigns as command
from coupons import campaign_file, campaign_import
from coupons.campaign_file import Line, UnreadableCampaigns
from coupons.campaign_import import Report
from kernel.postgres import transaction

HEADER = "key,title,kind,amount_fen,threshold_fen,stock,valid_days,store_codes,distance_tiers,doubt,segments\n"
GOOD = "june,满30减8,amount,800,3000,500,7,S1|S2,500:1200|1000:900,review,new|vip\n"
JUNE = {"key": "june", "title": "满30减8", "kind": "amount", "amount_fen": 800, "stock": 500, "valid_days": 7}


async def _load(world: World, *values: dict[str, Any], dry_run: bool = False) -> Report:
    lines = [Line(number, one) for number, one in enumerate(values, 1)]
    async with transaction(world.kernel.sessions) as session:
        return await campaign_import.load(session, world.ops, lines, dry_run=dry_run)


def _told(report: Report) -> tuple[int, int, int, list[str]]:
    return report.new, report.updated, report.unchanged, [str(bad) for bad in report.errors]


async def test_a_file_is_loaded_and_every_bad_line_is_named(world: World, tmp_path: Path) -> None:
    await world.store("S2", 100)
    path = tmp_path / "campaigns.csv"
    path.write_text(
        HEADER
        + GOOD
        + "\n"
        + "july,满30减8,amount,4000,3000,500,7,,,,\n"  # takes off more than the threshold
        + "free,券,amount,800,,lots,7,,,,\n"
        + "gone,券,amount,800,,5,7,S1|S9,,,\n"
        + "half,券,amount,800,,5,7,,500,,\n"
        + "june,又一个,amount,800,,5,7,,,,\n"
        + ",券,amount,800,,5,7,,,,\n"
        + "never,券,amount,800,,5,,,,,\n"
    )

    def shell(*more: str) -> tuple[int, str, str]:
        cli = typer.Typer()
        cli.add_typer(command, name="campaigns")
        settings = world.kernel.settings
        environment = {"NEARCAST_DATABASE_URL": settings.database_url, "NEARCAST_REDIS_URL": settings.redis_url}
        done = CliRunner().invoke(cli, ["campaigns", "import", str(path), "--brand", BRAND, *more], env=environment)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr

    code, out, err = await asyncio.to_thread(shell, "--dry-run")
    assert (code, await world.scalar("SELECT count(*) FROM campaigns")) == (1, 0)
    assert out == (
        "8 campaigns read for acme: 1 would be new, 0 would be updated, 0 unchanged, 7 refused"
        " (dry run, nothing was changed)\n"
    )
    assert [line.split(":")[:2] for line in err.splitlines()] == [
        ["line 4 (july)", " amount_fen"],
        ["line 5 (free)", " stock"],
        ["line 6 (gone)", " store_codes"],
        ["line 7 (half)", " distance_tiers.0.amount_fen"],
        ["line 8 (june)", " key"],
        ["line 9", " key"],
        ["line 10 (never)", " valid_until"],
    ]
    assert "S9" in err and "was already on line 2" in err
    code, out, again = await asyncio.to_thread(shell)
    assert (code, again) == (1, err)
    (row,) = await world.execute("SELECT * FROM campaigns")
    assert (row.key, row.state, row.stock, row.doubt, row.segments) == ("june", "draft", 500, "review", ["new", "vip"])
    assert row.distance_tiers == [{"within_m": 500, "amount_fen": 1200}, {"within_m": 1000, "amount_fen": 900}]
    assert await world.scalar("SELECT count(*) FROM campaign_stores") == 2
    path.write_text(HEADER + GOOD)
    assert (await asyncio.to_thread(shell))[:2] == (
        0, "1 campaigns read for acme: 0 new, 0 updated, 1 unchanged, 0 refused\n"
    )  # fmt: skip


async def test_a_second_import_changes_drafts_and_of_what_runs_only_a_stock_that_it_knows(world: World) -> None:
    assert _told(await _load(world, JUNE)) == (1, 0, 0, [])
    assert _told(await _load(world, JUNE)) == (0, 0, 1, [])
    fewer = JUNE | {"amount_fen": 700, "store_codes": ["S1"], "stock": 300}
    assert _told(await _load(world, fewer, dry_run=True)) == (0, 1, 0, [])
    assert await world.scalar("SELECT amount_fen FROM campaigns") == 800
    assert _told(await _load(world, fewer)) == (0, 1, 0, [])
    assert await world.execute("SELECT amount_fen, stock, all_stores FROM campaigns") == [(700, 300, False)]

    await world.execute("UPDATE campaigns SET state = 'running', issued = 40")
    assert _told(await _load(world, fewer | {"amount_fen": 900})) == (
        0, 0, 0, ["line 1 (june): amount_fen: is 700 and stays so: the campaign is running"],
    )  # fmt: skip
    assert (await _load(world, fewer | {"store_codes": None})).errors[0].field == "store_codes"
    assert (await _load(world, fewer | {"stock": 400})).errors[0].field == "current_stock"
    for wrong in ({"stock": 400, "current_stock": 299}, {"stock": 39, "current_stock": 300}):
        (bad,) = (await _load(world, fewer | wrong)).errors
        assert str(bad) == "line 1 (june): stock: was not changed: it is 300 now, of which 40 are issued"
    assert _told(await _load(world, fewer | {"stock": 400, "current_stock": 300})) == (0, 1, 0, [])
    assert await world.scalar("SELECT stock FROM campaigns") == 400
    # Sent once more, after an answer that got lost: it is what it shall be.
    assert _told(await _load(world, fewer | {"stock": 400, "current_stock": 300})) == (0, 0, 1, [])
    assert (await _load(world, JUNE | {"theshold_fen": 3000})).errors[0].field == "theshold_fen"


async def test_a_key_of_brackets_in_brackets_is_refused(world: World) -> None:
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    report = await _load(world, JUNE | {"key": deep}, JUNE)
    assert (report.new, [(bad.line, bad.key, bad.field) for bad in report.errors]) == (1, [(1, "", "key")])


async def test_of_two_imports_at_once_the_second_finds_what_the_first_made(world: World) -> None:
    july = JUNE | {"key": "july"}
    async with transaction(world.kernel.sessions) as session:
        assert (await campaign_import.load(session, world.ops, [Line(1, JUNE)])).new == 1
        # In the other order: each would wait for a campaign that the other is making.
        other = asyncio.create_task(_load(world, july, JUNE))
        await world.somebody_waits()
        assert (await campaign_import.load(session, world.ops, [Line(1, july)])).new == 1
    assert _told(await other) == (0, 0, 2, [])
    assert await world.scalar("SELECT count(*) FROM campaigns") == 2


async def test_many_imports_at_once_make_each_campaign_once(world: World) -> None:
    campaigns = [JUNE | {"key": f"k{number}"} for number in range(12)]
    orders = [campaigns[turn:] + campaigns[:turn] for turn in range(0, 12, 2)]
    reports = await asyncio.gather(*(_load(world, *order) for order in orders))
    assert sum(report.new for report in reports) == 12
    assert sum(report.unchanged for report in reports) == 60
    assert not [bad for report in reports for bad in report.errors]
    assert await world.scalar("SELECT count(*) FROM campaigns") == 12


@pytest.mark.parametrize(
    ("name", "written", "kept"),
    [
        ("stock", "500", 500),
        ("stock", " 0500 ", 500),
        *(("stock", text, None) for text in ("５００", "1_000", "+5", "-5", "5.0", "5e2", "0x5", "1,000", "9" * 40)),
        ("only_open", "TRUE", True),
        ("only_open", "false", False),
        *(("only_open", text, None) for text in ("yes", "1", "ｔｒｕｅ", "on")),
        ("distance_tiers", "500:700", [{"within_m": 500, "amount_fen": 700}]),
        *(("distance_tiers", text, None) for text in ("５００:700", "500:+7", "500", "500:7:7")),
    ],
)
async def test_csv_numbers_are_plain_digits_and_truths_true_or_false(
    world: World, tmp_path: Path, name: str, written: str, kept: Any
) -> None:
    path = tmp_path / "campaigns.csv"
    values = {"key": "june", "title": "券", "kind": "amount", "amount_fen": "800", "stock": "5", "valid_days": "7"}
    values[name] = f'"{written}"'
    path.write_text(f"{','.join(values)}\n{','.join(values.values())}\n")
    async with transaction(world.kernel.sessions) as session:
        report = await campaign_import.load(session, world.ops, campaign_file.read(path))
    if kept is None:
        assert [bad.field.partition(".")[0] for bad in report.errors] == [name]
        assert await world.scalar("SELECT count(*) FROM campaigns") == 0
    else:
        assert await world.scalar(f"SELECT {name} FROM campaigns") == kept


@pytest.mark.parametrize("opened", ["[\n {a},\n\n {b}\n]\n", "{a}\n\n\n{b}\n"])
def test_json_has_lines_too(tmp_path: Path, opened: str) -> None:
    path = tmp_path / "campaigns.json"
    path.write_text(opened.replace("{a}", json.dumps(JUNE)).replace("{b}", json.dumps(JUNE, indent=1)))
    first = 2 if opened.startswith("[") else 1
    assert [(line.number, line.values) for line in campaign_file.read(path)] == [(first, JUNE), (4, JUNE)]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"key,titel\n", "titel"),
        (b"title,kind\n", "lacks key"),
        (b"key,title,title\n", "twice"),
        ("key,title\na,满减\n".encode("gbk"), "line 2 is not UTF-8"),
        (b'[{"key": "a"},\n {"key" "b"}]', "line 2 is not JSON"),
        (b'[{"key": "a"}', "cut off"),
        (b"[" * 100_000, "JSON"),
        (b'[{"key": "a"},\n {"stock": ' + b"9" * 5_000 + b"}]", "JSON"),
    ],
)
def test_a_file_that_is_no_list_of_campaigns_is_refused_as_a_whole(tmp_path: Path, content: bytes, why: str) -> None:
    (path := tmp_path / "campaigns").write_bytes(content)
    with pytest.raises(UnreadableCampaigns, match=why):
        campaign_file.read(path)


def test_what_is_no_object_and_what_has_too_many_fields_is_named(tmp_path: Path) -> None:
    (path := tmp_path / "campaigns").write_text('[7,\n {"key": "a"}]')
    assert [(line.number, line.problem is None) for line in campaign_file.read(path)] == [(1, False), (2, True)]
    path.write_text("key,title\na,b,c\n")
    assert "is a comma not quoted?" in (campaign_file.read(path)[0].problem or "")
