"""An installation in one file: its database, whichever it is on, as one of SQLite, and what it signs and seals with."""

import asyncio
import base64
import os
import shutil
import sqlite3
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Final

from posthouse.errors import BadRequest, Refused
from posthouse.sharing import KEY_FILES
from posthouse.store import sqlite
from posthouse.store.move import copy_store
from posthouse.store.sql import open_backend

DATABASE: Final = "posthouse.db"


async def save(data_dir: Path, url: str, file: Path) -> int:
    """Writes a backup, readable to its owner alone; its size in bytes. A server may go on meanwhile.

    `url`: of a database on PostgreSQL; empty: the data directory's own. Raises: Refused, BadRequest, OSError.
    """
    if await asyncio.to_thread(file.exists):
        raise BadRequest(f"FILE: {file} exists already: name another")
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".posthouse-backup-") as folder:
        made = Path(folder) / DATABASE
        if url:
            await copy_store(url, _url(made))
        else:
            await asyncio.to_thread(_copy, data_dir / DATABASE, made)
        await _check(made)
        return await asyncio.to_thread(_pack, made, data_dir, file)


async def restore(file: Path, data_dir: Path, url: str) -> None:
    """Makes the installation of a backup that of an empty data directory, and of an empty database if `url` names one.

    Raises: Refused, BadRequest, OSError.
    """
    for name in (DATABASE, *KEY_FILES):
        if (data_dir / name).exists():
            raise Refused(f"data_dir: {data_dir / name} is there already: name an empty directory, or move it away")
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=".restore-") as folder:
        await asyncio.to_thread(_unpack, file, Path(folder))
        database = Path(folder) / DATABASE
        await _check(database)
        with closing(sqlite3.connect(database)) as db, db:
            db.execute("DELETE FROM servers")  # those of before live no more
            db.execute("DELETE FROM sessions")  # who signed out since is not to be signed in again
            if not url:
                db.execute("DELETE FROM shared_files")  # the files of the data directory count
        if url:
            await copy_store(_url(database), url)
        for name in KEY_FILES:
            (Path(folder) / name).rename(data_dir / name)
        if not url:
            database.rename(data_dir / DATABASE)


def _url(path: Path) -> str:
    return f"{sqlite.DRIVER}:///{path}"


def _copy(source: Path, target: Path) -> None:
    """Copies a database as it is at one moment, although others may write to it."""
    if not source.is_file():
        raise BadRequest(f"data_dir: {source} is no file: name the directory of an installation, or its database.url")
    with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)
    target.chmod(0o600)


async def _check(path: Path) -> None:
    """Sees that a database is whole. Raises: Refused."""
    backend, _ = await open_backend(_url(path))
    await backend.close()


def _shared(path: Path) -> dict[str, bytes]:
    """The keys that servers share by way of the database; empty if they do not."""
    with closing(sqlite3.connect(path)) as db:
        return {name: base64.b64decode(body) for name, body in db.execute("SELECT name, body FROM shared_files")}


def _own(data_dir: Path) -> dict[str, bytes]:
    try:
        return {name: (data_dir / name).read_bytes() for name in KEY_FILES}
    except FileNotFoundError as error:
        raise Refused(f"{error.filename} is missing, and a backup without it is useless") from None


def _pack(database: Path, data_dir: Path, file: Path) -> int:
    """Writes a backup with this database; its size in bytes."""
    keys, draft = _shared(database) or _own(data_dir), database.with_name("draft")
    with open(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as raw:
        with tarfile.open(fileobj=raw, mode="w") as tar:
            tar.add(database, DATABASE)
            for name, body in keys.items():
                path = database.with_name(name)
                path.write_bytes(body)
                tar.add(path, name)
        raw.flush()
        os.fsync(raw.fileno())
    draft.rename(file)
    return file.stat().st_size


def _unpack(file: Path, folder: Path) -> None:
    """Raises: BadRequest for what is no backup."""
    try:
        with tarfile.open(file, mode="r:") as tar:
            for name in (DATABASE, *KEY_FILES):
                member = tar.extractfile(name)
                if member is None:
                    raise KeyError(name)
                target = os.open(folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
                with member, open(target, "wb") as made:
                    shutil.copyfileobj(member, made)
    except (tarfile.TarError, KeyError) as error:
        raise BadRequest(f"FILE: {file} is no backup of Posthouse: {error}") from None
