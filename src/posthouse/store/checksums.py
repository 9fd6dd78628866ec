"""Checksums of rows, and of tables as wholes: SQLite itself does not see a row that was changed, lost or is an old one.

Each row that the engine acts on carries a checksum. The sum over a table is beside its revision, the sum over an
endpoint's living workers beside its fleet, each written in the same transaction as the rows.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Double, Table, func, select

from posthouse.domain.lifecycle import State
from posthouse.store.schema import accounts, endpoints, keys, secrets, templates, workergroups, workers

CATALOGUE = (accounts, endpoints, templates, workergroups, keys, secrets)
"""Tables whose sum is beside their revision."""
UNCOUNTED = frozenset({"id", "checksum", "last_used_at", "revoked_at", "epoch", "last_worker_id"})
"""Columns that a checksum leaves out: what the database chooses, and what changes by itself."""
ALIVE = workers.c.state != State.DESTROYED.value


def checksum(table: Table, row: Mapping[str, Any]) -> int:
    """The checksum of a row of a table."""
    counted = [c for c in table.columns if c.name not in UNCOUNTED]
    # A float that is whole is stored as one, and -0.0 as 0.0.
    values = [float(row[c.name]) + 0.0 if isinstance(c.type, Double) else row[c.name] for c in counted]
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def with_checksum(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its checksum."""
    return {**row, "checksum": checksum(table, row)}


def fields_of(row: Any) -> dict[str, Any]:
    """A row without its checksum."""
    values = dict(row._mapping)
    del values["checksum"]
    return values


def sum_of(table: Table, *where: ColumnElement[bool]) -> Any:
    """The sum over the rows, as part of a statement."""
    return select(func.coalesce(func.sum(table.c.checksum), 0)).where(*where).scalar_subquery()
