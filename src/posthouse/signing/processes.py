"""Signatures made beside the event loop, by processes that do nothing else.

Threads share the interpreter with the event loop, and both spend a fifth of their time waiting for it.
"""

import asyncio
import os
import sys
from collections import deque
from collections.abc import Callable
from typing import Final, cast

import structlog

from posthouse.signing.rsa import RsaKey

MOST: Final = 8
"""Processes that have something to do: the event loop routes no more requests than they sign."""
TOGETHER: Final = 32
"""Most signatures that come back together: to wake the event loop for each would cost a tenth of a signature."""
REST_S: Final = 10.0
"""After which a process that ended is replaced."""

log = structlog.get_logger()

Then = Callable[[str | Exception], None]
"""Called on the event loop with the signature, or with what kept it from being made."""


class SigningProcesses:
    """Processes that sign for one event loop. They begin when the first text comes, and end with whoever began them.

    What goes to a process has its length before it, in 4 bytes: the key, and then the texts. What comes back are lines:
    an empty one once it is ready, and then the signatures in the order of the texts. What no process is there to sign
    is signed on the event loop.
    """

    def __init__(self, key: RsaKey, count: int) -> None:
        """`count`: of processes."""
        self._key = key
        self._count = min(count, MOST)
        self._ready: list[_Process] = []
        self._kept: list[asyncio.Task[None]] = []
        self._will_flush = False
        self._loop = asyncio.get_running_loop()

    def sign(self, data: bytes, then: Then) -> None:
        """Has `then` called with the signature of `data`; before this returns where no process is ready."""
        if not self._kept:
            self._kept = [self._loop.create_task(self._keep()) for _ in range(self._count)]
        if not self._ready:
            self._sign_here(data, then)
            return
        fewest = self._ready[0]
        for process in self._ready:
            if len(process.open) < len(fewest.open):
                fewest = process
        fewest.take(data, then)
        if not self._will_flush:  # what comes in one round of the event loop goes out together
            self._will_flush = True
            self._loop.call_soon(self._flush)

    async def close(self) -> None:
        """Ends the processes."""
        for task in self._kept:
            task.cancel()
        await asyncio.gather(*self._kept, return_exceptions=True)

    async def _keep(self) -> None:
        """Keeps one process running."""
        while True:
            process = _Process(self._key, self._ready.append, self._deliver)
            try:
                await self._run(process)
            except OSError as error:
                log.warning("a process that signs cannot be started", error=str(error))
            while process.open:
                self._sign_here(*process.open.popleft())
            await asyncio.sleep(REST_S)

    async def _run(self, process: "_Process") -> None:
        """Runs a process until it ends. Raises: OSError where it cannot be started."""
        command = (sys.executable, "-m", __name__)
        transport, _ = await self._loop.subprocess_exec(lambda: process, *command, stderr=None, start_new_session=True)
        try:
            await asyncio.shield(process.ended)
            log.warning("a process that signs has ended", returncode=transport.get_returncode())
        except asyncio.CancelledError:
            transport.kill()
            await process.ended
            raise
        finally:
            if process in self._ready:
                self._ready.remove(process)
            transport.close()

    def _flush(self) -> None:
        self._will_flush = False
        for process in self._ready:
            process.flush()

    def _sign_here(self, data: bytes, then: Then) -> None:
        try:
            result: str | Exception = self._key.sign(data)
        except Exception as error:  # noqa: BLE001 - whoever waits for the signature gets it
            result = error
        self._deliver(then, result)

    def _deliver(self, then: Then, result: str | Exception) -> None:
        try:
            then(result)
        except Exception as error:  # noqa: BLE001 - the others get theirs
            self._loop.call_exception_handler({"message": "a signature could not be used", "exception": error})


class _Process(asyncio.SubprocessProtocol):
    def __init__(
        self, key: RsaKey, ready: Callable[["_Process"], None], deliver: Callable[[Then, str | Exception], None]
    ) -> None:
        self._unsent = [_framed(key.private_pem())]
        self._ready: Callable[[_Process], None] | None = ready
        self._deliver = deliver
        self._line = b""
        self.open: deque[tuple[bytes, Then]] = deque()
        """What it has not signed yet."""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self, data: bytes, then: Then) -> None:
        """Has it sign `data` after the next `flush`."""
        self.open.append((data, then))
        self._unsent.append(_framed(data))

    def flush(self) -> None:
        if self._unsent:
            self._pipe.write(b"".join(self._unsent))
            self._unsent.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        pipe = cast(asyncio.SubprocessTransport, transport).get_pipe_transport(0)
        self._pipe = cast(asyncio.WriteTransport, pipe)
        self.flush()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, self._line = (self._line + data).split(b"\n")
        if self._ready is not None and lines:
            self._ready(self)
            self._ready = None
            del lines[0]
        for line in lines:
            _, then = self.open.popleft()
            self._deliver(then, line.decode())

    def process_exited(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def _framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def main() -> None:
    """Signs what comes on standard input until that ends."""
    key: RsaKey | None = None
    read = b""
    while more := os.read(0, 65_536):
        read += more
        at, lines = 0, list[str]()
        while len(read) >= at + 4 and len(read) >= (end := at + 4 + int.from_bytes(read[at : at + 4], "big")):
            data, at = read[at + 4 : end], end
            if key is None:
                key = RsaKey.from_pem(data)
                lines.append("")
            else:
                lines.append(key.sign(data))
            if len(lines) == TOGETHER:
                _send(lines)
        _send(lines)
        read = read[at:]


def _send(lines: list[str]) -> None:
    if lines:
        sys.stdout.write("\n".join([*lines, ""]))
        sys.stdout.flush()
        lines.clear()


if __name__ == "__main__":
    main()
