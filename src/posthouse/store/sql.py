"""The store on a SQL database: SQLAlchemy Core, SQLite today. Never on the hot path."""

import json
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Row, Select, Table, bindparam, case, delete, event, func, insert, or_, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from posthouse.domain.endpoint import Endpoint, EndpointId, EndpointState, Scaling
from posthouse.domain.errors import BadRequest, NotFound, Refused, StaleVersion, Unavailable
from posthouse.domain.lifecycle import Goal, State
from posthouse.domain.offer import Price
from posthouse.domain.template import Template, TemplateId
from posthouse.domain.worker import Worker, WorkerId
from posthouse.domain.workergroup import Workergroup, WorkergroupId
from posthouse.ports import FleetRecord, JournalEntry, KeyRecord
from posthouse.recording.segment import Segment
from posthouse.store import schema
from posthouse.store.schema import (
    endpoints,
    fleets,
    installation,
    journal,
    keys,
    segments,
    templates,
    workergroups,
    workers,
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
RETRY_S = 5.0
"""When a call is worth another try where the database could not be used: as long as SQLite waits for its lock."""

JOURNAL_KEEP = 5000
"""Entries kept per endpoint: over an hour of decisions at one a second."""
DESTROYED_KEEP = 200
"""Destroyed workers kept per endpoint, for people to look at."""
LEARN_FROM = 50
"""Destroyed workers handed back with a fleet: enough to know what each kind of machine can do."""
ROW_BYTES = 100
"""What a segment takes in the database beside what is in it, about."""
TRIM_EVERY = 100
"""Commits of a fleet between two trims: the bounds above may be exceeded by what so many commits add."""

T = TypeVar("T")

UNIQUE = {"endpoints": "name", "templates": "hash_id", "keys": "id"}
"""The field of each table that no two rows share."""


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
            await db.run_sync(_migrate)
            name = await db.scalar(select(installation.c.name))
            if name is None:
                name = secrets.token_hex(4)
                await db.execute(insert(installation).values(name=name))
    except BaseException as error:
        await engine.dispose()
        if isinstance(error, DBAPIError | OSError):
            raise Refused(f"cannot use the database {path}: {getattr(error, 'orig', error)}") from error
        raise
    return SqlStore(engine, path, name, journal_keep, destroyed_keep)


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


def _migrate(connection: Connection) -> None:
    """Brings the schema up to this version's. Raises: Refused if it is newer already."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    script = ScriptDirectory.from_config(config)
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in {known.revision for known in script.walk_revisions()}:
        raise Refused(
            f"the database has the schema {found}, and this Posthouse knows none newer than "
            f"{script.get_current_head()}: upgrade Posthouse, or open another database"
        )
    command.upgrade(config, "head")


class SqlStore:
    """The `Store` port. Every call is one transaction."""

    def __init__(self, engine: AsyncEngine, path: Path, name: str, journal_keep: int, destroyed_keep: int) -> None:
        self._engine = engine
        self._path = path
        self._file = _identity(path)
        self._name = name
        self._journal_keep = journal_keep
        self._destroyed_keep = destroyed_keep

    async def close(self) -> None:
        await self._engine.dispose()

    async def installation(self) -> str:
        return self._name

    # Endpoints

    async def endpoints(self) -> Sequence[Endpoint]:
        return await self._all(select(endpoints).order_by(endpoints.c.id), _endpoint)

    async def add_endpoint(self, endpoint: Endpoint) -> Endpoint:
        return replace(endpoint, id=EndpointId(await self._add(endpoints, _endpoint_row(endpoint))))

    async def put_endpoint(self, endpoint: Endpoint) -> None:
        await self._put(endpoints, _endpoint_row(endpoint))

    async def drop_endpoint(self, endpoint_id: EndpointId) -> None:
        async with self._transaction() as db:
            await _sweep(db)
        await self._drop(endpoints, endpoint_id)

    # Workergroups

    async def workergroups(self) -> Sequence[Workergroup]:
        return await self._all(
            select(workergroups).order_by(workergroups.c.id), lambda row: Workergroup(**row._mapping)
        )

    async def add_workergroup(self, group: Workergroup) -> Workergroup:
        return replace(group, id=WorkergroupId(await self._add(workergroups, asdict(group))))

    async def put_workergroup(self, group: Workergroup) -> None:
        await self._put(workergroups, asdict(group))

    async def drop_workergroup(self, group_id: WorkergroupId) -> None:
        await self._drop(workergroups, group_id)

    # Templates

    async def templates(self) -> Sequence[Template]:
        return await self._all(select(templates).order_by(templates.c.id), lambda row: Template(**row._mapping))

    async def add_template(self, template: Template) -> Template:
        return replace(template, id=TemplateId(await self._add(templates, asdict(template))))

    async def put_template(self, template: Template) -> None:
        await self._put(templates, asdict(template))

    async def drop_template(self, template_id: TemplateId) -> None:
        """Removes a template. Raises: BadRequest while a workergroup uses it."""
        try:
            await self._drop(templates, template_id)
        except IntegrityError as error:
            raise BadRequest(f"template_id {template_id} is used by a workergroup: remove that first") from error

    # Keys

    async def keys(self) -> Sequence[KeyRecord]:
        return await self._all(
            select(keys).order_by(keys.c.created_at, keys.c.id), lambda row: KeyRecord(**row._mapping)
        )

    async def add_key(self, key: KeyRecord) -> None:
        await self._add(keys, asdict(key))

    async def put_key(self, key: KeyRecord) -> None:
        """Replaces a key. A revocation stays: whoever notes a last use late must not undo it."""
        revoked_at = case((keys.c.revoked_at > 0, keys.c.revoked_at), else_=key.revoked_at)
        await self._put(keys, asdict(key) | {"revoked_at": revoked_at})

    # Secrets

    async def secrets(self) -> Mapping[str, str]:
        async with self._transaction() as db:
            rows = await db.execute(select(schema.secrets).order_by(schema.secrets.c.name))
            return {row.name: row.sealed for row in rows}

    async def put_secret(self, name: str, sealed: str) -> None:
        async with self._transaction() as db:
            await db.execute(delete(schema.secrets).where(schema.secrets.c.name == name))
            await db.execute(insert(schema.secrets).values(name=name, sealed=sealed))

    async def drop_secret(self, name: str) -> None:
        async with self._transaction() as db:
            result = await db.execute(delete(schema.secrets).where(schema.secrets.c.name == name))
        if result.rowcount == 0:
            raise _missing(schema.secrets, name)

    # Fleets

    async def fleet(self, endpoint_id: EndpointId) -> FleetRecord:
        destroyed = (
            select(workers.c.id)
            .where(workers.c.endpoint_id == endpoint_id, workers.c.state == State.DESTROYED.value, workers.c.perf > 0)
            .order_by(workers.c.since.desc(), workers.c.id.desc())
            .limit(LEARN_FROM)
        )
        async with self._transaction() as db:
            fleet = (
                await db.execute(
                    select(fleets.c.version, fleets.c.spent_usd).where(fleets.c.endpoint_id == endpoint_id)
                )
            ).one_or_none()
            rows = await db.execute(
                select(workers)
                .where(
                    workers.c.endpoint_id == endpoint_id,
                    or_(workers.c.state != State.DESTROYED.value, workers.c.id.in_(destroyed)),
                )
                .order_by(workers.c.id)
            )
            version, spent_usd = fleet or (0, 0.0)
            return FleetRecord(version, tuple(_worker(row) for row in rows), spent_usd)

    async def fleet_ids(self) -> Sequence[EndpointId]:
        alive = select(workers.c.endpoint_id).where(workers.c.state != State.DESTROYED.value)
        return await self._all(
            alive.distinct().order_by(workers.c.endpoint_id), lambda row: EndpointId(row.endpoint_id)
        )

    async def last_worker_id(self) -> WorkerId:
        async with self._transaction() as db:
            return WorkerId(await db.scalar(select(func.max(fleets.c.last_worker_id))) or 0)

    async def commit(
        self,
        endpoint_id: EndpointId,
        expected_version: int,
        workers: Sequence[Worker],
        entry: JournalEntry | None,
    ) -> int:
        version = expected_version + 1
        async with self._transaction() as db:
            await _advance(db, endpoint_id, expected_version, workers)
            await _replace(db, endpoint_id, workers)
            if entry is not None:
                assert entry.endpoint_id == endpoint_id
                await db.execute(insert(journal).values(asdict(entry)))
            if version % TRIM_EVERY == 0:
                await self._trim(db, endpoint_id)
        return version

    async def latest_at(self) -> float:
        times = (workers.c.since, workers.c.progressed_at, workers.c.outdated_at, journal.c.at)
        async with self._transaction() as db:
            return max([await db.scalar(select(func.max(column))) or 0.0 for column in times])

    async def journal(self, endpoint_id: EndpointId, limit: int) -> Sequence[JournalEntry]:
        newest = (
            select(journal.c.endpoint_id, journal.c.at, journal.c.body)
            .where(journal.c.endpoint_id == endpoint_id)
            .order_by(journal.c.id.desc())
            .limit(max(0, limit))
        )
        return await self._all(newest, lambda row: JournalEntry(**row._mapping))

    async def add_segment(self, endpoint_id: EndpointId, segment: Segment, keep_bytes: int) -> None:
        row = {field.name: getattr(segment, field.name) for field in fields(Segment)}
        size = ROW_BYTES + len(segment.asked) + len(segment.waited) + len(json.dumps(segment.figures))
        newest = segments.c.id.desc()
        sums = select(segments.c.id, func.sum(segments.c.size).over(order_by=newest).label("bytes"))
        of_it = sums.where(segments.c.endpoint_id == endpoint_id).subquery()
        beyond = select(of_it.c.id).where(of_it.c.bytes > keep_bytes)
        async with self._transaction() as db:
            await db.execute(insert(segments).values(**row, endpoint_id=endpoint_id, size=size))
            await db.execute(delete(segments).where(segments.c.id.in_(beyond)))

    async def segments(self, endpoint_id: EndpointId, after: float = 0.0) -> Sequence[Segment]:
        columns = [segments.c[field.name] for field in fields(Segment)]
        wanted = (
            select(*columns)
            .where(segments.c.endpoint_id == endpoint_id, segments.c.until > after)
            .order_by(segments.c.id)
        )
        return await self._all(wanted, lambda row: Segment(**row._mapping))

    async def _trim(self, db: AsyncConnection, endpoint_id: EndpointId) -> None:
        """Deletes the oldest of what is kept within bounds."""
        entries = select(journal.c.id).where(journal.c.endpoint_id == endpoint_id).order_by(journal.c.id.desc())
        await db.execute(delete(journal).where(journal.c.id.in_(entries.offset(self._journal_keep))))
        destroyed = (
            select(workers.c.id)
            .where(workers.c.endpoint_id == endpoint_id, workers.c.state == State.DESTROYED.value)
            .order_by(workers.c.since.desc(), workers.c.id.desc())
        )
        await db.execute(delete(workers).where(workers.c.id.in_(destroyed.offset(self._destroyed_keep))))

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        """A transaction, all or nothing. Raises: Unavailable where the database fails, and not the caller."""
        try:
            async with self._engine.begin() as db:
                # A file that was removed could be written to for as long as it is open, and everything would be lost.
                if _identity(self._path) != self._file:
                    raise Unavailable(f"{self._path} is not the file that was opened: put it back", RETRY_S)
                yield db
        except (IntegrityError, ProgrammingError, DataError):
            raise
        except (DBAPIError, PoolTimeout, OSError) as error:
            why = getattr(error, "orig", None) or error
            raise Unavailable(f"the database cannot be used now, so nothing was changed: {why}", RETRY_S) from error

    # What the tables have in common

    async def _all(self, query: Select[Any], build: Callable[[Row[Any]], T]) -> list[T]:
        async with self._transaction() as db:
            return [build(row) for row in await db.execute(query)]

    async def _add(self, table: Table, row: dict[str, Any]) -> Any:
        """Inserts a row and returns its id, which the database chooses where it is 0."""
        if row["id"] == 0:
            row = {column: value for column, value in row.items() if column != "id"}
        try:
            async with self._transaction() as db:
                inserted = (await db.execute(insert(table).values(row))).inserted_primary_key
        except IntegrityError as error:
            raise _refusal(error, table, row) from error
        assert inserted is not None
        return inserted[0]

    async def _put(self, table: Table, row: dict[str, Any]) -> None:
        try:
            async with self._transaction() as db:
                result = await db.execute(update(table).where(table.c.id == row["id"]).values(row))
        except IntegrityError as error:
            raise _refusal(error, table, row) from error
        if result.rowcount == 0:
            raise _missing(table, row["id"])

    async def _drop(self, table: Table, row_id: int) -> None:
        async with self._transaction() as db:
            result = await db.execute(delete(table).where(table.c.id == row_id))
        if result.rowcount == 0:
            raise _missing(table, row_id)


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from every other; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _missing(table: Table, row_id: object) -> NotFound:
    return NotFound(f"there is no {table.name.removesuffix('s')} {row_id}")


def _refusal(error: IntegrityError, table: Table, row: Mapping[str, Any]) -> Exception:
    """What the caller must be told when a constraint refuses its row; the error itself where that is our own bug."""
    problem = str(error.orig).lower()
    if "unique" in problem:
        field = UNIQUE[table.name]
        return BadRequest(f"{field} {row[field]!r} is taken: choose another")
    if "foreign key" in problem:
        return NotFound(f"there is no endpoint_id {row['endpoint_id']} or no template_id {row['template_id']}")
    return error


async def _sweep(db: AsyncConnection) -> None:
    """Deletes what endpoints that were dropped earlier left behind, once none of their workers is alive."""
    alive = select(workers.c.endpoint_id).where(workers.c.state != State.DESTROYED.value)
    for table in (journal, segments, workers):
        endpoint_id = table.c.endpoint_id
        await db.execute(delete(table).where(endpoint_id.not_in(select(endpoints.c.id)), endpoint_id.not_in(alive)))


async def _replace(db: AsyncConnection, endpoint_id: int, changed: Sequence[Worker]) -> None:
    """Inserts workers, or replaces those that are there."""
    if not changed:
        return
    assert all(worker.endpoint_id == endpoint_id for worker in changed)
    await db.execute(
        delete(workers).where(workers.c.id == bindparam("worker_id")), [{"worker_id": w.id} for w in changed]
    )
    await db.execute(insert(workers), [_worker_row(worker) for worker in changed])


async def _advance(db: AsyncConnection, endpoint_id: int, expected_version: int, changed: Sequence[Worker]) -> None:
    """Raises a fleet's version by one, notes its highest worker id and what destroyed workers spent.

    A worker is committed once as DESTROYED, so its spend is added once. Raises: StaleVersion.
    """
    worker_id = max((w.id for w in changed), default=0)
    spent_usd = sum(w.spent_usd for w in changed if w.state is State.DESTROYED)
    if expected_version == 0:
        with suppress(IntegrityError):
            row = {"endpoint_id": endpoint_id, "version": 1, "last_worker_id": worker_id, "spent_usd": spent_usd}
            await db.execute(insert(fleets).values(row))
            return
    else:
        highest = case((fleets.c.last_worker_id < worker_id, worker_id), else_=fleets.c.last_worker_id)
        result = await db.execute(
            update(fleets)
            .where(fleets.c.endpoint_id == endpoint_id, fleets.c.version == expected_version)
            .values(version=expected_version + 1, last_worker_id=highest, spent_usd=fleets.c.spent_usd + spent_usd)
        )
        if result.rowcount:
            return
    raise StaleVersion(f"the fleet of endpoint {endpoint_id} is not at version {expected_version}")


def _endpoint_row(endpoint: Endpoint) -> dict[str, Any]:
    return asdict(endpoint) | {"state": endpoint.state.value}


def _endpoint(row: Row[Any]) -> Endpoint:
    values = dict(row._mapping)
    return Endpoint(
        **values | {"scaling": Scaling(**values["scaling"]), "state": EndpointState(values["state"])},
    )


def _worker_row(worker: Worker) -> dict[str, Any]:
    row = asdict(worker)
    row |= row.pop("price")
    return row | {"state": worker.state.value, "goal": worker.goal.value, "addresses": sorted(worker.addresses)}


def _worker(row: Row[Any]) -> Worker:
    values = dict(row._mapping)
    price = Price(**{field.name: values.pop(field.name) for field in fields(Price)})
    return Worker(
        **values
        | {
            "price": price,
            "state": State(values["state"]),
            "goal": Goal(values["goal"]),
            "addresses": frozenset(values["addresses"]),
        },
    )
