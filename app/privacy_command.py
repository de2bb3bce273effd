"""``nearcast export`` and ``nearcast erase``: what a person may ask for, also by telephone or letter."""

import sys
from typing import Annotated
from uuid import UUID

import typer

from app import privacy
from app.database import sessions_of
from app.problems import Problem
from guides.privacy import brand_of, find
from kernel.clock import now
from kernel.errors import Refusal
from kernel.postgres import Sessions, transaction
from kernel.settings import Settings

Whose = Annotated[str, typer.Argument(metavar="MEMBER", help="The member's id, or their openid.")]
OfBrand = Annotated[str, typer.Option("--brand", help="Where the openid is known.")]


class NobodyFound(Problem):
    """There is no such member."""


async def _found(sessions: Sessions, whose: str, brand: str) -> tuple[str, UUID]:
    """Brand and id of a member. Raises NobodyFound."""
    async with sessions() as session:
        try:
            member: UUID | None = UUID(whose)
        except ValueError:
            member = await find(session, brand, whose)
        home = None if member is None else await brand_of(session, member)
    if member is None or home is None:
        raise NobodyFound("There is no such member (any more).")
    return home, member


async def export(settings: Settings, whose: str, brand: str) -> None:
    """Write everything kept about a member to standard output. Raises NobodyFound."""
    async with sessions_of(settings) as sessions:
        home, member = await _found(sessions, whose, brand)
        async for piece in privacy.export(sessions, home, member, now()):
            sys.stdout.buffer.write(piece)
    sys.stdout.flush()


async def erase(settings: Settings, whose: str, brand: str, *, yes: bool) -> int:
    """Erase a member, once that was confirmed; the exit code. Raises NobodyFound."""
    async with sessions_of(settings) as sessions:
        home, member = await _found(sessions, whose, brand)
        if not yes and not typer.confirm(f"Erase member {member} of {home} for good?"):
            return 1
        try:
            async with transaction(sessions) as session:
                await privacy.erase(session, home, member, now())
        except Refusal as refusal:  # somebody else did so meanwhile
            raise NobodyFound(refusal.message) from refusal
    typer.echo("Erased. Sockets close within a second; the worker sweeps what was under way for ten minutes.")
    return 0
