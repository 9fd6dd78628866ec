"""The live processes of this machine's instances, told by a mark in their environment.

Children inherit the mark, so nothing has to be written down when an instance starts, a server that was killed finds
its instances again, and a process that merely got an old number is never taken for one of ours. A process that wiped
its environment (many model servers set their title that way) is told by its session instead. One that did both, left
the session and wiped its environment, is not found.
"""

import os
import signal
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass

MARK = "POSTHOUSE_INSTANCE"
"""The environment variable that holds the instance's directory."""


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    session: int
    started: int
    """Clock ticks from boot to its start: with the pid, one process and no other."""
    mark: str


def census() -> dict[str, list[Process]]:
    """Return the live processes of every instance, by the instance's directory. Zombies are dead."""
    processes = {}
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        # Gone meanwhile, or another user's.
        with suppress(OSError):
            if (process := _process(pid)) is not None:
                processes[pid] = process
    marks = {p.pid: p.mark for p in processes.values() if p.mark}
    # A session belongs to its leader's instance; once the leader has died, to that of any member with a mark.
    leaderless = {p.session: p.mark for p in processes.values() if p.mark and p.session not in processes}
    owners = marks | leaderless
    owners.pop(0, None)  # session 0 is whatever came from outside this PID namespace
    instances: dict[str, list[Process]] = defaultdict(list)
    for process in processes.values():
        if mark := process.mark or owners.get(process.session):
            instances[mark].append(process)
    return dict(instances)


def alive(process: Process) -> bool:
    """True if this very process still runs."""
    with suppress(OSError):
        stat = _stat(process.pid)
        return stat is not None and stat[1] == process.started
    return False


def marked(pid: int) -> bool:
    """True if the process carries the mark of an instance."""
    with suppress(OSError):
        process = _process(pid)
        return process is not None and bool(process.mark)
    return False


def send(process: Process, number: signal.Signals) -> None:
    """Sends a signal, if this very process still runs."""
    if alive(process):
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _read(pid: int, name: str) -> bytes:
    """A file of the process, whole."""
    # No Path: each interns its parts, and interned strings that die leave holes. With one for every process at every
    # look, Python's table of them, 4 MB, was filled and made anew every few minutes, now in one arena, now in another.
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read()


def _stat(pid: int) -> tuple[int, int] | None:
    """Its session and start, or None for a zombie. Source: proc_pid_stat(5), fields 3, 6 and 22."""
    # The command's name, in parentheses, may hold blanks and parentheses.
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return None if fields[0] in (b"Z", b"X") else (int(fields[3]), int(fields[19]))


def _process(pid: int) -> Process | None:
    if (stat := _stat(pid)) is None:
        return None
    environ = b"\0" + _read(pid, "environ")
    mark = environ.partition(f"\0{MARK}=".encode())[2].partition(b"\0")[0]
    return Process(pid, *stat, os.fsdecode(mark))
