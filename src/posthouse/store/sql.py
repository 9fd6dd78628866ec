"""The store on a SQL database: SQLAlchemy Core, SQLite today. Never on the hot path."""

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, func, insert, inspect, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from posthouse.domain.endpoint import DEFAULT_ACCOUNT
from posthouse.errors import BadRequest, Refused
from posthouse.ports import DEFAULT_ACCOUNT_NAME
from posthouse.store.audit import SqlAudit
from posthouse.store.catalogue import SqlCatalogue
from posthouse.store.checksums import CATALOGUE
from posthouse.store.fleets import DESTROYED_KEEP, JOURNAL_KEEP, SqlFleets
from posthouse.store.histories import SqlHistories
from posthouse.store.integrity import Damaged, check_pages, check_rows, seal
from posthouse.store.keys import SqlKeys
from posthouse.store.recordings import SqlRecordings
from posthouse.store.schema import (
    VERSION,
    accounts,
    audit_head,
    fleets,
    installation,
    metadata,
    revisions,
    schema_version,
)

DRIVER = "sqlite+aiosqlite"

PRAGMAS = (
    "busy_timeout = 5000",  # milliseconds to wait for another process that writes; first, as the next may wait too
    "journal_mode = WAL",
    "synchronous = FULL",  # in WAL mode anything less may lose the last commits when the power fails
    "foreign_keys = ON",
)

QUEUE_S = 15.0
"""How long a call waits for those before it: longer than SQLite's wait for another process, and twice."""

DAMAGED = (
    "; it is damaged. Nothing was changed, and workers go on: stop whatever writes to the file, and restore a backup "
    "(docs/guides/operating.md says how)"
)


async def open_store(url: str, journal_keep: int = JOURNAL_KEEP, destroyed_keep: int = DESTROYED_KEEP) -> "SqlStore":
    """The store at `url`, made or migrated to this version's schema where need be.

    Raises: BadRequest for an URL that it does not know, Refused for a database that it cannot use.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.drivername != DRIVER or parsed.database in (None, "", ":memory:"):
        raise BadRequest(f"the store's URL must be {DRIVER}:/// followed by the path of a file")
    assert parsed.database
    path = Path(parsed.database)

    # One connection: SQLite has one writer anyway, and a queue here is fairer than SQLite's polling for its lock.
    # Errors keep quiet about parameters: a template's environment may hold secrets.
    engine = create_async_engine(parsed, pool_size=1, max_overflow=0, pool_timeout=QUEUE_S, hide_parameters=True)
    event.listen(engine.sync_engine, "connect", _prepare)
    event.listen(engine.sync_engine, "begin", _begin)
    try:
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        async with engine.begin() as db:
            name = await db.run_sync(open_schema)
    except BaseException as error:
        await engine.dispose()
        if isinstance(error, Damaged | DBAPIError | OSError | ValueError | TypeError):
            raise Refused(
                f"cannot use the database {path}: {getattr(error, 'orig', None) or error}{_advice(error)}"
            ) from error
        raise
    return SqlStore(engine, path, name, journal_keep, destroyed_keep)


def _advice(error: BaseException) -> str:
    """What helps where it is the file that is wrong, and not how it can be reached."""
    text = str(error).lower()
    unreachable = isinstance(error, OSError | OperationalError) and "no such" not in text and "decode" not in text
    return "" if unreachable else DAMAGED


def _prepare(connection: Any, _record: object) -> None:
    """Sets up a new connection. Transactions are begun by `_begin`: the driver itself would begin them too late."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    # IMMEDIATE: a transaction that reads first and writes later would fail if another process wrote in between.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def open_schema(connection: Connection) -> str:
    """Sees that the database is whole and has this version's schema; the installation's name. Raises: Refused."""
    check_pages(connection)
    is_new = _bring_up(connection)
    names = connection.scalars(select(installation.c.name)).all()
    if is_new:
        names = [secrets.token_hex(4)]
        connection.execute(insert(installation).values(name=names[0], epoch=0, last_worker_id=0))
    if len(names) != 1:
        raise Damaged(f"the table installation has {len(names)} rows, and must have one")
    seal(connection)
    check_rows(connection)
    return str(names[0])


def _bring_up(connection: Connection) -> bool:
    """Brings the schema up to this version's. True if there was none. Raises: Refused, Damaged."""
    tables = inspect(connection)
    found = connection.scalar(select(schema_version.c.version_num)) if tables.has_table(schema_version.name) else None
    if found == VERSION:
        return False
    if found is not None:
        from posthouse.store.migrate import migrate  # takes long: Alembic is needed for nothing else

        migrate(connection, found)
        return False
    if tables.has_table(installation.name):
        raise Damaged("it has tables, and no version of them")
    create(connection)
    return True


def create(connection: Connection) -> None:
    """Makes what the migrations lead to, in an empty database; a test compares the two."""
    schema_version.create(connection, checkfirst=True)
    connection.execute(insert(schema_version).values(version_num=VERSION))
    metadata.create_all(connection)
    connection.execute(insert(revisions), [{"topic": table.name, "revision": 0} for table in CATALOGUE])
    connection.execute(insert(audit_head).values(id=1, first_id=1, base="", last_id=0, hash=""))
    connection.execute(insert(accounts).values(id=DEFAULT_ACCOUNT, name=DEFAULT_ACCOUNT_NAME, created_at=0.0))


class SqlStore(SqlFleets, SqlCatalogue, SqlKeys, SqlRecordings, SqlHistories, SqlAudit):
    """The `Store` port."""

    def __init__(self, engine: AsyncEngine, path: Path, name: str, journal_keep: int, destroyed_keep: int) -> None:
        super().__init__(engine, path, journal_keep, destroyed_keep)
        self._name = name

    async def installation(self) -> str:
        return self._name

    async def next_epoch(self) -> int:
        async with self._transaction() as db:
            opened = await db.scalar(select(func.max(fleets.c.epoch))) or 0
            await db.execute(update(installation).values(epoch=func.max(installation.c.epoch, opened) + 1))
            return await db.scalar(select(installation.c.epoch)) or 0

    async def revisions(self) -> Mapping[str, int]:
        return dict(await self._all(select(revisions), lambda row: (str(row.topic), int(row.revision))))
