"""Looks whether a database is whole, at each start: what it lost in silence would be taken for never having been."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from sqlalchemy import ColumnElement, Connection, Double, Integer, Table, select, update
from sqlalchemy.exc import DBAPIError

from posthouse.domain.lifecycle import State
from posthouse.errors import Refused
from posthouse.store.checksums import ALIVE, CATALOGUE, checksum, fields_of
from posthouse.store.schema import fleets, installation, periods, revisions, versions, workers


class Damaged(Refused):
    """What is in a database cannot be what was written there. The text says what and where."""


def damaged(what: str) -> str:
    """What helps where a database is damaged, as the end of a sentence."""
    return (
        f"; it is damaged. Nothing was changed, and workers go on: stop whatever writes to the {what}, and restore a "
        "backup (docs/guides/operating.md says how)"
    )


def check_rows(connection: Connection) -> None:
    """Compares every row that decisions rest on with its checksum, and their sums with those of the tables.

    Raises: Damaged.
    """
    for _ in _whole_rows(connection, installation):
        pass
    stored = {row["topic"]: row["checksum"] for row in _rows(connection, revisions)}
    for table in CATALOGUE:
        total = sum(row["checksum"] for row in _whole_rows(connection, table))
        if stored.get(table.name) != total:
            raise Damaged(f"the table {table.name} has lost rows, or has old ones")
    for table in (periods, versions):
        for _ in _whole_rows(connection, table):
            pass
    alive = Counter[int]()
    for row in _whole_rows(connection, workers):
        if row["state"] != State.DESTROYED.value:
            alive[row["endpoint_id"]] += row["checksum"]
    found = {row["endpoint_id"]: row for row in _rows(connection, fleets)}
    for endpoint_id in found.keys() | alive.keys():
        fleet = found.get(endpoint_id)
        if fleet is None or fleet["checksum"] != alive[endpoint_id] + checksum(fleets, fleet):
            raise Damaged(f"the table workers or fleets has lost rows of endpoint {endpoint_id}, or has old ones")


def seal(connection: Connection) -> None:
    """Writes checksums where none are: in a new database, or one of a version that had none."""
    if connection.scalar(select(revisions.c.checksum).where(revisions.c.topic == "endpoints")) is not None:
        return
    for table in (installation, *CATALOGUE, workers):
        keys = list(table.primary_key)
        for row in connection.execute(select(table)).all():
            of_it = [key == row._mapping[key.name] for key in keys]
            connection.execute(update(table).where(*of_it).values(checksum=checksum(table, fields_of(row))))
    for table in CATALOGUE:
        summed = sum(row["checksum"] for row in _whole_rows(connection, table))
        connection.execute(update(revisions).where(revisions.c.topic == table.name).values(checksum=summed))
    connection.execute(update(revisions).where(revisions.c.checksum.is_(None)).values(checksum=0))  # of the others
    for fleet in connection.execute(select(fleets)).all():
        of_it = [workers.c.endpoint_id == fleet.endpoint_id, ALIVE]
        summed = checksum(fleets, dict(fleet._mapping))
        summed += sum(row["checksum"] for row in _whole_rows(connection, workers, *of_it))
        connection.execute(update(fleets).where(fleets.c.endpoint_id == fleet.endpoint_id).values(checksum=summed))


def _whole_rows(connection: Connection, table: Table, *where: ColumnElement[bool]) -> Iterator[dict[str, Any]]:
    """The rows, each compared with its checksum. Raises: Damaged."""
    for row in _rows(connection, table, *where):
        try:
            whole = checksum(table, row) == row["checksum"]
        except TypeError:  # a value of another type
            whole = False
        if not whole:
            raise _changed(table, row)
        yield row


def _rows(connection: Connection, table: Table, *where: ColumnElement[bool]) -> Iterator[dict[str, Any]]:
    """The rows, each with numbers where numbers belong: a checksum leaves some of them out. Raises: Damaged."""
    numbers = [column.name for column in table.columns if isinstance(column.type, Integer | Double)]
    rows = iter(connection.execute(select(table).where(*where)))
    while True:
        try:
            row = next(rows, None)
        except (DBAPIError, ValueError, TypeError, LookupError) as error:  # whatever reads a value
            raise Damaged(f"a row of {table.name} cannot be read: {error}") from error
        if row is None:
            return
        values = dict(row._mapping)
        if not all(isinstance(values[name], int | float) for name in numbers):
            raise _changed(table, values)
        yield values


def _changed(table: Table, row: dict[str, Any]) -> Damaged:
    key = ", ".join(str(row[column.name]) for column in table.primary_key)
    return Damaged(f"row {key} of {table.name} is not what was written")
