"""A SQL database in transactions, and what the tables have in common."""

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeAlias, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Select, Table, delete, func, insert, select, update
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from posthouse.errors import BadRequest, NotFound, StaleVersion, Unavailable
from posthouse.store.acts import note_rows, one_of
from posthouse.store.checksums import sum_of, with_checksum
from posthouse.store.schema import revisions

FAILURE_TOLD_S = 60.0
"""For how long a failure is listed among the troubles."""
RETRY_S = 5.0
"""When a call is worth another try where the database could not be used: as long as SQLite waits for its lock."""
FULL = "decisions are still written, into room that is kept for them, and traffic is not recorded"

CHANNEL = "posthouse"
"""On which servers that share a database of PostgreSQL notify each other of what they changed."""
DATA_EXCEPTION = "22"
"""How PostgreSQL's codes begin for a value that it cannot take, such as a text with a NUL."""

T = TypeVar("T")
First: TypeAlias = Callable[[AsyncConnection, object], Awaitable[None]]

UNIQUE = {"accounts": "name", "endpoints": "name", "templates": "hash_id", "keys": "id", "users": "name"}
"""The field of each table that no two rows of one owner share."""


class Backend(Protocol):
    """What differs between kinds of databases."""

    name: str
    """For people; without a password."""
    engine: AsyncEngine

    async def open(self) -> None:
        """Sees that it is there, before the first connection. Raises: OSError."""

    def check(self) -> None:
        """Sees that it is still the one that was opened. Raises: Unavailable."""

    def wrote(self) -> None:
        """Notes that a transaction has ended well."""

    def low_mb(self) -> float | None:
        """How much of its disk is free, in MB, where that is too little."""

    def begin_opening(self, connection: Connection) -> None:
        """Sees that what the rows are stored in is whole, and that nobody else opens it now. Raises: Damaged."""

    def advice(self, error: BaseException) -> str:
        """What helps against an error while it was opened, as the end of a sentence."""

    async def close(self) -> None: ...


