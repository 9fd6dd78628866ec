"""What the servers of one process of tests share: it takes nine tenths of a start, and is the same in each."""

import os
import secrets
import sqlite3
from contextlib import closing
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite
from sqlalchemy.util import LRUCache

from posthouse.signing.rsa import RsaKey
from posthouse.store import open_store
from posthouse.store.checksums import checksum
from posthouse.store.schema import installation
from posthouse.store.sqlite import DRIVER, SqliteFile

keys: Any = import_module("posthouse.app.keys")
routing: Any = import_module("fastapi.routing")
populate = routing._populate_api_route_state
open_file = SqliteFile.open
routes: dict[Any, dict[str, Any]] = {}
new_file: list[bytes] = []
statements = LRUCache[Any, Any](2_000)


def share() -> None:
    """Has every server that is started in this process from now on share it."""
    routing._populate_api_route_state = populate_once
    SqliteFile.open = open_copy  # type: ignore[method-assign]
    # What statements are compiled to, each engine keeps for itself, by its own object of the dialect.
    Engine._compiled_cache = property(lambda self: statements, lambda self, its_own: None)  # type: ignore[assignment]
    for dialect in (SQLiteDialect_aiosqlite, PGDialect_asyncpg):
        dialect.__hash__ = lambda self: hash(type(self))  # type: ignore[method-assign]
        dialect.__eq__ = lambda self, other: type(self) is type(other)  # type: ignore[method-assign]
    keys.RsaKey = SharedKey


class SharedKey(RsaKey):
    """To make one, and to look whether one is sound, takes as long as the rest of a start."""

    @classmethod
    @cache
    def generate(cls) -> Self:
        return super().generate()

    @classmethod
    @cache
    def from_pem(cls, pem: bytes) -> Self:
        return super().from_pem(pem)


def populate_once(route: Any, path: str, endpoint: Any, **rest: Any) -> None:
    """As FastAPI's own, which a route calls when it is made. The same lines of code make the same route; what is new
    in each application are the objects that its functions close over."""
    key = (type(route), path, tuple(rest.get("methods") or ()), endpoint.__code__)
    if key not in routes:
        populate(route, path, endpoint, **rest)
        routes[key] = dict(vars(route))
        return
    vars(route).update(routes[key])
    route.endpoint, route.dependency_overrides_provider = endpoint, rest["dependency_overrides_provider"]
    route.dependant = replace(route.dependant, call=endpoint)


async def open_copy(self: SqliteFile) -> None:
    """As the original; where there is no file, a copy of one with all tables and an installation's name of its own."""
    path = Path(self.name)
    if not path.exists() and path.parent.is_dir():
        if not new_file:
            new_file.append(b"")
            new_file[0] = await made()
        if new_file[0]:
            with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                file.write(new_file[0])
            rename(path)
    await open_file(self)


async def made() -> bytes:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "new.db"
        await (await open_store(f"{DRIVER}:///{path}")).close()
        return path.read_bytes()


def rename(path: Path) -> None:
    row = {"name": secrets.token_hex(4), "epoch": 0, "last_worker_id": 0}
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("UPDATE installation SET name = ?, checksum = ?", (row["name"], checksum(installation, row)))
