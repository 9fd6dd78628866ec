"""The live processes of this machine's instances.

Each instance has a keeper, whose environment names the instance's directory, and which is an ancestor of all others:
so nothing has to be written down when an instance starts, a server that was killed finds its instances again, and a
process that merely got an old number is never taken for one of ours. Below a keeper nothing is read that a worker could
change. Should a keeper be killed, its processes die or are told by the mark that they inherited.
"""

import os
import signal
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, replace

MARK = "POSTHOUSE_INSTANCE"
"""The environment variable that holds the instance's directory."""


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    parent: int
    started: int
    """Clock ticks from boot to its start: with the pid, one process and no other."""
    mark: str = ""
    """The directory of its instance, where it is the topmost of it: the keeper."""


def census(root: str = "/") -> dict[str, list[Process]]:
    """Return the live processes of every instance below `root`, by the instance's directory. Zombies are dead."""
    processes: dict[int, Process | None] = {}
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        processes[pid] = _process(pid)
    for pid, process in processes.items():
        if process is not None and process.parent not in processes:
            processes[pid] = _process(pid)  # its parent died meanwhile, and it has another by now
    owners: dict[int, str] = {0: ""}
    instances: dict[str, list[Process]] = defaultdict(list)
    for pid in processes:
        way: dict[int, None] = {}
        while pid not in owners and pid not in way:
            way[pid] = None
            process = processes.get(pid)
            pid = process.parent if process is not None else 0
        owner = owners.get(pid, "")
        for member in reversed(way):
            if (process := processes.get(member)) is not None:
                if not owner and (mark := _mark(member)).startswith(root):
                    owner, process = mark, replace(process, mark=mark)
                if owner:
                    instances[owner].append(process)
            owners[member] = owner
    return dict(instances)


def alive(process: Process) -> bool:
    """True if this very process still runs."""
    now = _process(process.pid)
    return now is not None and now.started == process.started


def marked(pid: int) -> bool:
    """True if the process carries the mark of an instance."""
    return bool(_mark(pid))


def to_end(members: list[Process]) -> list[Process]:
    """Those of an instance to send a signal: its keeper last, which ends when it keeps nothing any more."""
    return [process for process in members if not process.mark] or members


def send(process: Process, number: signal.Signals) -> None:
    """Sends a signal, if this very process still runs."""
    if alive(process):
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _read(pid: int, name: str) -> bytes:
    """A file of the process, whole; empty if it is gone or another user's."""
    # No Path: each interns its parts, and interned strings that die leave holes. With one for every process at every
    # look, Python's table of them, 4 MB, was filled and made again every few minutes, now in one arena, now in another.
    with suppress(OSError), open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read()
    return b""


def _process(pid: int) -> Process | None:
    """The process, or None for a zombie. Source: proc_pid_stat(5), fields 3, 4, 20 and 22."""
    # The command's name, in parentheses, may hold blanks and parentheses.
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    # A process lives on without the thread that it began with, although that one is a zombie.
    if not fields or (fields[0] in (b"Z", b"X") and int(fields[17]) < 2):
        return None
    return Process(pid, int(fields[1]), int(fields[19]))


def _mark(pid: int) -> str:
    environ = b"\0" + _read(pid, "environ")
    return os.fsdecode(environ.partition(f"\0{MARK}=".encode())[2].partition(b"\0")[0])
