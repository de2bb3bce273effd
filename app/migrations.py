"""Brings a database to the newest schema, from any program, with Alembic.

Alembic is imported when it is needed: it would be a fifth of the start of every process, and few of them migrate.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from kernel.postgres import Table

if TYPE_CHECKING:
    from alembic.config import Config

ROOT = Path(__file__).parent.parent


def _config(connection: Connection) -> "Config":
    from alembic.config import Config

    config = Config(ROOT / "alembic.ini")
    config.attributes["connection"] = connection
    return config


async def upgrade(engine: AsyncEngine, revision: str = "head") -> None:
    """Apply every migration up to ``revision``, in one transaction; two programs at once take turns."""
    from alembic import command

    async with engine.begin() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('nearcast migrations'))"))
        await connection.run_sync(lambda sync: command.upgrade(_config(sync), revision))


async def downgrade(engine: AsyncEngine, revision: str = "base") -> None:
    """Undo migrations down to ``revision``, in one transaction."""
    from alembic import command

    async with engine.begin() as connection:
        await connection.run_sync(lambda sync: command.downgrade(_config(sync), revision))


async def differences(connection: AsyncConnection) -> list[Any]:
    """What the database has otherwise than the models say, as Alembic's operations; empty after every migration."""
    return await connection.run_sync(_differences)


def _differences(connection: Connection) -> list[Any]:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    # All of them, so that the metadata is complete.
    import live.tables  # noqa: F401

    def ours(name: str | None, kind: str, _parents: object) -> bool:
        return kind != "table" or name in Table.metadata.tables

    context = MigrationContext.configure(connection, opts={"include_name": ours, "compare_server_default": True})
    return list(compare_metadata(context, Table.metadata))
