"""Brings a database to the newest schema, from any program, with Alembic."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

# All tables, so that the metadata is complete: foreign keys cross packages by name.
import coupons.tables  # noqa: F401
import geo.tables  # noqa: F401
import guides.tables  # noqa: F401
import kernel.tables  # noqa: F401
import live.tables  # noqa: F401

ROOT = Path(__file__).parent.parent


def _config(connection: Connection) -> Config:
    config = Config(ROOT / "alembic.ini")
    config.attributes["connection"] = connection
    return config


async def upgrade(engine: AsyncEngine, revision: str = "head") -> None:
    """Apply every migration up to ``revision``, in one transaction; two programs at once take turns."""
    async with engine.begin() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('nearcast migrations'))"))
        await connection.run_sync(lambda sync: command.upgrade(_config(sync), revision))


async def downgrade(engine: AsyncEngine, revision: str = "base") -> None:
    """Undo migrations down to ``revision``, in one transaction."""
    async with engine.begin() as connection:
        await connection.run_sync(lambda sync: command.downgrade(_config(sync), revision))
