"""``nearcast stores import`` and ``nearcast datum``, as a shell sees them."""

import asyncio
import json
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


def feature(code: object, *rings: object, **more: object) -> dict[str, object]:
    geometry = {"type": "Polygon", "coordinates": rings} if rings else None
    return {"type": "Feature", "properties": {"code": code} | more, "geometry": geometry}


RING = [[121.46, 31.22], [121.48, 31.22], [121.48, 31.24], [121.46, 31.24], [121.46, 31.22]]
BOW_TIE = [RING[0], RING[2], RING[1], RING[3], RING[0]]
FAR = [[x + 0.1, y] for x, y in RING]
FEATURES = [
    feature("A", RING),
    feature("B", BOW_TIE, datum="GCJ02"),
    feature("C", FAR),
    feature("nobody", RING),
    feature(" ", RING),
    feature("A", RING),
    feature("D", RING, datum="utm"),
    {"type": "Point", "coordinates": [121, 31]},
    feature(4),
]


async def areas_of(settings: Settings) -> dict[str, str | None]:
    connection = await asyncpg.connect(str(settings.database_url))
    try:
        return dict(await connection.fetch("SELECT code, ST_AsText(ST_Centroid(trade_area), 2) FROM stores"))
    finally:
        await connection.close()


async def test_areas_load_good_features_mend_some_and_name_the_others(settings: Settings, tmp_path: Path) -> None:
    stores_file, path = tmp_path / "stores.csv", tmp_path / "areas.geojson"
    stores_file.write_text(HEADER + "".join(GOOD.replace("A,", f"{code},", 1) for code in "ABCD4"))
    assert (await asyncio.to_thread(shell, "stores", "import", str(stores_file), settings=settings))[0] == 0
    path.write_text(json.dumps({"type": "FeatureCollection", "features": FEATURES}))
    command = ["stores", "areas", str(path), "--datum", "gcj02"]
    code, out, _ = await asyncio.to_thread(shell, *command, "--dry-run", settings=settings)
    assert code == 1
    assert out.startswith("9 areas read for demo: 2 would be set, 0 would be taken away, 1 unchanged, 6 refused (dry")
    assert set((await areas_of(settings)).values()) == {None}
    code, out, err = await asyncio.to_thread(shell, *command, settings=settings)
    assert (code, out) == (1, "9 areas read for demo: 2 set, 0 taken away, 1 unchanged, 6 refused\n")
    assert [line.partition(":")[0] for line in err.splitlines()] == [
        *("feature 3 (C)", "feature 4 (nobody)", "feature 5", "feature 6 (A)", "feature 7 (D)", "feature 8"),
        "feature 2 (B)",
    ]
    for reason in ("km from the store", "no store with this code", "no property `code`", "already, in feature 1"):
        assert reason in err
    assert "feature 2 (B): area mended: self-intersection (loaded)" in err
    found = await areas_of(settings)
    assert found["A"] == "POINT(121.47 31.23)"
    assert found["B"] is not None
    assert found["C"] is found["D"] is found["4"] is None
    # A feature a line, and no datum where there is no default.
    path.write_text("\n".join(json.dumps(one) for one in (feature("A"), feature("B", RING))) + "\n{broken\n")
    code, out, err = await asyncio.to_thread(shell, *command[:3], settings=settings)
    assert (code, out) == (1, "3 areas read for demo: 0 set, 1 taken away, 0 unchanged, 2 refused\n")
    assert err == ("line 2 (B): names no datum: use wgs84, gcj02, bd09\nline 3: is not a GeoJSON Feature\n")
    assert (await areas_of(settings))["A"] is None
    code, _, err = await asyncio.to_thread(shell, *command, "--brand", "nobody", settings=settings)
    assert (code, "there is no brand 'nobody'" in err) == (2, True)


def test_a_file_that_is_no_geojson_is_exit_code_2_without_a_server(tmp_path: Path) -> None:
    path = tmp_path / "areas.geojson"
    for content in (b"\x89PNG\0\0\xff", b"", b"[" * 100_000, b"null", b'{"type": "Polygon"}', b"code,name\nA,One\n"):
        path.write_bytes(content)
        code, out, err = shell("stores", "areas", str(path))
        assert (code, out) == (2, ""), err
        assert err.startswith("areas.geojson: ")
        assert "Traceback" not in err
    assert shell("stores", "areas", str(tmp_path / "none"))[0] == 2
    assert shell("stores", "areas", str(path), "--datum", "utm")[0] == 2


@pytest.mark.parametrize("frames", [("wgs84", "utm"), ("", "gcj02")])
def test_datum_refuses_frames_that_it_does_not_know(frames: tuple[str, str]) -> None:
    code, out, err = shell("datum", "--from", frames[0], "--to", frames[1])
    assert (code, out) == (2, "")
    assert "wgs84, gcj02, bd09" in err


def test_datum_of_nothing_is_nothing() -> None:
    assert shell("datum", "--from", "wgs84", "--to", "gcj02") == (0, "", "")
