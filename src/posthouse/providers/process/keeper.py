"""Keeps one instance: runs its onstart behind a wall, takes in what it prints, and lives until nothing of it does.

The server starts it as a script and tells it on stdin what to run. It needs the standard library alone, so that it is
small, and nobody: an instance goes on while no server runs. What an instance starts cannot leave it: processes whose
parents die become its children (it is their "subreaper"), whatever session they are in and however they are called.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import resource
import select
import signal
import stat
import sys
import time
from contextlib import suppress

TYPE_CHECKING = False  # importing typing would take longer than all the rest
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, NoReturn

LOG_BYTES = 8 * 2**20
"""At this size output.log becomes output.log.1, so that an instance keeps at most twice as much."""
MODEL_LOG_BYTES = 16 * 2**20
"""At this size model.log is cut to nothing. Who writes there may rotate it before that."""
MODEL_LOG_KEPT_BYTES = 2**19
"""How much of the end of model.log is kept as model.log.1 when it is cut."""
LOOK_S = 1.0
"""Time between two looks at the size of model.log, in seconds."""
MEASURE_S, HURRY_S = 5.0, 1.0
"""Least time between two measurements of what it has on the disk, and the same while the disk is nearly full."""
MEASURE_SHARE, HURRY_SHARE = 0.02, 0.25
"""Most of the time that measuring may take, in both cases."""
SMALL_DISK = 0.05
"""No more than this share of a disk must be free, however much else is asked for."""
CHUNK_BYTES = 2**16
APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT
ABI = 2
"""The version of Landlock that is needed at least: with the first one no file could be moved to another directory."""

# Sources: landlock(7), linux/landlock.h, prctl(2); the numbers of calls are the same on every architecture but Alpha.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_SET_PDEATHSIG, _SET_NO_NEW_PRIVS, _SET_CHILD_SUBREAPER, _CAPBSET_DROP = 1, 38, 36, 24
_WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _LAST_OF_ABI_2 = 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 13
_MAKE_BLOCK, _SCOPE_SIGNAL = 1 << 11, 1 << 1
_AROUND_THE_WALL = (2, 16, 17, 19, 21, 22, 32, 33, 38, 39, 40)
"""Capabilities with which root reads what is hidden: DAC_READ_SEARCH, SYS_MODULE, SYS_RAWIO, SYS_PTRACE, SYS_ADMIN,
SYS_BOOT, MAC_OVERRIDE, MAC_ADMIN, PERFMON, BPF, CHECKPOINT_RESTORE."""
_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("fd", ctypes.c_int32))


def landlock_abi() -> int:
    """Return the version of Landlock that this kernel has, 0 if none can be used."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, 0, 1)))


def hide(directory: str, but: str) -> None:
    """Takes from this process and its children, forever, the files of `directory`, but for those beneath `but`; with
    them whatever else reaches another process's memory, and signals to processes outside. Raises: OSError.

    Landlock can only allow. So all that lies beside the way to `directory` is allowed, as it is now: what comes later
    straight into a directory on that way is hidden too.
    """
    abi = landlock_abi()
    of_files = _WRITE_FILE | _READ_FILE | (_TRUNCATE if abi >= 3 else 0)
    handled = (2 * _LAST_OF_ABI_2 - 1 | of_files) & ~1 & ~_READ_DIR
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = _Ruleset(handled, 0, _SCOPE_SIGNAL if abi >= 6 else 0)
    rules = _checked(_libc.syscall(_CREATE_RULESET, ctypes.byref(ruleset), size, 0))
    for path in (but, *_beside(directory)):
        with suppress(FileNotFoundError, PermissionError):
            found = os.open(path, os.O_PATH | os.O_NOFOLLOW)
            mode = os.fstat(found).st_mode
            if not stat.S_ISLNK(mode):
                rule = _Beneath(handled & ~_MAKE_BLOCK if stat.S_ISDIR(mode) else of_files, found)
                _checked(_libc.syscall(_ADD_RULE, rules, 1, ctypes.byref(rule), 0))
            os.close(found)
    for capability in _AROUND_THE_WALL:
        _libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0)  # who may not drop it has none
    _checked(_libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(_libc.syscall(_RESTRICT_SELF, rules, 0))


def _beside(directory: str) -> Iterator[str]:
    """Yield what lies beside the directory and beside each directory that it is in."""
    while directory != "/":
        parent = os.path.dirname(directory)
        with suppress(PermissionError):
            yield from (found.path for found in os.scandir(parent) if found.path != directory)
        directory = parent


def _checked(answer: int) -> int:
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def open_plain(name: str, flags: int, folder: int) -> int:
    """Return a descriptor of a file that is plain, nobody else's name for another, and no link. Raises: OSError."""
    descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=folder)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        raise OSError(f"{name} is not a regular file")
    return descriptor


