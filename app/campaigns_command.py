"""``nearcast campaigns import``."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.database import sessions_of
from app.stores_command import DEFAULT_BRAND, UnknownBrand, refusing
from geo import stores
from kernel.clock import now
from kernel.identity import Principal, Role
from kernel.ids import BrandId, new_id
from kernel.postgres import transaction
from kernel.settings import Settings

if TYPE_CHECKING:
    from coupons.campaign_file import Line
    from coupons.campaign_import import Report

campaigns = typer.Typer(help="The brand's campaigns.", no_args_is_help=True)


@campaigns.callback()
def _group() -> None:
    """The brand's campaigns."""


@campaigns.command("import")
def import_campaigns(
    file: Annotated[
        Path,
        typer.Argument(help="CSV or JSON, UTF-8, with the fields of `POST /v1/campaigns`; `key` says which it is."),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")] = False,
    brand: Annotated[str, typer.Option(help="Whose campaigns these are.")] = DEFAULT_BRAND,
) -> None:
    """Load campaigns from FILE. Good lines are loaded, as drafts; bad ones are named. A draft that is known by its key
    is changed; one that runs changes its stock only, and only if `current_stock` says what that is now.

    Exit code 0: every line was good. 1: some line was refused. 2: the file or the brand is not usable at all.
    """
    # Here, because what judges campaigns brings the web framework, which no other command needs.
    from coupons import campaign_file

    with refusing(file, campaign_file.UnreadableCampaigns):
        lines = campaign_file.read(file)
        report = asyncio.run(_import(Settings(), lines, brand, dry_run))
    for bad in report.errors:
        typer.echo(str(bad), err=True)
    verb = "would be " if dry_run else ""
    typer.echo(
        f"{report.read} campaigns read for {brand}: {report.new} {verb}new, {report.updated} {verb}updated, "
        f"{report.unchanged} unchanged, {len(report.errors)} refused"
        + (" (dry run, nothing was changed)" if dry_run else "")
    )
    raise typer.Exit(1 if report.errors else 0)


async def _import(given: Settings, lines: "list[Line]", brand: str, dry_run: bool) -> "Report":
    from coupons import campaign_import

    async with sessions_of(given) as sessions, transaction(sessions) as session:
        if not await stores.brand_exists(session, brand):
            raise UnknownBrand(f"there is no brand {brand!r}; import its stores first")
        who = Principal(BrandId(brand), new_id(), Role.OPS, "import", now() + timedelta(hours=1))
        return await campaign_import.load(session, who, lines, dry_run=dry_run)
