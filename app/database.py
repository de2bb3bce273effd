"""The database as a command needs it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app import embedded, migrations
from kernel.postgres import Sessions, create_engine, create_sessions
from kernel.settings import Settings


@asynccontextmanager
async def sessions_of(settings: Settings) -> AsyncIterator[Sessions]:
    """Sessions on the newest schema, of the servers that run or are started for as long as this takes.

    Raises what ``embedded.servers`` raises.
    """
    async with embedded.servers(settings) as running:
        engine = create_engine(running)
        try:
            await migrations.upgrade(engine)
            yield create_sessions(engine)
        finally:
            await engine.dispose()
