"""Runs migrations on the connection that ``app.migrations`` hands over."""

from alembic import context

# All tables, so that the metadata is complete: foreign keys cross packages by name.
import live.tables  # noqa: F401
from kernel.postgres import Table


def include_name(name: str | None, kind: str, _parents: object) -> bool:
    """Only our tables: PostGIS brings its own."""
    return kind != "table" or name in Table.metadata.tables


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    include_name=include_name,
    compare_server_default=True,
    user_module_prefix="geoalchemy2.",
)
with context.begin_transaction():
    context.run_migrations()
