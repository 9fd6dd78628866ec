"""The data directory: who owns it, and the files of secrets in it."""

import asyncio
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cryptography.exceptions import UnsupportedAlgorithm

from posthouse.app.handover import Inheritance
from posthouse.config import Settings, make_data_dir
from posthouse.errors import Refused
from posthouse.files import write_over
from posthouse.ports import Store
from posthouse.server.auth import Keyring, Scope

LOCK_FILE = "lock"
"""In the data directory: the process id of the server that owns it."""


@dataclass(frozen=True, slots=True)
class Lock:
    """The lock of a data directory. It is on the directory itself: what is deleted in it frees nothing."""

    path: Path
    fd: int

    def fileno(self) -> int:
        return self.fd

    def is_held(self) -> bool:
        """Whether the directory at the path is still the one that is locked."""
        try:
            return os.path.samestat(os.fstat(self.fd), self.path.stat())
        except OSError:
            return False


def own(settings: Settings, stack: AsyncExitStack, inheritance: Inheritance | None) -> Lock:
    """The lock of the data directory, made if need be: two servers on one would destroy each other's workers.

    Raises: Refused.
    """
    path = make_data_dir(settings).absolute()
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, fd)
        if inheritance is not None:
            stack.callback(os.close, inheritance.lock)
            locked = os.fstat(inheritance.lock)
            if stat.S_ISDIR(locked.st_mode):  # a version before had the lock on a file
                if not os.path.samestat(locked, os.fstat(fd)):
                    raise Refused("data_dir: a restart in place cannot change it")
                return Lock(path, inheritance.lock)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if inheritance is None:
            with _pid_file(path) as file:  # of a version before
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refused(f"data_dir: another server is running on {path}") from None
    except OSError as error:
        raise Refused(f"data_dir: {path} cannot be used: {error.strerror}") from None
    return Lock(path, fd)


def owner(path: Path) -> int:
    """The process id of the server that owns the data directory, 0 if none does. Raises: Refused if it is not known."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return 0
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            return int((path / LOCK_FILE).read_text(encoding="ascii"))
        except (OSError, ValueError):
            raise Refused(
                f"a server runs on {path}, and its file {LOCK_FILE} does not tell its process: stop that by its id"
            ) from None
    finally:
        os.close(fd)
    return 0


def write_pid(path: Path) -> None:
    """Writes this process's id down, for those who want to send it a signal."""
    with _pid_file(path) as file:
        file.truncate(0)
        file.write(f"{os.getpid()}\n")


def _pid_file(path: Path) -> IO[str]:
    fd = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    os.fchmod(fd, 0o600)
    return open(fd, "r+", encoding="ascii")


@contextmanager
def needed(path: Path, advice: str) -> Iterator[None]:
    """Around what reads a file of the data directory. Raises: Refused that names it, its problem, and what helps."""
    try:
        yield
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        named, _, problem = str(error).rpartition(": ")
        if isinstance(error, OSError):
            named, problem = str(error.filename or path), error.strerror or str(error)
        raise Refused(f"{named or path} cannot be used: {problem}; {advice}") from error


def database_url(settings: Settings, data_dir: Path) -> str:
    """Where the database is. Raises: Refused if its file is gone, or one is there beside another that is configured: a
    new database would know nothing of workers that run."""
    path, secret = data_dir / "posthouse.db", data_dir / "secret"
    if settings.database.url:
        if path.exists():
            raise Refused(
                f"database.url: {data_dir} has a database of its own: `posthouse migrate-store` moves it to that one; "
                f"or take {path} away, and start over without the workers that run"
            )
        return settings.database.url
    if secret.exists() and not (path.is_file() and path.stat().st_size):
        raise Refused(
            f"{path} is missing, empty or no file, and there was one: put it back from a backup "
            f"(docs/guides/operating.md says how), or remove {secret} too and start over, without the workers that run"
        )
    return f"sqlite+aiosqlite:///{path}"


async def first_key(keyring: Keyring, store: Store, path: Path, now: float) -> str:
    """The admin key of a new installation, which is in the file at `path` too; empty if there are keys already.

    The file is written before the key is stored: after a crash in between, the next start makes another.
    """
    if keyring.records():
        return ""
    record, key = keyring.mint("first", Scope.ADMIN, now)
    with needed(path, "remove it: it is made again"):
        await asyncio.to_thread(write_over, path, f"{key}\n".encode())
    await store.add_key(record)
    keyring.put(record)
    return key
