"""The gateway that a server starts beside itself: a process of its own, watched, and ended with the server.

The server holds the socket that it listens on, so callers wait in the socket's queue while a gateway is started again.
Between the two is a pair of sockets: by it the gateway says that it listens, and either sees the end of the other.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from posthouse.app.handover import Inheritance
from posthouse.app.listen import local_url
from posthouse.config import Settings
from posthouse.errors import Refused
from posthouse.hosts import bind_failure, in_url

log = structlog.get_logger()

BACK_OFF_S: Final = (1.0, 60.0)
"""Before a gateway that has ended is started again, doubled each time, and at most."""
STEADY_S: Final = 60.0
"""After so long without an end it is no trouble any more, and the pauses start over."""
BEYOND_S: Final = 5.0
"""How long after its own time to end a gateway is killed."""
_BACKLOG: Final = 512


@dataclass(slots=True)
class OwnGateway:
    """The gateway of a server. Run it as a part that must always run."""

    listener: socket.socket
    drain_s: float
    argv: list[str]
    environ: dict[str, str]
    hands_over: Callable[[], bool] = lambda: False
    """Whether a new process of the server goes on with the same socket: then the end of this one is not waited for."""
    _ends: int = 0
    _trouble: str = ""
    _steady: asyncio.TimerHandle | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """The base address that clients of OpenAI's API are given."""
        host, port = self.listener.getsockname()[:2]
        return f"http://{in_url(host)}:{port}/v1"

    def troubles(self) -> list[str]:
        return [self._trouble] if self._trouble else []

    async def run(self) -> None:
        """Keep a gateway until cancelled."""
        while True:
            how = await self._once()
            self._ends += 1
            first_s, most_s = BACK_OFF_S
            pause_s = min(first_s * 2 ** (self._ends - 1), most_s)
            times = "once" if self._ends == 1 else f"{self._ends} times"
            self._trouble = f"the gateway ended {times}, last {how}; its log has the reason"
            log.error("the gateway ended and is started again", how=how, times=self._ends, pause_s=pause_s)
            await asyncio.sleep(pause_s)

    async def _once(self) -> str:
        """Run one process until its end. Returns how it ended."""
        line, its_line = socket.socketpair()
        line.setblocking(False)
        numbers = (self.listener.fileno(), its_line.fileno())
        with line:
            with its_line:
                process = subprocess.Popen(  # noqa: ASYNC220, S603 - our own program
                    [*self.argv, "--from-server", ",".join(map(str, numbers))],
                    env={**os.environ, **self.environ},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=numbers,
                    process_group=0,  # Ctrl-C is for the server, which ends it
                )
            try:
                await self._watch(line)
            except asyncio.CancelledError:
                line.shutdown(socket.SHUT_WR)  # asks for its end
                if not self.hands_over():
                    await _ended(process, self.drain_s + BEYOND_S)
                raise
            finally:
                if self._steady is not None:
                    self._steady.cancel()
            code = await _ended(process, BEYOND_S)
            return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"

    async def _watch(self, line: socket.socket) -> None:
        """Return when the other end is closed."""
        loop = asyncio.get_running_loop()
        while await _said(line):
            log.info("the gateway listens", url=self.url)
            self._steady = loop.call_later(STEADY_S, self._settled)

    def _settled(self) -> None:
        self._ends, self._trouble = 0, ""


async def _said(line: socket.socket) -> bytes:
    try:
        return await asyncio.get_running_loop().sock_recv(line, 1)
    except OSError:
        return b""


async def _ended(process: subprocess.Popen[bytes], timeout_s: float) -> int:
    """Wait until the process has ended, and kill it after that time. Returns its exit code."""
    try:
        return await asyncio.to_thread(process.wait, timeout_s)
    except subprocess.TimeoutExpired:
        log.warning("the gateway does not end and is killed", after_s=timeout_s)
        process.kill()
        return process.wait()


def own_gateway(
    settings: Settings, server: socket.socket, data_dir: Path, inheritance: Inheritance | None, stack: AsyncExitStack
) -> OwnGateway | None:
    """The gateway of a server that listens on the socket `server`; None where the settings want none.

    Raises: Refused if it cannot listen.
    """
    wanted, inherited = settings.gateway, inheritance.gateway if inheritance is not None else None
    if inherited is not None:
        stack.callback(inherited.close)
    if not wanted.enabled:
        return None
    listener = inherited if inherited is not None and _is_at(inherited, wanted.host, wanted.port) else None
    if listener is None:
        try:
            family = socket.AF_INET6 if ":" in wanted.host else socket.AF_INET
            listener = socket.create_server((wanted.host, wanted.port), family=family, backlog=_BACKLOG)
        except OSError as error:
            why = bind_failure(error, "POSTHOUSE_GATEWAY__PORT")
            raise Refused(f"gateway.port: cannot listen on {wanted.host}:{wanted.port}: {why}") from None
        stack.callback(listener.close)
    argv = [
        sys.executable,
        "-m",
        "posthouse",
        "gateway",
        "--url",
        local_url(settings, server),
        "--drain-s",
        str(wanted.drain_s),
    ]
    argv += ["--log-level", settings.server.log_level, "--log-format", settings.server.log_format]
    if wanted.records is not None:
        argv += ["--records", str(wanted.records.expanduser().absolute())]
    if wanted.externals is not None:
        argv += ["--externals", str(wanted.externals.expanduser().absolute())]
    environ = {"POSTHOUSE_CA": str(data_dir / "authority.cer")} if settings.server.tls == "self" else {}
    return OwnGateway(listener, wanted.drain_s, argv, environ)


def _is_at(listener: socket.socket, host: str, port: int) -> bool:
    bound_host, bound_port = listener.getsockname()[:2]
    return bool(bound_host == host and port in (0, bound_port))
