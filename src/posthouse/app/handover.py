"""Restart in place: a new process takes over the listening socket and the lock of the data directory.

The old process starts the new one with both inherited. That one loads its modules and its settings, and says that it
is ready; only then the old one lets go. So there is always one that owns the data directory, and the socket is never
closed: a client that connects in between waits in its queue. The line between the two is a pair of sockets. What the
old process says by it is its end, so that its death says the same.
"""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass

from posthouse.errors import Refused

VARIABLE = "_POSTHOUSE_HANDOVER"
"""Environment of the new process: the file descriptors of the listening socket, the lock, the line and, if there is a
gateway, of its listening socket."""
READY, SERVING = b"r", b"s"
START_S = 60.0
"""How long a new process may take to load its programs, and again to serve: both take a second or two."""


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What a process was given by the one that it is to follow."""

    listener: socket.socket
    lock: int
    """The file descriptor that holds it."""
    line: socket.socket
    gateway: socket.socket | None = None
    """What the gateway beside it listens on, if it has one."""

    async def wait(self) -> None:
        """Says that this process is ready, and waits until the old one has let go, or is dead."""
        await _say(self.line, READY)
        await _hear(self.line, None)

    async def accept(self) -> None:
        """Says that this process serves."""
        await _say(self.line, SERVING)
        self.line.close()


def inherited(environ: MutableMapping[str, str]) -> Inheritance | None:
    """What the process before left to this one, None if it starts by itself. Workers are not to inherit it."""
    if VARIABLE not in environ:
        return None
    listener, lock, line, *more = numbers = [int(number) for number in environ.pop(VARIABLE).split(",")]
    for number in numbers:
        os.set_inheritable(number, False)
    own_line = socket.socket(fileno=line)
    own_line.setblocking(False)
    gateway = socket.socket(fileno=more[0]) if more else None
    return Inheritance(socket.socket(fileno=listener), lock, own_line, gateway)


@dataclass(frozen=True, slots=True)
class Successor:
    """The new process, as the old one sees it."""

    process: subprocess.Popen[bytes]
    line: socket.socket

    @classmethod
    async def start(cls, listener: socket.socket, lock: int, gateway: socket.socket | None = None) -> "Successor":
        """A process with this one's command line that is ready to take over. Raises: Refused if none came of it."""
        line, its_line = socket.socketpair()
        line.setblocking(False)
        numbers = [listener.fileno(), lock, its_line.fileno()] + ([gateway.fileno()] if gateway is not None else [])
        with its_line:
            process = subprocess.Popen(  # noqa: ASYNC220, S603 - what this process itself was started with
                [sys.executable, *sys.orig_argv[1:]],
                env={**os.environ, VARIABLE: ",".join(map(str, numbers))},
                pass_fds=numbers,
            )
        successor = cls(process, line)
        try:
            if await _hear(line) != READY:
                raise Refused("the new process ended before it was ready; its own message says why")
        except BaseException:
            successor.dismiss()
            raise
        return successor

    async def let_go(self) -> None:
        """Tells it to take over, and waits until it serves. Raises: Refused if it does not."""
        self.line.shutdown(socket.SHUT_WR)
        if await _hear(self.line) != SERVING:
            raise Refused(f"process {self.process.pid} was to take over, and does not serve")

    def dismiss(self) -> None:
        """Ends it before it has taken over."""
        self.process.kill()
        self.process.wait()
        self.line.close()


async def _say(line: socket.socket, word: bytes) -> None:
    try:
        await asyncio.get_running_loop().sock_sendall(line, word)
    except OSError:
        return  # the other one is dead


async def _hear(line: socket.socket, timeout_s: float | None = START_S) -> bytes:
    """A word of the other process; nothing if it has let go or ended. Raises: Refused after `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            return await asyncio.get_running_loop().sock_recv(line, 1)
    except TimeoutError:
        raise Refused(f"the other process has not answered for {timeout_s:g} s") from None
    except OSError:
        return b""
