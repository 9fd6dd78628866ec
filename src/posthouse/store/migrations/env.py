"""Alembic runs this file at every migration. The store hands over its connection, inside a transaction."""

from alembic import context

from posthouse.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
