"""Runs Python programs in processes forked off one that has imported what they need: to import it takes most of them
longer than what they do.

A program still has its process, arguments, environment and files to itself, as if it had been started by its name.
"""

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TextIO

STREAMS = (0, 1, 2)
REQUEST_BYTES = 1_000_000


class Forker:
    """A process that has imported `modules`, and forks. What they read of the environment when they are imported, they
    read of this process's."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.kit.forked", str(theirs.fileno()), *modules]
        root = Path(__file__).parents[2]
        with theirs, TemporaryFile() as nothing:
            self._process = subprocess.Popen(
                command, cwd=root, stdin=nothing, stdout=nothing, pass_fds=[theirs.fileno()]
            )
        atexit.register(self.close)

    def close(self) -> None:
        self._control.close()
        self._process.wait()

    def run(
        self, program: str, argv: Sequence[str], cwd: Path, env: dict[str, str], text: str | None, timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """What `python -m PROGRAM ARGV...` does, or `python PROGRAM ARGV...` where it is a path. `text`: what it reads.

        Raises: TimeoutExpired, and has ended it.
        """
        with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
            given.write((text or "").encode())
            given.seek(0)
            process = self._fork(program, argv, cwd, env, [given.fileno(), out.fileno(), err.fileno()])
            try:
                code = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                raise
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess([program, *argv], code, out.read().decode(), err.read().decode())

    def start(
        self, program: str, argv: Sequence[str], cwd: Path, env: dict[str, str], stderr: TextIO | None = None
    ) -> "Forked":
        """The same, without waiting for its end. It reads nothing. `stderr`: where its errors go; by default to us."""
        (out, to_out), (err, to_err) = os.pipe(), os.pipe()
        with open(os.devnull) as nothing, open(to_out, "wb") as said, open(to_err, "wb") as told:
            process = self._fork(program, argv, cwd, env, [s.fileno() for s in (nothing, said, stderr or told)])
        process.stdout, process.stderr = os.fdopen(out), os.fdopen(err)
        return process

    def _fork(self, program: str, argv: Sequence[str], cwd: Path, env: dict[str, str], streams: list[int]) -> "Forked":
        request = json.dumps({"program": program, "argv": list(argv), "cwd": str(cwd), "env": env}).encode()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self._control, [request], [*streams, theirs.fileno()])
        return Forked([program, *argv], ours)


class Forked:
    """A process that was forked, with what tests need of `subprocess.Popen`."""

    stdout: TextIO
    stderr: TextIO

    def __init__(self, args: list[str], told: socket.socket) -> None:
        self.args, self._told = args, told
        self.pid = int(told.recv(100))
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Raises: TimeoutExpired."""
        if self.returncode is None:
            self._told.settimeout(timeout)
            try:
                self.returncode = int(self._told.recv(100))
            except TimeoutError:
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            self._told.close()
        return self.returncode

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired, BlockingIOError):
            self.wait(0)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:  # afterwards its number may be another's
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What is left of what it says until it ends, and whoever it leaves its streams to. Raises: TimeoutExpired."""
        said = ["", ""]

        def read(number: int, stream: TextIO) -> None:
            with stream:
                said[number] = stream.read()

        readers = [
            threading.Thread(target=read, args=each, daemon=True) for each in enumerate((self.stdout, self.stderr))
        ]
        for reader in readers:
            reader.start()
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.send_signal(signal.SIGKILL)
            raise
        for reader in readers:
            reader.join(timeout)
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return said[0], said[1]


@cache
def forker(*modules: str) -> Forker:
    """The one of this process for `modules`."""
    return Forker(modules)


def serve(control: socket.socket) -> dict[str, Any]:
    """Forks for every request, and tells who asked how that process ended. Returns in each: what is asked of it."""
    ended, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    callers: dict[int, socket.socket] = {}
    gc.freeze()  # what there is now is not looked through, and so copied, in every process
    while True:
        if ended in select.select([control.fileno(), ended], [], [])[0]:
            os.read(ended, 1000)
            for pid in list(callers):
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    with callers.pop(pid) as caller, suppress(OSError):  # who may have given up
                        caller.send(str(os.waitstatus_to_exitcode(status)).encode())
            continue
        request, fds, _, _ = socket.recv_fds(control, REQUEST_BYTES, len(STREAMS) + 1)
        if not request:
            os._exit(0)
        *streams, told = fds
        caller = socket.socket(fileno=told)
        if pid := os.fork():
            callers[pid] = caller
            caller.send(str(pid).encode())
            for stream in streams:
                os.close(stream)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        os.setsid()
        for held in (control, caller, *callers.values()):
            held.close()
        for number, stream in zip(STREAMS, streams, strict=True):
            os.dup2(stream, number)
            os.close(stream)
        asked: dict[str, Any] = json.loads(request)
        return asked


def become(program: str, argv: list[str], cwd: str, env: dict[str, str]) -> int:
    """The exit code of a program, which is run as if this process had been started for it."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[0], sys.argv = cwd, [program, *argv]
    sys.orig_argv = [sys.executable, *([] if os.sep in program else ["-m"]), *sys.argv]  # what a restart in place runs
    try:
        if os.sep in program:
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    for module in sys.argv[2:]:
        import_module(module)
    code = become(**serve(socket.socket(fileno=int(sys.argv[1]))))
    # Ends as a program does, but takes nothing apart: that would copy it all first.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
