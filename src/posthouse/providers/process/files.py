"""What the server has of an instance: the record of what was ordered, and its logs.

They lie in the instance's directory, which its processes cannot reach where there is a wall. Nothing is trusted all the
same: what is opened is a plain file and no link, reads are bounded and never wait. The instance itself has `home`.
"""

import errno
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

import msgspec

from posthouse.providers.process.keeper import open_plain

LOG_READ_BYTES, LOG_READ_MOST, LINE_BYTES = 2**19, 2**23, 128
"""What `last_lines` reads of each of its two logs: so much, or more where more lines are asked for, up to all of it."""

RECORD_BYTES: Final = 2**20
"""The most that is read of a record: several times what `bootstrap.check` lets through."""

ENDED_BYTES, ENDED_MOST, ENDED_S = 2**18, 200, 86_400.0
"""Of an instance that is gone this much of its last output is kept, of at most so many, for so many seconds."""


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
    onstart: str = ""
    disk_gb: float = 1e6
    """What its template asks for."""
    uid: int = 0
    """The user that it runs as; 0: the server's."""
    boot_id: str = ""
    """The boot of this machine in which it was last started."""


def write_record(directory: Path, record: Record) -> None:
    """Replaces instance.json, in one step unless the disk is full. It is for its owner's eyes: the token is in it."""
    text = msgspec.json.encode(record)
    draft = directory / f".instance-{secrets.token_hex(4)}"
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, directory / "instance.json")
    except OSError:
        draft.unlink(missing_ok=True)
        _write_over(directory, text)


def _write_over(directory: Path, text: bytes) -> None:
    """Writes into the room that instance.json has: on a full disk there is none for another. Raises: OSError."""
    with opened(directory) as folder, open(open_plain("instance.json", os.O_RDWR, folder), "r+b", buffering=0) as file:
        if os.fstat(file.fileno()).st_blocks * 512 < len(text):
            raise OSError(errno.ENOSPC, f"{directory}: no room for what is ordered")
        file.write(text)
        file.truncate()
        os.fsync(file.fileno())


def read_record(directory: Path) -> Record:
    """What was ordered; the empty record if it cannot be read, which lists as EXITED and so is replaced."""
    with suppress(msgspec.DecodeError):
        return msgspec.json.decode(_end_of(directory, "instance.json", RECORD_BYTES), type=Record)
    return Record()


def begin_home(directory: Path, uid: int = 0) -> None:
    """Makes the instance's own directory if need be, and starts its model.log afresh. `uid`: whose both are, if not 0.

    A line of the last run that says "ready" must not be read again.
    """
    (directory / "home").mkdir(mode=0o700, exist_ok=True)
    with opened(directory / "home") as home:
        with suppress(FileExistsError):
            os.mkdir("tmp", dir_fd=home)
            _give("tmp", uid, home)
        for name in ("onstart.sh", "model.log"):
            with suppress(FileNotFoundError):
                try:
                    os.replace(name, f"{name}.1", src_dir_fd=home, dst_dir_fd=home)
                except OSError:  # of a worker that put something else there
                    os.replace(name, f"{name}.{secrets.token_hex(4)}", src_dir_fd=home, dst_dir_fd=home)
        os.close(open_plain("model.log", os.O_WRONLY | os.O_CREAT | os.O_EXCL, home))
        _give("model.log", uid, home)
        _give(".", uid, home)
    for name in ("exit_code", "model.log.1"):
        (directory / name).unlink(missing_ok=True)


def _give(name: str, uid: int, folder: int) -> None:
    if uid:
        os.chown(name, uid, uid, dir_fd=folder, follow_symlinks=False)


def remove(directory: Path) -> None:
    """Removes a directory and follows no link out of it.

    A read-only folder in it (caches of package tools) is no obstacle, nor are more levels than Python could climb.
    """
    if directory.is_symlink():
        directory.unlink(missing_ok=True)
        return
    rm, chmod = (["rm", "-rf", "--"], ["chmod", "-R", "u+rwx", "--"])
    for command in (rm, chmod, rm):
        if os.path.lexists(directory):
            subprocess.run(  # noqa: S603 - our own arguments
                [shutil.which(command[0]) or command[0], *command[1:], str(directory)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )


def keep_ended(directory: Path) -> None:
    """Keeps the last output of an instance that is about to be removed, and forgets that of older ones."""
    folder = directory.parent / ".ended"
    text = last_lines(directory, 1000).encode()[-ENDED_BYTES:]
    with suppress(OSError):  # on a full disk it is lost
        folder.mkdir(mode=0o700, exist_ok=True)
        kept = sorted(os.scandir(folder), key=lambda found: found.stat().st_mtime, reverse=True)
        for place, found in enumerate(kept, 1):
            if place >= ENDED_MOST or found.stat().st_mtime < time.time() - ENDED_S:
                os.unlink(found.path)
        with opened(folder) as into:
            file = open_plain(directory.name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, into)
            with open(file, "wb") as ended:
                ended.write(text)


def log_bytes(directory: Path) -> int:
    """How much is in its logs; it grows while the instance gets on."""
    return _size(directory / "output.log") + _size(directory / "home" / "model.log")


def last_lines(directory: Path, tail: int) -> str:
    """The last lines of output.log and, if the template writes it, of model.log: half of `tail` each, or what is left.

    Of an instance that is gone: what was kept. A line that was written over, as progress bars do, is what it says last.
    """
    length = min(max(LOG_READ_BYTES, tail * LINE_BYTES), LOG_READ_MOST)
    if not directory.exists():
        logs = [_end_of(directory.parent / ".ended", directory.name, ENDED_BYTES)]
    else:
        logs = [
            _end_of_two(directory, directory, "output.log", length),
            _end_of_two(directory / "home", directory, "model.log", length),
        ]
    texts = [lines(log.decode(errors="replace")) for log in logs if log]
    share = max(1, tail // max(1, len(texts)))
    share += max(0, tail - sum(min(len(text), share) for text in texts))  # what a short one leaves
    return "".join(f"{line}\n" for text in texts for line in text[-share:])


def lines(text: str) -> list[str]:
    """The lines of a log, each as a terminal would show it in the end."""
    return [line.rstrip("\r").rpartition("\r")[2] for line in text.removesuffix("\n").split("\n")]


def last_words(directory: Path) -> str:
    """Why an instance that should run does not."""
    if not (directory / "output.log").exists():
        return "was created and never started"
    code = exit_code(directory)
    found = lines(_end_of(directory, "output.log", 4096).decode(errors="replace"))
    last = next((line.strip()[:200] for line in reversed(found) if line.strip()), "it printed nothing")
    return f"ended {f'with exit code {code}' if code else 'without an exit code'}; last line: {last}"


def exit_code(directory: Path) -> str:
    """How onstart ended; empty while it runs, and if nobody saw its end."""
    return _end_of(directory, "exit_code", 8).decode(errors="replace").strip()


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.lstat().st_size
    return 0


def _end_of_two(folder: Path, before: Path, name: str, length: int) -> bytes:
    """The end of a log, and of what came before it if it is short."""
    end = _end_of(folder, name, length)
    return end if len(end) == length else _end_of(before, f"{name}.1", length - len(end)) + end


def _end_of(folder: Path, name: str, length: int) -> bytes:
    """The last `length` bytes of a plain file, empty if there is none."""
    with suppress(OSError), opened(folder) as into, open(open_plain(name, os.O_RDONLY, into), "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - length))
        return file.read(length)
    return b""


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    """A directory's descriptor. Raises: OSError for anything else, and for a link."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
