"""``nearcast stores import`` and ``nearcast datum``, as a shell sees them."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
import typer
from typer.testing import CliRunner

from app.stores_command import datum, stores
from kernel.settings import Settings

HEADER = "code,name,brand,city,address,lng,lat,datum\n"
GOOD = "A,One,Tea,上海市,1 Road,121.47,31.23,gcj02\n"


cli = typer.Typer()
cli.add_typer(stores, name="stores")
cli.command()(datum)


def shell(*arguments: str, settings: Settings | None = None, stdin: bytes = b"") -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    environment = {"COLUMNS": "200"}
    if settings is not None:
        assert settings.database_url
        assert settings.redis_url
        environment |= {"NEARCAST_DATABASE_URL": settings.database_url, "NEARCAST_REDIS_URL": settings.redis_url}
    done = CliRunner().invoke(cli, arguments, input=stdin, env=environment)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


async def names(settings: Settings) -> list[tuple[str, str]]:
    assert settings.database_url
    connection = await asyncpg.connect(settings.database_url)
    try:
        return [tuple(row) for row in await connection.fetch("SELECT brand_id, name FROM stores ORDER BY 1, 2")]
    finally:
        await connection.close()


async def test_import_names_bad_lines_loads_good_ones_and_updates(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "stores.csv"
    path.write_text(HEADER + GOOD + "B,Two,Tea,上海市,2 Road,31.23,121.47,gcj02\n")
    dry = await asyncio.to_thread(shell, "stores", "import", str(path), "--dry-run", settings=settings)
    assert dry[0] == 1
    assert "1 would be new, 0 would be updated, 0 unchanged, 1 refused (dry run, nothing was changed)" in dry[1]
    assert await names(settings) == []
    code, out, err = await asyncio.to_thread(shell, "stores", "import", str(path), settings=settings)
    assert code == 1
    assert out == "2 stores read for demo: 1 new, 0 updated, 0 unchanged, 1 refused\n"
    assert err.startswith("line 3 (B): lng and lat are swapped")
    path.write_text(HEADER + GOOD.replace("One", "Uno"))
    code, out, err = await asyncio.to_thread(shell, "stores", "import", str(path), settings=settings)
    assert (code, out, err) == (0, "1 stores read for demo: 0 new, 1 updated, 0 unchanged, 0 refused\n", "")
    assert await names(settings) == [("demo", "Uno")]


async def test_a_brand_must_exist_or_be_made_on_purpose(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "stores.csv"
    path.write_text(HEADER + GOOD)
    command = ["stores", "import", str(path), "--brand", "tea"]
    code, out, err = await asyncio.to_thread(shell, *command, settings=settings)
    assert (code, out) == (2, "")
    assert "there is no brand 'tea'" in err
    code, *_ = await asyncio.to_thread(shell, *command, "--create-brand", "Tea", settings=settings)
    assert code == 0
    assert await names(settings) == [("tea", "One")]


def test_a_file_that_is_no_list_of_stores_is_exit_code_2_without_a_server(tmp_path: Path) -> None:
    path = tmp_path / "picture.csv"
    for content in (b"\x89PNG\0\0", b"", HEADER.encode() + "静安寺".encode("gbk")):
        path.write_bytes(content)
        code, out, err = shell("stores", "import", str(path))
        assert (code, out) == (2, ""), err
        assert err.startswith("picture.csv: ")
        assert "Traceback" not in err
    assert shell("stores", "import", str(tmp_path / "none.csv"))[0] == 2


def test_datum_converts_lines_and_names_bad_ones() -> None:
    code, out, err = shell(
        "datum", "--from", "wgs84", "--to", "gcj02",
        stdin=b"\xef\xbb\xbflng,lat,name\n116.404,39.915,a\nx,1\n\n126.978,37.566\r\n121\nnan,1\n1,91\n\xff,\xfe\n",
    )  # fmt: skip
    assert out == "lng,lat,name\n116.410244499,39.916404282,a\n126.978000000,37.566000000\n"
    assert [line.partition(":")[0] for line in err.splitlines()] == ["line 3", "line 6", "line 7", "line 8", "line 9"]
    assert code == 1


@pytest.mark.parametrize("frames", [("wgs84", "utm"), ("", "gcj02")])
def test_datum_refuses_frames_that_it_does_not_know(frames: tuple[str, str]) -> None:
    code, out, err = shell("datum", "--from", frames[0], "--to", frames[1])
    assert (code, out) == (2, "")
    assert "wgs84, gcj02, bd09" in err


def test_datum_of_nothing_is_nothing() -> None:
    assert shell("datum", "--from", "wgs84", "--to", "gcj02") == (0, "", "")
