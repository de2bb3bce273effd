"""The ``nearcast`` command."""

import json
import sys
from collections.abc import Coroutine
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
import uvloop

from app import campaigns_command, capacity_command, embedded, migrations, privacy_command, stores_command
from app.database import sessions_of
from app.keys import with_keys
from app.problems import explained
from kernel import log, tracing
from kernel.clock import now
from kernel.identity import Keyring, Principal, Role
from kernel.ids import BrandId, new_id
from kernel.postgres import create_engine
from kernel.settings import Settings

if TYPE_CHECKING:
    from coupons.ledger import AuditReport

cli = typer.Typer(
    help="Live shopping rooms, and coupons from the stores near each viewer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
cli.add_typer(stores_command.stores, name="stores")
cli.add_typer(campaigns_command.campaigns, name="campaigns")
cli.command()(stores_command.datum)
cli.command()(capacity_command.capacity)


def run(work: Coroutine[Any, Any, int | None]) -> None:
    """Run ``work`` to its exit code."""
    try:
        code = uvloop.run(work)
    except KeyboardInterrupt:
        code = 130
    raise typer.Exit(code or 0)


def settings_for(process: str) -> Settings:
    """The environment's settings, with logging set up for ``process``."""
    settings = Settings()
    log.configure(settings, process)
    if process in ("api", "gateway", "worker"):
        tracing.configure(settings, process)
    return settings


@cli.command()
def api() -> None:
    """Serve REST and the pages."""
    from app import api as process

    run(process.serve(settings_for("api")))


@cli.command()
def gateway() -> None:
    """Serve room sockets. Run one per core; they share a port by SO_REUSEPORT."""
    from app import gateway as process

    run(process.serve(settings_for("gateway")))


@cli.command()
def worker() -> None:
    """Relay events, grant push drops, expire and sweep."""
    from app import worker as process

    run(process.serve(settings_for("worker")))


@cli.command(name="up")
def up_command(
    demo: Annotated[bool, typer.Option(help="Load the demo and simulate an audience.")] = False,
    viewers: Annotated[int, typer.Option(min=0, max=15_000, help="Simulated viewers.")] = 300,
    stores: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Import these instead of the demo's stores.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=1, help="Stop after so many seconds.")] = None,
    media: Annotated[bool, typer.Option(help="Run a media server too, to push a real picture to.")] = False,
) -> None:
    """Run everything on this machine: servers, one API, two gateways, one worker."""
    from app import show

    run(show.run(settings_for("up"), demo=demo, viewers=viewers, stores=stores, seconds=seconds, media=media))


@cli.command()
def demo(
    api: Annotated[str, typer.Option(help="Address of a running API with the demo loaded.")],
    viewers: Annotated[int, typer.Option(min=0, max=15_000)] = 300,
    seconds: Annotated[float | None, typer.Option(min=1, help="Stop after so many seconds.")] = None,
) -> None:
    """Simulate guides, viewers and clerks against a running Nearcast. Prints JSON lines."""
    from app import audience

    run(audience.run(api, viewers, seconds))


@cli.command()
def migrate(revision: Annotated[str, typer.Argument(help="Where to, or `base` to undo everything.")] = "head") -> None:
    """Bring the database to the newest schema."""

    async def work() -> None:
        async with embedded.servers(settings_for("migrate")) as settings:
            engine = create_engine(settings)
            try:
                if revision == "base":
                    await migrations.downgrade(engine, revision)
                else:
                    await migrations.upgrade(engine, revision)
            finally:
                await engine.dispose()
        typer.echo(f"The database is at {revision}.")

    run(work())


@cli.command()
def token(
    role: Annotated[Role, typer.Option(help="What the token's owner is.")],
    subject: Annotated[UUID | None, typer.Option(help="Whom it is for; left out: somebody new.")] = None,
    brand: Annotated[str, typer.Option()] = "demo",
    store: Annotated[UUID | None, typer.Option(help="The clerk's store.")] = None,
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="So many tokens, one a line.")] = 1,
    hours: Annotated[float, typer.Option(min=0.01, max=24 * 30)] = 2,
) -> None:
    """Print signed tokens, for operators and load tests."""
    if subject is not None and count > 1:
        raise typer.BadParameter("one subject has one token; leave --subject out to get many")
    if (role is Role.CLERK) != (store is not None):
        raise typer.BadParameter("a clerk's token, and only that, needs --store")
    keyring = Keyring.from_settings(with_keys(settings_for("token")))
    ends = now().replace(microsecond=0) + timedelta(hours=hours)
    for number in range(count):
        who = Principal(BrandId(brand), subject or new_id(), role, f"{role.value} {number + 1}", ends, store)
        sys.stdout.write(keyring.issue(who) + "\n")