class Database:
    """One database. Every call of its subclasses is one transaction."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        backend.wrote()
        self._failure, self._failed_at = "", -math.inf

    def troubles(self) -> list[str]:
        """Why the database could not be used recently, or soon cannot."""
        failed = self._failure if time.monotonic() < self._failed_at + FAILURE_TOLD_S else ""
        low_mb = self._backend.low_mb()
        low = "" if low_mb is None else f"database: its disk has {low_mb:.3g} MB free; {FULL}: make room"
        return [text for text in (failed, low) if text]

    async def close(self) -> None:
        await self._backend.close()

    def _need_room(self) -> None:
        """Before what no decision rests on is written. Raises: Unavailable where the disk is nearly full."""
        if self._backend.low_mb() is not None:
            raise Unavailable(f"the disk is nearly full: {FULL}", RETRY_S)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        """A transaction, all or nothing. Raises: Unavailable where the database fails, and not the caller."""
        try:
            async with self._backend.engine.begin() as db:
                self._backend.check()
                yield db
            self._failure = ""  # every transaction begins by taking the right to write
            self._backend.wrote()
        except (IntegrityError, ProgrammingError, DataError):
            raise
        except (DBAPIError, PoolTimeout, OSError) as error:
            why = getattr(error, "orig", None) or error
            if str(getattr(why, "sqlstate", "")).startswith(DATA_EXCEPTION):
                raise BadRequest(f"the database cannot take this: {why}") from error
            self._failure, self._failed_at = f"database: it could not be used: {why}", time.monotonic()
            raise Unavailable(f"the database cannot be used now, so nothing was changed: {why}", RETRY_S) from error

    async def _all(self, query: Select[Any], build: Callable[[Row[Any]], T]) -> list[T]:
        async with self._transaction() as db:
            return [build(row) for row in await db.execute(query)]

    async def _add(self, table: Table, row: dict[str, Any]) -> Any:
        """Inserts a row and returns its id, which the database chooses where it is 0."""
        if row["id"] == 0:
            row = {column: value for column, value in row.items() if column != "id"}
        try:
            async with self._transaction() as db:
                inserted = (await db.execute(insert(table).values(with_checksum(table, row)))).inserted_primary_key
                assert inserted is not None
                await note_change(db, table, (None, {**row, "id": inserted[0]}))
        except IntegrityError as error:
            raise _refusal(error, table, row) from error
        return inserted[0]

    async def _put(self, table: Table, row: dict[str, Any], first: First | None = None) -> None:
        """Replaces a row that has the revision of `row`, and raises that by one; does `first` before, with its id.

        Raises: NotFound, StaleVersion.
        """
        of_it, revision = table.c.id == row["id"], row["revision"]
        try:
            async with self._transaction() as db:
                if (found := await to_change(db, table, of_it)) is None:
                    raise missing(table, row["id"])
                if found["revision"] != revision:
                    raise StaleVersion(f"{one_of(table)} {row['id']} has been changed meanwhile: try again")
                if first is not None:
                    await first(db, row["id"])
                changed = with_checksum(table, {**row, "revision": revision + 1})
                await db.execute(update(table).where(of_it).values(changed))
                await note_change(db, table, (found, changed))
        except IntegrityError as error:
            raise _refusal(error, table, row) from error

    async def _drop(self, table: Table, *keys: object, first: First | None = None) -> None:
        """Deletes the row with this primary key; does `first` before, with the key's last part. Raises: NotFound."""
        of_it = [column == key for column, key in zip(table.primary_key, keys, strict=True)]
        async with self._transaction() as db:
            if (found := await to_change(db, table, *of_it)) is None:
                raise missing(table, keys[-1])
            if first is not None:
                await first(db, keys[-1])
            await db.execute(delete(table).where(*of_it))
            await note_change(db, table, (found, None))


async def to_change(db: AsyncConnection, table: Table, *of_it: ColumnElement[bool]) -> dict[str, Any] | None:
    """The row that is to be changed, which nobody else can change meanwhile; None if there is none."""
    found = (await db.execute(select(table).where(*of_it).with_for_update())).one_or_none()
    return None if found is None else dict(found._mapping)


async def note_change(
    db: AsyncConnection, table: Table, *changes: tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]
) -> None:
    """Raises the revision by which servers see that what they keep in memory of the table is old, sums it up again, and
    notes who made which row (None: none) out of which."""
    topic = revisions.c.topic == table.name
    # Locked first, so that the sum has what others wrote meanwhile.
    await db.execute(select(revisions.c.topic).where(topic).with_for_update())
    await note_revision(db, table, checksum=sum_of(table))
    for before, after in changes:
        await note_rows(db, table, before, after)


async def note_revision(db: AsyncConnection, table: Table, **more: Any) -> None:
    """Raises the revision by which servers see that what they keep in memory of the table is old."""
    topic = revisions.c.topic == table.name
    await db.execute(update(revisions).where(topic).values(revision=revisions.c.revision + 1, **more))
    if db.dialect.name == "postgresql":
        await db.execute(select(func.pg_notify(CHANNEL, table.name)))


def missing(table: Table, row_id: object) -> NotFound:
    return NotFound(f"there is no {one_of(table)} {row_id}")


def _refusal(error: IntegrityError, table: Table, row: Mapping[str, Any]) -> Exception:
    """The error for the caller whose row a constraint refuses; the database's own error where that is our bug."""
    problem = str(error.orig).lower()
    if "unique" in problem:
        field = UNIQUE[table.name]
        return BadRequest(f"{field} {row[field]!r} is taken: choose another")
    if "foreign key" in problem:
        named = [f"{column.name} {row[column.name]}" for column in table.columns if column.foreign_keys]
        return NotFound(f"there is no {' or no '.join(named)}")
    return error
