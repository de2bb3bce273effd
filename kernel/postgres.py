"""PostgreSQL: engine, sessions, and the metadata that every table hangs on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from sqlalchemy import DateTime, MetaData, Uuid
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from kernel.settings import Settings

Sessions = async_sessionmaker[AsyncSession]


class Table(DeclarativeBase):
    """What all mapped classes derive from; constraint names follow one convention so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {datetime: DateTime(timezone=True), UUID: Uuid}


def create_engine(settings: Settings, *, pool: int | None = None) -> AsyncEngine:
    """An engine for ``settings.database_url``. It connects on first use, not here."""
    if settings.database_url is None:
        raise ValueError("no database: set NEARCAST_DATABASE_URL or start the embedded server")
    url = settings.database_url.replace("postgresql://", "postgresql+asyncpg://", 1)
    return create_async_engine(
        url,
        pool_size=pool or settings.database_pool,
        max_overflow=0,
        pool_pre_ping=True,
        connect_args={"server_settings": {"application_name": "nearcast", "jit": "off"}},
    )


def create_sessions(engine: AsyncEngine) -> Sessions:
    """A session factory whose objects stay readable after commit."""
    return async_sessionmaker(engine, expire_on_commit=False)


@asynccontextmanager
async def transaction(sessions: Sessions) -> AsyncIterator[AsyncSession]:
    """One session, one transaction: committed on leaving, rolled back on any error.

    Only the edges open it (a request, a socket command, a turn of the worker); use cases never commit.
    """
    async with sessions() as session, session.begin():
        yield session