@cli.command()
def protocol(
    as_asyncapi: Annotated[bool, typer.Option("--asyncapi", help="As an AsyncAPI 3 document, for machines.")] = False,
    as_typescript: Annotated[bool, typer.Option("--typescript", help="As TypeScript declarations.")] = False,
) -> None:
    """Print the room protocol's tables, made from the code."""
    from live import asyncapi, contract, typescript

    if as_typescript:
        sys.stdout.write(typescript.declarations())
    else:
        sys.stdout.write(asyncapi.encoded().decode() + "\n" if as_asyncapi else contract.markdown())


@cli.command()
def export(member: privacy_command.Whose, brand: privacy_command.OfBrand = "demo") -> None:
    """Print everything kept about a member, as JSON."""
    run(privacy_command.export(settings_for("export"), member, brand))


@cli.command()
def erase(
    member: privacy_command.Whose,
    brand: privacy_command.OfBrand = "demo",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase a member for good; what the books need stays without a person."""
    run(privacy_command.erase(settings_for("erase"), member, brand, yes=yes))


@cli.command()
def audit(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document, for machines.")] = False,
) -> None:
    """Prove from rows alone that no coupon was issued, used or lost wrongly. Exit code 1 if something is wrong, 2 if
    nobody could look."""
    from coupons import ledger

    async def work() -> int:
        async with sessions_of(settings_for("audit")) as sessions, sessions() as session:
            report = await ledger.audit(session)
        typer.echo(json.dumps(report.document(), ensure_ascii=False, indent=2) if as_json else _in_words(report))
        return 0 if report.ok and not report.overdue else 1

    run(work())


@cli.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="One JSON line for each finding.")] = False) -> None:
    """Look for what would go wrong tonight, and say what to do. Exit code 1 if something would."""
    from app import doctor as practice

    mark = {"ok": "  ok ", "warn": "WARN ", "fail": "FAIL "}
    worst: set[str] = set()

    def tell(finding: practice.Finding) -> None:
        worst.add(finding.state)
        if as_json:
            typer.echo(json.dumps(asdict(finding), ensure_ascii=False))
        else:
            typer.echo(f"{mark[finding.state]} {finding.check}: {finding.said}")
            if finding.advice:
                typer.echo(f"       → {finding.advice}")

    async def work() -> int:
        settings, findings = practice.read_settings()
        for finding in findings:
            tell(finding)
        if settings is not None:
            log.configure(settings, "doctor")
            async with embedded.servers(settings) as started:
                for finding in await practice.examine(started):
                    tell(finding)
        return 1 if "fail" in worst else 0

    run(work())


def _in_words(report: "AuditReport") -> str:
    lines = [f"{found.code}: {found.count} ({', '.join(found.examples)})" for found in report.findings]
    if (waiting := report.outbox_waiting) is not None:
        oldest = waiting.oldest_seconds or 0.0
        lines.append(f"outbox: {waiting.count} events wait to be told, the oldest for {oldest:.0f} s")
    lines += [f"warning: {warning}" for warning in report.warnings]
    lines.append("coupons: " + ", ".join(f"{count} {state}" for state, count in report.totals.items()))
    lines.append("audit ok" if report.ok and not report.overdue else "audit FAILED")
    return "\n".join(lines)


def main() -> None:
    """Entry point of the console script. What an operator can mend is said in one sentence, without a traceback, and
    the exit code is 2: nothing was looked at."""
    try:
        cli()
    except Exception as error:
        if (said := explained(error)) is None:
            raise
        typer.echo(said, err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
