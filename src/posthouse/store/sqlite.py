"""A database in one file, by SQLite."""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

from posthouse.errors import BadRequest, Unavailable
from posthouse.store.database import RETRY_S
from posthouse.store.integrity import Damaged, damaged
from posthouse.store.reserve import Reserve

DRIVER = "sqlite+aiosqlite"

PRAGMAS = (
    "busy_timeout = 5000",  # milliseconds to wait for another process that writes; first, as the next may wait too
    "journal_mode = WAL",
    "synchronous = FULL",  # in WAL mode anything less may lose the last commits when the power fails
    "foreign_keys = ON",
)

QUEUE_S = 15.0
"""How long a call waits for those before it: longer than SQLite's wait for another process, and twice."""


class SqliteFile:
    """The `Backend` that is a file; it is made, readable to its owner alone, where there is none."""

    def __init__(self, url: URL) -> None:
        if url.database in (None, "", ":memory:"):
            raise BadRequest(f"the store's URL must be {DRIVER}:/// followed by the path of a file")
        assert url.database
        self._path = Path(url.database)
        self.name = str(self._path)
        # One connection: SQLite has one writer anyway, and a queue here is fairer than SQLite's polling for its lock.
        # Errors keep quiet about parameters: a template's environment may hold secrets.
        self.engine = create_async_engine(url, pool_size=1, max_overflow=0, pool_timeout=QUEUE_S, hide_parameters=True)
        event.listen(self.engine.sync_engine, "connect", _prepare)
        event.listen(self.engine.sync_engine, "begin", _begin)
        self._identity: tuple[int, int] | None = None
        self._reserve: Reserve | None = None

    async def open(self) -> None:
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        self._identity, self._reserve = _identity(self._path), Reserve(self._path)

    def check(self) -> None:
        # A file that was removed could be written to for as long as it is open, and everything would be lost.
        if _identity(self._path) != self._identity:
            raise Unavailable(f"{self._path} is not the file that was opened: put it back", RETRY_S)

    def wrote(self) -> None:
        if self._reserve is not None:
            self._reserve.renew(time.monotonic())

    def low_mb(self) -> float | None:
        return None if self._reserve is None else self._reserve.low_mb()

    def begin_opening(self, connection: Connection) -> None:
        check_pages(connection)

    def advice(self, error: BaseException) -> str:
        text = str(error).lower()
        unreachable = isinstance(error, OSError | OperationalError) and "no such" not in text and "decode" not in text
        return "" if unreachable else damaged("file")

    async def close(self) -> None:
        await self.engine.dispose()
        if self._reserve is not None:
            self._reserve.close()


def check_pages(connection: Connection) -> None:
    """Has SQLite look at every page, index and reference. Raises: Damaged."""
    found = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check(1)")]
    if found != ["ok"]:
        raise Damaged(" ".join(found[0].split()))
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    if broken is not None:
        raise Damaged(f"row {broken[1]} of {broken[0]} names a row of {broken[2]} that is not there")


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


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from every other; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