class _Output:
    """output.log. On a full disk what comes is lost, and the instance goes on."""

    def __init__(self, folder: int) -> None:
        self._folder = folder
        self._open()

    def _open(self) -> None:
        self._file = open_plain("output.log", APPEND, self._folder)
        self._size = os.fstat(self._file).st_size

    def write(self, data: bytes) -> None:
        with suppress(OSError):
            if self._size + len(data) > LOG_BYTES:
                os.rename("output.log", "output.log.1", src_dir_fd=self._folder, dst_dir_fd=self._folder)
                os.close(self._file)
                self._open()
            self._size += os.write(self._file, data)


def _cut_model_log(folder: int, home: int) -> None:
    """Cuts a model.log that is too long. Who appends to it goes on at its new start."""
    with suppress(OSError):
        if os.stat("model.log", dir_fd=home, follow_symlinks=False).st_size <= MODEL_LOG_BYTES:
            return
        log = open_plain("model.log", os.O_RDWR, home)
        with open(log, "r+b", buffering=0) as file, suppress(OSError):
            file.seek(-MODEL_LOG_KEPT_BYTES, os.SEEK_END)
            kept = open_plain("model.log.1", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, folder)
            with open(kept, "wb", buffering=0) as before:
                before.write(file.read(MODEL_LOG_KEPT_BYTES))
            file.truncate(0)


class _Disk:
    """What an instance has on the disk: measured by du, which follows no link and climbs any depth."""

    def __init__(self, home: int, most: int, asked: int, min_free: int) -> None:
        """In bytes: the most it may have in any case, 0 for any; and what it may have where less than `min_free` is
        free, or 5 % of a small disk."""
        self._most, self._asked, self._min_free, self._home = most, asked, min_free, home
        self.pid = 0
        """Of du, while that runs."""
        self._answer = -1
        self._began, self._took = time.monotonic(), 0.0

    def look(self) -> None:
        """Begins to measure, when it is time."""
        least, share = (HURRY_S, HURRY_SHARE) if self._is_short() else (MEASURE_S, MEASURE_SHARE)
        if self.pid or time.monotonic() < self._began + max(least, self._took / share):
            return
        self._began = time.monotonic()
        self._answer, writer = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            with suppress(OSError):
                os.fchdir(self._home)
                os.dup2(writer, 1)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                os.nice(19)
                os.execvp("du", ["du", "-sx", "--block-size=1", "."])  # noqa: S606, S607 - of the server's PATH
            os._exit(126)
        os.close(writer)

    def give_up(self) -> None:
        """Ends du: nobody is to wait for it."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)

    def verdict(self) -> str:
        """Why the instance is to be ended, now that du has; empty if it is not."""
        self.pid, self._took = 0, time.monotonic() - self._began
        with open(self._answer, "rb") as answer:
            used = int((answer.read(100).split() or [b"0"])[0])
        has = f"it has {used / 1e9:.3g} GB on the disk"
        if self._most and used > self._most:
            return f"{has}, and no worker may have more than {self._most / 1e9:.3g} GB (max_disk_gb)"
        if used > self._asked and self._is_short():
            return f"{has}, its template asks for {self._asked / 1e9:.3g} GB (disk_gb), and the disk is nearly full"
        return ""

    def _is_short(self) -> bool:
        disk = os.statvfs(self._home)
        return disk.f_bavail * disk.f_frsize < min(self._min_free, SMALL_DISK * disk.f_blocks * disk.f_frsize)


def _kill_children() -> None:
    """Kills the children of this process; theirs are then its own."""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
            if int(file.read().rpartition(b")")[2].split()[1]) == os.getpid():
                os.kill(int(pid), signal.SIGKILL)


def _run(order: dict[str, Any], home: int, output: int) -> NoReturn:
    """Becomes the instance's onstart."""
    try:
        os.setsid()  # so that it may signal its whole group, as scripts do
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.fchdir(home)
        with suppress(OSError):
            os.nice(5)  # it yields to the server, and is the first to go when memory runs out
        with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("500")
        for limit, value in {"CORE": 0, "NOFILE": 65_536, **order["limits"]}.items():
            _limit(getattr(resource, f"RLIMIT_{limit}"), value)
        if order["hidden"]:
            hide(order["hidden"], but=order["home"])
        if order["uid"]:
            _become(order["uid"], order["groups"])
        _checked(_libc.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))  # another user's would be forgotten
        with open(open_plain("onstart.sh", os.O_WRONLY | os.O_CREAT | os.O_EXCL, home), "wb") as script:
            script.write(order["onstart"].encode())
        # -p: bash takes no code from variables.
        os.execve("/bin/bash", ["/bin/bash", "-p", "onstart.sh"], order["env"])  # noqa: S606 - what it is for
    except OSError as error:
        os.write(2, f"posthouse: onstart cannot be run: {error}\n".encode())
    os._exit(126)


