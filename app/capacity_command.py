"""``nearcast capacity``: what tonight needs, which part gives out first, and how everybody comes back after a loss."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from app.problems import Problem
from kernel.settings import Settings

KEPT = "capacity.json"
CHECKOUT = Path(__file__).parents[1]
CALIBRATION_SECONDS = 600
"""It is meant to take one minute; a machine with much else to do takes longer."""


class NoCalibration(Problem):
    """There are no measured costs that can be used; the message says why."""


def read(path: Path) -> dict[str, Any]:
    """The calibration in ``path``. Raises NoCalibration."""
    try:
        found = json.loads(path.read_text())
    except OSError as problem:
        raise NoCalibration(f"{path}: {problem.strerror}") from problem
    except ValueError as problem:
        raise NoCalibration(f"{path} is no calibration: {problem}") from problem
    if not isinstance(found, dict):
        raise NoCalibration(f"{path} is no calibration: it holds no JSON object")
    return found


def calibrate(path: Path) -> dict[str, Any]:
    """Measure on this machine, and keep the result in ``path``. Raises NoCalibration."""
    if not (CHECKOUT / "loadtest").is_dir():
        raise NoCalibration("Calibrating needs the checkout (loadtest/); take a --calibration FILE made there.")
    command = [sys.executable, "-m", "loadtest.bench.calibrate"]
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command, stdout=subprocess.PIPE, check=False, timeout=CALIBRATION_SECONDS, cwd=CHECKOUT
        )
    except subprocess.TimeoutExpired as problem:
        raise NoCalibration(f"The calibration did not end within {CALIBRATION_SECONDS} s.") from problem
    if done.returncode:
        raise NoCalibration("The calibration failed; what it said stands above.")
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(done.stdout)
    fresh.replace(path)
    return read(path)


def capacity(
    viewers: Annotated[int, typer.Option(min=1, max=20_000_000, help="Who watch at the same time, in all rooms.")],
    comments: Annotated[float, typer.Option(min=0, help="Said a second, in all rooms.")] = 300.0,
    drops: Annotated[
        int, typer.Option(min=0, max=1000, help="Claim drops open at once in the largest room, and as many push drops.")
    ] = 2,
    rooms: Annotated[int, typer.Option(min=1, max=1_000_000, help="Live rooms.")] = 1,
    largest: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of all viewers in the largest room.")] = 1.0,
    display_rate: Annotated[float, typer.Option(min=0.1, max=10_000, help="Comments a second a room shows.")] = 30.0,
    near: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of viewers with a store in reach.")] = 0.3,
    gateways: Annotated[int | None, typer.Option(min=1, max=100_000, help="So many, not as many as needed.")] = None,
    postgres_cores: Annotated[int, typer.Option(min=1, max=1024, help="Cores of PostgreSQL.")] = 8,
    egress_gbit: Annotated[float, typer.Option(min=0.001, help="Width of the line to viewers.")] = 10.0,
    calibration: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Costs measured before, here or elsewhere.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure the costs anew.")] = False,
    picture: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Draw everybody's return into this SVG file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document, for machines.")] = False,
) -> None:
    """Say what an evening needs, from costs measured on this machine, and which part gives out first.

    Also how everybody comes back after a loss, and how wrong all of that is. Costs are measured once, in a minute or
    so, and kept under the state folder. Exit code 1 if the evening does not hold.
    """
    if rooms > 1 and largest == 1.0:
        largest = 1 / rooms
    if rooms > 1 and not 1 / rooms <= largest <= 1:
        raise typer.BadParameter(f"of {rooms} rooms the largest holds at least {1 / rooms:.2%}", param_hint="--largest")
    if rooms == 1 and largest != 1.0:
        raise typer.BadParameter("one room holds everybody; say --rooms too", param_hint="--largest")
    if rooms > viewers:
        raise typer.BadParameter("there are more rooms than viewers", param_hint="--rooms")
    if calibration is not None and again:
        raise typer.BadParameter("a file is not measured anew", param_hint="--again")
    # Here, because these bring numpy and the room service, which most other commands do not need.
    from app.capacity import model, report
    from app.capacity import picture as pictures
    from app.capacity.costs import BadCalibration, checks, fit

    evening = model.Evening(viewers, comments, drops, rooms, largest, display_rate, near, postgres_cores, egress_gbit)
    path = calibration or Settings().state_dir / KEPT
    try:
        measured = calibrate(path) if calibration is None and (again or not path.exists()) else read(path)
        costs = fit(measured)
        found = checks(costs, measured)
    except (BadCalibration, NoCalibration) as problem:
        typer.echo(str(problem), err=True)
        raise typer.Exit(2) from problem
    if gateways is None and model.gateways_for(costs, evening) is None:
        typer.echo(f"No number of gateways holds {comments:g} comments/s: {model.ADVICE['gateways']}.", err=True)
        raise typer.Exit(1)
    if measured.get("tiny"):
        typer.echo("This calibration is a tiny one, made to see that it runs: its figures are worth little.", err=True)
    taken = model.needs(costs, evening, gateways)
    parts = model.parts(costs, evening, gateways)
    outcomes = report.storms(taken, viewers)
    if picture is not None:
        _draw(picture, pictures.svg(outcomes, f"Who is back, of {viewers:,} viewers on {taken.gateways:,} gateways"))
    if as_json:
        typer.echo(json.dumps(report.document(evening, costs, taken, parts, outcomes, found)))
    else:
        machine, plain = str(measured.get("machine", "an unknown machine")), not _blocks()
        typer.echo(report.words(evening, taken, parts, outcomes, found, machine, plain=plain))
    raise typer.Exit(int(any(part.used > 1 for part in parts)))


def _draw(path: Path, document: str) -> None:
    try:
        path.write_text(document)
    except OSError as problem:
        typer.echo(f"{path}: {problem.strerror}", err=True)
        raise typer.Exit(2) from problem


def _blocks() -> bool:
    """Whether standard output can show block characters."""
    try:
        "█▁".encode(sys.stdout.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True
