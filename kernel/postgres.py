"""PostgreSQL: engine, sessions, and the metadata that every table hangs on."""

import socket
from collections import namedtuple
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from types import MappingProxyType
from typing import Any, ClassVar
from uuid import UUID

import asyncpg
from sqlalchemy import AdaptedConnection, DateTime, Dialect, ExceptionContext, MetaData, Uuid, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from kernel.settings import SettingMissing, Settings

Sessions = async_sessionmaker[AsyncSession]
GONE_SECONDS = 20
"""A server that acknowledges nothing for so long has left without a word (its machine, or the way to it)."""
_IDLE_SECONDS, _BETWEEN_SECONDS, _TIMES = GONE_SECONDS // 2, GONE_SECONDS // 4, 2
_NOTICES_US = {
    # Else the server keeps for two hours what a machine of ours had locked when it lost its power.
    "tcp_keepalives_idle": str(_IDLE_SECONDS),
    "tcp_keepalives_interval": str(_BETWEEN_SECONDS),
    "tcp_keepalives_count": str(_TIMES),
    "tcp_user_timeout": str(GONE_SECONDS * 1000),
}


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


PROBES = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
}
"""How PostgreSQL plans for those who ask about some rows of large tables, by their keys, again and again: look each up
in its index, however small the table was when the plan was made, and keep the plan."""


def create_engine(
    settings: Settings,
    *,
    name: str = "nearcast",
    connections: int | None = None,
    planner: Mapping[str, str] = MappingProxyType({}),
) -> AsyncEngine:
    """An engine for ``settings.database_url``. It connects on first use, not here.

    ``name`` is what PostgreSQL calls its connections (``pg_stat_activity``), ``connections`` how many there may be
    (None: ``settings.database_pool``), ``planner`` settings of theirs.
    """
    if settings.database_url is None:
        raise SettingMissing("no database: set NEARCAST_DATABASE_URL or start the embedded server")
    try:
        url = make_url(settings.database_url).set(drivername="postgresql+asyncpg")
    except (ArgumentError, ValueError) as error:
        raise SettingMissing("NEARCAST_DATABASE_URL is no address of a database") from error
    engine = create_async_engine(
        url,
        pool_size=settings.database_pool if connections is None else connections,
        max_overflow=0,
        pool_use_lifo=True,  # those in use stay few, with their statements planned and their caches warm
        hide_parameters=True,  # they may be coordinates, and errors are logged
        connect_args={"server_settings": {"application_name": name, "jit": "off", **planner, **_NOTICES_US}},
    )
    event.listen(engine.sync_engine, "connect", _notice_absence)
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    event.listen(engine.sync_engine, "handle_error", _name_half_closed)
    return engine


def _notice_absence(connection: AdaptedConnection, _record: Any) -> None:
    # Left to itself TCP waits a quarter of an hour for an acknowledgement, and for ever for an answer: after a failover
    # that hung up nothing, every connection of the pool would be one that nobody gets back. A query may still take as
    # long as it takes, for the kernel of a server that is there acknowledges meanwhile.
    watch(connection.driver_connection)


def watch(connection: asyncpg.Connection) -> None:
    """Have the kernel end ``connection`` when the other side has not been there for ``GONE_SECONDS``."""
    # asyncpg has neither a parameter for this nor a public way to its socket.
    plain = connection._transport.get_extra_info("socket")
    if plain is None or plain.family not in (socket.AF_INET, socket.AF_INET6):
        return
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", _IDLE_SECONDS), ("TCP_KEEPINTVL", _BETWEEN_SECONDS), ("TCP_KEEPCNT", _TIMES),
        ("TCP_USER_TIMEOUT", GONE_SECONDS * 1000),
    ):  # fmt: skip
        if (number := getattr(socket, option, None)) is not None:  # some of them are Linux's
            plain.setsockopt(socket.IPPROTO_TCP, number, value)


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


@asynccontextmanager
async def asking(sessions: Sessions) -> AsyncIterator[AsyncSession]:
    """A session whose statements commit by themselves: one question costs one round trip instead of three."""
    async with sessions() as session:
        await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        yield session


class Question:
    """One statement that is a transaction of its own, handed to the driver as it is.

    For the few that are asked for every batch of claims: a session and its execution take 0.3 ms of Python to compile,
    bind and describe what is the same each time. ``sql`` names its parameters as ``text`` does.
    """

    def __init__(self, sql: str) -> None:
        self._text = text(sql)
        self._sql = ""
        self._names: tuple[str, ...] = ()
        self._row: Callable[..., Any] | None = None

    def _compile(self, dialect: Dialect) -> None:
        compiled: Any = self._text.compile(dialect=dialect)
        self._sql, self._names = str(compiled), tuple(compiled.positiontup)

    async def ask(self, sessions: Sessions, values: Mapping[str, Any]) -> list[Any]:
        """Its rows, as named tuples; ``values`` may hold more than it names.

        Raises what a session raises: DBAPIError, IntegrityError where a constraint strikes, OSError, and the pool's
        TimeoutError.
        """
        async with sessions.kw["bind"].connect() as connection:
            if not self._sql:
                self._compile(connection.dialect)
            driver: asyncpg.Connection = (await connection.get_raw_connection()).driver_connection
            try:
                found = await driver.fetch(self._sql, *map(values.__getitem__, self._names))
            except asyncpg.PostgresError as error:
                if lost := driver.is_closed() or error.severity_en in ("FATAL", "PANIC"):  # the server's farewell
                    await connection.invalidate()
                kind = IntegrityError if isinstance(error, asyncpg.IntegrityConstraintViolationError) else DBAPIError
                raise kind(self._sql, None, error, connection_invalidated=lost) from error
            except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:  # the latter: `_name_half_closed`
                await connection.invalidate()
                raise DBAPIError(self._sql, None, error, connection_invalidated=True) from error
            except BaseException:
                await connection.invalidate()  # it may still be at work on what nobody waits for
                raise
        if not found:
            return []
        row = self._row = self._row or _named(found[0].keys())
        return [row(*one) for one in found]


def _named(columns: Iterable[str]) -> Any:
    make: Any = namedtuple  # which mypy wants to know the columns of
    return make("Row", columns)
