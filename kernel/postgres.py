"""PostgreSQL: engine, sessions, and the metadata that every table hangs on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

import asyncpg
from sqlalchemy import AdaptedConnection, DateTime, ExceptionContext, MetaData, Uuid, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from kernel.settings import SettingMissing, Settings

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


def create_engine(settings: Settings) -> AsyncEngine:
    """An engine for ``settings.database_url``. It connects on first use, not here."""
    if settings.database_url is None:
        raise SettingMissing("no database: set NEARCAST_DATABASE_URL or start the embedded server")
    url = settings.database_url.replace("postgresql://", "postgresql+asyncpg://", 1)
    engine = create_async_engine(
        url,
        pool_size=settings.database_pool,
        max_overflow=0,
        hide_parameters=True,  # they may be coordinates, and errors are logged
        connect_args={"server_settings": {"application_name": "nearcast", "jit": "off"}},
    )
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    event.listen(engine.sync_engine, "handle_error", _name_half_closed)
    return engine


def _refuse_closed(connection: AdaptedConnection, _record: Any, _proxy: Any) -> None:
    # The driver knows when the server has hung up (a restart), so nobody need be asked: a ping would cost every
    # request a round trip. The pool answers this error by connecting anew.
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _name_half_closed(context: ExceptionContext) -> None:
    # Between the server's farewell and its hanging up, asyncpg believes that an operation is under way. Nobody else
    # uses the connection, so that error means that the connection is lost.
    if isinstance(getattr(context.original_exception, "__cause__", None), asyncpg.InternalClientError):
        context.is_disconnect = True


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
