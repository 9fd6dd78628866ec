"""Checksums of rows, and of tables as wholes: SQLite itself does not see a row that was changed, lost or is an old one.

Each row that the engine acts on carries a checksum. The sum over a table is beside its revision, the sum over an
endpoint's living workers beside its fleet, each written in the same transaction as the rows.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, DefaultClause, Double, Table, func, select

from posthouse.domain.lifecycle import State
from posthouse.store.schema import accounts, aliases, endpoints, keys, secrets, templates, users, workergroups, workers

CATALOGUE = (accounts, endpoints, templates, workergroups, keys, secrets, aliases, users)
"""Tables whose sum is beside their revision."""
UNCOUNTED = frozenset(
    {
        *("id", "checksum", "last_used_at", "revoked_at", "epoch", "server", "last_worker_id", "oldest"),
        *("used_requests", "used_work", "refused_requests"),
    }
)
"""Columns that a checksum leaves out: what the database chooses, and what changes by itself."""
REPLACED = "\N{REPLACEMENT CHARACTER}"
ALIVE = workers.c.state != State.DESTROYED.value


def checksum(table: Table, row: Mapping[str, Any]) -> int:
    """The checksum of a row of a table.

    A column that a migration has added has a `server_default`, a number or text. It counts, with its name, where it
    says something else, so the checksums of rows that were there before stay right.
    """
    values, later = list[Any](), dict[str, Any]()
    for column in table.columns:
        if column.name in UNCOUNTED:
            continue
        # A float that is whole is stored as one, and -0.0 as 0.0.
        value = float(row[column.name]) + 0.0 if isinstance(column.type, Double) else row[column.name]
        if not isinstance(column.server_default, DefaultClause):
            values.append(value)
        elif value != type(value)(str(column.server_default.arg)):
            later[column.name] = value
    return zlib.crc32(json.dumps([*values, later] if later else values, sort_keys=True).encode())


def with_checksum(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its checksum. No text has a NUL in it, which PostgreSQL cannot store."""
    texts = {name: text.replace("\0", REPLACED) for name, text in row.items() if isinstance(text, str)}
    storable = {**row, **texts}
    return {**storable, "checksum": checksum(table, storable)}


def fields_of(row: Any) -> dict[str, Any]:
    """A row without its checksum."""
    values = dict(row._mapping)
    del values["checksum"]
    return values


def sum_of(table: Table, *where: ColumnElement[bool]) -> Any:
    """The sum over the rows, as part of a statement."""
    return select(func.coalesce(func.sum(table.c.checksum), 0)).where(*where).scalar_subquery()
