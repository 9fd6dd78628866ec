"""Small files with secrets: each is there whole or not at all, and only its owner may read it."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_new(path: Path, body: bytes) -> None:
    """Writes a file unless it exists: of several writers the first one wins. Raises: OSError."""
    with _draft(path, body) as draft, suppress(FileExistsError):
        os.link(draft, path)
    _sync(path.parent)


def write_over(path: Path, body: bytes, at: float | None = None) -> None:
    """Writes a file, or replaces it. `at`: when it is to say that it was changed. Raises: OSError."""
    with _draft(path, body) as draft:
        if at is not None:
            os.utime(draft, (at, at))
        os.replace(draft, path)
    _sync(path.parent)


@contextmanager
def _draft(path: Path, body: bytes) -> Iterator[Path]:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    """Makes names in a directory survive a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
