"""The store on a SQL database, by SQLAlchemy Core: SQLite or PostgreSQL. Never on the hot path."""

import secrets
from collections.abc import Callable, Mapping

from sqlalchemy import URL, Connection, func, insert, inspect, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from posthouse.errors import BadRequest, Refused
from posthouse.ports import DEFAULT_ACCOUNT_NAME
from posthouse.store import sqlite
from posthouse.store.audit import SqlAudit
from posthouse.store.catalogue import SqlCatalogue
from posthouse.store.checksums import CATALOGUE
from posthouse.store.database import Backend
from posthouse.store.fleets import DESTROYED_KEEP, JOURNAL_KEEP, SqlFleets
from posthouse.store.histories import SqlHistories
from posthouse.store.integrity import Damaged, check_rows, seal
from posthouse.store.keys import SqlKeys
from posthouse.store.postgres import PostgresServer
from posthouse.store.recordings import SqlRecordings
from posthouse.store.schema import (
    VERSION,
    Which,
    accounts,
    audit_head,
    fleets,
    installation,
    metadata,
    revisions,
    schema_version,
    sessions,
)
from posthouse.store.servers import PostgresServers

BACKENDS: Mapping[str, Callable[[URL], Backend]] = {
    sqlite.DRIVER: sqlite.SqliteFile,
    "postgresql": PostgresServer,
    "postgres": PostgresServer,
}
"""By the scheme of the URL."""


async def open_store(url: str, journal_keep: int = JOURNAL_KEEP, destroyed_keep: int = DESTROYED_KEEP) -> "SqlStore":
    """The store at `url`, made or migrated to this version's schema where need be.

    Raises: BadRequest for an URL that it does not know, Refused for a database that it cannot use.
    """
    backend, name = await open_backend(url)
    return SqlStore(backend, name, journal_keep, destroyed_keep)


async def open_backend(url: str, which: Which = "possible") -> tuple[Backend, str]:
    """A database that is whole and has this version's schema, and the installation's name. Raises: as `open_store`.

    `which`: of migrations that are pending, those to make.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.drivername not in BACKENDS:
        raise BadRequest(
            f"the store's URL must be {sqlite.DRIVER}:///PATH, or postgresql://USER:PASSWORD@HOST/DATABASE"
        )
    backend = BACKENDS[parsed.drivername](parsed)
    try:
        await backend.open()
        async with backend.engine.begin() as db:
            return backend, await db.run_sync(lambda connection: open_schema(connection, backend.begin_opening, which))
    except BaseException as error:
        await backend.close()
        if isinstance(error, Damaged | DBAPIError | OSError | ValueError | TypeError):
            problem = str(getattr(error, "orig", None) or error) or type(error).__name__
            raise Refused(f"cannot use the database {backend.name}: {problem}{backend.advice(error)}") from error
        raise


def open_schema(connection: Connection, begin: Callable[[Connection], None], which: Which = "possible") -> str:
    """Sees that the database is whole and has this version's schema; the installation's name. Raises: Refused."""
    begin(connection)
    is_new = _bring_up(connection, which)
    names = connection.scalars(select(installation.c.name)).all()
    if is_new:
        names = [secrets.token_hex(4)]
        connection.execute(insert(installation).values(name=names[0], epoch=0, last_worker_id=0))
    if len(names) != 1:
        raise Damaged(f"the table installation has {len(names)} rows, and must have one")
    seal(connection)
    check_rows(connection)
    return str(names[0])


def _bring_up(connection: Connection, which: Which) -> bool:
    """Brings the schema up to this version's, as far as older servers let it. True if there was none.

    Raises: Refused, Damaged.
    """
    tables = inspect(connection)
    found = connection.scalar(select(schema_version.c.version_num)) if tables.has_table(schema_version.name) else None
    if found == VERSION:
        return False
    if found is not None:
        from posthouse.store.migrate import migrate  # takes long: Alembic is needed for nothing else

        migrate(connection, found, which)
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
    connection.execute(insert(revisions), [{"topic": table.name, "revision": 0} for table in (*CATALOGUE, sessions)])
    connection.execute(insert(audit_head).values(id=1, first_id=1, base="", last_id=0, hash=""))
    connection.execute(insert(accounts).values(name=DEFAULT_ACCOUNT_NAME, created_at=0.0))


class SqlStore(SqlFleets, SqlCatalogue, SqlKeys, SqlRecordings, SqlHistories, SqlAudit):
    """The `Store` port."""

    def __init__(self, backend: Backend, name: str, journal_keep: int, destroyed_keep: int) -> None:
        super().__init__(backend, journal_keep, destroyed_keep)
        self._name = name
        self._sharing: list[PostgresServers] = []

    def servers(self, answer_s: float) -> PostgresServers | None:
        """The servers that share the database, until that is closed; None where it is a file, which one server has to
        itself. `answer_s`: as of `PostgresServers`."""
        if not isinstance(self._backend, PostgresServer):
            return None
        found = PostgresServers(self._backend, answer_s)
        self._sharing.append(found)
        return found

    async def close(self) -> None:
        for sharing in self._sharing:
            await sharing.close()
        await super().close()

    async def installation(self) -> str:
        return self._name

    async def next_epoch(self) -> int:
        async with self._transaction() as db:
            opened = await db.scalar(select(func.max(fleets.c.epoch))) or 0
            last = await db.scalar(select(installation.c.epoch).with_for_update()) or 0
            await db.execute(update(installation).values(epoch=max(last, opened) + 1))
            return max(last, opened) + 1

    async def revisions(self) -> Mapping[str, int]:
        return dict(await self._all(select(revisions), lambda row: (str(row.topic), int(row.revision))))
