"""The data directory: who owns it, and the files of secrets in it."""

import asyncio
import fcntl
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import IO

from posthouse.app.handover import Inheritance
from posthouse.config import Settings, make_data_dir
from posthouse.domain.errors import Refused
from posthouse.ports import Store
from posthouse.server.auth import Keyring, Scope

LOCK_FILE = "lock"
"""In the data directory: locked by the server that owns it, whose process id it holds."""


def own(settings: Settings, stack: AsyncExitStack, inheritance: Inheritance | None) -> tuple[Path, IO[str]]:
    """The data directory, made if need be, and its lock: two servers on one would destroy each other's workers.

    Raises: Refused.
    """
    data_dir = make_data_dir(settings)
    try:
        if inheritance is not None:
            lock = stack.enter_context(inheritance.lock)
            if not os.path.samestat(os.fstat(lock.fileno()), (data_dir / LOCK_FILE).stat()):
                raise Refused("data_dir: a restart in place cannot change it")
        else:
            lock = stack.enter_context((data_dir / LOCK_FILE).open("a+", encoding="ascii"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refused(f"data_dir: another server is running on {data_dir.absolute()}") from None
    except OSError as error:
        raise Refused(f"data_dir: {data_dir} cannot be used: {error.strerror}") from None
    return data_dir.absolute(), lock


def write_pid(lock: IO[str]) -> None:
    """Writes this process's id into the lock's file, for those who want to send it a signal."""
    lock.seek(0)
    lock.truncate()
    lock.write(f"{os.getpid()}\n")
    lock.flush()


async def first_key(keyring: Keyring, store: Store, path: Path, now: float) -> str:
    """The admin key of a new installation, which is in the file at `path` too; empty if there are keys already.

    The file is written before the key is stored: after a crash in between, the next start makes another.
    """
    if keyring.records():
        return ""
    record, key = keyring.mint("first", Scope.ADMIN, now)
    await asyncio.to_thread(_write_key, path, key)
    await store.add_key(record)
    keyring.put(record)
    return key


def _write_key(path: Path, key: str) -> None:
    """Writes the key to a file that only its owner may read."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="ascii") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(file.fileno())
