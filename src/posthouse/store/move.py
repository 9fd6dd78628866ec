"""Brings a database up to this version, or moves it to another: a file, or one on a server of PostgreSQL."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, String, Table, func, insert, select, text

from posthouse.errors import BadRequest, Refused
from posthouse.store import sqlite
from posthouse.store.integrity import check_rows
from posthouse.store.migrate import pending
from posthouse.store.postgres import take_time
from posthouse.store.schema import Which, endpoints, keys, metadata, schema_version, workers
from posthouse.store.sql import open_backend

BATCH = 500
"""Rows that are written at once."""


async def migrate_database(url: str, which: Which) -> tuple[str, Sequence[str]]:
    """Makes pending migrations: the schema that the database has then, and what is left. Raises: as `open_store`."""
    backend, _ = await open_backend(url, which)
    try:
        async with backend.engine.begin() as db:
            schema = str(await db.scalar(select(schema_version.c.version_num)))
    finally:
        await backend.close()
    return schema, pending(schema)


async def move_store(path: Path, url: str) -> Mapping[str, int]:
    """Copies every row of the file into an empty database, and compares each; how many each table has.

    All or nothing. Of the file nothing is changed, but that it is brought up to this version's schema.
    Raises: BadRequest, Refused.
    """
    if not url.startswith(("postgresql://", "postgres://")):
        raise BadRequest("the new database must be given as postgresql://USER:PASSWORD@HOST/DATABASE")
    return await copy_store(f"{sqlite.DRIVER}:///{path}", url)


async def copy_store(source_url: str, target_url: str) -> Mapping[str, int]:
    """The same between any two, as the first is at one moment; a server may go on with it where it is on PostgreSQL."""
    source, _ = await open_backend(source_url)
    reading = source.engine
    if reading.dialect.name == "postgresql":
        reading = reading.execution_options(isolation_level="REPEATABLE READ")
    try:
        target, _ = await open_backend(target_url)
        try:
            async with reading.begin() as old, target.engine.begin() as new:
                into = new.sync_connection
                assert into is not None
                return await old.run_sync(lambda connection: _move(connection, into))
        finally:
            await target.close()
    finally:
        await source.close()


def _move(old: Connection, new: Connection) -> Mapping[str, int]:
    take_time(old)
    take_time(new)
    for table in (endpoints, keys, workers):
        if new.scalar(select(func.count()).select_from(table)):
            raise Refused(f"the new database has {table.name} already: name an empty one")
    for table in reversed(metadata.sorted_tables):  # what every new database has
        new.execute(table.delete())
    for table in metadata.sorted_tables:
        found = old.execute(select(table)).mappings()
        while rows := found.fetchmany(BATCH):
            new.execute(insert(table), [dict(row) for row in rows])
    for name, last in _last_ids(old).items():  # one that was given is never given again, with or without its row
        if new.dialect.name == "postgresql":
            new.execute(text("SELECT setval(pg_get_serial_sequence(:name, 'id'), :last)"), {"name": name, "last": last})
        else:
            new.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), {"name": name})
            new.execute(text("INSERT INTO sqlite_sequence VALUES (:name, :last)"), {"name": name, "last": last})
    check_rows(new)
    return {table.name: _compare(table, old, new) for table in metadata.sorted_tables}


def _last_ids(db: Connection) -> Mapping[str, int]:
    """The last id that was given in each table that gives some."""
    if db.dialect.name == "sqlite":
        return {name: last for name, last in db.execute(text("SELECT name, seq FROM sqlite_sequence")) if last}
    found = {}
    for table in metadata.sorted_tables:
        if table.dialect_options["sqlite"]["autoincrement"]:
            sequence = db.scalar(text("SELECT pg_get_serial_sequence(:name, 'id')"), {"name": table.name})
            last, given = db.execute(text(f"SELECT last_value, is_called FROM {sequence}")).one()  # noqa: S608
            if given:
                found[table.name] = last
    return found


def _compare(table: Table, old: Connection, new: Connection) -> int:
    """How many rows a table has. Raises: Refused if one is not the same here and there."""
    count = 0
    for before, after in zip_longest(_rows(table, old), _rows(table, new)):
        if before != after:
            raise Refused(f"{table.name}: a row was not moved as it was; nothing was changed")
        count += 1
    return count


def _rows(table: Table, connection: Connection) -> Iterator[tuple[Any, ...]]:
    """The rows, in an order that every database has: texts by their bytes."""
    order = [
        column.collate("C") if connection.dialect.name == "postgresql" and isinstance(column.type, String) else column
        for column in table.primary_key
    ]
    found = connection.execute(select(table).order_by(*order).execution_options(yield_per=BATCH))
    return (tuple(row) for row in found)
