"""Room on the disk that a database is given ahead of time, so that decisions are written while the disk is full."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

ROOM_BYTES: Final = 4 * 2**20
"""For the file to grow: some thousand decisions, and the rows of as many workers."""
LOG_BYTES: Final = 6 * 2**20
"""For the write-ahead log: SQLite restarts it after 1,000 pages of 4 KiB and the transaction that reaches them."""
RENEW_S: Final = 30.0
LOW_BYTES: Final = 64 * 2**20
"""With less free, or a tenth of a small disk, it counts as full: only what decisions rest on is still written."""

_KEEP_SIZE: Final = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Reserve:
    """Blocks that belong to the files of a database beyond their ends. Source: fallocate(2), FALLOC_FL_KEEP_SIZE."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._renew_at = 0.0
        # Open until SQLite has closed the file, too: closing any descriptor gives up this process's locks on it.
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def renew(self, now: float) -> None:
        """Takes what has been used up, at most every so often; nothing where the disk has none or cannot."""
        if now < self._renew_at:
            return
        self._renew_at = now + RENEW_S
        _take(self._file, ROOM_BYTES)
        with suppress(OSError):  # nobody has a lock on the log itself
            log = os.open(f"{self._path}-wal", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            with open(log, "rb", buffering=0):
                _take(log, LOG_BYTES - os.fstat(log).st_size)

    def low_mb(self) -> float | None:
        """How much of the disk is free, in MB, where that is too little."""
        disk = os.fstatvfs(self._file)
        free = disk.f_bavail * disk.f_frsize
        return free / 1e6 if free < min(LOW_BYTES, 0.1 * disk.f_blocks * disk.f_frsize) else None

    def close(self) -> None:
        """To be called once SQLite has closed the database."""
        os.close(self._file)


def _take(file: int, size: int) -> None:
    """Gives a file so many bytes beyond its end, whose blocks nobody else can have."""
    if size > 0:
        end = os.fstat(file).st_size
        _libc.fallocate(file, _KEEP_SIZE, ctypes.c_int64(end), ctypes.c_int64(size))
