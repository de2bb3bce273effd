"""``nearcast stores import``, ``nearcast stores areas`` and ``nearcast datum``."""

import asyncio
import csv
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy.dialects.postgresql import insert

from app.database import sessions_of
from app.problems import Problem
from geo import area_file, areas
from geo import stores as geo_stores
from geo.areas import AreaReport
from geo.datum import DATUMS, Datum, convert
from geo.store_file import Unreadable, examine
from geo.stores import ImportReport
from kernel.postgres import transaction
from kernel.settings import Settings
from kernel.tables import Brand

DEFAULT_BRAND = "demo"
PLAIN_EVERY = 10_000
"""Lines between two lines of progress where there is no terminal."""

stores = typer.Typer(help="The brand's stores.", no_args_is_help=True)


class UnknownBrand(Exception):
    """The brand does not exist, and is not the one that is made without asking."""


@contextmanager
def refusing(file: Path, unusable: type[Exception]) -> Iterator[None]:
    """Exit code 2 and a sentence where FILE is ``unusable``, there is no such brand, or no database to be had."""
    try:
        yield
    except (unusable, UnknownBrand) as problem:
        typer.echo(f"{file.name}: {problem}", err=True)
        raise typer.Exit(2) from problem
    except Problem as problem:
        typer.echo(str(problem), err=True)
        raise typer.Exit(2) from problem


