"""What an operator can mend."""

import os
from urllib.parse import urlsplit

import asyncpg
from pydantic import ValidationError
from pydantic_settings import SettingsError
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from kernel.settings import PREFIX, SettingMissing, Settings


class Problem(Exception):
    """Said in one sentence, without a traceback, by every command."""


def of_settings(error: ValidationError) -> str:
    """Which settings cannot be read, and why; never their values, which may be secrets."""
    return "; ".join(f"{PREFIX}{str(each['loc'][0]).upper()}: {each['msg']}" for each in error.errors())


def explained(error: Exception) -> str | None:
    """``error`` in a sentence, where an operator can mend it; None where it is a defect of ours."""
    match error:
        case Problem() | SettingMissing():
            return str(error)
        case ValidationError(title=Settings.__name__):
            return of_settings(error)
        case SettingsError():
            return f"{error}: not in the form that docs/operations.md shows"
        case asyncpg.PostgresError() | asyncpg.InterfaceError():
            return f"{_database()} refuses: {error}"
        case DBAPIError(connection_invalidated=True) | PoolTimeout():
            return f"{_database()} went away, or does not answer."
        case RedisError():
            return f"Redis does not do as asked: {error}"
        case OSError(filename=str() as file):
            return f"{file}: {error.strerror}"
        case OSError(errno=int() as number) if number > 0:
            return f"{_database()} cannot be reached: {os.strerror(number)}"
        case OSError():  # of the resolver, whose numbers are its own; or nobody answered in time
            return f"{_database()} cannot be reached: {error.strerror or error or 'no answer'}"
    return None


def _database() -> str:
    """Which database, without the password in its address."""
    address = urlsplit(Settings().database_url or "")
    return f"The database{f' at {address.hostname}:{address.port or 5432}' if address.hostname else ''}"
