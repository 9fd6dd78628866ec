"""Whether a worker that loads gets on: by what it has read and written itself, not by what its machine does."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from posthouse.agent.settings import AgentSettings

_MAX_FILES: Final = 20_000  # looked at in the worker's directory
_READ_STEP_BYTES: Final = 2**20  # less than this is no reading of a model
_MARK: Final = "POSTHOUSE_INSTANCE"


@dataclass(slots=True)
class Seen:
    """What a look showed."""

    written: int
    """Bytes in the worker's directory."""
    read: int
    """Bytes that its processes have read, those of the agent left out."""
    others: int | None
    """How many processes that is; None where they cannot be seen."""


class Progress:
    """A count that rises with every sign that this worker gets on."""

    def __init__(self, settings: AgentSettings) -> None:
        self._directory = settings.directory
        self._most_written = self._most_read = 0
        self.count = 0
        self.others: int | None = None
        """The worker's processes, but for the agent and what started it, when it was last looked."""

    def step(self) -> None:
        """Note a sign of another kind."""
        self.count += 1

    async def look(self) -> None:
        """Look at the worker's directory and processes."""
        seen = await asyncio.to_thread(_look, self._directory)
        self.others = seen.others
        written, read = seen.written > self._most_written, seen.read >= self._most_read + _READ_STEP_BYTES
        self._most_written = max(self._most_written, seen.written)
        if read:
            self._most_read = seen.read
        if written or read:
            self.count += 1


def _look(directory: Path) -> Seen:
    found: list[int] = []
    with suppress(OSError):
        found = list(_processes())
    own = _ancestors(os.getpid())
    others = [pid for pid in found if pid not in own]
    seen = os.getpid() in found  # otherwise something hides them
    return Seen(sum(_sizes(directory)), sum(map(_bytes_read, others)), len(others) if seen else None)


def _sizes(directory: Path) -> Iterator[int]:
    """Yield the sizes of the files below a directory, no link followed."""
    left, folders = _MAX_FILES, [str(directory)]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                left -= 1
                if left < 0:
                    return
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        yield entry.stat(follow_symlinks=False).st_size


def _processes() -> Iterator[int]:
    """Yield the live processes of this worker: those of its session, and those that carry its mark."""
    session = os.getsid(0)
    mark = f"\0{_MARK}={os.environ[_MARK]}\0".encode() if os.environ.get(_MARK) else None
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        with suppress(OSError):  # gone meanwhile, or another user's
            state, _, its_session = _stat(pid)
            if state not in {"Z", "X"} and (its_session == session or (mark and mark in _environment(pid))):
                yield pid


def _ancestors(pid: int) -> set[int]:
    found: set[int] = set()
    with suppress(OSError):
        while pid > 0 and pid not in found:
            found.add(pid)
            _, pid, _ = _stat(pid)
    return found


def _stat(pid: int) -> tuple[str, int, int]:
    """Return state, parent and session. Source: proc_pid_stat(5), fields 3, 4 and 6."""
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return fields[0], int(fields[1]), int(fields[3])


def _environment(pid: int) -> bytes:
    return b"\0" + Path(f"/proc/{pid}/environ").read_bytes() + b"\0"


def _bytes_read(pid: int) -> int:
    """Return what it has read, from files and by way of mapped pages. Source: proc_pid_io(5)."""
    with suppress(OSError, ValueError):
        fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
        return int(fields["rchar"]) + int(fields["read_bytes"])
    return 0
