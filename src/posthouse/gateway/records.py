"""What became of each request: a line in the log, and in a file of JSON lines that stays within its bounds."""

import contextlib
import csv
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Final, TextIO

import msgspec
from msgspec import Struct

log = logging.getLogger(__name__)

_OLDER: Final = ".1"
_encode = msgspec.json.Encoder().encode


class Record(Struct, frozen=True, kw_only=True):
    """One request. Nothing of its body, and of its key only the id."""

    at: float
    """When it came, in epoch seconds."""
    id: str
    key: str
    model: str
    path: str
    worker: str
    """Its address; `none` where there was none."""
    status: int
    """That the caller got; 0 where it left before."""
    outcome: str
    """`complete`, `repeated` for its `Idempotency-Key`, `client left`, `broken`, or the code of an error."""
    endpoint: str = ""
    """Where it went last, if `model` is an alias; of older records, empty."""
    begun: int
    """How often a worker may have begun it, and failed."""
    wait_s: float
    """For a worker."""
    first_byte_s: float
    took_s: float
    work: float | None
    """That was announced."""
    prompt_tokens: int | None
    completion_tokens: int | None
    events: int
    """Of a stream, that were passed on."""
    usd: float | None = None
    """What it cost at a server of somebody else; null where a worker answered, which is paid by the hour."""

    def text(self) -> str:
        """The same as a line for people."""
        used = f"{self.prompt_tokens} + {self.completion_tokens}"
        tokens = used if self.prompt_tokens is not None else f"unknown, {self.events} events"
        times = f"waited {self.wait_s:.3f} s, first byte {self.first_byte_s:.3f} s, took {self.took_s:.3f} s"
        which = f"request {self.id}: {self.outcome}, key {self.key}, model {self.model!r}, worker {self.worker}"
        return f"{which}, {times}, tokens {tokens}{'' if self.usd is None else f', ${self.usd:.6f}'}"


class Records:
    """The file, and one older one beside it with `.1` at the end of its name."""

    def __init__(self, path: Path | None, max_bytes: int) -> None:
        """`path`: None keeps no file. `max_bytes`: of both files. Raises: OSError where it cannot be written."""
        self._path = path
        self._each_bytes = max_bytes // 2
        self._file: IO[bytes] | None = None
        self._size = 0
        self._failed = False
        if path is not None:
            self._open(path)

    @property
    def wanted(self) -> bool:
        """Whether anything is done with a record."""
        return self._file is not None or log.isEnabledFor(logging.INFO)

    def add(self, record: Record) -> None:
        """Write it down. A disk that is full is told once; requests go on without their records."""
        if log.isEnabledFor(logging.INFO):
            log.info("%s", record.text())
        if self._path is None or self._file is None:
            return
        line = _encode(record) + b"\n"
        try:
            if self._size + len(line) > self._each_bytes:
                self._file.close()
                with contextlib.suppress(FileNotFoundError):  # it has been moved, and could not be reopened
                    self._path.replace(self._path.with_name(self._path.name + _OLDER))
                self._open(self._path)
            self._file.write(line)
            self._size += len(line)
            self._failed = False
        except (OSError, ValueError) as error:  # a ValueError where it could not be opened again
            if not self._failed:
                log.error("records: %s cannot be written: %s", self._path, error)
            self._failed = True

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _open(self, path: Path) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._file = open(fd, "ab", buffering=0)  # noqa: SIM115 - `close` closes it
        self._size = self._file.tell()


def read(path: Path) -> Iterator[Record]:
    """The records of both files, the oldest first. What is no record is left out. Raises: OSError."""
    decode = msgspec.json.Decoder(Record).decode
    older = path.with_name(path.name + _OLDER)
    for file in (older, path) if older.exists() else (path,):
        with file.open("rb") as lines:
            for line in lines:
                try:
                    yield decode(line)
                except (msgspec.MsgspecError, UnicodeDecodeError):  # cut off by a crash
                    continue


def write_csv(records: Iterable[Record], file: TextIO) -> None:
    """Write them as CSV, with names of columns first."""
    rows = csv.writer(file)
    rows.writerow(Record.__struct_fields__)
    rows.writerows(tuple(map(_cell, msgspec.structs.astuple(record))) for record in records)


def _cell(value: object) -> object:
    """What a spreadsheet would take for a formula is text: names of models come from callers."""
    return f"'{value}" if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"} else value