def _become(uid: int, groups: list[int]) -> None:
    """Makes this process another user's, forever."""
    os.setgroups(groups)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _checked(_libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _limit(number: int, value: int) -> None:
    """Lowers a limit; one that is lower already stays."""
    _, hard = resource.getrlimit(number)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(number, (value, value))


def _keep(child: int, output: int, folder: int, home: int, disk: _Disk) -> None:
    """Returns when no process of the instance is left."""
    over = ""
    log = _Output(folder)
    os.set_blocking(output, False)
    woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll = select.poll()
    poll.register(output, select.POLLIN)
    poll.register(woken, select.POLLIN)
    while True:
        try:
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == child:
                    _take(output, log)
                    _note_end(os.waitstatus_to_exitcode(ended[1]), folder)
                    disk.give_up()
                elif ended[0] == disk.pid and (over := disk.verdict()):
                    _take(output, log)
                    log.write(f"\nposthouse: ended: {over}\n".encode())
                if over:
                    _note_end(-signal.SIGKILL, folder)
                    _kill_children()
        except ChildProcessError:
            _take(output, log)
            return
        events = dict(poll.poll(LOOK_S * 1000))
        if output in events and not _take(output, log):
            poll.unregister(output)
        if woken in events:
            os.read(woken, CHUNK_BYTES)
        _cut_model_log(folder, home)
        disk.look()


def _take(output: int, log: _Output) -> bool:
    """Takes in what has been printed. False when nobody can print any more."""
    for _ in range(16):  # of what one pipe holds, so that nobody keeps it from looking up
        try:
            data = os.read(output, CHUNK_BYTES)
        except BlockingIOError:
            return True
        if not data:
            return False
        log.write(data)
    return True


def _note_end(code: int, folder: int) -> None:
    """Writes how onstart ended, as a shell says it."""
    with suppress(OSError):
        file = open_plain("exit_code", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, folder)
        os.write(file, f"{code if code >= 0 else 128 - code}\n".encode())
        os.close(file)


def main() -> None:
    """Keeps the instance that is described on stdin. Closes stdout once onstart has begun."""
    order = marshal.load(sys.stdin.buffer)  # noqa: S302 - of the server, which runs the same Python
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when the instance has
    _checked(_libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
    folder = os.open(order["directory"], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    home = os.open("home", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    output, writer = os.pipe()
    begun = os.dup(1)  # as every descriptor that Python makes, closed by exec
    os.dup2(2, 1)
    child = os.fork()
    if not child:
        _run(order, home, writer)
    os.close(begun)
    os.close(writer)
    _keep(child, output, folder, home, _Disk(home, *order["disk"]))


if __name__ == "__main__":
    main()
