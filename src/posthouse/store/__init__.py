"""What survives a restart: the `Store` port on a SQL database."""

from posthouse.store.sql import SqlStore, open_store

__all__ = ["SqlStore", "open_store"]
