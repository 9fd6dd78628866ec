"""What an instance has in its directory: the record of what was ordered, and its logs.

A worker can write there too, so nothing is opened that is not a plain file, no link is followed, and reads are bounded.
"""

import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import msgspec

LOG_BYTES: Final = 8 * 2**20
"""At this size output.log becomes output.log.1, so that an instance keeps at most twice as much."""

LOG_READ_BYTES: Final = 2**19
"""The most that `last_lines` reads of each of its two logs."""

RECORD_BYTES: Final = 2**20
"""The most that is read of a record: several times what `bootstrap.check` lets through."""


class Record(msgspec.Struct, frozen=True):
    """instance.json. The defaults stand for a record that cannot be read."""

    worker_id: int = 0
    env: dict[str, str] = {}
    offer_id: str = ""
    slot: int = -1
    host: str = ""
    ports: dict[int, int] = {}
    """Published port as the template names it, and the port of this machine that it became."""
    http_port: int = 0
    model_port: int = 0
    wanted: Literal["running", "halted", "updated"] = "running"
    """`updated`: what runs is ended, so that what is ordered here runs; meanwhile the slot is kept."""
    onstart: str | None = None
    """None in records of before there were updates: onstart.sh is there as it was made."""


def write_record(directory: Path, record: Record) -> None:
    """Replaces instance.json in one step. It holds the worker's token, so nobody else may read it."""
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".instance-", delete=False) as draft:
        draft.write(msgspec.json.encode(record))
        draft.flush()
        os.fsync(draft.fileno())
    os.replace(draft.name, directory / "instance.json")


def read_record(directory: Path) -> Record:
    """What was ordered; the empty record if it cannot be read, which lists as EXITED and so is replaced."""
    with suppress(msgspec.DecodeError):
        return msgspec.json.decode(_end_of(directory / "instance.json", RECORD_BYTES), type=Record)
    return Record()


def remove(directory: Path) -> None:
    """Removes a directory; a read-only folder in it (caches of package tools) is no obstacle."""
    if directory.is_symlink():
        directory.unlink(missing_ok=True)
        return
    for folder, _, _ in os.walk(directory):
        with suppress(OSError):
            os.chmod(folder, 0o700)
    shutil.rmtree(directory, ignore_errors=True)


def begin_log(path: str, flags: int) -> int:
    """An opener for a log that only its owner may read; a link or a pipe in its place is refused."""
    return _plain_file(os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600))


def rotate(directory: Path) -> None:
    """Keeps output.log within its bound. Its writers append, so that they go on at the new start."""
    log = directory / "output.log"
    if size(log) <= LOG_BYTES:
        return
    with suppress(OSError):  # on a full disk all the more room must be made
        (directory / "output.log.1").unlink(missing_ok=True)
        with open(directory / "output.log.1", "xb", opener=begin_log) as before:
            before.write(_end_of(log, LOG_BYTES))
    with suppress(OSError), open(log, "r+b", opener=begin_log) as file:
        file.truncate(0)


def log_bytes(directory: Path) -> int:
    """How much is in its logs; it grows while the instance gets on."""
    return size(directory / "output.log") + size(directory / "model.log")


def last_lines(directory: Path, tail: int) -> str:
    """The last lines of output.log and, if the template writes it, of model.log: half of `tail` each then."""
    output = _end_of(directory / "output.log", LOG_READ_BYTES)
    if len(output) < LOG_READ_BYTES:
        output = _end_of(directory / "output.log.1", LOG_READ_BYTES - len(output)) + output
    model = _end_of(directory / "model.log", LOG_READ_BYTES)
    texts = [log.decode(errors="replace").splitlines() for log in (output, model) if log]
    share = max(1, tail // max(1, len(texts)))
    return "".join(f"{line}\n" for lines in texts for line in lines[-share:])


def last_words(directory: Path) -> str:
    """Why an instance that should run does not."""
    if not (directory / "output.log").exists():
        return "was created and never started"
    code = _end_of(directory / "exit_code", 8).decode(errors="replace").strip()
    lines = _end_of(directory / "output.log", 4096).decode(errors="replace").split("\n")
    last = next((line.strip()[:200] for line in reversed(lines) if line.strip()), "it printed nothing")
    return f"ended {f'with exit code {code}' if code else 'without an exit code'}; last line: {last}"


def size(path: Path) -> int:
    """The size of a plain file, 0 if there is none."""
    with suppress(OSError):
        found = path.lstat()
        return found.st_size if stat.S_ISREG(found.st_mode) else 0
    return 0


def _end_of(path: Path, length: int) -> bytes:
    """The last `length` bytes of a plain file, empty if there is none."""
    with suppress(OSError), open(path, "rb", opener=begin_log) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - length))
        return file.read(length)
    return b""


def _plain_file(descriptor: int) -> int:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("is no plain file")
    return descriptor