@stores.command("import")
def import_stores(
    file: Annotated[Path, typer.Argument(help="CSV, UTF-8: code,name,brand,city,address,lng,lat,datum[,radius_m,…]")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")] = False,
    brand: Annotated[
        str, typer.Option(help="Whose stores these are; the column `brand` is only the name over the door.")
    ] = DEFAULT_BRAND,
    create_brand: Annotated[
        str | None, typer.Option(metavar="NAME", help="Make the brand, with this name, if it does not exist.")
    ] = None,
) -> None:
    """Load stores from FILE. Good lines are loaded, bad ones are named; a store that is known by its code is updated.

    Exit code 0: every line was good. 1: some line was refused. 2: the file or the brand is not usable at all.
    """
    if create_brand is None and brand == DEFAULT_BRAND:
        create_brand = brand
    with refusing(file, Unreadable), _progress(file) as progress:
        report = asyncio.run(_import(Settings(), file, brand, create_brand, dry_run, progress))
    _tell(report, brand)
    raise typer.Exit(1 if report.errors else 0)


@stores.command("areas")
def import_areas(
    file: Annotated[
        Path, typer.Argument(help="GeoJSON, UTF-8: a FeatureCollection, or a Feature a line, with the property `code`.")
    ],
    datum: Annotated[
        str | None,
        typer.Option(help=f"Of features without a property `datum`: one of {', '.join(DATUMS)}. There is no default."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")] = False,
    brand: Annotated[str, typer.Option(help="Whose stores these are.")] = DEFAULT_BRAND,
) -> None:
    """Give stores the trade areas in FILE, which replace their circles. A geometry of null takes one away.

    Rings that are open or cross themselves are mended where that is no guess, and named; others are refused, and named.
    Exit code 0: every feature was good. 1: some were refused. 2: the file or the brand is not usable at all.
    """
    frame = None if datum is None else _frame("--datum", datum)
    with refusing(file, Unreadable):
        report = asyncio.run(_areas(Settings(), file, brand, frame, dry_run))
    for bad in report.errors:
        typer.echo(str(bad), err=True)
    for mended in report.repaired:
        typer.echo(f"{mended} (loaded)", err=True)
    verb = "would be " if dry_run else ""
    typer.echo(
        f"{report.features} areas read for {brand}: {report.changed} {verb}set, {report.removed} {verb}taken away, "
        f"{report.unchanged} unchanged, {len(report.errors)} refused"
        + (" (dry run, nothing was changed)" if dry_run else "")
    )
    raise typer.Exit(1 if report.errors else 0)


async def _areas(given: Settings, file: Path, brand: str, datum: Datum | None, dry_run: bool) -> AreaReport:
    for _ in area_file.read(file):  # a file that is none must not cost the start of a server
        break
    async with sessions_of(given) as sessions, transaction(sessions) as session:
        if not await geo_stores.brand_exists(session, brand):
            raise UnknownBrand(f"there is no brand {brand!r}; import its stores first")
        return await areas.import_areas(session, brand, file, datum, dry_run=dry_run)


async def _import(
    given: Settings,
    file: Path,
    brand: str,
    create_brand: str | None,
    dry_run: bool,
    progress: Callable[[int, int], None],
) -> ImportReport:
    examine(file)  # a file that is none must not cost the start of a server
    async with sessions_of(given) as sessions, transaction(sessions) as session:
        attempt = await session.begin_nested()
        if create_brand is not None:
            await session.execute(insert(Brand).values(id=brand, name=create_brand).on_conflict_do_nothing())
        if not await geo_stores.brand_exists(session, brand):
            raise UnknownBrand(f"there is no brand {brand!r}; add --create-brand NAME to make it")
        report = await geo_stores.import_csv(session, brand, file, dry_run=dry_run, progress=progress)
        await (attempt.rollback() if dry_run else attempt.commit())
        return report


@contextmanager
def _progress(file: Path) -> Iterator[Callable[[int, int], None]]:
    """A way to tell of progress on standard error: a bar on a terminal, else a line now and then."""
    console = Console(stderr=True)
    if not console.is_terminal:
        told = 0

        def say(line: int, lines: int) -> None:
            nonlocal told
            if line - told >= PLAIN_EVERY:
                told = line
                typer.echo(f"{line} of {lines} lines", err=True)

        yield say
        return
    columns = (TextColumn(file.name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(file.name, total=None)
        yield lambda line, lines: bar.update(task, completed=line, total=lines)


def _tell(report: ImportReport, brand: str) -> None:
    for bad in report.errors:
        typer.echo(str(bad), err=True)
    for mended in report.repaired:
        typer.echo(f"{mended} (loaded)", err=True)
    if report.ignored_columns:
        typer.echo(f"columns ignored: {', '.join(report.ignored_columns)}", err=True)
    verb = "would be " if report.dry_run else ""
    typer.echo(
        f"{report.lines} stores read for {brand}: {report.new} {verb}new, {report.updated} {verb}updated, "
        f"{report.unchanged} unchanged, {len(report.errors)} refused"
        + (" (dry run, nothing was changed)" if report.dry_run else "")
    )


def datum(
    source: Annotated[str, typer.Option("--from", help=f"One of {', '.join(DATUMS)}.")],
    target: Annotated[str, typer.Option("--to", help=f"One of {', '.join(DATUMS)}.")],
) -> None:
    """Convert `lng,lat` lines from standard input to standard output. A header line is kept; further columns too.

    A bad line is named on standard error and left out; the exit code is 1 if there was one.
    """
    given, wanted = _frame("--from", source), _frame("--to", target)
    # Bytes that are no text cannot be a number either, so they surface as a bad line and not as a traceback.
    sys.stdin.reconfigure(errors="replace", encoding="utf-8-sig")  # type: ignore[union-attr]
    bad = 0
    writer = csv.writer(sys.stdout, lineterminator="\n")
    for number, line in enumerate(sys.stdin, 1):
        fields = line.rstrip("\r\n").split(",")
        if not line.strip():
            continue
        if number == 1 and [name.strip().lower() for name in fields[:2]] == ["lng", "lat"]:
            writer.writerow(fields)
            continue
        try:
            lng, lat = _pair(fields)
        except ValueError as problem:
            bad += 1
            typer.echo(f"line {number}: {problem}", err=True)
            continue
        moved = convert(lng, lat, given, wanted)
        writer.writerow([f"{moved[0]:.9f}", f"{moved[1]:.9f}", *fields[2:]])
    raise typer.Exit(1 if bad else 0)


def _frame(option: str, name: str) -> Datum:
    frames: dict[str, Datum] = {frame: frame for frame in get_args(Datum)}
    if name not in frames:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(DATUMS)}", param_hint=option)
    return frames[name]


def _pair(fields: list[str]) -> tuple[float, float]:
    if len(fields) < 2:
        raise ValueError("not lng,lat")
    pair = []
    for name, value, limit in (("lng", fields[0], 180), ("lat", fields[1], 90)):
        try:
            number = float(value)
        except ValueError:
            raise ValueError(f"{name} {value.strip()[:20]!r} is not a number") from None
        if not -limit <= number <= limit:
            raise ValueError(f"{name} {value.strip()[:20]} is not between -{limit} and {limit}")
        pair.append(number)
    return pair[0], pair[1]
