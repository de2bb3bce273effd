"""A test worker's database, and how it is brought back to what the migrations made of it.

A new database for each test would be simpler. It was most of the suite's time: PostgreSQL copies and removes some 350
files for it, half a second of a core. Emptying the few tables that a test wrote to takes a fiftieth of that.
"""

from uuid import uuid4

import asyncpg

LARGE_BYTES = 256 * 1024
"""Tables that grew beyond this are truncated; for smaller ones deleting is cheaper, as their files stay."""

OURS = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'public' AND c.relkind = 'r' AND c.relname <> 'alembic_version'
AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e') ORDER BY 1
"""

SHAPE = """
SELECT ARRAY[
  (SELECT md5(string_agg(concat_ws(' ', oid, relname, relkind, relpersistence,
    CASE WHEN relkind = 'r' THEN reltuples END), ',' ORDER BY oid)) FROM pg_class WHERE oid >= 16384),
  (SELECT concat(count(*), ' ', max(xmin::text::bigint)) FROM pg_attribute),
  (SELECT concat(count(*), ' ', max(xmin::text::bigint)) FROM pg_constraint),
  (SELECT concat(count(*), ' ', max(xmin::text::bigint)) FROM pg_trigger),
  (SELECT concat(count(*), ' ', max(xmin::text::bigint)) FROM pg_proc),
  (SELECT string_agg(version_num, ',') FROM alembic_version)]
"""
"""What DDL and ANALYZE change, and reading and writing rows does not."""

ALONE = """
SELECT coalesce(bool_and(pg_terminate_backend(pid, 20000)), true) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


class Database:
    """A copy of the database at ``template``, made when it is first needed."""

    def __init__(self, template: str) -> None:
        self._server, _, self._template = template.rpartition("/")
        self._name = ""
        self._shape: list[str] = []
        self._filled: list[str] = []
        self._touched = ""

    @property
    def url(self) -> str:
        return f"{self._server}/{self._name}"

    async def provide(self) -> None:
        """Make the database, unless there is one in order."""
        if self._name:
            return
        name = f"t_{uuid4().hex[:12]}"
        await self._administer(f"CREATE DATABASE {name} TEMPLATE {self._template}")
        connection = await asyncpg.connect(f"{self._server}/{name}")
        try:
            tables = [row[0] for row in await connection.fetch(OURS)]
            # What migrations write is kept aside, to compare with and to restore from.
            self._filled = [name for name in tables if await connection.fetchval(f"SELECT EXISTS (TABLE {name})")]
            await connection.execute("CREATE SCHEMA kept")
            for table in self._filled:
                await connection.execute(f"CREATE TABLE {_kept(table)} AS TABLE {table}")
            self._touched = _touched(tables, self._filled)
            self._shape = await connection.fetchval(SHAPE)
        finally:
            await connection.close()
        self._name = name

    async def restore(self) -> None:
        """Undo what a test did. A database that it changed by more than rows is given up for a new one."""
        connection = await asyncpg.connect(self.url)
        try:
            restored = await connection.fetchval(ALONE) and await self._emptied(connection)
        finally:
            await connection.close()
        if not restored:
            await self.drop()

    async def drop(self) -> None:
        """Remove the database."""
        name, self._name = self._name, ""
        await self._administer(f"DROP DATABASE {name} WITH (FORCE)")

    async def _emptied(self, connection: asyncpg.Connection) -> bool:
        if await connection.fetchval(SHAPE) != self._shape:
            return False
        touched = [(row["name"], row["size"] > LARGE_BYTES) for row in await connection.fetch(self._touched)]
        large = [name for name, is_large in touched if is_large]
        statements = [f"TRUNCATE {', '.join(large)} CASCADE"] if large else []
        statements += [f"DELETE FROM {name}" for name, is_large in touched if not is_large]
        statements += [
            f"DELETE FROM {name}; INSERT INTO {name} TABLE {_kept(name)}" for name in self._filled if touched
        ]
        statements += [
            "SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false) FROM pg_sequences"
            " WHERE last_value IS NOT NULL"
        ]
        # Neither foreign keys nor triggers that guard the ledger are to be asked.
        await connection.execute(f"SET session_replication_role = replica; {'; '.join(statements)}")
        return True

    async def _administer(self, statement: str) -> None:
        admin = await asyncpg.connect(f"{self._server}/postgres")
        try:
            await admin.execute(statement)
        finally:
            await admin.close()


def _kept(table: str) -> str:
    return f"kept.{table.rpartition('.')[2]}"


def _touched(tables: list[str], filled: list[str]) -> str:
    """The query for tables whose rows are not those that the migrations left, and their sizes in bytes."""

    def differs(table: str) -> str:
        if table not in filled:
            return f"EXISTS (TABLE {table})"
        kept = _kept(table)
        return f"EXISTS (TABLE {table} EXCEPT TABLE {kept}) OR EXISTS (TABLE {kept} EXCEPT TABLE {table})"

    each = (f"SELECT '{table}' AS name, pg_relation_size('{table}') AS size WHERE {differs(table)}" for table in tables)
    return " UNION ALL ".join(each)
